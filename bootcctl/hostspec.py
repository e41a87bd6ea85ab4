"""What a host is wanted to be, as a person writes it: the `spec` of the Host document, in YAML. Pure.

The document is read as bootc reads it: plain scalars are texts, `!ostreeRemote fedora` is a variant with a
value. Nothing but `spec` counts, so that what `bootcctl status --format=yaml` prints can be edited.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from bootcctl.exitcodes import Failure
from bootcctl.yamltext import render_yaml

SIZE_LIMIT = 256 << 10
"Characters; a Host document has a few thousand."
_DEPTH_LIMIT = 16

_HELP = """\
# What this host is wanted to be. Change either the image, to switch to it, or the boot order (default or
# rollback), to roll back or to take that back. Leave it as it is to change nothing.
"""
_REFERENCE = {"image", "transport", "signature"}
_SIGNATURES = ("containerPolicy", "insecure")
_ORDERS = ("default", "rollback")


class Change(NamedTuple):
    """The verb that makes a host what is wanted, and for a switch its image."""

    verb: str
    image: str = ""
    transport: str = "registry"
    enforce: bool = False
    "Whether a signature is demanded from now on."


def render_spec(host: dict[str, Any]) -> str:
    """Return the text a person gets to edit."""
    return _HELP + render_yaml({key: host[key] for key in ("apiVersion", "kind", "metadata", "spec")})


def parse_spec(text: str) -> dict[str, Any]:
    """Return the spec in a Host document; its form is that of the JSON document.

    Raises:
        Failure: it is none, or says what no host can be.
    """
    document = _load(text)
    if not isinstance(document, dict):
        raise _invalid("it is no Host document")
    for key, wanted in (("apiVersion", "org.containers.bootc/v1"), ("kind", "BootcHost")):
        if document.get(key) != wanted:
            raise _invalid(f"{key} is not {wanted}")
    spec = document.get("spec")
    if not isinstance(spec, dict):
        raise _invalid("it has no spec")
    _require_known("spec", spec, {"image", "bootOrder"})
    order = spec.get("bootOrder", "default")
    if order not in _ORDERS:
        raise _invalid("spec.bootOrder is neither default nor rollback")
    return {"bootOrder": order, "image": _image(spec.get("image"))}


def plan_change(old: dict[str, Any], new: dict[str, Any]) -> Change | None:
    """Return what leads from one spec to another, None if nothing does.

    Raises:
        Failure: there is no such way.
    """
    if new == old:
        return None
    if new["image"] == old["image"]:
        return Change("rollback")
    if new["bootOrder"] != old["bootOrder"]:
        raise _invalid("image and boot order cannot be changed at once")
    image = new["image"]
    if image is None:
        raise _invalid("spec.image cannot be taken away", "name another image to switch to")
    signature = image.get("signature")
    if isinstance(signature, dict):
        raise Failure(
            "Unsupported",
            "an image that an ostree remote has to sign cannot be switched to",
            "use the signature containerPolicy, or none",
        )
    return Change("switch", image["image"], image["transport"], signature == "containerPolicy")


def _image(node: Any) -> dict[str, Any] | None:
    if node is None:
        return None
    if not isinstance(node, dict):
        raise _invalid("spec.image is no image reference")
    _require_known("spec.image", node, _REFERENCE)
    for key in ("image", "transport"):
        if not isinstance(node.get(key), str) or not node[key]:
            raise _invalid(f"spec.image.{key} is missing")
    signature = node.get("signature")
    remote = isinstance(signature, dict) and set(signature) == {"ostreeRemote"} and signature["ostreeRemote"]
    if signature is not None and signature not in _SIGNATURES and not isinstance(remote, str):
        raise _invalid("spec.image.signature is none that is known")
    return {key: value for key, value in node.items() if value is not None}


def _require_known(where: str, node: dict[str, Any], known: set[str]) -> None:
    if unknown := sorted(node.keys() - known):
        raise _invalid(f"{where}.{unknown[0][:60]} is not known")


def _load(text: str) -> Any:
    import yaml

    if len(text) > SIZE_LIMIT:
        raise _invalid("it is too long")
    try:
        depth = 0
        for event in yaml.parse(text, yaml.SafeLoader):
            # An alias could make a short text a document without end, and depth costs the library much.
            if isinstance(event, yaml.AliasEvent):
                raise _invalid("aliases are not allowed in it")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEPTH_LIMIT:
                raise _invalid("it is nested too deeply")
        return _value(yaml.compose(text, yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise _invalid(f"{line}{error.problem or 'it is no YAML'}") from None
    except (yaml.YAMLError, RecursionError):
        raise _invalid("it is no YAML") from None


def _value(node: Any) -> Any:
    """Return a node's value without the guesses of YAML 1.1, by which a version could be a number."""
    import yaml

    if isinstance(node, yaml.MappingNode):
        pairs = [(_value(key), _value(value)) for key, value in node.value]
        if len({key for key, _ in pairs if isinstance(key, str)}) != len(pairs):
            raise _invalid("a key is given twice, or is no text")
        value: Any = dict(pairs)
    elif isinstance(node, yaml.SequenceNode):
        value = [_value(item) for item in node.value]
    elif node is None or node.tag == "tag:yaml.org,2002:null":
        return None
    else:
        value = node.value
    tag = node.tag.removeprefix("!")
    return value if tag.startswith("tag:") or not tag else {tag: value}


def _invalid(problem: str, hint: str = "") -> Failure:
    return Failure("InvalidArguments", f"the host cannot be changed so: {problem}", hint)
