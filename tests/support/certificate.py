"""Throw-away certificates, made with openssl(1), for servers on loopback."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key as PEM files; the authority signs with its own pair."""

    path: Path
    key: Path

    @classmethod
    def authority(cls, directory: Path, *, name: str = "authority") -> Self:
        """Create a self-signed authority. Its key is RSA, so that it can also sign RS256 tokens."""
        made = cls(directory / f"{name}.pem", directory / f"{name}.key")
        made._request(name, "rsa:2048")
        return made

    def issue(
        self, directory: Path, *, name: str = "server", address: str = "127.0.0.1", hosts: Sequence[str] = ()
    ) -> Certificate:
        """Create a server certificate for `address` and `hosts`, signed by this authority."""
        names = ",".join([f"IP:{address}", *(f"DNS:{host}" for host in hosts)])
        made = Certificate(directory / f"{name}.pem", directory / f"{name}.key")
        made._request(
            name,
            "ec",
            *("-pkeyopt", "ec_paramgen_curve:prime256v1", "-addext", f"subjectAltName={names}"),
            *(
                "-addext",
                "basicConstraints=critical,CA:FALSE",
                "-CA",
                str(self.path),
                "-CAkey",
                str(self.key),
            ),
        )
        return made

    def server_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.path, self.key)
        return context

    def client_context(self) -> ssl.SSLContext:
        """Return a context that trusts what this authority signed, and nothing else."""
        return ssl.create_default_context(cafile=str(self.path))

    def _request(self, name: str, key: str, *options: str) -> None:
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", key, "-nodes", "-days", "2", "-subj", f"/CN={name}"),
                *("-keyout", str(self.key), "-out", str(self.path), *options),
            ],
            check=True,
            capture_output=True,
        )
