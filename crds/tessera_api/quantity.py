"""Numbers written as text, so that no float is ever in a resource.

A decimal is a string in a manifest ("6e-4") and a `decimal.Decimal` in Python; a token count is an integer or a string
with an SI suffix ("400M") in a manifest and an `int` in Python. Both are read from what was written and nothing else: a
YAML number where a decimal string belongs is refused, as the API server refuses it.
"""

import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, WithJsonSchema
from pydantic_core import PydanticCustomError

DECIMAL_PATTERN = r"^[0-9]{1,12}(\.[0-9]{1,12})?([eE][-+]?[0-9]{1,2})?$"
DECIMAL_LENGTH = 32
WEIGHT_PATTERN = r"^[0-9]{1,4}(\.[0-9]{1,3})?$"
"""At most 1000, in thousandths: 64 of them are fewer parts than a mixture can tell apart."""
WEIGHT_LENGTH = 8
TOKENS_PATTERN = r"^([0-9]{1,15}|10{15}|[0-9]{1,6}(\.[0-9]{1,3})?[kMGT])$"
TOKENS_LENGTH = 16
MOST_TOKENS = 10**15

_SUFFIXES = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def parse_decimal(value: object) -> Decimal:
    """The number that a decimal string stands for; a `Decimal` passes as it is."""
    return _decimal(value, DECIMAL_PATTERN, DECIMAL_LENGTH)


def parse_weight(value: object) -> Decimal:
    """The number that a weight stands for: a decimal string without an exponent, in thousandths."""
    return _decimal(value, WEIGHT_PATTERN, WEIGHT_LENGTH)


def _decimal(value: object, pattern: str, longest: int) -> Decimal:
    if isinstance(value, Decimal):
        return value
    if not isinstance(value, str):
        raise PydanticCustomError("string_type", "must be of type string")
    if len(value) > longest:
        raise PydanticCustomError("string_too_long", "too long", {"max_length": longest})
    if not re.fullmatch(pattern, value):
        raise PydanticCustomError("string_pattern_mismatch", "no decimal", {"pattern": pattern})
    return Decimal(value)


def parse_tokens(value: object) -> int:
    """The count that an integer, or a text such as "12000", "400M" or "1.5G", stands for."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise PydanticCustomError("int_or_string_type", "must be of type int or string")
    if isinstance(value, int):
        return value
    if len(value) > TOKENS_LENGTH:
        raise PydanticCustomError("string_too_long", "too long", {"max_length": TOKENS_LENGTH})
    if not re.fullmatch(TOKENS_PATTERN, value):
        raise PydanticCustomError("string_pattern_mismatch", "no token count", {"pattern": TOKENS_PATTERN})
    suffix = value[-1]
    return int(Decimal(value[:-1]) * _SUFFIXES[suffix]) if suffix in _SUFFIXES else int(value)


def _within_tokens(value: int) -> int:
    if value < 1:
        raise PydanticCustomError("greater_than_equal", "too few tokens", {"ge": 1})
    if value > MOST_TOKENS:
        raise PydanticCustomError("less_than_equal", "too many tokens", {"le": MOST_TOKENS})
    return value


_DECIMAL_SCHEMA: dict[str, Any] = {"type": "string", "pattern": DECIMAL_PATTERN, "maxLength": DECIMAL_LENGTH}
_TOKENS_SCHEMA: dict[str, Any] = {
    "x-kubernetes-int-or-string": True,
    "anyOf": [{"type": "integer"}, {"type": "string"}],
    "pattern": TOKENS_PATTERN,
    "minimum": 1,
    "maximum": MOST_TOKENS,
    "maxLength": TOKENS_LENGTH,
}

DecimalString = Annotated[
    Decimal,
    BeforeValidator(parse_decimal),
    PlainSerializer(str, return_type=str, when_used="json"),
    WithJsonSchema(_DECIMAL_SCHEMA),
]
Weight = Annotated[
    Decimal,
    BeforeValidator(parse_weight),
    PlainSerializer(str, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": WEIGHT_PATTERN, "maxLength": WEIGHT_LENGTH}),
]
TokenCount = Annotated[
    int, BeforeValidator(parse_tokens), AfterValidator(_within_tokens), WithJsonSchema(_TOKENS_SCHEMA)
]
