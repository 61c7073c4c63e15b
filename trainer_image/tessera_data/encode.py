"""Encode: from the surviving documents of the chunks to tokens, chunk by chunk; and the tokenizer that it takes.

Leaves `encode-N.SPLIT.tokens` and `.ends` (uint64, tokens) for both splits, and a record with their counts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction

import numpy as np

from tessera_data import ingest
from tessera_data.chat_encoder import ChatEncoder, Encoded, special_tokens
from tessera_data.chat_template import pinned_template
from tessera_data.dedup import Mask, Selection, select
from tessera_data.manifest import TOKENIZER, Split
from tessera_data.plan import Plan
from tessera_data.refusal import Refused
from tessera_data.tokenizer import Encoder, pinned, train
from tessera_data.workspace import Workspace

logger = logging.getLogger(__name__)

AnyEncoder = Encoder | ChatEncoder

TRAINING_BYTES = 256 << 20
"""Of text that a tokenizer is trained on, about: a sample by hash, where there is more."""

BATCH_BYTES = 1 << 20


def task(chunk: int) -> str:
    """Name of the task, its record and its files."""
    return f"encode-{chunk:06}"


TOKENIZER_TASK = "make-tokenizer"


def make_tokenizer(plan: Plan, workspace: Workspace) -> None:
    """Does the task unless it is done: the build's tokenizer. Raises Refused, and tessera_store's errors."""
    spec = plan.build.spec.tokenizer
    if workspace.done(TOKENIZER_TASK):
        return
    data = pinned(spec) if spec.train is None else _trained(plan, spec.train.vocabulary_size, workspace)
    with workspace.writing(TOKENIZER) as file:
        file.write(data)
    workspace.write_record(TOKENIZER_TASK, {"bytes": len(data)})


def read_encoder(plan: Plan, workspace: Workspace) -> AnyEncoder:
    """The build's tokenizer, which must be made, with its chat template. Raises Refused, and tessera_store's errors."""
    spec = plan.build.spec.tokenizer
    data = workspace.path(TOKENIZER).read_bytes()
    encoder = Encoder(data, "the trained tokenizer" if spec.train else f"tokenizer {spec.uri}")
    if spec.chat_template is None:
        return encoder
    return ChatEncoder(data, encoder, pinned_template(spec.chat_template, special_tokens(data)))


def _trained(plan: Plan, vocabulary_size: int, workspace: Workspace) -> bytes:
    total = sum(workspace.record(ingest.task(chunk.number))["bytes"] for chunk in plan.chunks)
    share = min(Fraction(1), Fraction(TRAINING_BYTES, max(total, 1)))
    return train(_training_texts(plan, share, workspace), vocabulary_size)


def _training_texts(plan: Plan, share: Fraction, workspace: Workspace) -> Iterator[str]:
    for chunk in plan.chunks:
        selection = select(plan, chunk.number, workspace, share)
        yield from texts(workspace, chunk.number, selection.of(Split.TRAIN) & selection.sampled)


def texts(workspace: Workspace, chunk: int, chosen: Mask) -> Iterator[str]:
    """The chosen documents of a chunk, in order."""
    ends = workspace.rows(f"{ingest.task(chunk)}.ends", np.uint64)
    with open(workspace.path(f"{ingest.task(chunk)}.text"), "rb") as file:
        for place in np.flatnonzero(chosen).tolist():
            start = int(ends[place - 1]) if place else 0
            file.seek(start)
            yield file.read(int(ends[place]) - start).decode()


def encode(plan: Plan, chunk: int, encoder: AnyEncoder, workspace: Workspace) -> None:
    """Does the task unless it is done. Memory: see Encoder.encode, for a batch of BATCH_BYTES or one document."""
    name = task(chunk)
    if workspace.done(name):
        return
    selection = select(plan, chunk, workspace)
    if isinstance(encoder, ChatEncoder):
        encoder.refusal = ""
    record = {split.value: _encode_split(name, chunk, split, (selection, encoder, workspace)) for split in Split}
    record["duplicates"] = {"documents": int((~selection.kept).sum())}
    if isinstance(encoder, ChatEncoder):
        record["notFollowed"] = {"documents": sum(record[split.value].pop("notFollowed") for split in Split)}
        if encoder.refusal:
            logger.warning("chunk %s: conversations are left out, the first because %s", chunk, encoder.refusal)
    workspace.write_record(name, record)


def _encode_split(name: str, chunk: int, split: Split, work: tuple[Selection, AnyEncoder, Workspace]) -> dict[str, int]:
    selection, encoder, workspace = work
    ends: list[int] = []
    tokens = text_bytes = learned = left_out = 0
    with ExitStack() as stack:
        file = stack.enter_context(workspace.writing(f"{name}.{split}.tokens"))
        for batch in _batches(texts(workspace, chunk, selection.of(split))):
            for encoded in _encoded(encoder, batch):
                if encoded is None:
                    left_out += 1
                    continue
                file.write(encoded.tokens.data)
                tokens += encoded.tokens.size
                text_bytes += encoded.text_bytes
                learned += encoded.learned
                ends.append(tokens)
    workspace.write_rows(f"{name}.{split}.ends", np.array(ends, np.uint64))
    counts = {"documents": len(ends), "tokens": tokens, "bytes": text_bytes}
    return counts | ({"learned": learned, "notFollowed": left_out} if isinstance(encoder, ChatEncoder) else {})


def _encoded(encoder: AnyEncoder, batch: list[str]) -> Iterator[Encoded | None]:
    if isinstance(encoder, ChatEncoder):
        yield from encoder.encode(batch)
        return
    for text, row in zip(batch, encoder.encode(batch), strict=True):
        yield Encoded(row, len(text.encode()), row.size)


def _batches(documents: Iterator[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    held = 0
    for text in documents:
        batch.append(text)
        held += len(text)
        if held >= BATCH_BYTES:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def require_documents(plan: Plan, workspace: Workspace) -> None:
    """Refused if nothing survived of a source."""
    for number, source in enumerate(plan.build.spec.sources):
        records = [workspace.record(ingest.task(chunk.number)) for chunk in plan.chunks if chunk.source == number]
        if not sum(record["documents"] for record in records):
            drops: dict[str, int] = {}
            for record in records:
                for cause, count in record["drops"].items():
                    drops[cause] = drops.get(cause, 0) + count
            raise Refused(f"source {source.name}", f"it has no document (dropped: {drops})", "correct the source")


def require_tokens(plan: Plan, workspace: Workspace) -> None:
    """Refused if no conversation of the training split is left."""
    records = [workspace.record(task(chunk.number)) for chunk in plan.chunks]
    template = plan.build.spec.tokenizer.chat_template
    if template is not None and not sum(record[Split.TRAIN.value]["documents"] for record in records):
        left_out = sum(record["notFollowed"]["documents"] for record in records)
        raise Refused(
            f"chat template {template.uri}",
            f"it leaves nothing to train on: {left_out} conversations are not followed (the log says why)",
            "name the template that the conversations were made for",
        )
