"""Shards and reader: what is read is what was written, wherever shards, pieces and blocks end, or it is refused."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera_data.manifest import MANIFEST, Manifest, Split, SplitInfo, TokenizerInfo
from tessera_data.order import Component, Order
from tessera_data.pieces import FetchedPieces
from tessera_data.reader import Dataset, Reader
from tessera_data.shards import BLOCK_BYTES, CorruptShard, ShardInfo, ShardWriter
from tessera_data.stream import TokenStream
from tessera_store import ObjectMissing, open_store

READ_LIMIT_SAMPLES_PER_S = 12_000
"""A fifth of the goal."""
IMPORT_LIMIT_S = 0.5


def documents(lengths: Sequence[int], seed: int = 0) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [random.integers(0, 1 << 16, length).tolist() for length in lengths]


def write_shard(folder: Path, texts: Sequence[Sequence[int]], dtype: str = "uint16") -> ShardInfo:
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    part = folder / "part"
    with open(part, "wb") as file:
        writer = ShardWriter(file)
        for text in texts:
            writer.write(np.array(text, dtype), np.array([len(text)], np.uint64))
    info, index = writer.finish()
    part.rename(folder / info.tokens_name)
    (folder / info.index_name).write_bytes(index)
    return info


def write_dataset(folder: Path, shards: Sequence[Sequence[Sequence[int]]], dtype: str = "uint16") -> str:
    infos = tuple(write_shard(folder, texts, dtype) for texts in shards)
    tokens, count = sum(info.tokens for info in infos), sum(info.documents for info in infos)
    splits = {Split.TRAIN: SplitInfo(count, tokens, tokens, infos), Split.HELD_OUT: SplitInfo(0, 0, 0, ())}
    manifest = Manifest(folder.name, "f" * 64, dtype, TokenizerInfo("0" * 64, 1 << 16, 0), splits, {})
    (folder / MANIFEST).write_bytes(manifest.encode())
    return (folder / MANIFEST).as_uri()


def open_stream(folder: Path, shards: Sequence[Sequence[Sequence[int]]], length: int) -> TokenStream:
    stream = Dataset.open(write_dataset(folder, shards), folder / "cache").stream(Split.TRAIN, length)
    assert isinstance(stream, TokenStream)
    return stream


def expected_rows(texts: Sequence[Sequence[int]], length: int) -> tuple[list[list[int]], list[list[int]]]:
    """Tokens and segments of every sample, computed from one long list."""
    row = [token for text in texts for token in text]
    document = [number for number, text in enumerate(texts) for _ in text]
    samples = range((len(row) - 1) // length)
    tokens = [row[sample * length : (sample + 1) * length + 1] for sample in samples]
    numbers = [document[sample * length : (sample + 1) * length + 1] for sample in samples]
    return tokens, [np.unique(part, return_inverse=True)[1].tolist() for part in numbers]


@given(
    lengths=st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=5), min_size=1, max_size=4),
    length=st.integers(1, 40),
)
@settings(max_examples=60, deadline=None)
def test_samples_are_cuts_of_the_whole_row_across_shards(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[list[int]], length: int
) -> None:
    shards = [documents(part, seed) for seed, part in enumerate(lengths)]
    texts = [text for shard in shards for text in shard]
    if sum(map(len, texts)) <= length:
        return
    stream = open_stream(tmp_path_factory.mktemp("data"), shards, length)

    batch = stream.read(np.arange(stream.samples))

    assert (batch.tokens.tolist(), batch.segments().tolist()) == expected_rows(texts, length)


def test_large_token_ids_are_kept(tmp_path: Path) -> None:
    uri = write_dataset(tmp_path, [[[70_000, 1, 2**31 - 1, 3]]], "uint32")

    batch = Dataset.open(uri, tmp_path).stream(Split.TRAIN, 3).read(np.array([0]))

    assert batch.tokens.tolist() == [[70_000, 1, 2**31 - 1, 3]]


def test_a_fetched_dataset_reads_as_a_local_one(tmp_path: Path) -> None:
    shards = [documents([3_000_000, 40_000, 7]), documents([500_000], 1)]
    local = Dataset.open(write_dataset(tmp_path / "data", shards), tmp_path).stream(Split.TRAIN, 2048)
    manifest = Manifest.decode((tmp_path / "data" / MANIFEST).read_bytes(), "the manifest")
    pieces = FetchedPieces(open_store((tmp_path / "data").as_uri()), tmp_path / "cache")
    fetched = TokenStream(manifest.splits[Split.TRAIN], manifest.dtype, pieces, 2048)
    wanted = np.random.default_rng(1).permutation(local.samples)[:900]

    fetched.expect(wanted)
    batch = fetched.read(wanted)
    pieces.close()

    reference = local.read(wanted)
    assert np.array_equal(batch.tokens, reference.tokens)
    assert np.array_equal(batch.starts, reference.starts)
    assert np.array_equal(batch.offsets, reference.offsets)
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_an_object_that_is_missing_is_named_and_fetched_once_it_is_there(tmp_path: Path) -> None:
    uri = write_dataset(tmp_path / "data", [documents([500])])
    dataset = Dataset.open(uri, tmp_path)
    info = dataset.manifest.splits[Split.TRAIN].shards[0]
    pieces = FetchedPieces(dataset.store, tmp_path / "cache")
    stream = TokenStream(dataset.manifest.splits[Split.TRAIN], "uint16", pieces, 100)
    tokens = tmp_path / "data" / info.tokens_name
    tokens.rename(tmp_path / "away")

    with pytest.raises(ObjectMissing, match=info.tokens_name):
        stream.read(np.array([0]))
    (tmp_path / "away").rename(tokens)

    assert stream.read(np.array([0])).tokens.shape == (1, 101)


def test_a_corrupt_block_is_named_with_both_checksums(tmp_path: Path) -> None:
    stream = open_stream(tmp_path, [documents([2 * BLOCK_BYTES])], 1024)
    info = stream.shards[0]
    with open(tmp_path / info.tokens_name, "r+b") as file:
        file.seek(3 * BLOCK_BYTES + 5)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))

    stream.read(np.arange(1024))  # blocks 0 and 1, and the first token of block 2
    with pytest.raises(CorruptShard, match=rf"{info.sha256}\.tokens, block 3 .*expected CRC-32 [0-9a-f]{{8}}, got"):
        stream.read(np.array([stream.samples - 1]))


@pytest.mark.parametrize("damage", [lambda data: data[:-2], lambda data: data[:9] + bytes([data[9] ^ 1]) + data[10:]])
def test_a_damaged_copy_in_the_cache_is_fetched_again(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    uri = write_dataset(tmp_path / "data", [documents([500])])
    dataset = Dataset.open(uri, tmp_path)

    def read() -> list[list[int]]:
        pieces = FetchedPieces(dataset.store, tmp_path / "cache")
        stream = TokenStream(dataset.manifest.splits[Split.TRAIN], "uint16", pieces, 100)
        tokens: list[list[int]] = stream.read(np.arange(stream.samples)).tokens.tolist()
        pieces.close()
        return tokens

    right = read()
    (copy,) = (tmp_path / "cache").rglob("*.tokens")
    whole = copy.read_bytes()
    copy.write_bytes(damage(whole))

    assert read() == right
    assert copy.read_bytes() == whole


def test_a_corrupt_object_in_the_storage_is_refused_after_one_more_try(tmp_path: Path) -> None:
    uri = write_dataset(tmp_path / "data", [documents([500])])
    dataset = Dataset.open(uri, tmp_path)
    info = dataset.manifest.splits[Split.TRAIN].shards[0]
    tokens = tmp_path / "data" / info.tokens_name
    tokens.write_bytes(tokens.read_bytes()[:-1] + b"\xff")
    stream = TokenStream(
        dataset.manifest.splits[Split.TRAIN], "uint16", FetchedPieces(dataset.store, tmp_path / "cache"), 100
    )

    with pytest.raises(CorruptShard, match="expected CRC-32"):
        stream.read(np.arange(stream.samples))


def test_a_corrupt_index_is_refused(tmp_path: Path) -> None:
    stream = open_stream(tmp_path, [documents([500])], 100)
    path = tmp_path / stream.shards[0].index_name
    path.write_bytes(path.read_bytes()[:-1] + b"\0")

    with pytest.raises(CorruptShard, match=r"\.index is corrupt: expected 36 bytes"):
        stream.read(np.array([0]))


def test_a_short_shard_is_refused(tmp_path: Path) -> None:
    stream = open_stream(tmp_path, [documents([500])], 100)
    path = tmp_path / stream.shards[0].tokens_name
    path.write_bytes(path.read_bytes()[:-2])

    with pytest.raises(CorruptShard, match="has 998 bytes, the manifest says 1000"):
        stream.read(np.array([0]))


def test_a_mixture_reads_each_position_from_its_dataset(tmp_path: Path) -> None:
    lengths = {"a": [900, 40, 333], "b": [77, 600]}
    streams = [open_stream(tmp_path / name, [documents(part)], 64) for name, part in lengths.items()]
    parts = [Component(name, stream.samples, Fraction(1, 3)) for name, stream in zip("ab", streams, strict=True)]
    reader = Reader(Order(3, tuple(parts)), streams)

    read = reader.read(np.arange(50, 90))

    for row in range(40):
        alone = streams[read.located.dataset[row]].read(read.located.sample[row : row + 1])
        assert read.batch.tokens[row].tolist() == alone.tokens[0].tolist()
        assert read.batch.segments()[row].tolist() == alone.segments()[0].tolist()


@given(st.integers(0, 4000), st.integers(1, 300))
@settings(max_examples=25, deadline=None)
def test_a_resumed_reader_reads_on_as_if_it_had_never_stopped(
    tmp_path_factory: pytest.TempPathFactory, position: int, size: int
) -> None:
    stream = open_stream(tmp_path_factory.mktemp("data"), [documents([9000, 90])], 16)
    order = Order(5, (Component("a", stream.samples, Fraction(1)),))
    running = Reader(order, [stream])
    for start in range(0, position, 997):
        running.read(np.arange(start, start + 8))

    resumed = Reader(order, [stream]).read(np.arange(position, position + size))

    assert np.array_equal(resumed.batch.tokens, running.read(np.arange(position, position + size)).batch.tokens)
    assert resumed.located.sample.tolist() == order.locate(np.arange(position, position + size)).sample.tolist()


def test_a_dataset_too_small_for_one_sample_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has 100 tokens, one sample needs 101"):
        open_stream(tmp_path, [documents([100])], 100)


def test_tokens_that_fill_no_sample_are_counted(tmp_path: Path) -> None:
    stream = open_stream(tmp_path, [documents([350])], 100)

    assert (stream.samples, stream.unused_tokens) == (3, 49)


@pytest.mark.parametrize(
    ("data", "word"), [(b"{}", "format"), (b'{"format": "tessera-dataset-9"}', "reads 'tessera-dataset-1'"), (b"x", "")]
)
def test_what_is_no_manifest_is_refused_with_its_address(tmp_path: Path, data: bytes, word: str) -> None:
    (tmp_path / MANIFEST).write_bytes(data)

    with pytest.raises(ValueError, match=rf"{tmp_path}/manifest.json is not a dataset's manifest.*{word}"):
        Dataset.open((tmp_path / MANIFEST).as_uri(), tmp_path)


def test_a_manifest_survives_its_own_encoding(tmp_path: Path) -> None:
    write_dataset(tmp_path, [documents([5, 6]), documents([7])])
    data = (tmp_path / MANIFEST).read_bytes()

    assert Manifest.decode(data, "there").encode() == data


def test_one_core_reads_thousands_of_samples_a_second(tmp_path: Path) -> None:
    stream = open_stream(tmp_path, [[np.zeros(600, np.uint16).tolist()] * 20_000], 2048)
    reader = Reader(Order(5, (Component("a", stream.samples, Fraction(1)),)), [stream])

    begin = time.process_time()
    for position in range(0, stream.samples, 32):
        reader.read(np.arange(position, position + 32))
    took = time.process_time() - begin

    assert stream.samples / took > READ_LIMIT_SAMPLES_PER_S


def test_the_reader_loads_quickly_and_brings_no_library_of_the_build() -> None:
    code = (
        "import sys, time, numpy, tessera_store; begin = time.process_time(); import tessera_data.reader; "
        "took = time.process_time() - begin; "
        "print(took, *{'torch', 'pyarrow', 'tokenizers', 'orjson', 'pydantic'} & set(sys.modules))"
    )
    paths = [path for path in sys.path if path.endswith(("crds", "trainer_image"))]

    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}; {code}"],
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.stderr == ""
    seconds, *heavy = done.stdout.split()
    assert (float(seconds) < IMPORT_LIMIT_S, heavy) == (True, [])
