"""A build is a pure function of its inputs: same bytes however it is cut; and it loses nothing silently."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tessera_api.dataset_build import DatasetBuild
from tessera_api.exit_codes import ExitCode
from tessera_data import dedup
from tessera_data.__main__ import main
from tessera_data.build import Built, Sizes, Stage, build_dataset, workspace_of
from tessera_data.encode import encode, make_tokenizer, read_encoder
from tessera_data.ingest import ingest
from tessera_data.manifest import MANIFEST, TOKENIZER, Split
from tessera_data.plan import make_plan
from tessera_data.publish import NotReproduced
from tessera_data.reader import Dataset
from tessera_data.refusal import Refused
from tessera_data.shards import ShardInfo
from tessera_data.workspace import Workspace
from tessera_store import open_store
from tests.unit.data_builds import SMALL, build_in, manifest_of, objects, words, write_sources


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_sources(tmp_path / "data")


def read_back(built: Built, split: Split) -> list[str]:
    """The documents of a dataset, decoded from its tokens."""
    from tokenizers import Tokenizer

    dataset = Dataset.open(built.uri, Path("unused"))
    tokenizer = Tokenizer.from_buffer(dataset.tokenizer())
    info = built.manifest.splits[split]
    stream = dataset.stream(split, info.tokens - 1)
    row = stream.read(np.array([0])).tokens[0]
    ends = np.flatnonzero(row == built.manifest.tokenizer.end_of_text)
    return [tokenizer.decode(part[part != 0].tolist()) for part in np.split(row, ends + 1)[:-1]]


def test_every_document_comes_back_once_and_held_out_text_is_never_trained_on(folder: Path) -> None:
    built = build_in(folder)

    train, held_out = read_back(built, Split.TRAIN), read_back(built, Split.HELD_OUT)

    texts = [words(seed, 60) for seed in range(36)] + [words(100 + number, 80) for number in range(10) if number != 4]
    assert sorted(train + held_out) == sorted(texts)
    assert len(held_out) == built.manifest.splits[Split.HELD_OUT].documents > 3
    for split, found in ((Split.TRAIN, train), (Split.HELD_OUT, held_out)):
        assert built.manifest.splits[split].text_bytes == sum(len(text.encode()) for text in found)
        assert built.manifest.splits[split].documents == len(found)


def test_what_was_dropped_is_counted_and_licences_and_provenance_are_kept(folder: Path) -> None:
    sources = build_in(folder).manifest.build["sources"]

    counts = [dict(source["documents"]) for source in sources]
    for count in counts:
        count["kept"] = count.pop("train") + count.pop("heldOut")
    assert counts == [
        {"read": 43, "empty": 1, "unparsable": 1, "noText": 1, "duplicate": 4, "kept": 36},
        {"read": 10, "duplicate": 1, "kept": 9},
    ]
    assert [(source["licence"], source["provenance"]["owner"], source["files"]) for source in sources] == [
        ("MIT", "us", 1),
        ("MIT", "us", 10),
    ]


def test_the_same_inputs_give_the_same_bytes_however_the_work_is_cut(folder: Path) -> None:
    build_in(folder, "one")
    first = objects(folder / "out")
    (folder / "out").rename(folder / "first")

    build_in(folder, "two", Sizes(chunk_bytes=700, shard_bytes=SMALL.shard_bytes))

    assert objects(folder / "out") == first
    assert len([name for name in first if name.endswith(".tokens")]) > 2


def test_tasks_may_run_in_any_order_and_buckets_be_many(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build_in(folder)
    in_order = objects(folder / "out")
    (folder / "out").rename(folder / "first")

    monkeypatch.setattr(dedup, "BUCKET_DOCUMENTS", 8)
    plan = make_plan(DatasetBuild.model_validate(manifest_of(folder)), Workspace(folder / "notes"), SMALL.chunk_bytes)
    workspace = workspace_of(plan, folder / "two", SMALL)
    for chunk in reversed(plan.chunks):
        ingest(plan, chunk, workspace)
    count = dedup.buckets(plan, workspace)
    for bucket in reversed(range(count)):
        dedup.deduplicate(plan, bucket, count, workspace)
    make_tokenizer(plan, workspace)
    encoder = read_encoder(plan, workspace)
    for chunk in reversed(plan.chunks):
        encode(plan, chunk.number, encoder, workspace)
    build_in(folder, "two")

    assert (len(plan.chunks) > 4, count) == (True, 8)
    assert (objects(folder / "out"), first.reused) == (in_order, False)


def test_a_build_of_the_same_fingerprint_has_nothing_to_do(folder: Path) -> None:
    stages: list[Stage] = []
    first = build_in(folder)

    build = DatasetBuild.model_validate(manifest_of(folder))
    second = build_dataset(build, folder / "elsewhere", lambda stage, *_: stages.append(stage), SMALL)

    assert (second.uri, second.data, second.reused, stages) == (first.uri, first.data, True, [Stage.PLAN])


def test_any_input_that_can_change_the_bytes_changes_the_fingerprint(folder: Path) -> None:
    built = [build_in(folder), build_in(folder, heldOut={"share": "0.3"})]
    built.append(build_in(folder, tokenizer={"train": {"vocabularySize": 401}}))
    (folder / "files" / "0.txt").write_text(words(100, 80)[:-1] + "#")
    built.append(build_in(folder))

    assert len({each.manifest.fingerprint for each in built}) == 4


def test_one_number_written_in_two_ways_is_one_fingerprint(folder: Path) -> None:
    first = build_in(folder, heldOut={"share": "2e-1"})

    assert (build_in(folder, heldOut={"share": "0.20"}).data, first.reused) == (first.data, False)


def test_a_document_stays_on_its_side_of_the_split_when_a_source_is_added(folder: Path) -> None:
    sources = manifest_of(folder)["spec"]["sources"]
    alone = read_back(build_in(folder, sources=sources[:1]), Split.HELD_OUT)

    together = read_back(build_in(folder), Split.HELD_OUT)

    assert set(alone) <= set(together)


def test_text_that_spells_a_special_token_stays_text(folder: Path) -> None:
    (folder / "files" / "0.txt").write_text("before <|endoftext|> after")

    built = build_in(folder)

    assert "before <|endoftext|> after" in read_back(built, Split.TRAIN) + read_back(built, Split.HELD_OUT)


def test_a_pinned_tokenizer_is_used_as_it_is(folder: Path) -> None:
    trained = build_in(folder)
    pinned = Path(trained.uri.removeprefix("file://")).with_name(TOKENIZER)
    tokenizer = {"uri": pinned.as_uri(), "sha256": trained.manifest.tokenizer.sha256}

    built = build_in(folder, tokenizer=tokenizer)

    assert built.manifest.tokenizer == trained.manifest.tokenizer
    assert built.manifest.splits == trained.manifest.splits


def test_a_tokenizer_with_another_digest_is_refused_with_both(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    tokenizer = {"uri": (folder / "tokenizer.json").as_uri(), "sha256": "a" * 64}

    with pytest.raises(Refused, match=r"its sha256 is 44136fa3\w+, tokenizer\.sha256 says aaaa"):
        build_in(folder, tokenizer=tokenizer)


def test_a_source_without_any_document_is_refused(folder: Path) -> None:
    (folder / "rows.jsonl").write_text('{"body": ""}\n{"body": null}\n')

    with pytest.raises(Refused, match=r"source rows: it has no document \(dropped: {'empty': 1, 'noText': 1}\)"):
        build_in(folder)


def test_other_bytes_under_the_same_fingerprint_are_never_replaced(folder: Path) -> None:
    built = build_in(folder)
    manifest = Path(built.uri.removeprefix("file://"))
    plan = DatasetBuild.model_validate(manifest_of(folder))
    hidden = manifest.with_name("hidden")
    manifest.rename(hidden)

    def another_publishes(stage: Stage, done: int, of: int) -> None:
        if (stage, done) == (Stage.SHARDS, of):
            manifest.write_bytes(hidden.read_bytes() + b" ")

    with pytest.raises(NotReproduced, match="exists with other bytes"):
        build_dataset(plan, folder / "work", another_publishes, SMALL)
    assert manifest.read_bytes() == hidden.read_bytes() + b" "


def test_shards_hold_whole_documents_up_to_their_size(folder: Path) -> None:
    built = build_in(folder)
    root = Path(built.uri.removeprefix("file://")).parent

    for info in built.manifest.splits[Split.TRAIN].shards:
        tokens = np.fromfile(root / info.tokens_name, built.manifest.dtype)
        assert tokens[-1] == built.manifest.tokenizer.end_of_text
        assert (tokens == built.manifest.tokenizer.end_of_text).sum() == info.documents
        assert tokens.nbytes <= SMALL.shard_bytes or info.documents == 1
    assert isinstance(built.manifest.splits[Split.TRAIN].shards[0], ShardInfo)


def run_main(
    folder: Path, manifest: Mapping[str, Any], capsys: pytest.CaptureFixture[str]
) -> tuple[ExitCode, str, str]:
    (folder / "build.json").write_text(json.dumps(manifest))
    code = main(["build", str(folder / "build.json"), "--work", str(folder / "work")])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command_says_how_far_it_is_and_at_last_where_the_dataset_is(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run_main(folder, manifest_of(folder), capsys)

    *tasks, last = (json.loads(line) for line in out.splitlines())
    assert (code, err) == (ExitCode.DONE, "")
    assert [task["stage"] for task in tasks] == [
        *("plan", "ingest", "ingest", "dedup", "tokenizer", "encode", "encode", "shards", "shards"),
        "publish",
    ]
    assert last["manifest"] == f"{folder.as_uri()}/out/small-{last['fingerprint'][:16]}/{MANIFEST}"
    assert (last["vocabulary"], sum(split["documents"] for split in last["splits"].values())) == (400, 45)
    tokenizer = Path(last["manifest"].removeprefix("file://")).with_name(TOKENIZER).read_bytes()
    assert last["tokenizer_sha256"] == hashlib.sha256(tokenizer).hexdigest()
    assert (last["tokens"], last["chunks"]) == (last["splits"]["train"]["tokens"], 2)


def test_a_mistake_of_the_user_is_one_message_and_the_exit_code_for_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = manifest_of(folder)
    manifest["spec"]["sources"][1]["include"] = ["*.md"]
    code, out, err = run_main(folder, manifest, capsys)
    assert (code, out, err.count("\n")) == (ExitCode.WRONG_INPUT, "", 1)
    assert "source files: no file below" in err
    assert "matches *.md (10 files are there); correct uri or include" in err

    del manifest["spec"]["sources"][1]["licence"]
    code, out, err = run_main(folder, manifest, capsys)
    assert (code, out) == (ExitCode.WRONG_INPUT, "")
    assert "spec.sources[1].licence" in err


def test_sources_and_output_may_be_in_an_object_store(folder: Path, s3_uri: str) -> None:
    local = build_in(folder)
    store = open_store(f"{s3_uri}/sources")
    for path in (folder / "rows.jsonl", *(folder / "files").iterdir()):
        store.put(str(path.relative_to(folder)), path)
    sources = manifest_of(folder)["spec"]["sources"]
    sources[0]["uri"], sources[1]["uri"] = f"{s3_uri}/sources/rows.jsonl", f"{s3_uri}/sources/files"

    built = build_in(folder, sources=sources, output={"uri": f"{s3_uri}/datasets"})

    assert built.uri.startswith(f"{s3_uri}/datasets/small-")
    assert built.manifest.splits == local.manifest.splits
    stream = Dataset.open(built.uri, folder / "cache").stream(Split.TRAIN, 32)
    stream.expect(np.arange(stream.samples))
    here = Dataset.open(local.uri, folder / "cache").stream(Split.TRAIN, 32)
    assert np.array_equal(stream.read(np.arange(20)).tokens, here.read(np.arange(20)).tokens)
