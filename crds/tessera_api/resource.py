"""What both resources are made of: the base model, metadata, conditions, and the bounded texts in them.

Every model is frozen, refuses unknown fields and uses the manifest's camelCase names beside the Python ones. A model's
`RULES` are checked whenever one is made, and become CEL in the generated CRD.
"""

import re
from collections.abc import Callable, Hashable, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    StrictInt,
    StringConstraints,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from tessera_api.rules import Freeze, Rule

GROUP = "tessera.dev"
VERSION = "v1alpha1"
API_VERSION: Literal["tessera.dev/v1alpha1"] = "tessera.dev/v1alpha1"

NAME_LENGTH = 40
NAME_PATTERN = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
NAMESPACE_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
URI_LENGTH = 1024
URI_PATTERN = r"^(s3://[a-z0-9][-.a-z0-9]{1,61}[a-z0-9](/[^?#\x00-\x1f]*)?|file:///[^?#\x00-\x1f]*)$"
DATE_PATTERN = r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$"


class Document(BaseModel):
    """A part of a resource. `RULES` span its fields, `FREEZES` name the fields that may never change."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True, use_attribute_docstrings=True
    )

    RULES: ClassVar[tuple[Rule, ...]] = ()
    FREEZES: ClassVar[tuple[Freeze, ...]] = ()

    @classmethod
    def parse(cls, raw: object) -> Self:
        """The document of a manifest: by the manifest's names alone, as the API server reads it. ValidationError."""
        return cls.model_validate(raw, by_alias=True, by_name=False)

    @model_validator(mode="after")
    def _keep_the_rules(self) -> Self:
        for rule in self.RULES:
            values = {read: self._read(read) for read in rule.reads}
            if not rule.holds(*values.values()):
                raise PydanticCustomError("rule", "{words}", {"words": rule.say(values), "field_path": rule.field_path})
        return self

    def _read(self, path: str) -> Any:
        """The value at a rule's path (manifest names); with a `?` at its end, whether there is one."""
        value: Any = self
        for name in path.removesuffix("?").split("."):
            value = getattr(value, attribute_names(type(value))[name])
        return value is not None if path.endswith("?") else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler.resolve_ref_schema(handler(core))
        rules = [rule.schema() for rule in cls.RULES] + [freeze.schema() for freeze in cls.FREEZES]
        return {**schema, "x-kubernetes-validations": rules} if rules else schema


def attribute_names(model: type[BaseModel]) -> dict[str, str]:
    """The Python name of every field, by its name in a manifest."""
    return {field.alias or name: name for name, field in model.model_fields.items()}


def unique_by(*keys: str) -> AfterValidator:
    """Refuse a list in which two items agree in the attributes `keys` (one word, spelled alike in both languages)."""

    def check(items: Sequence[Any]) -> Sequence[Any]:
        return _unique(items, lambda item: tuple((key, str(getattr(item, key))) for key in keys))

    return AfterValidator(check)


def unique() -> AfterValidator:
    """Refuse a list of texts that holds one of them twice."""
    return AfterValidator(lambda items: _unique(items, lambda item: item))


def _unique(items: Sequence[Any], key: Callable[[Any], Hashable]) -> Sequence[Any]:
    seen = set()
    for index, item in enumerate(items):
        if (mark := key(item)) in seen:
            raise PydanticCustomError("duplicate", "duplicate", {"index": index, "key": mark})
        seen.add(mark)
    return items


ListType = Literal["atomic", "set"]


def listed(kind: ListType) -> dict[str, Any]:
    """The schema's word for how the items of a list are told apart."""
    return {"x-kubernetes-list-type": kind}


def keyed(*keys: str) -> dict[str, Any]:
    """The schema's word for a list whose items are told apart by these fields."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


Name = Annotated[str, StringConstraints(max_length=NAME_LENGTH, pattern=NAME_PATTERN)]
Uri = Annotated[str, StringConstraints(max_length=URI_LENGTH, pattern=URI_PATTERN)]
Sha256 = Annotated[str, StringConstraints(max_length=64, pattern=r"^[0-9a-f]{64}$")]
Line = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Day = Annotated[str, StringConstraints(max_length=10, pattern=DATE_PATTERN)]
Steps = Annotated[StrictInt, Field(ge=1, le=1_000_000_000)]

_SERVER_OWNED = frozenset(
    ("creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp", "finalizers", "generateName", "generation")
    + ("managedFields", "ownerReferences", "resourceVersion", "selfLink", "uid")
)
_LabelKey = Annotated[str, StringConstraints(max_length=317)]
_LabelText = Annotated[str, StringConstraints(max_length=63)]


class Metadata(Document):
    """The part of Kubernetes' object metadata that people write; what the server writes is passed over."""

    name: Annotated[str, StringConstraints(max_length=253)]
    """Name of the resource; pods, services and folders are named after it."""
    namespace: Annotated[str, StringConstraints(max_length=63, pattern=NAMESPACE_PATTERN)] | None = None
    labels: dict[_LabelKey, _LabelText] = {}
    annotations: dict[_LabelKey, str] = {}

    @model_validator(mode="before")
    @classmethod
    def _without_what_the_server_owns(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: field for key, field in value.items() if key not in _SERVER_OWNED}


NAME_RULE = Rule(
    cel=f"size(self.metadata.name) <= {NAME_LENGTH} && self.metadata.name.matches('{NAME_PATTERN}')",
    reads=("metadata.name",),
    holds=lambda name: len(name) <= NAME_LENGTH and re.fullmatch(NAME_PATTERN, name) is not None,
    words="metadata.name is {metadata.name}: it must be at most "
    f"{NAME_LENGTH} lower-case letters, digits and '-', a letter first and no '-' last",
    remedy="choose a shorter or plainer name: pods and folders are named after it",
    field_path="metadata.name",
)


class SecretName(Document):
    """A Secret in the resource's own namespace."""

    name: Annotated[str, StringConstraints(max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
    """Its name. Read are AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_ENDPOINT_URL, AWS_REGION."""


class Condition(Document):
    """One condition of a resource, as Kubernetes knows them."""

    type: Annotated[str, StringConstraints(max_length=63, pattern=r"^[A-Z][A-Za-z]*$")]
    """What the condition is about, such as Succeeded."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Annotated[str, StringConstraints(max_length=128, pattern=r"^[A-Z][A-Za-z0-9]*$")]
    """A constant word for programs."""
    message: Annotated[str, StringConstraints(max_length=4096)]
    """A sentence with the numbers, for people."""
    last_transition_time: Annotated[str, StringConstraints(max_length=40)] | None = None
    """When the status last changed, RFC 3339."""
    observed_generation: Annotated[StrictInt, Field(ge=0)] | None = None
    """The generation of the resource that the condition was set for."""


Conditions = Annotated[tuple[Condition, ...], Field(max_length=16, json_schema_extra=keyed("type")), unique_by("type")]
