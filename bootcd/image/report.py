"""What rechunking an image came to, for people and for programs."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class _Report(BaseModel):
    model_config = ConfigDict(frozen=True)


class Transfer(_Report):
    """What is downloaded: layers and their compressed bytes."""

    layers: int
    bytes: int

    def __str__(self) -> str:
        noun = "layer" if self.layers == 1 else "layers"
        return f"{self.layers:>4} {noun:<6} {size(self.bytes):>10}"


class UpgradeReport(_Report):
    """What a host that has the older image downloads."""

    previous: str
    before: Transfer
    "With the image as it was given."
    after: Transfer
    "With the one that was written."
    by_files: Transfer
    """With the one that was written, if of its new layers only the files that are new are fetched.

    At least: to fetch what lies between them as well may be cheaper than to ask once more."""
    aligned: Transfer
    "With the one that was written, if the older one had been rechunked into the same layers."
    previous_is_rechunked: bool


class RechunkReport(_Report):
    source: str
    destination: str
    digest: str
    database: str
    "Which package database was found: dpkg, rpm, apk, or none if empty."
    components: int
    unpackaged_bytes: int
    before: Transfer
    after: Transfer
    sent: Transfer | None = None
    "To the registry, which had the other layers already."
    whole: Transfer = Transfer(layers=0, bytes=0)
    "Meant to be fetched in parts, and with more files than a table of contents that hosts read may have."
    upgrade: UpgradeReport | None = None

    def __str__(self) -> str:
        lines = [
            f"Wrote {self.destination}, {self.digest}",
            f"  as it was {self.before}",
            f"  rechunked {self.after}",
        ]
        if self.sent:
            lines.append(f"  sent      {self.sent}   as the registry lacked them")
        if self.whole.layers:
            lines.append(
                f"  of these  {self.whole}   have too many files and are fetched whole; allow more layers"
            )
        if self.database:
            lines.append(
                f"Packages: {self.components} components ({self.database}); "
                f"{size(self.unpackaged_bytes)} of files that no package has share a layer"
            )
        else:
            lines.append("Packages: the image has no package database, so that all files share a layer")
        if upgrade := self.upgrade:
            lines += [
                f"Upgrade from {upgrade.previous} downloads",
                f"  as it was {upgrade.before}",
                f"  rechunked {upgrade.after}",
                f"  or        {upgrade.by_files}   where files that are there already are left out",
            ]
            if not upgrade.previous_is_rechunked:
                lines.append(f"  rechunked {upgrade.aligned}   from the older one rechunked likewise")
        return "\n".join(lines)


def size(count: int) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000  # type: ignore[assignment]
    return f"{count:.2f} GB"
