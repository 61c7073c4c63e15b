"""Everything that is wrong with one document, in the API server's words.

Two sources, so that no mistake hides another: the models find what is wrong with each field, and the rules that span
fields are tried on the raw document, each as soon as the fields that it reads are sound themselves.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticUndefined

from tessera_api.field_path import Path, field_of, is_list, model_within, path_text
from tessera_api.remedies import remedy
from tessera_api.resource import Document
from tessera_api.rules import Rule

_ABSENT = object()


@dataclass(frozen=True)
class Finding:
    """One mistake: where, what stands there, what is wrong in the API server's words, and what to do."""

    path: Path
    value: object
    problem: str
    remedy: str


def without_nulls(model: type[BaseModel], raw: object) -> object:
    """A copy of a document in which a known field that holds null is not there, as the API server has it."""
    if isinstance(raw, list):
        return [without_nulls(model, item) for item in raw]
    if not isinstance(raw, dict):
        return raw
    result = {}
    for name, value in raw.items():
        field = field_of(model, name)
        if field is None or value is not None:
            part = model_within(field.annotation) if field else None
            result[name] = without_nulls(part, value) if part else value
    return result


def findings(model: type[Document], raw: object) -> list[Finding]:
    """Every mistake in a document, in the order of its fields as the model lists them; empty when it is sound."""
    found: list[Finding] = []
    try:
        model.parse(raw)
    except ValidationError as invalid:
        errors = [error for error in invalid.errors() if error["type"] != "rule" and not _is_echo(raw, error)]
        found += [_field_finding(model, raw, error) for error in errors]
        found += _rule_findings(model, raw, ())
        # Whatever the rules' own reading missed, what the model refuses is never called sound.
        return found or [_rule_error(error) for error in invalid.errors()]
    return found


# ---- fields ----------------------------------------------------------------------------------------


def _is_echo(raw: object, error: ErrorDetails) -> bool:
    """Whether a list is called too short only because pydantic left its faulty items out when it counted."""
    if error["type"] != "too_short":
        return False
    items = value_at(raw, error["loc"])
    return isinstance(items, list) and len(items) >= int(error["ctx"]["min_length"])


def _field_finding(model: type[Document], raw: object, error: ErrorDetails) -> Finding:
    path: Path = error["loc"]
    context: Mapping[str, Any] = error.get("ctx", {})
    if error["type"] == "duplicate":
        path = (*path, context["index"])
    value = value_at(raw, path)
    problem = _problem(error["type"], context, value, path)
    value = None if value is _ABSENT else value
    return Finding(path, value, problem, _remedy(model, raw, path, error["type"]))


def _rule_error(error: ErrorDetails) -> Finding:
    """What the model says of itself."""
    context: Mapping[str, Any] = error.get("ctx", {})
    return Finding(error["loc"], None, str(context.get("words", error["msg"])), "correct it")


def _problem(kind: str, context: Mapping[str, Any], value: object, path: Path) -> str:
    """The API server's words for a kind of error that pydantic names."""
    if kind in _WANTED_TYPES:
        return f'must be of type {_WANTED_TYPES[kind]}: "{_type_word(value)}"'
    if kind == "too_long" and isinstance(value, dict):
        context = {**context, "actual_length": len(value)}  # pydantic does not count a map
    if kind in _WORDS:
        return _WORDS[kind].format(**context)
    match kind:
        case "extra_forbidden":
            return f'unknown field "{path_text(path)}"'
        case "literal_error" | "enum" if not isinstance(value, str):
            return f'must be of type string: "{_type_word(value)}"'
        case "literal_error" | "enum":
            return f"Unsupported value: {json.dumps(value)}: supported values: {_quoted(context['expected'])}"
        case "duplicate":
            return f"Duplicate value: {_key(context['key'])}"
        case _:
            return f"not valid ({kind})"


_WANTED_TYPES = {
    "int_type": "integer",
    "int_from_float": "integer",
    "bool_type": "boolean",
    "string_type": "string",
    "model_type": "object",
    "model_attributes_type": "object",
    "dict_type": "object",
    "tuple_type": "array",
    "int_or_string_type": "integer,string",
}
_WORDS = {
    "missing": "Required value",
    "greater_than_equal": "should be greater than or equal to {ge}",
    "less_than_equal": "should be less than or equal to {le}",
    "multiple_of": "should be a multiple of {multiple_of}",
    "string_too_long": "Too long: may not be more than {max_length} bytes",
    "string_too_short": "should be at least {min_length} chars long",
    "string_pattern_mismatch": "should match '{pattern}'",
    "too_long": "Too many: {actual_length}: must have at most {max_length} items",
    "too_short": "should have at least {min_length} items",
}


