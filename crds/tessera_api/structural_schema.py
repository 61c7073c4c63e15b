"""pydantic's JSON schema turned into a structural schema, the narrower kind that a CustomResourceDefinition takes.

Source of the rules: field table of pydantic outputs against what the API server accepts (references inlined, null and
its default dropped, `const` as `enum`, `additionalProperties: false` left to pruning). What must stay true: every text
and every list is bounded, every list says how its items are told apart, and a keyword that is not known here stops the
generator instead of being passed on.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]

_KEPT = (
    ("description", "type", "format", "enum", "pattern", "minLength", "maxLength", "minimum", "maximum", "multipleOf")
    + ("minItems", "maxItems", "maxProperties", "default", "x-kubernetes-int-or-string", "x-kubernetes-list-type")
    + ("x-kubernetes-list-map-keys", "x-kubernetes-validations")
)
_TRANSLATED = frozenset(("$ref", "anyOf", "const", "items", "properties", "required", "additionalProperties"))
_DROPPED = frozenset(("title", "examples"))


class NotStructural(Exception):
    """A model says something that a CustomResourceDefinition cannot; the message names the path."""


def structural_schema(model: type[BaseModel]) -> Schema:
    """The structural schema of a model, references inlined."""
    schema = model.model_json_schema(by_alias=True, mode="validation")
    return _Translation(schema.get("$defs", {})).node(schema, model.__name__)


class _Translation:
    """Walks one schema; knows its definitions and which of them are open, so that recursion is found."""

    def __init__(self, definitions: Mapping[str, Schema]) -> None:
        self._definitions = definitions
        self._open: list[str] = []

    def node(self, schema: Schema, path: str) -> Schema:
        schema = {key: value for key, value in schema.items() if key != "$defs"}
        if "$ref" in schema:
            return self._reference(schema, path)
        if "anyOf" in schema and "x-kubernetes-int-or-string" not in schema:
            return self._optional(schema, path)
        unknown = schema.keys() - set(_KEPT) - _TRANSLATED - _DROPPED
        if unknown:
            raise NotStructural(f"{path}: {', '.join(sorted(unknown))} has no place in a structural schema")
        result = {key: schema[key] for key in _KEPT if key in schema}
        if "const" in schema:
            result["enum"] = [schema["const"]]
        if result.get("type") == "integer":
            result["format"] = "int64"
        if result.get("type") == "object":
            result |= self._object(schema, path)
        if result.get("type") == "array":
            result["items"] = self.node(schema["items"], f"{path}[]")
        _check_bounds(result, path)
        return result

    def _reference(self, schema: Schema, path: str) -> Schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        if name in self._open:
            raise NotStructural(f"{path}: {name} holds itself, which a structural schema cannot say")
        self._open.append(name)
        # What stands beside a reference belongs to the field, what is behind it to the type: the field's words win.
        result = self.node({**self._definitions[name], **{k: v for k, v in schema.items() if k != "$ref"}}, path)
        self._open.pop()
        if isinstance(result.get("default"), dict):  # an optional field is absent, not null
            result["default"] = {name: value for name, value in result["default"].items() if value is not None}
        return result

    def _optional(self, schema: Schema, path: str) -> Schema:
        choices = [choice for choice in schema["anyOf"] if choice.get("type") != "null"]
        if len(choices) != 1:
            raise NotStructural(f"{path}: a field of several types")
        beside = {key: value for key, value in schema.items() if key != "anyOf"}
        if beside.get("default", ...) is None:
            del beside["default"]
        return self.node({**choices[0], **beside}, path)

    def _object(self, schema: Schema, path: str) -> Schema:
        if "properties" not in schema and isinstance(schema.get("additionalProperties"), dict):
            return {"additionalProperties": self.node(schema["additionalProperties"], f"{path}{{}}")}
        if "properties" not in schema:
            raise NotStructural(f"{path}: an object without fields of its own")
        if schema.get("additionalProperties") is not False:
            raise NotStructural(f"{path}: an object that takes unknown fields")
        properties = {name: self.node(field, f"{path}.{name}") for name, field in schema["properties"].items()}
        # A default makes a field optional, and one with both would never be defaulted.
        required = [name for name in schema.get("required", ()) if "default" not in properties[name]]
        return {"properties": properties} | ({"required": required} if required else {})


def _check_bounds(schema: Schema, path: str) -> None:
    """Without bounds the server can't estimate what a rule costs, and a resource can grow without end."""
    if schema.get("type") == "string" and not {"maxLength", "enum"} & schema.keys():
        raise NotStructural(f"{path}: a text without maxLength")
    if "additionalProperties" in schema and "maxProperties" not in schema:
        raise NotStructural(f"{path}: a map without maxProperties")
    if schema.get("type") == "array" and "maxItems" not in schema:
        raise NotStructural(f"{path}: a list without maxItems")
    if schema.get("type") == "array" and "x-kubernetes-list-type" not in schema:
        raise NotStructural(f"{path}: a list without x-kubernetes-list-type")
    if schema.get("type") == "number":
        raise NotStructural(f"{path}: a float; write it as a decimal string")
