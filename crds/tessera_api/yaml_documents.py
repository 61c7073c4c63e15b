"""YAML read as kubectl reads it, with the line of every field.

What must stay true: a text means here what it means to `kubectl apply`. So 6e-4 is a number (not text), yes and off are
booleans, 012 is octal, a date is text, keys are text, and a key that stands twice is refused. Size and number of nodes
are bounded.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from tessera_api.field_path import Path, path_text

MOST_BYTES = 1_048_576
MOST_NODES = 100_000

_PLAIN = "!plain"
_KNOWN_TAGS = frozenset((_PLAIN, "!", *(f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map"))))
_INTEGER = re.compile(r"([-+]?)(?:0[xX]([0-9a-fA-F]+)|0[bB]([01]+)|0[oO]?([0-7]+)|([1-9][0-9]*|0))")
_BASES = (16, 2, 8, 10)
_FLOAT = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)([eE][-+]?[0-9]+)?")
_TRUE = frozenset(("true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON", "y", "Y"))
_FALSE = frozenset(("false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF", "n", "N"))
_NULL = frozenset(("", "~", "null", "Null", "NULL"))


@dataclass(frozen=True)
class YamlFault:
    """Something that is wrong with the text itself, before its meaning is looked at."""

    line: int
    path: str
    problem: str


@dataclass(frozen=True)
class YamlDocument:
    """One document of a file: its value, the line on which each field starts, and what is wrong with its text."""

    source: str
    value: Any
    lines: Mapping[Path, int] = field(default_factory=dict)
    faults: tuple[YamlFault, ...] = ()

    def line(self, path: Path) -> int:
        """Line of the field at a path, or of the nearest thing around it; 0 when unknown."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return 0


def read_documents(text: str, source: str) -> list[YamlDocument]:
    """Every document of the text that is not empty; a text that is no YAML is one document with the fault."""
    if len(text.encode()) > MOST_BYTES:
        return [YamlDocument(source, None, faults=(YamlFault(1, "", f"the file is larger than {MOST_BYTES} bytes"),))]
    try:
        nodes = list(_compose(text))
    except yaml.MarkedYAMLError as cause:
        line = cause.problem_mark.line + 1 if cause.problem_mark else 1
        return [YamlDocument(source, None, faults=(YamlFault(line, "", f"this is no YAML: {cause.problem}"),))]
    except yaml.YAMLError as cause:
        return [YamlDocument(source, None, faults=(YamlFault(1, "", f"this is no YAML: {cause}"),))]
    return [_Reading(source).document(node) for node in nodes if not _is_null(node)]


def read_value(text: str) -> Any:
    """The value of one YAML text, such as the right side of an override; text that is no YAML stands for itself."""
    documents = read_documents(text, "")
    if len(documents) != 1:
        return None if text in _NULL else text
    return text if documents[0].faults else documents[0].value


def _compose(text: str) -> Iterator[yaml.Node]:
    for node in yaml.compose_all(text, Loader=_Loader):
        if node is not None:
            yield node


class _Loader(yaml.BaseLoader):
    """Marks the texts that stand without quotes and tag, and resolves none: what they mean is decided below."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.yaml_implicit_resolvers = {None: [(_PLAIN, re.compile(""))]}


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == _PLAIN and node.value in _NULL


class _Reading:
    """Turns the nodes of one document into values, and remembers lines and faults on the way."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._lines: dict[Path, int] = {}
        self._faults: list[YamlFault] = []
        self._left = MOST_NODES
        self._open: set[int] = set()

    def document(self, node: yaml.Node) -> YamlDocument:
        value = self._value(node, ())
        return YamlDocument(self._source, value, self._lines, tuple(self._faults))

    def _value(self, node: yaml.Node, path: Path) -> Any:
        line = node.start_mark.line + 1
        self._lines.setdefault(path, line)
        self._left -= 1
        if self._left < 0 or id(node) in self._open:
            self._fault(line, path, f"aliases make it endless or larger than {MOST_NODES} nodes")
            return None
        if node.tag not in _KNOWN_TAGS:
            self._fault(line, path, f"the tag {node.tag} is not known")
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                return [self._value(item, (*path, index)) for index, item in enumerate(node.value)]
            return _plain(str(node.value)) if node.tag == _PLAIN else _joined(node.value)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self._fault(line, path, "a key must be text")
                continue
            key = str(key_node.value)
            if key in mapping:
                self._fault(line, (*path, key), f'key "{key}" already set in map')
                continue
            self._lines[(*path, key)] = line
            mapping[key] = self._value(value_node, (*path, key))
        return mapping

    def _fault(self, line: int, path: Path, problem: str) -> None:
        self._faults.append(YamlFault(line, path_text(path), problem))


def _joined(text: str) -> str:
    """The text with pairs of surrogates made one character: JSON writes rare characters as two escapes."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _plain(text: str) -> str | int | float | bool | None:
    """What an unquoted text means."""
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    digits = text.replace("_", "") if text[0] in "-+.0123456789" else text
    if integer := _INTEGER.fullmatch(digits):
        sign, *by_base = integer.groups()
        return next(int(sign + part, base) for part, base in zip(by_base, _BASES, strict=True) if part)
    if _FLOAT.fullmatch(digits):
        return float(digits)
    return text
