"""Tokenizer: the one of a build, read from a pinned tokenizer.json or trained on the build's training documents.

What must stay true: the same documents give the same tokenizer.json, byte for byte, on any number of threads; text
never turns into a special token, whatever it says; every document ends with the end-of-text token.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np

from tessera_api.dataset_build import TokenizerSpec
from tessera_data.manifest import TokenizerInfo
from tessera_data.refusal import Refused
from tessera_data.shards import Tokens, token_dtype
from tessera_data.sources import pinned_file

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END_OF_TEXT = "<|endoftext|>"
END_NAMES = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|eot_id|>")
"""How tokenizers call the token that ends a document; the first that a pinned one has is taken."""

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Words for byte-pair merges: the pattern of Llama 3."""

PIECE_CHARACTERS = 1 << 20
_CUT = re.compile(r"\n(?=\S)")


def library_version() -> str:
    """Of the tokenizer library: another may train or encode differently."""
    return f"tokenizers {version('tokenizers')}"


def pinned(spec: TokenizerSpec) -> bytes:
    """The tokenizer.json of the spec. Refused if its digest differs; raises tessera_store's errors."""
    return pinned_file(spec.uri or "", spec.sha256 or "", "tokenizer", "tokenizer.sha256")


def pinned_encoder(spec: TokenizerSpec) -> Encoder:
    """The encoder of a pinned tokenizer. Refused if it can't be one; raises tessera_store's errors."""
    return Encoder(pinned(spec), f"tokenizer {spec.uri}")


def train(documents: Iterator[str], vocabulary_size: int) -> bytes:
    """A byte-level BPE tokenizer.json with END_OF_TEXT as token 0. Memory: the distinct words of the documents."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated")
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, bytewise])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer.to_str().encode()


class Encoder:
    """Documents to tokens. Refused if `data` is no tokenizer.json, or has no token that ends a text."""

    def __init__(self, data: bytes, where: str) -> None:
        self._tokenizer = loaded(data, where)
        self._tokenizer.encode_special_tokens = True
        special = {token["content"] for token in json.loads(data).get("added_tokens", ()) if token.get("special")}
        ends = [self._tokenizer.token_to_id(name) for name in END_NAMES if name in special]
        if not ends or ends[0] is None:
            raise Refused(where, f"it has none of the special tokens {', '.join(END_NAMES)}", "add one of them")
        size = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())
        self.info = TokenizerInfo(hashlib.sha256(data).hexdigest(), size, ends[0])
        self.dtype = np.dtype(token_dtype(size)).newbyteorder("<")
        self._cuts = _may_be_cut(data)

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """The tokens of each text, the end-of-text token last. Memory: 130 bytes for each character of all texts; a
        longer text than PIECE_CHARACTERS counts as that many, if the tokenizer splits words as a trained one does."""
        short = [text for text in texts if not self._is_long(text)]
        rows = iter(self._tokenizer.encode_batch_fast(short, add_special_tokens=False))
        return [self._encode_long(text) if self._is_long(text) else self._ended([next(rows).ids]) for text in texts]

    def _is_long(self, text: str) -> bool:
        return self._cuts and len(text) > PIECE_CHARACTERS

    def _encode_long(self, text: str) -> Tokens:
        encode = self._tokenizer.encode_batch_fast
        return self._ended([encode([piece], add_special_tokens=False)[0].ids for piece in pieces(text)])

    def _ended(self, parts: Sequence[Sequence[int]]) -> Tokens:
        rows = [np.array(part, self.dtype) for part in parts]
        return np.concatenate([*rows, np.array([self.info.end_of_text], self.dtype)])


def pieces(text: str, size: int = PIECE_CHARACTERS) -> Iterator[str]:
    """`text` in pieces of `size` characters and some more. No word of SPLIT crosses a cut: a newline is never followed
    by a character that is not white space inside a word."""
    start = 0
    while cut := _CUT.search(text, start + size):
        yield text[start : cut.end()]
        start = cut.end()
    yield text[start:]


def _may_be_cut(data: bytes) -> bool:
    document = json.loads(data)
    words = (document.get("pre_tokenizer") or {}).get("pretokenizers") or [{}]
    return document.get("normalizer") is None and words[0].get("pattern") == {"Regex": SPLIT}


def loaded(data: bytes, where: str) -> Tokenizer:
    """Without truncation or padding. Refused if `data` is no tokenizer.json."""
    from tokenizers import Tokenizer

    try:
        tokenizer: Tokenizer = Tokenizer.from_buffer(data)
    except Exception as error:
        raise Refused(where, f"it is not a tokenizer.json of {library_version()}: {error}", "correct uri") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
