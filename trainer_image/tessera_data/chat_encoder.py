"""Chat encoder: conversations to tokens, of which those that are learned are marked by their highest bit.

What must stay true: no message turns into a special token; the marked tokens of a span, decoded, say what it says.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tessera_data.chat_template import ChatTemplate, NotFollowed, Rendered
from tessera_data.manifest import TokenizerInfo
from tessera_data.shards import LEARNED, Tokens
from tessera_data.tokenizer import Encoder, loaded

logger = logging.getLogger(__name__)


class Encoded(NamedTuple):
    """A document's tokens."""

    tokens: Tokens
    text_bytes: int
    """Of the text that is learned, in UTF-8."""
    learned: int
    """Tokens that are learned."""


class ChatEncoder:
    """See the module. `data`: the tokenizer.json that `encoder` was made of."""

    def __init__(self, data: bytes, encoder: Encoder, template: ChatTemplate) -> None:
        self.info: TokenizerInfo = encoder.info
        self.dtype: np.dtype[Any] = np.dtype("<u4")
        self._tokenizer, self._template = loaded(data, "the build's tokenizer"), template
        special = "|".join(map(re.escape, sorted(special_tokens(data), key=len, reverse=True)))
        self._special = re.compile(special) if special else None
        self.refusal = ""
        """Why the first conversation was left out that was; whoever begins a new count empties it."""

    def encode(self, documents: Sequence[str]) -> Iterator[Encoded | None]:
        """Conversations in their canonical form; None for one that the template does not follow."""
        for document in documents:
            try:
                yield self._encoded(document)
            except NotFollowed as error:
                self.refusal = self.refusal or str(error)
                yield None

    def _encoded(self, document: str) -> Encoded:
        if self._special is not None and (found := self._special.search(document)):  # in any field of a message
            raise NotFollowed(f"a message says {found[0]}, which is a token of the template's own")
        rendered = self._template.render(json.loads(document))
        encoding = self._tokenizer.encode(rendered.text, add_special_tokens=False)
        tokens = np.array(encoding.ids, np.uint32)
        marked = _marked(rendered, encoding.offsets)
        self._verify(rendered, tokens, marked)
        learned = marked >= 0
        text_bytes = sum(len(rendered.text[begin:end].encode()) for begin, end in rendered.learned)
        return Encoded(tokens | (learned.astype(np.uint32) * LEARNED), text_bytes, int(learned.sum()))

    def _verify(self, rendered: Rendered, tokens: NDArray[np.uint32], marked: NDArray[np.int32]) -> None:
        for number, (begin, end) in enumerate(rendered.learned):
            told = self._tokenizer.decode(tokens[marked == number].tolist(), skip_special_tokens=False)
            if told.strip() != rendered.text[begin:end].strip():
                raise NotFollowed(f"its tokens, decoded, say {told[:40]!r} for {rendered.text[begin:end][:40]!r}")


def special_tokens(data: bytes) -> list[str]:
    """The texts of a tokenizer.json's special tokens."""
    return [token["content"] for token in json.loads(data).get("added_tokens", ()) if token.get("special")]


def _marked(rendered: Rendered, offsets: Sequence[tuple[int, int]]) -> NDArray[np.int32]:
    """[tokens]: the number of the span that a token is learned of, or -1. A token that reaches over a span's border by
    white space alone belongs to it. Raises NotFollowed where one reaches over it by more."""
    marked = np.full(len(offsets), -1, np.int32)
    text, spans, number = rendered.text, rendered.learned, 0
    for place, (begin, end) in enumerate(offsets):
        while number < len(spans) and begin >= spans[number][1]:
            number += 1
        if number == len(spans):
            break
        first, last = spans[number]
        if end <= first or begin == end:
            continue
        if text[begin:first].strip() or text[last:end].strip():
            raise NotFollowed("a token of an answer reaches into the template's words")
        marked[place] = number
    return marked