def _type_word(value: object) -> str:
    """What JSON calls the value, as the API server does."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case list() | tuple():
            return "array"
        case _:
            return "object"


def _quoted(expected: str) -> str:
    """pydantic's list of the values allowed ('a', 'b' or 'c') as the API server writes it."""
    words = expected.replace(" or ", ", ").split(", ")
    return ", ".join(f'"{word.strip(chr(39))}"' for word in words)


def _key(key: object) -> str:
    """The key of a list's item as JSON."""
    if isinstance(key, tuple):
        return json.dumps(dict(key), separators=(",", ":"))
    return json.dumps(key)


def _remedy(model: type[Document], raw: object, path: Path, error: str) -> str:
    """A number where a text belongs may be wrong as a text too: what is wrong then is said at once."""
    value = value_at(raw, path)
    if error != "string_type" or isinstance(value, bool) or not isinstance(value, int | float):
        return remedy(model, path, error)
    quoted = f'write it in quotes, so that it is text: "{value}"'
    then = [item for item in findings(model, _with(raw, path, str(value))) if item.path == path]
    return f"write it in quotes, as text, and {then[0].remedy}" if then else quoted


def _with(raw: Any, path: Path, value: object) -> Any:
    """A copy of a raw document with another value at a path that is there."""
    if not path:
        return value
    part = _with(raw[path[0]], path[1:], value)
    if isinstance(raw, list):
        return [part if index == path[0] else item for index, item in enumerate(raw)]
    return {**raw, path[0]: part}


def value_at(raw: object, path: Path) -> object:
    """What stands at a path of a raw document; a mark of its own when nothing does."""
    for part in path:
        in_object = isinstance(part, str) and isinstance(raw, dict) and part in raw
        in_list = isinstance(part, int) and isinstance(raw, list) and part < len(raw)
        if not in_object and not in_list:
            return _ABSENT
        raw = raw[part]  # type: ignore[index]
    return raw


# ---- rules -----------------------------------------------------------------------------------------


def _rule_findings(model: type[Document], raw: object, path: Path) -> Iterator[Finding]:
    """The broken rules of an object and of everything below it, parts that are not sound passed over."""
    if not isinstance(raw, dict):
        return
    for rule in model.RULES:
        finding = _broken(rule, model, raw, path)
        if finding is not None:
            yield finding
    for name, field in ((field.alias or name, field) for name, field in model.model_fields.items()):
        part = model_within(field.annotation)
        if part is None or not issubclass(part, Document):
            continue
        value = _value_or_default(field, raw.get(name, _ABSENT))
        for at, item in _items(field, value, (*path, name)):
            yield from _rule_findings(part, item, at)


def _items(field: FieldInfo, value: object, path: Path) -> Iterable[tuple[Path, object]]:
    if not is_list(field.annotation):
        return [(path, value)]
    return [((*path, index), item) for index, item in enumerate(value)] if isinstance(value, list) else []


def _broken(rule: Rule, model: type[Document], raw: dict[str, Any], path: Path) -> Finding | None:
    parsed, written = [], {}
    for read in rule.reads:
        sound, value, text = _read(model, raw, read)
        if not sound:
            return None
        parsed.append(value)
        written[read] = text
    if rule.holds(*parsed):
        return None
    at: Path = (*path, *rule.field_path.split(".")) if rule.field_path else path
    blamed = value_at(raw, at[len(path) :])
    return Finding(at, None if blamed is _ABSENT else blamed, rule.say(written), rule.remedy)


def _read(model: type[BaseModel], raw: object, read: str) -> tuple[bool, object, object]:
    """Whether the field that a rule reads is sound, its value, and its value as it was written."""
    names = read.removesuffix("?").split(".")
    field: FieldInfo | None = None
    owner: type[BaseModel] | None = model
    for name in names:
        field = field_of(owner, name) if owner else None
        if field is None or not isinstance(raw, dict):
            return False, None, None
        raw, owner = _value_or_default(field, raw.get(name, _ABSENT)), model_within(field.annotation)
        if isinstance(raw, BaseModel):
            raw = raw.model_dump(by_alias=True, mode="json", exclude_none=True)
    if read.endswith("?"):
        return True, raw is not None and raw is not _ABSENT, ""
    if field is None or raw is _ABSENT:
        return False, None, None
    try:
        return True, _adapter(field.rebuild_annotation()).validate_python(raw), raw
    except ValidationError:
        return False, None, None


@cache
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(annotation)


def _value_or_default(field: FieldInfo, value: object) -> object:
    if value is not _ABSENT:
        return value
    default = field.get_default(call_default_factory=True, validated_data={})
    return _ABSENT if default is PydanticUndefined else default
