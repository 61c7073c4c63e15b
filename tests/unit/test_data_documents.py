"""From the bytes of a source to documents: nothing is lost at the cuts, and what is dropped is counted."""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pyarrow import parquet

from tessera_api.dataset_build import Source
from tessera_data import documents
from tessera_data.documents import Drop, owned_lines, parquet_row_groups, probe_fields, read_documents
from tessera_data.refusal import Refused
from tessera_data.sources import SourceFile, SourceFolder, Span, matcher
from tests.unit.data_builds import PEAK, environment


def folder_of(uri: Path, **fields: object) -> SourceFolder:
    provenance = {"owner": "us", "collected": "2026-11-01", "method": "by hand", "synthetic": False}
    source = {"name": "source", "uri": uri.as_uri(), "format": "text", "licence": "MIT", "provenance": provenance}
    return SourceFolder(Source.model_validate({**source, **fields}))


def read_all(folder: SourceFolder, spans: Sequence[tuple[int, int]] = ((0, 1 << 40),)) -> list[str | Drop]:
    found: list[str | Drop] = []
    for info in folder.files():
        for start, stop in spans:
            span = Span(SourceFile(info.name, info.size, ""), start, min(stop, info.size))
            found += read_documents(folder, span)
    return found


@given(
    lines=st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"x")), max_size=12),
    cuts=st.lists(st.integers(0, 150), max_size=6),
    ended=st.booleans(),
)
@example(lines=[b"a", b"b"], cuts=[2], ended=True)
def test_ranges_that_cover_a_file_yield_each_line_once(lines: list[bytes], cuts: list[int], ended: bool) -> None:
    data = b"\n".join(lines) + (b"\n" if ended else b"")
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]

    owned: list[bytes | Drop] = []
    for start, stop in pairwise(edges):
        owned += owned_lines(io.BufferedReader(io.BytesIO(data), 8), start, stop)

    whole = [line for line in io.BytesIO(data) if not line.isspace()]
    assert owned == whole


def test_a_line_beyond_the_limit_is_passed_over_without_holding_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MOST_BYTES", 8)
    data = b"short\n" + b"x" * 50 + b"\nend\n" + b"y" * 9

    found = list(owned_lines(io.BufferedReader(io.BytesIO(data)), 0, len(data)))

    assert found == [b"short\n", Drop.TOO_LONG, b"end\n", Drop.TOO_LONG]


def test_a_text_file_is_one_document_with_plain_newlines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\ntwo\rthree\u0301\n".encode())

    assert read_all(folder_of(tmp_path)) == ["one\ntwo\nthree\u0301\n"]


@pytest.mark.parametrize(("data", "drop"), [(b"", Drop.EMPTY), (b" \n\t", Drop.EMPTY), (b"\xff\xfe", Drop.UNDECODABLE)])
def test_a_file_without_text_is_dropped_for_a_reason(tmp_path: Path, data: bytes, drop: Drop) -> None:
    (tmp_path / "a.txt").write_bytes(data)

    assert read_all(folder_of(tmp_path)) == [drop]


def test_every_line_of_jsonl_is_a_document_or_a_drop(tmp_path: Path) -> None:
    lines = [
        b'{"text": "one\\r\\n"}',
        b'{"text": ""}',
        b'{"body": "no text"}',
        b'{"text": 5}',
        b"[1]",
        b'{"text": ',
        b'{"text": "\xff"}',
        b"",
        b'{"text": "last"}',
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))

    found = read_all(folder_of(tmp_path, format="jsonl"), [(0, 40), (40, 1 << 20)])

    drops = [Drop.EMPTY, Drop.NO_TEXT, Drop.NO_TEXT, Drop.UNPARSABLE, Drop.UNPARSABLE, Drop.UNDECODABLE]
    assert found == ["one\n", *drops, "last"]


@pytest.mark.parametrize(
    "kind", [pyarrow.string(), pyarrow.large_string(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())]
)
def test_every_row_of_parquet_is_a_document_or_a_drop(tmp_path: Path, kind: Any) -> None:
    rows = pyarrow.array(["one", None, "", "two"]).cast(kind)
    parquet.write_table(pyarrow.table({"body": rows, "other": [1, 2, 3, 4]}), tmp_path / "a.parquet", row_group_size=3)
    folder = folder_of(tmp_path, format="parquet", textField="body")

    found = read_all(folder, [(0, 1), (1, 2)])

    assert found == ["one", Drop.NO_TEXT, Drop.EMPTY, "two"]


