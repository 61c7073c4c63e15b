"""A build while the world changes: its sources, its output, and what lies there from before."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tessera_api.dataset_build import DatasetBuild
from tessera_data.build import Built, Stage, build_dataset
from tessera_data.manifest import MANIFEST, TOKENIZER
from tessera_data.refusal import Refused
from tests.unit.data_builds import SMALL, build_in, environment, manifest_of, objects, write_sources


class Stopped(Exception):
    """Stands for a kill: nothing of ours catches it."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_sources(tmp_path / "data")


def stopped_after(folder: Path, last: Stage) -> None:
    """A build that ended when all of a stage was done."""

    def watch(stage: Stage, done: int, of: int) -> None:
        if (stage, done) == (last, of):
            raise Stopped

    with pytest.raises(Stopped):
        build_dataset(DatasetBuild.model_validate(manifest_of(folder)), folder / "work", watch, SMALL)


def place_of(built: Built) -> Path:
    return Path(built.uri.removeprefix("file://")).parent


def test_a_build_that_goes_on_with_another_output_has_all_its_objects_there(folder: Path) -> None:
    stopped_after(folder, Stage.SHARDS)

    build_in(folder, output={"uri": (folder / "elsewhere").as_uri()})
    build_in(folder, "afresh")

    assert objects(folder / "elsewhere") == objects(folder / "out")


def test_an_object_that_was_lost_is_there_again_after_a_build(folder: Path) -> None:
    built = build_in(folder)
    whole = objects(folder / "out")
    place = place_of(built)
    shard, index = next(place.glob("shards/*.tokens")), next(place.glob("shards/*.index"))

    for lost in (shard, index, place / TOKENIZER):
        lost.unlink()
        assert build_in(folder).reused is False
        assert objects(folder / "out") == whole
    shard.write_bytes(b"short")
    build_in(folder)

    assert objects(folder / "out") == whole
    assert build_in(folder).reused is True


@pytest.mark.parametrize("name", ["rows.jsonl", "files/0.txt"])
def test_a_source_that_changes_after_the_plan_is_refused(folder: Path, name: str) -> None:
    source = folder / name
    build = DatasetBuild.model_validate(manifest_of(folder))

    def change(stage: Stage, done: int, of: int) -> None:
        if stage is Stage.PLAN:
            source.write_bytes(source.read_bytes()[:-1] + b" \n")

    with pytest.raises(Refused, match=rf"{source.name} changed during the build; build again"):
        build_dataset(build, folder / "work", change, SMALL)
    assert list(folder.glob(f"out/*/{MANIFEST}")) == []


def test_a_wrong_tokenizer_is_refused_before_any_source_is_read(folder: Path) -> None:
    stages: list[Stage] = []
    (folder / "tokenizer.json").write_text("{}")
    tokenizer = {"uri": (folder / "tokenizer.json").as_uri(), "sha256": "a" * 64}
    build = DatasetBuild.model_validate(manifest_of(folder, tokenizer=tokenizer))

    with pytest.raises(Refused, match=r"tokenizer\.sha256 says aaaa"):
        build_dataset(build, folder / "work", lambda stage, *_: stages.append(stage), SMALL)

    assert stages == []


def test_more_chunks_than_open_files_are_allowed(folder: Path) -> None:
    for number in range(1100):
        (folder / "files" / f"more-{number}.txt").write_text(f"document {number} of many")
    code = (
        "import json, resource, sys; from pathlib import Path; from tessera_api.dataset_build import DatasetBuild; "
        "from tessera_data.build import Sizes, build_dataset; "
        "build = DatasetBuild.model_validate(json.loads(sys.argv[1])); folder = Path(sys.argv[2]); "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128)); "
        "stages = []; stop = lambda stage, done, of: stages.append(of) or (stage == 'dedup' and sys.exit(0)); "
        "import atexit; atexit.register(lambda: print(max(stages) > 128, len(stages) > max(stages))); "
        "build_dataset(build, folder, stop, Sizes(30, 3000))"
    )
    manifest = manifest_of(folder)
    manifest["spec"]["sources"][1]["include"] = ["more-1*.txt"]
    command = [sys.executable, "-c", code, json.dumps(manifest), str(folder / "work")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, env=environment())

    assert (done.stderr, done.stdout) == ("", "True True\n")
