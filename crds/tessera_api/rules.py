"""The rules of a resource that span fields: written once, enforced by the API server and here with the same words.

A rule holds a CEL expression for the server, a Python predicate over the fields it reads, and one text for both: its
placeholders become a CEL `messageExpression` and a Python format. What must stay true: expression and predicate decide
alike, which tests/wire shows on a real server, one accepted and one rejected manifest for each rule.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tessera_api.quantity import DECIMAL_PATTERN

_PLACEHOLDER = re.compile(r"\{([A-Za-z.]+)\}")


class Reason(StrEnum):
    """How the API server classes a broken rule."""

    INVALID = "FieldValueInvalid"
    FORBIDDEN = "FieldValueForbidden"
    REQUIRED = "FieldValueRequired"


@dataclass(frozen=True)
class Rule:
    """One rule of an object. Field paths are relative to it, with the names of the manifest."""

    cel: str
    """What must be true, over `self`."""
    reads: tuple[str, ...]
    """The fields that `holds` takes, in order. `name?` stands for whether the field is there."""
    holds: Callable[..., bool]
    """The same decision in Python."""
    words: str
    """What is wrong when it does not hold; `{field}` is replaced by the value as it was written."""
    remedy: str
    """What to change, for people; the server says it after `words` and a semicolon."""
    field_path: str = ""
    """The field that is to blame, such as `nodes.max`."""
    reason: Reason = Reason.INVALID

    def say(self, values: Mapping[str, object]) -> str:
        """`words` with the values filled in."""
        return _PLACEHOLDER.sub(lambda match: str(values[match[1]]), self.words)

    def schema(self) -> dict[str, Any]:
        """The rule as an entry of `x-kubernetes-validations`."""
        entry: dict[str, Any] = {"rule": self.cel}
        message = f"{self.words}; {self.remedy}"
        if _PLACEHOLDER.search(message):
            entry["messageExpression"] = _as_cel(message)
        else:
            entry["message"] = message
        if self.field_path:
            entry["fieldPath"] = "." + self.field_path
        entry["reason"] = self.reason.value
        return entry


@dataclass(frozen=True)
class Freeze:
    """A field of a spec that must stay as it was when the resource was created; it must be a required field."""

    field: str
    remedy: str

    @property
    def words(self) -> str:
        """What is wrong when the field changes."""
        return f"{self.field} is frozen once the resource exists: {self.remedy}"

    def schema(self) -> dict[str, Any]:
        """The transition rule. It stands on the parent, where it also sees optional parts come and go."""
        return {
            "rule": f"self.{self.field} == oldSelf.{self.field}",
            "message": self.words,
            "fieldPath": f".{self.field}",
            "reason": Reason.FORBIDDEN.value,
        }


def exactly_one(first: str, second: str, remedy: str) -> Rule:
    """Exactly one of two optional fields is there."""
    return Rule(
        cel=f"has(self.{first}) != has(self.{second})",
        reads=(f"{first}?", f"{second}?"),
        holds=lambda has_first, has_second: bool(has_first != has_second),
        words=f"exactly one of {first} and {second} must be given",
        remedy=remedy,
    )


def above(field: str, limit: str, most: str, optional: bool = False) -> Rule:
    """A decimal string that lies in (limit, most]."""
    cel = _decimal_cel(field, f"x > {float(limit)} && x <= {float(most)}")
    return Rule(
        cel=f"!has(self.{field}) || ({cel})" if optional else cel,
        reads=(field,),
        holds=lambda value: value is None or float(limit) < float(value) <= float(most),
        words=f"{field} is {{{field}}}: it must be above {limit} and at most {most}",
        remedy=f"choose a value above {limit} and at most {most}",
        field_path=field,
    )


def from_to(field: str, least: str, most: str) -> Rule:
    """A decimal string that lies in [least, most]."""
    return Rule(
        cel=_decimal_cel(field, f"x >= {float(least)} && x <= {float(most)}"),
        reads=(field,),
        holds=lambda value: float(least) <= float(value) <= float(most),
        words=f"{field} is {{{field}}}: it must be at least {least} and at most {most}",
        remedy=f"choose a value from {least} to {most}",
        field_path=field,
    )


def _decimal_cel(field: str, condition: str) -> str:
    """A condition on the number x that a decimal string stands for; a text that is none is the pattern's affair."""
    number = re.sub(r"\bx\b", f"double(self.{field})", condition)
    return f"!self.{field}.matches(r'{DECIMAL_PATTERN}') || ({number})"


def _as_cel(words: str) -> str:
    """The text as a CEL format. (A concatenation with `string(self.count)` is refused: its size has no estimate.)"""
    text = _PLACEHOLDER.sub("%s", words.replace("\\", "\\\\").replace("'", "\\'").replace("%", "%%"))
    values = ", ".join(f"self.{field}" for field in _PLACEHOLDER.findall(words))
    return f"'{text}'.format([{values}])"
