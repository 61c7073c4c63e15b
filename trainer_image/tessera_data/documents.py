"""Documents: from the bytes of a source to texts, one by one, and what is dropped on the way.

Newlines become "\\n" (from "\\r\\n" and "\\r") and a byte order mark at the beginning is removed; nothing else is
changed, so that code stays code (no NFC). What must stay true: a document is either yielded or counted under a `Drop`,
and memory does not depend on the size of a file.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, assert_never

from tessera_api.dataset_build import Content, SourceFormat
from tessera_data.conversations import Conversations, Unusable
from tessera_data.refusal import Refused
from tessera_data.sources import BUFFER_BYTES, SourceFile, SourceFolder, Span

if TYPE_CHECKING:
    from pyarrow import RecordBatch

TEXT_VERSION = "newlines-1"

MOST_BYTES = 64 << 20
"""Of one document, as it is stored; the longer ones are dropped and counted. It bounds the memory of a build."""

PROBE_BYTES = 1 << 20
BATCH_BYTES = 8 << 20
MOST_ROWS = 256
"""Of a Parquet file at a time, of all columns together about BATCH_BYTES."""


class Drop(StrEnum):
    """Why a document of a source is not in the dataset."""

    EMPTY = "empty"
    """No text but white space."""
    UNDECODABLE = "undecodable"
    """Not UTF-8."""
    UNPARSABLE = "unparsable"
    """A line that is not a JSON object."""
    NO_TEXT = "noText"
    """The text field is missing, null or not a string."""
    NO_CONVERSATION = "noConversation"
    """There are no messages, or what there is are none."""
    NOTHING_LEARNED = "nothingLearned"
    """No message of it is to be learned."""
    TOO_LONG = "tooLong"
    """More than MOST_BYTES."""


def read_documents(folder: SourceFolder, span: Span) -> Iterator[str | Drop]:
    """The documents of a span, in order. Raises tessera_store's errors, and Refused for a broken Parquet file and for
    one that is no longer the file of the plan: a file that is read whole is hashed again, for a part of one size and
    time have to be the same before and after."""
    folder.require_unchanged(span.file)
    yield from _documents(folder, span)
    folder.require_unchanged(span.file)


def _documents(folder: SourceFolder, span: Span) -> Iterator[str | Drop]:
    with folder.open(span.file) as file:
        match folder.source.format:
            case SourceFormat.TEXT:
                yield _whole(folder, span.file, file) if span.file.size <= MOST_BYTES else Drop.TOO_LONG
            case SourceFormat.JSONL:
                read = _reading(folder)
                for line in owned_lines(file, span.start, span.stop):
                    record = line if isinstance(line, Drop) else _parsed(line)
                    yield record if isinstance(record, Drop) else read(record)
            case SourceFormat.PARQUET if folder.content is Content.CHAT:
                read = _reading(folder)
                for found in _records(folder, file, span):
                    yield found if isinstance(found, Drop) else read(found)
            case SourceFormat.PARQUET:
                for value in _rows(folder, file, span):
                    yield Drop.NO_TEXT if value is None else _text(value)
            case _:
                assert_never(folder.source.format)


def _whole(folder: SourceFolder, file: SourceFile, opened: io.BufferedReader) -> str | Drop:
    data = opened.read()
    if file.sha256 and hashlib.sha256(data).hexdigest() != file.sha256:
        raise folder.changed(file)
    return _text(data)


def owned_lines(file: io.BufferedReader, start: int, stop: int) -> Iterator[bytes | Drop]:
    """The lines that start in bytes [start, stop), so that ranges which cover a file yield each line once. A line of
    white space alone is no document."""
    place = file.seek(max(start - 1, 0))
    if start:  # the line that byte start - 1 belongs to is another range's; an end of line there makes it empty
        place += _finish_line(file)
    while place < stop and (line := file.readline(MOST_BYTES + 1)):
        place += len(line)
        if len(line) > MOST_BYTES:
            place += 0 if line.endswith(b"\n") else _finish_line(file)
            yield Drop.TOO_LONG
        elif not line.isspace():
            yield line


def _finish_line(file: io.BufferedReader) -> int:
    """Reads on to the next line; returns how many bytes that took."""
    passed = 0
    while part := file.readline(MOST_BYTES):
        passed += len(part)
        if part.endswith(b"\n"):
            break
    return passed


def _reading(folder: SourceFolder) -> Callable[[Mapping[str, Any]], str | Drop]:
    """From a record to its document."""
    if folder.content is Content.CHAT:
        conversations = Conversations(folder.source)

        def conversation(record: Mapping[str, Any]) -> str | Drop:
            found = conversations.canonical(record)
            if isinstance(found, str):
                return found if len(found) <= MOST_BYTES else Drop.TOO_LONG
            return {Unusable.NO_MESSAGES: Drop.NO_CONVERSATION, Unusable.NOTHING_LEARNED: Drop.NOTHING_LEARNED}[found]

        return conversation

    def text(record: Mapping[str, Any]) -> str | Drop:
        found = record.get(folder.source.text_column)
        return _normalised(found) if isinstance(found, str) else Drop.NO_TEXT

    return text


def _parsed(line: bytes) -> dict[str, Any] | Drop:
    import orjson

    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        return Drop.UNPARSABLE if _decoded(line) is not None else Drop.UNDECODABLE
    return record if isinstance(record, dict) else Drop.UNPARSABLE


def _decoded(data: bytes) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def _text(data: bytes) -> str | Drop:
    if len(data) > MOST_BYTES:
        return Drop.TOO_LONG
    text = _decoded(data)
    return Drop.UNDECODABLE if text is None else _normalised(text)


def _normalised(text: str) -> str | Drop:
    plain = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    return plain if plain and not plain.isspace() else Drop.EMPTY


def _rows(folder: SourceFolder, file: io.BufferedReader, span: Span) -> Iterator[bytes | None]:
    """The text column of the span's row groups, as it is stored."""
    import pyarrow

    for batch in _batches(folder, file, span):
        column = batch.column(0)
        if pyarrow.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        yield from column.cast(pyarrow.large_binary()).to_pylist()


