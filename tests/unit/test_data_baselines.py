"""Bits per byte of the simple models, against what can be computed by hand; and the tokenizer that all bytes pass."""

from __future__ import annotations

import gzip
import json
import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera_api.dataset_build import DatasetBuild
from tessera_data.baselines import measure
from tessera_data.build import Built, build_dataset
from tessera_data.manifest import Split
from tessera_data.reader import Dataset
from tessera_data.refusal import Refused
from tessera_data.tokenizer import Encoder, pieces, train

TEXTS = [
    f"the {word} of number {number} is über {word * 3}\n\n  and so on\n" for number, word in enumerate("abcdefgh" * 6)
]


def build_in(folder: Path) -> Built:
    folder.mkdir()
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    provenance = {"owner": "us", "collected": "2026-11-01", "method": "made up", "synthetic": True}
    source = {"name": "texts", "uri": (folder / "texts.jsonl").as_uri(), "format": "jsonl", "licence": "MIT"}
    spec = {
        "content": "text",
        "sources": [{**source, "provenance": provenance}],
        "tokenizer": {"train": {"vocabularySize": 300}},
        "heldOut": {"share": "0.3"},
        "output": {"uri": (folder / "out").as_uri()},
    }
    build = DatasetBuild.model_validate({"metadata": {"name": "texts"}, "spec": spec})
    return build_dataset(build, folder / "work", lambda *_: None)


def texts_of(dataset: Dataset, encoder: Encoder, split: Split) -> list[str]:
    """The documents of a split in order, found by their tokens."""
    info = dataset.manifest.splits[split]
    row = dataset.row(split).span(0, info.tokens)
    documents = np.split(row, np.flatnonzero(row == info_end(dataset)) + 1)[:-1]
    known = {tuple(tokens.tolist()): text for text, tokens in zip(TEXTS, encoder.encode(TEXTS), strict=True)}
    return [known[tuple(document.tolist())] for document in documents]


def info_end(dataset: Dataset) -> int:
    return dataset.manifest.tokenizer.end_of_text


def test_the_baselines_are_what_their_formulas_say(tmp_path: Path) -> None:
    dataset = Dataset.open(build_in(tmp_path / "data").uri, tmp_path)
    encoder = Encoder(dataset.tokenizer(), "it")
    training = [text.encode() for text in texts_of(dataset, encoder, Split.TRAIN)]
    held_out = [text.encode() for text in texts_of(dataset, encoder, Split.HELD_OUT)]

    found = measure(dataset)

    total = sum(map(len, held_out))
    singles = Counter(byte for text in training for byte in text)
    pairs = Counter(pair for text in training for pair in pairwise(text))
    firsts = Counter(byte for text in training for byte in text[:-1])
    one = {byte: (singles[byte] + 1) / (singles.total() + 256) for byte in range(256)}
    unigram = -sum(math.log2(one[byte]) for text in held_out for byte in text)
    bigram = -sum(math.log2(one[text[0]]) for text in held_out)
    bigram -= sum(
        math.log2((pairs[pair] + one[pair[1]]) / (firsts[pair[0]] + 1)) for text in held_out for pair in pairwise(text)
    )
    assert (found.bytes, found.training_bytes) == (total, sum(map(len, training)))
    assert found.unigram == pytest.approx(unigram / total)
    assert found.bigram == pytest.approx(bigram / total)
    assert found.gzip == pytest.approx(8 * len(gzip.compress(b"".join(held_out), 9)) / total)


def test_limits_bound_what_is_read(tmp_path: Path) -> None:
    dataset = Dataset.open(build_in(tmp_path / "data").uri, tmp_path)

    found = measure(dataset, training_bytes=500, held_out_bytes=200)

    assert 400 < found.training_bytes <= 500
    assert 100 < found.bytes <= 200


@given(st.lists(st.sampled_from(["\n", " ", "\t", "a", "é", "1", "!", "\n\n  x", "\r", "'s", "日本"]), max_size=60))
@settings(max_examples=100, deadline=None)
def test_a_long_text_has_the_same_tokens_in_pieces(parts: Sequence[str]) -> None:
    encoder = Encoder(trained(), "it")
    text = "".join(parts)

    cut = list(pieces(text, 5))

    apart = [token for piece in cut for token in encoder.encode([piece])[0][:-1].tolist()]
    assert ("".join(cut), apart) == (text, encoder.encode([text])[0][:-1].tolist())


def trained() -> bytes:
    return train(iter(["aa\n\n  x é'sé's\n x1! ! !\n\n", "日本日本\n\n\nx x"] * 9), 300)


def test_training_twice_gives_the_same_file() -> None:
    assert train(iter(TEXTS), 350) == train(iter(reversed(TEXTS)), 350)


def test_text_survives_its_tokens() -> None:
    from tokenizers import Tokenizer

    data = trained()
    text = "any text, ünïcödé, \x00 \u2028 日本 <|endoftext|>\n"

    tokens = Encoder(data, "it").encode([text])[0]

    assert Tokenizer.from_buffer(data).decode(tokens[:-1].tolist(), skip_special_tokens=False) == text
    assert (int(tokens[-1]), tokens.dtype.name) == (0, "uint16")


@pytest.mark.parametrize(("data", "word"), [(b"{", "not a tokenizer.json"), (b'{"model": 3}', "not a tokenizer.json")])
def test_what_is_no_tokenizer_is_refused(data: bytes, word: str) -> None:
    with pytest.raises(Refused, match=rf"tokenizer there: it is {word}"):
        Encoder(data, "tokenizer there")


def test_a_tokenizer_without_an_end_of_text_is_refused() -> None:
    data = trained().replace(b"<|endoftext|>", b"<|something|>")

    with pytest.raises(Refused, match=r"none of the special tokens <\|endoftext\|>"):
        Encoder(data, "tokenizer there")
