"""What to write instead of a value that a model refuses, derived from what the model says of its field.

What must stay true: a remedy that is followed to the letter is not refused for the same field again.
"""

import difflib
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from tessera_api.dataset_build import LICENCE_PATTERN
from tessera_api.field_path import Path, field_at, model_at
from tessera_api.quantity import DECIMAL_PATTERN, TOKENS_PATTERN, WEIGHT_PATTERN
from tessera_api.resource import (
    DATE_PATTERN,
    NAME_LENGTH,
    NAME_PATTERN,
    NAMESPACE_PATTERN,
    URI_PATTERN,
    attribute_names,
)

_BY_PATTERN = {
    NAME_PATTERN: f"use at most {NAME_LENGTH} lower-case letters, digits and '-', a letter first and no '-' last",
    NAMESPACE_PATTERN: "use lower-case letters, digits and '-', no '-' first or last",
    URI_PATTERN: "write s3://BUCKET/PREFIX or file:///FOLDER",
    DATE_PATTERN: "write a day of the calendar as YEAR-MONTH-DAY",
    DECIMAL_PATTERN: 'write a decimal as text, such as "0.5" or "6e-4"',
    WEIGHT_PATTERN: 'write a decimal as text with at most 3 places, such as "1" or "0.25"',
    TOKENS_PATTERN: "give an integer from 1 to 10^15, or a text such as 400M (k, M, G or T)",
    LICENCE_PATTERN: 'write an SPDX expression, such as MIT or "Apache-2.0 OR MIT"',
}


def remedy(model: type[BaseModel], path: Path, kind: str) -> str:
    """What to do about an error of this kind (pydantic's word) at a path."""
    if kind == "extra_forbidden":
        return _unknown(model, path)
    if kind == "duplicate":
        return "remove one of the two, or give it another name"
    field = field_at(model, path)
    if field is None:
        return "write an object with its fields, as in the examples"
    meaning = field.description or ""
    fitting = _fitting(_schema(field, path))
    if kind == "missing":
        return ": ".join(part for part in ("add it", fitting, meaning) if part)
    return fitting or meaning or "write text"


def _unknown(model: type[BaseModel], path: Path) -> str:
    owner = model_at(model, path[:-1])
    known = list(attribute_names(owner)) if owner else []
    near = difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]}? Known here: {', '.join(known)}"
    return f"remove it; known here: {', '.join(known)}"


def _schema(field: FieldInfo, path: Path) -> dict[str, Any]:
    """What the field, or its list's item if the path ends in one, may hold."""
    whole = TypeAdapter(field.rebuild_annotation()).json_schema(by_alias=True)
    schema = _resolved(whole, whole)
    return _resolved(schema["items"], whole) if path and isinstance(path[-1], int) and "items" in schema else schema


def _resolved(schema: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
    """Behind its reference, and without the null of an optional field."""
    if "$ref" in schema:
        found: dict[str, Any] = whole["$defs"][schema["$ref"].rsplit("/", 1)[-1]]
        return found
    choices = [choice for choice in schema.get("anyOf", ()) if choice.get("type") != "null"]
    return _resolved(choices[0], whole) if len(choices) == 1 else schema


def _fitting(schema: dict[str, Any]) -> str:
    """A value that fits, in words; empty when only the field's meaning helps."""
    if schema.get("pattern") in _BY_PATTERN:
        return _BY_PATTERN[schema["pattern"]] + _at_most(schema)
    if "const" in schema or "enum" in schema:
        values = [schema["const"]] if "const" in schema else schema["enum"]
        return f"write {values[0]}" if len(values) == 1 else f"use one of {', '.join(values)}"
    match schema.get("type"):
        case "integer":
            return _integer(schema)
        case "boolean":
            return "write true or false"
        case "array":
            return f"write a list of {schema.get('minItems', 0)} to {schema['maxItems']} items"
        case "object" if "properties" in schema:
            return f"write an object; its fields are {', '.join(schema['properties'])}"
        case "string" if "maxLength" in schema:
            return f"write text of {schema.get('minLength', 0)} to {schema['maxLength']} characters"
        case _:
            return ""


def _at_most(schema: dict[str, Any]) -> str:
    return f", at most {schema['maxLength']} characters" if "maxLength" in schema else ""


def _integer(schema: dict[str, Any]) -> str:
    bounds = f"from {schema['minimum']} to {schema['maximum']}" if "maximum" in schema else ""
    step = f"a multiple of {schema['multipleOf']}" if "multipleOf" in schema else ""
    return ", ".join(part for part in (f"give an integer {bounds}".strip(), step) if part)
