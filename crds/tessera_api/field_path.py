"""Paths of fields in a resource, and what the models say about the field at a path.

A path is a tuple of manifest names and list indices; as text it reads as the API server writes it:
`spec.data.mix[0].weight`.
"""

from types import NoneType
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tessera_api.resource import Document, attribute_names
from tessera_api.rules import Rule

Path = tuple[str | int, ...]


def path_text(path: Path) -> str:
    """The path as the API server writes it."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def field_of(model: type[BaseModel], name: str) -> FieldInfo | None:
    """The field of a model by its name in a manifest."""
    attribute = attribute_names(model).get(name)
    return None if attribute is None else model.model_fields[attribute]


def model_within(annotation: Any) -> type[BaseModel] | None:
    """The model that a field holds: directly, optionally or as the items of its list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    arguments = get_args(annotation)
    if get_origin(annotation) is Annotated:
        arguments = arguments[:1]
    found = (model_within(argument) for argument in arguments if argument not in (Ellipsis, NoneType))
    return next((model for model in found if model is not None), None)


def is_list(annotation: Any) -> bool:
    """Whether a field holds a list."""
    if get_origin(annotation) is Annotated:
        return is_list(get_args(annotation)[0])
    return get_origin(annotation) is tuple or any(is_list(argument) for argument in get_args(annotation))


def model_at(root: type[BaseModel], path: Path) -> type[BaseModel] | None:
    """The model of the object at a path, `None` where there is no such object."""
    model: type[BaseModel] | None = root
    for name in path:
        if isinstance(name, int):
            continue
        field = field_of(model, name) if model else None
        model = model_within(field.annotation) if field else None
    return model


def field_at(root: type[BaseModel], path: Path) -> FieldInfo | None:
    """The field at a path; for an item of a list the list's field."""
    names = [name for name in path if isinstance(name, str)]
    model = model_at(root, tuple(names[:-1]))
    return field_of(model, names[-1]) if model and names else None


def rules_within(model: type[Document]) -> list[Rule]:
    """The rules of a model and of every part of it."""
    parts = [model_within(field.annotation) for field in model.model_fields.values()]
    below = [rule for part in parts if part and issubclass(part, Document) for rule in rules_within(part)]
    return [*model.RULES, *below]
