"""When a run directory may be driven by these manifests, and what a start writes."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tessera_api.exit_codes import ExitCode
from tessera_api.recipes import RECIPES, RecipeName
from tessera_api.resolved_run import Device, ResolvedOrigin, read_resolved_run
from tessera_api.run_directory import RunDirectory
from tessera_cli import directory_lock
from tessera_cli.laptop import Machine, fit_run
from tessera_cli.refusal import Refused
from tessera_cli.starting import (
    Asked,
    earlier_start,
    known_run,
    refuse_changes,
    refuse_other_data,
    refuse_other_storage,
    resolve_origin,
    run_key,
    write_start,
)
from tessera_cli.workplace import Workplace
from tests.train.local_place import CLAIM, COMMIT, COMPLETE, LAPTOP, WORDS, log_of, resolved_run, training_run


def asked(place: Workplace, *sets: str, machine: Machine = LAPTOP) -> Asked:
    run = training_run(*sets)
    fitted, device = fit_run(run, place, sets, machine)
    return Asked(run, fitted, device, machine)


def test_a_first_start_writes_what_everybody_needs(tmp_path: Path) -> None:
    place = Workplace(tmp_path)
    written = write_start(asked(place), place, {"words": WORDS}, None)
    assert read_resolved_run(place.run("tiny").run_json) == written
    assert (written.start, written.threads, written.device, written.total_steps) == (1, 4, Device.CPU, 20)
    assert written.recipe == RECIPES[RecipeName.LLAMA_1M]
    assert written.datasets == {"words": WORDS}
    assert written.storage == (tmp_path / "runs" / "tiny").as_uri()
    assert written.asked.spec.storage.uri == "s3://models/runs"
    assert written.coordinator.startswith("127.0.0.1:")


def test_a_second_start_keeps_the_first_and_what_decides_bits(tmp_path: Path) -> None:
    place = Workplace(tmp_path)
    first = write_start(asked(place), place, {"words": WORDS}, None)
    again = asked(place, "nodes.count=1", machine=replace(LAPTOP, processors=2))
    second = write_start(again, place, {"words": WORDS}, earlier_start(place.run("tiny")))
    assert (second.start, second.threads, second.created) == (2, first.threads, first.created)
    assert read_resolved_run(place.run("tiny").root / "run-1.json") == first


def test_a_folder_with_other_things_in_it_is_no_runs(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(Refused, match=r"not empty and no run's directory \(it holds thesis.txt"):
        earlier_start(RunDirectory(tmp_path))


def test_a_start_that_was_cut_off_before_it_wrote_anything_is_begun_anew(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.lock.touch()
    run_key(directory.key)
    assert earlier_start(directory) is None


def test_a_folder_without_a_run_cannot_be_reported(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"is no run's directory: there is no run.json"):
        known_run(RunDirectory(tmp_path / "nothing"))


def test_a_frozen_field_that_changed_is_refused_with_the_difference(tmp_path: Path) -> None:
    before = resolved_run(tmp_path / "tiny")
    other = training_run(f"storage.uri={tmp_path.as_uri()}", "training.seed=8", "training.learningRate=0.002")
    with pytest.raises(Refused) as refused:
        refuse_changes(before, other)
    assert "spec.training.learningRate: 0.001 -> 0.002" in str(refused.value)
    assert "spec.training.seed: 7 -> 8" in str(refused.value)


def test_a_mutable_field_may_change_and_is_told(tmp_path: Path) -> None:
    before = resolved_run(tmp_path / "tiny")
    other = training_run(f"storage.uri={tmp_path.as_uri()}", "checkpoint.every=10", "nodes.count=3")
    assert refuse_changes(before, other) == ["spec.checkpoint.every: 500 -> 10", "spec.nodes.count: 2 -> 3"]


def test_a_dataset_that_was_built_otherwise_is_refused(tmp_path: Path) -> None:
    before = resolved_run(tmp_path / "tiny").model_copy(update={"datasets": {"words": WORDS}})
    refuse_other_data(before, {"words": WORDS})
    with pytest.raises(Refused, match=r"words: fingerprint b+ -> c+"):
        refuse_other_data(before, {"words": WORDS.model_copy(update={"fingerprint": "c" * 64})})


def test_a_run_starts_from_a_complete_run_and_takes_its_dimensions(tmp_path: Path) -> None:
    place = Workplace(tmp_path)
    write_start(asked(place), place, {"words": WORDS}, None)
    log_of(place.run("tiny").root, CLAIM, COMMIT, COMPLETE)
    origin, dimensions = resolve_origin(training_run("model.recipe=null", "model.from.run=tiny"), place)
    root = tmp_path / "runs" / "tiny"
    assert origin == ResolvedOrigin(run="tiny", storage=root.as_uri())
    assert dimensions == RECIPES[RecipeName.LLAMA_1M]


def test_a_run_cannot_start_from_one_that_is_not_complete(tmp_path: Path) -> None:
    place = Workplace(tmp_path)
    chained = training_run("model.recipe=null", "model.from.run=tiny")
    with pytest.raises(Refused, match="run tiny first"):
        resolve_origin(chained, place)
    write_start(asked(place), place, {"words": WORDS}, None)
    log_of(place.run("tiny").root, CLAIM)
    with pytest.raises(Refused, match="which has not ended: complete tiny first"):
        resolve_origin(chained, place)


def test_the_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    key = run_key(tmp_path / "key")
    assert (len(key), run_key(tmp_path / "key")) == (32, key)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def test_a_lock_names_its_holder_and_goes_with_it(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    program = (
        "import sys, pathlib; from tessera_cli import directory_lock\n"
        f"with directory_lock.hold(pathlib.Path({str(lock)!r}), 'it'): print('held', flush=True); sys.stdin.read()"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        assert directory_lock.holder(lock) == other.pid
        with (
            pytest.raises(Refused, match=f"run tiny is in use by process {other.pid}") as refused,
            directory_lock.hold(lock, "run tiny"),
        ):
            pass
        assert refused.value.code is ExitCode.IN_USE
        other.kill()
        other.wait()
    assert directory_lock.holder(lock) is None


def test_a_run_goes_on_in_the_storage_that_has_its_log(tmp_path: Path) -> None:
    place = Workplace(tmp_path)
    before = write_start(asked(place), place, {"words": WORDS}, None)
    root = place.run("tiny").root
    refuse_other_storage(before, asked(place), root)
    with pytest.raises(Refused, match=r"would go on in s3://models/runs/tiny from step 0: leave --set storage.uri out"):
        refuse_other_storage(before, asked(place, "storage.uri=s3://models/runs"), root)


def test_a_run_whose_storage_was_set_by_hand_goes_on_with_the_same_words(tmp_path: Path) -> None:
    place = Workplace(tmp_path)
    before = write_start(asked(place, "storage.uri=s3://models/runs"), place, {"words": WORDS}, None)
    with pytest.raises(Refused, match=r"from step 0: go on with --set storage.uri=s3://models/runs, or"):
        refuse_other_storage(before, asked(place), place.run("tiny").root)


def test_a_moved_workdir_is_no_other_storage(tmp_path: Path) -> None:
    old, new = Workplace(tmp_path / "old"), Workplace(tmp_path / "new")
    before = write_start(asked(old), old, {"words": WORDS}, None)
    refuse_other_storage(before, asked(new), new.run("tiny").root)


def test_a_work_folder_that_cannot_be_made_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(Refused, match=r"cannot be written: Not a directory; choose another --workdir"),
        directory_lock.hold(tmp_path / "file" / "runs" / "lock", "run tiny"),
    ):
        pass
