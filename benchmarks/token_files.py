"""Token files: datasets of random or absent bytes, for the benchmarks of order and reader."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tessera_data.manifest import MANIFEST, Manifest, Split, SplitInfo, TokenizerInfo
from tessera_data.shards import BLOCK_BYTES, ShardIndex, ShardInfo, ShardWriter

SEQUENCE_LENGTH = 2048
SHARD_TOKENS = 1 << 27
"""256 MiB, as the build makes them."""
DOCUMENT_TOKENS = 600


def write_real(folder: Path, samples: int) -> str:
    """A dataset of `samples` random samples in documents of DOCUMENT_TOKENS; returns the manifest's address."""
    (folder / "shards").mkdir(parents=True)
    left = samples * SEQUENCE_LENGTH + 1
    shards: list[ShardInfo] = []
    chunk = np.random.default_rng(7).integers(0, 1 << 16, DOCUMENT_TOKENS << 13, dtype=np.uint16)
    while left:
        target = min(left, SHARD_TOKENS // DOCUMENT_TOKENS * DOCUMENT_TOKENS)
        part = folder / "shards" / "part"
        with open(part, "wb") as file:
            writer = ShardWriter(file)
            while writer.tokens < target:
                tokens = chunk[: target - writer.tokens]
                ends = np.arange(DOCUMENT_TOKENS, tokens.size + 1, DOCUMENT_TOKENS, dtype=np.uint64)
                if ends.size == 0 or ends[-1] < tokens.size:
                    ends = np.append(ends, np.uint64(tokens.size))
                writer.write(np.roll(tokens, len(shards)), ends)
        info, index = writer.finish()
        part.rename(folder / info.tokens_name)
        (folder / info.index_name).write_bytes(index)
        shards.append(info)
        left -= target
    return _publish(folder, shards)


def write_sparse(folder: Path, samples: int) -> str:
    """The same without bytes: holes that read as token 0, one document a shard."""
    (folder / "shards").mkdir(parents=True)
    left = samples * SEQUENCE_LENGTH + 1
    shards: list[ShardInfo] = []
    zero = zlib.crc32(bytes(BLOCK_BYTES))
    while left:
        tokens = min(left, SHARD_TOKENS)
        blocks, rest = divmod(2 * tokens, BLOCK_BYTES)
        crc32 = [zero] * blocks + ([zlib.crc32(bytes(rest))] if rest else [])
        index = ShardIndex(np.array([tokens], np.uint64), np.array(crc32, np.uint32)).encode()
        name = hashlib.sha256(str(len(shards)).encode()).hexdigest()
        sha256 = hashlib.sha256(index).hexdigest()
        info = ShardInfo(name, tokens, 1, sha256, len(index), zlib.crc32(index))
        with open(folder / info.tokens_name, "wb") as file:
            file.truncate(2 * tokens)
        (folder / info.index_name).write_bytes(index)
        shards.append(info)
        left -= tokens
    return _publish(folder, shards)


def _publish(folder: Path, shards: Sequence[ShardInfo]) -> str:
    tokens, documents = sum(shard.tokens for shard in shards), sum(shard.documents for shard in shards)
    train = SplitInfo(documents, tokens, 4 * tokens, tuple(shards))
    fingerprint = hashlib.sha256(str(folder).encode()).hexdigest()
    splits = {Split.TRAIN: train, Split.HELD_OUT: SplitInfo(0, 0, 0, ())}
    manifest = Manifest("tokens", fingerprint, "uint16", TokenizerInfo("0" * 64, 1 << 16, 0), splits, {})
    (folder / MANIFEST).write_bytes(manifest.encode())
    return (folder / MANIFEST).as_uri()