@pytest.mark.parametrize(
    ("column", "field", "word"), [([1], "text", "holds int64"), (["a"], "body", "no field 'body', only text")]
)
def test_a_parquet_column_without_text_is_refused(tmp_path: Path, column: list[object], field: str, word: str) -> None:
    parquet.write_table(pyarrow.table({"text": column}), tmp_path / "a.parquet")
    folder = folder_of(tmp_path, format="parquet", textField=field)
    info = folder.files()[0]

    with pytest.raises(Refused, match=rf"source source, file a\.parquet: .*{word}"):
        parquet_row_groups(folder, SourceFile(info.name, info.size, ""))


def test_what_is_no_parquet_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"not at all")
    folder = folder_of(tmp_path, format="parquet")

    with pytest.raises(Refused, match=r"a\.parquet: not readable as Parquet"):
        parquet_row_groups(folder, SourceFile("a.parquet", 10, ""))


def test_a_wrong_text_field_is_found_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"body": "x", "id": 1}) + "\n")
    folder = folder_of(tmp_path, format="jsonl")

    with pytest.raises(
        Refused, match=r"no field 'text', only body, id; name the field that holds the text in textField"
    ):
        probe_fields(folder, [SourceFile("a.jsonl", 24, "")])


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("**/*.py", ["a.py", "b/c.py", "b/d/e.py"]),
        ("*.py", ["a.py"]),
        ("b/**", ["b/c.py", "b/d/e.py", "b/f.txt"]),
        ("b/?.py", ["b/c.py"]),
        ("**/d/*", ["b/d/e.py"]),
        ("A.py", []),
    ],
)
def test_patterns_choose_files_in_order_of_name(tmp_path: Path, pattern: str, names: list[str]) -> None:
    for name in ("b/f.txt", "b/d/e.py", "b/c.py", "a.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")

    matches = matcher(pattern)

    assert [info.name for info in folder_of(tmp_path).files() if matches(info.name)] == names


def test_a_single_file_is_a_source(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")

    assert read_all(folder_of(tmp_path / "a.txt")) == ["one"]


def test_a_single_file_is_found_whatever_its_name_and_its_neighbours_are(tmp_path: Path) -> None:
    (tmp_path / "my file.txt").write_text("one")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "odd\nname").write_text("two")

    assert read_all(folder_of(tmp_path / "my file.txt")) == ["one"]


def test_a_source_without_files_is_refused_with_its_patterns(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")

    with pytest.raises(Refused, match=rf"no file below {tmp_path.as_uri()} matches \*\.py \(1 files are there\)"):
        folder_of(tmp_path, include=["*.py"]).files()


def test_compressed_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(b"x")

    with pytest.raises(Refused, match=r"a\.jsonl\.gz is compressed; unpack it"):
        folder_of(tmp_path, format="jsonl").files()


def test_memory_does_not_grow_with_the_row_groups_of_a_parquet_file(tmp_path: Path) -> None:
    """One row group of 256 MiB, in pages of some MiB."""
    rows = [random.Random(number).randbytes(64 << 10).hex() for number in range(2048)]
    parquet.write_table(
        pyarrow.table({"body": rows}),
        tmp_path / "a.parquet",
        compression="none",
        use_dictionary=False,
        write_batch_size=16,
    )
    code = (
        "import sys; from tessera_api.dataset_build import Source; "
        "from tessera_data.documents import *; from tessera_data.sources import *; "
        "folder = SourceFolder(Source.model_validate_json(sys.argv[1])); [info] = folder.files(); "
        "file = SourceFile(info.name, info.size, ''); "
        f"parquet_row_groups(folder, file); before = {PEAK}; "
        "read = sum(len(text) for text in read_documents(folder, Span(file, 0, 1))); "
        f"print(read, {PEAK} - before)"
    )
    source = folder_of(tmp_path, format="parquet", textField="body").source.model_dump_json(by_alias=True)
    done = subprocess.run(
        [sys.executable, "-c", code, source], capture_output=True, text=True, timeout=110, env=environment()
    )
    assert done.stderr == ""
    read, kilobytes = map(int, done.stdout.split())
    assert read == 256 << 20
    assert kilobytes < 160 << 10