def _records(folder: SourceFolder, file: io.BufferedReader, span: Span) -> Iterator[dict[str, Any] | Drop]:
    """The columns of conversations in the span's row groups, row by row."""
    for batch in _batches(folder, file, span):
        try:
            rows = batch.to_pylist()
        except UnicodeDecodeError:
            rows = [_record(batch, row) for row in range(batch.num_rows)]
        yield from rows


def _record(batch: RecordBatch, row: int) -> dict[str, Any] | Drop:
    try:
        return dict(batch.slice(row, 1).to_pylist()[0])
    except UnicodeDecodeError:
        return Drop.UNDECODABLE


def _batches(folder: SourceFolder, file: io.BufferedReader, span: Span) -> Iterator[RecordBatch]:
    """The columns that are read. In memory: a page of each, and rows of BATCH_BYTES."""
    import pyarrow
    from pyarrow import parquet

    try:
        # Pages one by one, not the whole column of a group.
        opened = parquet.ParquetFile(file, buffer_size=BUFFER_BYTES, pre_buffer=False)
        for group in range(span.start, span.stop):
            facts = opened.metadata.row_group(group)
            rows = BATCH_BYTES * facts.num_rows // max(1, facts.total_byte_size)
            yield from opened.iter_batches(min(MOST_ROWS, max(1, rows)), [group], list(folder.columns))
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise _broken(folder, span.file, error) from error


def parquet_row_groups(folder: SourceFolder, file: SourceFile) -> list[int]:
    """The bytes of each row group of a Parquet file. Refused if it is none, or lacks a column that is read."""
    import pyarrow
    from pyarrow import parquet

    with folder.open(file) as opened:
        try:
            footer = parquet.ParquetFile(opened)
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise _broken(folder, file, error) from error
        schema = footer.schema_arrow
        for field in folder.columns:
            if field not in schema.names:
                raise _without(folder, file, schema.names)
            _judge_column(folder, file, field, schema.field(field).type)
        return [footer.metadata.row_group(group).total_byte_size for group in range(footer.num_row_groups)]


def _judge_column(folder: SourceFolder, file: SourceFile, field: str, kind: Any) -> None:
    import pyarrow

    kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    text = pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)
    if folder.content is not Content.CHAT:
        fits, remedy = text, "name a column of strings in textField"
    elif len(folder.columns) == 1:
        fits = pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind)
        remedy = "name a column of lists in messagesField"
    else:
        fits, remedy = text, "name columns of strings in promptField and responseField"
    if not fits:
        raise Refused(f"source {folder.source.name}, file {file.name}", f"column {field} holds {kind}", remedy)


def probe_fields(folder: SourceFolder, files: Sequence[SourceFile]) -> None:
    """Refused if a JSONL source's first records lack a field altogether: found before any work is done."""
    if folder.source.format is not SourceFormat.JSONL:
        return
    import orjson

    for file in files:
        seen: set[str] = set()
        with folder.open(file) as opened:
            lines = opened.read(PROBE_BYTES).splitlines()
        for line in lines:
            try:
                record: Any = orjson.loads(line)
            except orjson.JSONDecodeError:
                continue  # dropped and counted later; perhaps just cut by the probe's length
            seen.update(record if isinstance(record, dict) else ())
        if seen.issuperset(folder.columns):
            return
        if seen:
            raise _without(folder, file, sorted(seen))


def _without(folder: SourceFolder, file: SourceFile, names: Sequence[str]) -> Refused:
    return Refused(
        f"source {folder.source.name}, file {file.name}",
        f"there is no field {next(name for name in folder.columns if name not in names)!r}, only"
        f" {', '.join(names[:20])}",
        "name the fields that hold a conversation (messagesField, or promptField and responseField)"
        if folder.content is Content.CHAT
        else "name the field that holds the text in textField",
    )


def _broken(folder: SourceFolder, file: SourceFile, error: Exception) -> Refused:
    return Refused(
        f"source {folder.source.name}, file {file.name}",
        f"not readable as Parquet ({error})",
        "repair it, or narrow include",
    )
