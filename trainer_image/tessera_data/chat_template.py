"""Chat template: from the messages of a conversation to the text that a model reads, and where in it answers lie.

The template is the model's own (Jinja, as `transformers` has it), run in a sandbox, without a clock: the same messages
give the same text. Where a message lies is found by rendering the conversation once more with marks in place of what is
said: a template that says anything else than its own words and the messages, each once and in order, is not followed.

What must stay true: a span that is learned is exactly what an assistant said, and the token that ends its turn.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tessera_api.dataset_build import ChatTemplate as Asked
from tessera_data.conversations import LEARN
from tessera_data.refusal import Refused
from tessera_data.sources import pinned_file

TEMPLATE_VERSION = "chat-1"
_GENERATION = re.compile(r"\{%(-?)\s*(end)?generation\s*(-?)%\}")
"""Blocks by which some templates say what a model generates; whoever reads the template otherwise passes over them."""


@dataclass(frozen=True)
class Rendered:
    """A conversation as the model reads it."""

    text: str
    learned: tuple[tuple[int, int], ...]
    """Spans of characters, in order."""


class NotFollowed(Exception):
    """The template makes something of this conversation in which the messages cannot be told apart."""


class ChatTemplate:
    """One template. `special`: the tokens that text never turns into. Refused if `data` holds no template."""

    def __init__(self, data: bytes, where: str, special: Sequence[str]) -> None:
        source, self._names = _read(data, where)
        self._template = _compiled(source, where)
        self._ends = tuple(special)

    def render(self, messages: Sequence[dict[str, Any]]) -> Rendered:
        """The text, and the spans of those messages that are marked as learned. Raises NotFollowed."""
        said = [{key: value for key, value in message.items() if key != LEARN} for message in messages]
        text = self._text(said)
        marks = [_mark(place, text) for place in range(len(said))]
        skeleton = self._text([message | {"content": mark} for message, mark in zip(said, marks, strict=True)])
        pieces = list(_pieces(skeleton, marks))
        spans, place = [], 0
        for message, before, after in zip(messages, pieces, pieces[1:], strict=False):
            begin, end = _next(text, place, before, message["content"], after)
            if message[LEARN]:
                spans.append((begin, end + self._end_of_turn(after)))
            place = end
        if text[place:] != pieces[-1]:
            raise NotFollowed("the template changes what follows the last message")
        return Rendered(text, tuple(spans))

    def _text(self, messages: Sequence[dict[str, Any]]) -> str:
        try:
            return str(self._template.render(messages=messages, add_generation_prompt=False, **self._names))
        except Exception as error:  # others' program, which may fail in any way
            raise NotFollowed(f"the template refuses it: {error}") from error

    def _end_of_turn(self, after: str) -> int:
        """How many characters of the template's words after a message end its turn."""
        told = after.lstrip()
        lengths = [len(token) for token in self._ends if told.startswith(token)]
        return len(after) - len(told) + max(lengths) if lengths else 0


def pinned_template(asked: Asked, special: Sequence[str]) -> ChatTemplate:
    """The template of a build. Refused if its digest differs, or it is none; raises tessera_store's errors."""
    data = pinned_file(asked.uri, asked.sha256, "chat template", "tokenizer.chatTemplate.sha256")
    return ChatTemplate(data, f"chat template {asked.uri}", special)


def _mark(place: int, text: str) -> str:
    """What no conversation says."""
    return f"m{hashlib.sha256(f'{place}/{text}'.encode()).hexdigest()[:24]}m"


def _pieces(skeleton: str, marks: Sequence[str]) -> Iterator[str]:
    """The template's own words: before, between and after the messages."""
    place = 0
    for mark in marks:
        if skeleton.count(mark) != 1 or (found := skeleton.find(mark, place)) < 0:
            raise NotFollowed("the template leaves a message out, repeats one, or puts them in another order")
        yield skeleton[place:found]
        place = found + len(mark)
    yield skeleton[place:]


def _next(text: str, place: int, before: str, content: str, after: str) -> tuple[int, int]:
    """Where a message lies whose predecessor ends at `place`: as it is, or without the white space around it."""
    begin = place + len(before)
    if text.startswith(before, place):
        for told in (content, content.strip()):
            if text.startswith(told + after, begin):
                return begin, begin + len(told)
    raise NotFollowed("the template changes what messages say")


def _read(data: bytes, where: str) -> tuple[str, dict[str, str]]:
    """The template's source, and the names of tokens that it may use."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise Refused(where, f"it is no text: {error}", "correct uri") from error
    if not text.lstrip().startswith('{"'):
        return text, {}
    try:
        settings = json.loads(text)
        source = settings["chat_template"]
    except (ValueError, KeyError) as error:
        remedy = "name a chat_template.jinja, or a file that has one"
        raise Refused(where, f"it has no chat_template: {error!r}", remedy) from error
    if isinstance(source, list):  # named ones: `default` is the one for conversations
        source = next((one.get("template") for one in source if one.get("name") == "default"), None)
    if not isinstance(source, str):
        raise Refused(where, "its chat_template is no text", "name a chat_template.jinja")
    names = {name: _token(value) for name, value in settings.items() if name in ("bos_token", "eos_token")}
    return source, {name: token for name, token in names.items() if token is not None}


def _token(value: Any) -> str | None:
    told = value.get("content") if isinstance(value, dict) else value
    return told if isinstance(told, str) else None


def _compiled(source: str, where: str) -> Any:
    """In a sandbox, with what `transformers` offers templates and no clock: `strftime_now` is not defined."""
    from jinja2 import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.globals["raise_exception"] = refuse
    environment.filters["tojson"] = _as_json
    plain = _GENERATION.sub(lambda found: f"{{%{found[1]} {'endif' if found[2] else 'if true'} {found[3]}%}}", source)
    try:
        return environment.from_string(plain)
    except TemplateError as error:
        raise Refused(where, f"it is no template: {error}", "correct the template") from error


def _as_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)
