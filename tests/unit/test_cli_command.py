"""The command line from outside: answers, refusals, exit codes."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tessera_api.exit_codes import ExitCode
from tessera_cli.__main__ import main
from tessera_cli.laptop import fit_run
from tessera_cli.local import Surroundings, Wish, run_local
from tessera_cli.programs import Programs
from tessera_cli.refusal import Refused
from tessera_cli.starting import Asked, write_start
from tessera_cli.workplace import Workplace
from tests.train.local_place import BUILD, CLAIM, COMPLETE, LAPTOP, RUN, STAND_INS, WORDS, log_of, training_run

NOTHING_MAY_START = Programs(coordinator=("false",), agent=("false",), build=("false",))
NEXT = RUN.replace("name: tiny}", "name: next}").replace("{recipe: llama-1m}", "{from: {run: tiny}}")


def manifest(folder: Path, *documents: str) -> Path:
    path = folder / "manifest.yaml"
    path.write_text("---".join(documents))
    return path


def run(folder: Path, *documents: str, programs: Programs = NOTHING_MAY_START, sets: tuple[str, ...] = ()) -> str:
    """What `tessera local` says; the exit code comes first."""
    out = io.StringIO()
    around = Surroundings(out, programs, machine=LAPTOP)
    code = run_local(Wish((manifest(folder, *documents),), folder / "work", sets=sets), around)
    return f"{int(code)}\n{out.getvalue()}"


def refusal(folder: Path, *documents: str, sets: tuple[str, ...] = ()) -> Refused:
    with pytest.raises(Refused) as refused:
        run(folder, *documents, sets=sets)
    return refused.value


def command(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own."""
    settings = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment
    return subprocess.run(
        [sys.executable, "-m", "tessera_cli", *words], capture_output=True, text=True, timeout=60, env=settings
    )


def finished(folder: Path) -> None:
    """A complete run `tiny` stands in the work folder."""
    place = Workplace(folder / "work")
    fitted, device = fit_run(training_run(), place, (), LAPTOP)
    write_start(Asked(training_run(), fitted, device, LAPTOP), place, {"words": WORDS}, None)
    log_of(place.run("tiny").root, CLAIM, COMPLETE)


def test_help_answers_at_once_and_names_every_command() -> None:
    answered = command("--help")
    assert answered.returncode == 0
    assert [
        name for name in ("local", "report", "status", "stop", "version") if f"\n    {name} " in answered.stdout
    ] == [
        "local",
        "report",
        "status",
        "stop",
        "version",
    ]


def test_help_answers_within_five_times_its_goal() -> None:
    def seconds() -> float:
        began = time.perf_counter()
        command("--help")
        return time.perf_counter() - began

    assert min(seconds() for _ in range(3)) <= 5 * 0.3


def test_help_imports_no_library() -> None:
    program = "import sys, tessera_cli.__main__ as it; it._parser().format_help(); print(*sys.modules)"
    settings = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=settings)
    assert {"pydantic", "yaml", "asyncio", "tessera_api.messages"} & set(loaded.stdout.split()) == set()


def test_a_wrong_directory_is_refused_with_an_exit_code_and_the_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", str(tmp_path)]) == ExitCode.WRONG_INPUT
    assert capsys.readouterr().err == (
        f"tessera: {tmp_path} is no run's directory: there is no run.json; give WORKDIR/runs/NAME\n"
    )


def test_every_mistake_in_the_manifests_is_told_before_anything_starts(tmp_path: Path) -> None:
    broken = RUN.replace("seed: 7", "seed: -1").replace("method: pretrain", "method: guess")
    refused = refusal(tmp_path, BUILD.replace("text\n", "prose\n"), broken)
    assert refused.code is ExitCode.WRONG_INPUT
    for path in ("spec.training.seed", "spec.method", "spec.content"):
        assert path in str(refused)
    assert not (tmp_path / "work").exists()


def test_a_dataset_that_nobody_builds_is_missed_before_anything_starts(tmp_path: Path) -> None:
    assert "run tiny needs the dataset words" in str(refusal(tmp_path, RUN))


