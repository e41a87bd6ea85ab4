"""YAML of the host against what bootc prints, and against another emitter of the same family."""

import json
import math
import re
from typing import Any, ClassVar

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bootcctl.yamltext import _is_misread, render_yaml
from bootcd.model.host import Host

# As bootc printed it on hosts of its users, with the keys that came later where bootc declares them.
CHECKSUM = "a8853cb9823a3d2c12bf5ed96415e9a76f79d0e865c1a5b44235ef1c0b1572f8"
DIGEST = "sha256:a72864b9478f9d12bc7d5ddb7058d321eb508a340546908360b371e0c6379606"
PRINTED = f"""\
apiVersion: org.containers.bootc/v1
kind: BootcHost
metadata:
  name: host
spec:
  image:
    image: localhost/microshift-4.18-bootc-embedded
    transport: registry
    signature: !ostreeRemote fedora
  bootOrder: default
status:
  staged: null
  booted:
    image:
      image:
        image: localhost/microshift-4.18-bootc-embedded
        transport: registry
        signature: containerPolicy
      version: 9.20250327.0
      timestamp: 2025-03-27T11:54:42.250Z
      imageDigest: {DIGEST}
      architecture: amd64
    cachedUpdate:
      image:
        image: /var/x:tag
        transport: oci
      version: '42'
      timestamp: null
      imageDigest: {DIGEST}
      architecture: amd64
    incompatible: false
    pinned: true
    softRebootCapable: false
    downloadOnly: false
    store: ostreeContainer
    ostree:
      stateroot: default
      checksum: {CHECKSUM}
      deploySerial: 0
    composefs: null
  rollback: null
  otherDeployments:
  - image: null
    cachedUpdate: null
    incompatible: true
    pinned: false
    softRebootCapable: false
    downloadOnly: false
    store: ostreeContainer
    ostree:
      stateroot: other
      checksum: {CHECKSUM}
      deploySerial: 1
    composefs: null
  rollbackQueued: false
  type: bootcHost
  usrOverlay:
    accessMode: readWrite
    persistence: transient
  readOnly: false
"""


class _Plain(yaml.SafeLoader):
    """Reads the YAML 1.2 a Rust program reads: few scalars are no texts, a tag names a variant."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":bool", ":null"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Plain.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"-?[0-9]+$"), list("-0123456789"))
_Plain.add_constructor("!ostreeRemote", lambda loader, node: {"ostreeRemote": loader.construct_scalar(node)})


def test_host_is_printed_as_bootc_prints_it() -> None:
    document = Host.model_validate(yaml.load(PRINTED, _Plain))
    # Canonical JSON has other orders everywhere.
    assert render_yaml(json.loads(document.to_json())) == PRINTED


def test_keys_nobody_knows_come_last() -> None:
    assert render_yaml({"new": {}, "kind": "BootcHost", "list": [], "apiVersion": "v"}) == (
        "apiVersion: v\nkind: BootcHost\nnew: {}\nlist: []\n"
    )


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("42", "'42'"),
        ("42.1", "'42.1'"),
        ("42.20250327.0", "42.20250327.0"),
        ("1e3", "'1e3'"),
        ("1e999", "1e999"),
        ("0x1f", "'0x1f'"),
        ("007", "'007'"),
        ("no", "'no'"),
        ("No", "'No'"),
        ("nO", "nO"),
        ("null", "'null'"),
        ("~", "'~'"),
        (".inf", "'.inf'"),
        ("inf", "inf"),
        ("", "''"),
        ("- x", "'- x'"),
        ("-x", "-x"),
        ("a: b", "'a: b'"),
        ("a #b", "'a #b'"),
        ("it's", "it's"),
        ("'s", "'''s'"),
        ("übung „1“", "übung „1“"),
        ("\x1b[31m\t\n", '"\\e[31m\\t\\n"'),
        ("\U0001f600", '"\\U0001F600"'),
    ],
)
def test_text_is_quoted_only_where_it_would_be_misread(text: str, printed: str) -> None:
    assert render_yaml({"version": text}) == f"version: {printed}\n"


def emitted(text: str) -> str:
    """Let PyYAML, whose emitter is libyaml's, choose the style as serde_yaml has libyaml choose it."""
    style = "'" if _is_misread(text) else None
    scalar = yaml.ScalarEvent(None, None, (True, True), text, style=style)
    events = [
        yaml.StreamStartEvent(),
        yaml.DocumentStartEvent(),
        yaml.MappingStartEvent(None, None, True),
        yaml.ScalarEvent(None, None, (True, True), "version"),
        scalar,
        yaml.MappingEndEvent(),
        yaml.DocumentEndEvent(),
        yaml.StreamEndEvent(),
    ]
    out: str = yaml.emit(events, allow_unicode=True, width=math.inf)
    return out


_TEXTS = st.text(
    st.characters(max_codepoint=0xFFFD, exclude_categories=["Cs"], exclude_characters="\n\x85\u2028\u2029"),
    max_size=12,
) | st.text("-:#?!&*%@`'\"[]{},|> .~0xnoyef1\t", max_size=6)


@given(_TEXTS)
def test_any_text_is_printed_as_libyaml_prints_it(text: str) -> None:
    assert render_yaml({"version": text}) == emitted(text)


_DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner.filter(lambda node: not isinstance(node, list)), max_size=3)
        | st.dictionaries(st.text("abc", min_size=1, max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), _DOCUMENTS, max_size=3))
def test_any_document_is_read_back_as_it_was(document: dict[str, Any]) -> None:
    assert (yaml.load(render_yaml(document), _Plain) or {}) == document
