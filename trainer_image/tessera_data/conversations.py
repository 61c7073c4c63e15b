"""Conversations: from a record of a source to its messages, in one form whatever the source calls things. Pure.

The form is canonical JSON: a list of messages, `role` and `content` among their fields, newlines as in texts; what else
a message has (tool calls, a name) stays, for the template to use. `learn` marks those that are learned. Equal
conversations are equal texts, so that duplicates are found and held out as documents are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from enum import Enum, auto
from typing import Any

from tessera_api.dataset_build import Learned, Source

ASSISTANT = "assistant"
LEARN = "learn"
_ROLES = {"human": "user", "gpt": ASSISTANT, "bot": ASSISTANT, "chatgpt": ASSISTANT}
"""As some name them (ShareGPT)."""


class Unusable(Enum):
    """Why a record is no conversation to train on."""

    NO_MESSAGES = auto()
    NOTHING_LEARNED = auto()


class Conversations:
    """Of one source."""

    def __init__(self, source: Source) -> None:
        self._columns, self._learned = source.conversation_columns, source.learned

    def canonical(self, record: Mapping[str, Any]) -> str | Unusable:
        """The record's messages, as canonical JSON."""
        messages = self._messages(record)
        if not messages:
            return Unusable.NO_MESSAGES
        learned = list(self._chosen(messages))
        if not learned:
            return Unusable.NOTHING_LEARNED
        marked = [message | {LEARN: place in learned} for place, message in enumerate(messages)]
        try:  # a column of Parquet may hold times and the like
            return json.dumps(marked, ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=str)
        except RecursionError:
            return Unusable.NO_MESSAGES

    def _messages(self, record: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Empty where anything is not as it should be."""
        if len(self._columns) == 2:
            said = [record.get(column) for column in self._columns]
            given: Any = [{"role": role, "content": text} for role, text in zip(("user", ASSISTANT), said, strict=True)]
        else:
            given = record.get(self._columns[0])
        if not isinstance(given, list):
            return []
        messages = [_message(each) for each in given]
        return [message for message in messages if message is not None] if None not in messages else []

    def _chosen(self, messages: list[dict[str, Any]]) -> Iterator[int]:
        answers = [place for place, each in enumerate(messages) if each["role"] == ASSISTANT and each["content"]]
        match self._learned:
            case Learned.ANSWERS:
                yield from answers
            case Learned.LAST_ANSWER:
                yield from answers[-1:]
            case Learned.MARKED:
                yield from (place for place in answers if messages[place].get("train") is True)


def _message(given: Any) -> dict[str, Any] | None:
    """None where it is none."""
    if not isinstance(given, Mapping):
        return None
    role, content = given.get("role", given.get("from")), given.get("content", given.get("value"))
    if not isinstance(role, str) or not (isinstance(content, str) or (content is None and given.get("tool_calls"))):
        return None
    rest = {key: value for key, value in given.items() if key not in ("from", "value", LEARN) and value is not None}
    text = (content or "").replace("\r\n", "\n").replace("\r", "\n")
    return rest | {"role": _ROLES.get(role, role), "content": text}