def test_all_refusals_of_several_runs_come_together(tmp_path: Path) -> None:
    (tmp_path / "work" / "runs" / "tiny").mkdir(parents=True)
    (tmp_path / "work" / "runs" / "tiny" / "thesis.txt").touch()
    other = RUN.replace("name: tiny}", "name: other}").replace("dataset: words", "dataset: songs")
    text = str(refusal(tmp_path, BUILD, RUN, other))
    assert "no run's directory (it holds thesis.txt" in text
    assert "run other needs the dataset songs" in text


def test_a_finished_run_says_so_and_nothing_is_started(tmp_path: Path) -> None:
    finished(tmp_path)
    said = run(tmp_path, BUILD, RUN)
    report = tmp_path / "work" / "runs" / "tiny" / "report.html"
    assert said == f"0\nrun tiny is finished (all 20 steps are done): nothing to do; its report is {report}\n"


def test_a_changed_manifest_of_a_finished_run_is_refused(tmp_path: Path) -> None:
    finished(tmp_path)
    assert "spec.training.seed: 7 -> 8" in str(refusal(tmp_path, BUILD, RUN, sets=("training.seed=8",)))


def test_a_run_that_starts_from_one_that_is_nowhere_is_refused(tmp_path: Path) -> None:
    assert "run next starts from run tiny, which is not in" in str(refusal(tmp_path, BUILD, NEXT))


def test_a_failed_build_ends_the_command_with_its_last_words(tmp_path: Path) -> None:
    shell = Programs(build=("sh", "-c", "echo 'no such folder' >&2; exit 64"))
    words = "the build of dataset words ended with code 64 and no result: no such folder"
    with pytest.raises(Refused, match=words) as refused:
        run(tmp_path, BUILD, programs=shell)
    assert refused.value.code is ExitCode.WRONG_INPUT


def test_a_dataset_is_built_alone_and_what_differs_is_told_in_one_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    datasets = (tmp_path / "work" / "datasets").as_uri()
    assert run(tmp_path, BUILD, programs=STAND_INS).splitlines() == [
        "0",
        "What differs from the manifests on this machine:",
        f"  DatasetBuild/words: spec.output.uri: s3://models/datasets -> {datasets}"
        " (local storage; --set keeps another)",
        "dataset words: tokenize 1/1",
        f"dataset words: {datasets}/words/manifest.json, fingerprint ffffffffffff",
    ]
    assert (tmp_path / "work" / "datasets" / "words.json").exists()


def test_status_shows_the_columns_of_kubectl(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished(tmp_path)
    root = tmp_path / "work" / "runs" / "tiny"
    (root / "status.json").write_text('{"phase": "Succeeded", "step": "20/20", "goodput": "0.9"}')
    assert main(["status", str(root)]) == 0
    assert capsys.readouterr().out == (
        "NAME   PHASE       STEP    LOSS   TOK/S   MFU   NODES   RESTARTS   GOODPUT   ETA   AGE\n"
        "tiny   Succeeded   20/20   -      -       -     -       -          0.9       -     -\n"
        "nobody drives it\n"
    )


def test_a_run_that_nobody_drives_cannot_be_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished(tmp_path)
    assert main(["stop", str(tmp_path / "work" / "runs" / "tiny")]) == ExitCode.WRONG_INPUT
    assert capsys.readouterr().err == "tessera: nobody drives run tiny: there is nothing to stop\n"


def test_nodes_that_fit_no_run_are_refused_for_every_run_with_path_and_value(tmp_path: Path) -> None:
    path = manifest(tmp_path, RUN, RUN.replace("name: tiny}", "name: other}"))
    around = Surroundings(io.StringIO(), NOTHING_MAY_START, machine=LAPTOP)
    with pytest.raises(Refused) as refused:
        run_local(Wish((path,), tmp_path / "work", nodes=99), around)
    for name in ("tiny", "other"):
        assert f"TrainingRun/{name} does not fit this machine:\n  spec.nodes.max: max 99 with" in str(refused.value)
    assert str(refused.value).count("(found 99; remedy: ") == 2
