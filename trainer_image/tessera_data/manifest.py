"""Manifest: the one object that makes a build visible, and the only one that readers believe.

It names every other object by its content, so that a reader with the manifest's bytes knows what all bytes must be.
`build` holds what a person wants to know and no reader needs: sources, licences, provenance, counts, versions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from tessera_data.shards import ShardInfo

FORMAT = "tessera-dataset-1"
MANIFEST = "manifest.json"


class Split(StrEnum):
    """The parts of a dataset. A document's hash alone decides in which it is."""

    TRAIN = "train"
    HELD_OUT = "heldOut"


@dataclass(frozen=True)
class SplitInfo:
    """One part of a dataset."""

    documents: int
    tokens: int
    """With one end-of-text token for each document; of conversations, as their template ends them."""
    text_bytes: int
    """Of the documents' normalised UTF-8, end-of-text tokens not counted: bits per byte divide by it."""
    shards: tuple[ShardInfo, ...]
    learned: int | None = None
    """Tokens that are learned, of conversations; their text alone is in `text_bytes`. None: all are."""


@dataclass(frozen=True)
class TokenizerInfo:
    """The tokenizer.json that the tokens were made with, stored beside them as TOKENIZER."""

    sha256: str
    vocabulary_size: int
    """Every token id is below."""
    end_of_text: int
    """The id that ends every document."""


TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Manifest:
    """A dataset."""

    name: str
    fingerprint: str
    """sha256 of all that the build depends on."""
    dtype: str
    tokenizer: TokenizerInfo
    splits: Mapping[Split, SplitInfo]
    build: Mapping[str, Any]

    @property
    def of_chat(self) -> bool:
        """Whether its documents are conversations."""
        return self.splits[Split.TRAIN].learned is not None

    def encode(self) -> bytes:
        """Canonical JSON: the same manifest has the same bytes everywhere."""
        document = {"format": FORMAT, **asdict(self)}
        for split in document["splits"].values():
            if split["learned"] is None:
                del split["learned"]
        return (json.dumps(document, sort_keys=True, separators=(",", ":")) + "\n").encode()

    @staticmethod
    def decode(data: bytes, where: str) -> Manifest:
        """ValueError, with the address `where`, if `data` is no manifest that this version reads."""
        try:
            document = json.loads(data)
            if document["format"] != FORMAT:
                raise ValueError(f"its format is {document['format']!r}, this version reads {FORMAT!r}")
            return Manifest(
                document["name"],
                document["fingerprint"],
                document["dtype"],
                TokenizerInfo(**document["tokenizer"]),
                {split: _split(document["splits"][split]) for split in Split},
                document["build"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{where} is not a dataset's manifest: {error!r}") from error


def _split(document: dict[str, Any]) -> SplitInfo:
    return SplitInfo(**{**document, "shards": tuple(ShardInfo(*row) for row in document["shards"])})
