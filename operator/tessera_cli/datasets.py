"""Datasets of a workplace: building those whose manifests were given, and finding those that stand there already.

A build is a program of its own; its results are kept in `datasets/NAME.json`, so that a run may use a dataset without
its manifest. What must stay true: that file is written only after the build has ended with success, and is replaced
whole.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import ValidationError

from tessera_api.dataset_build import DatasetBuild
from tessera_api.exit_codes import ExitCode
from tessera_api.record import Record
from tessera_api.resolved_run import ResolvedDataset
from tessera_cli import directory_lock
from tessera_cli.child import start_process
from tessera_cli.program_log import last_words
from tessera_cli.programs import Programs
from tessera_cli.refusal import Refused
from tessera_cli.run_log_entries import read_object
from tessera_cli.workplace import Workplace
from tessera_store import open_store

TERMINATE_LIMIT = 10.0
PROGRESS_SECONDS = 10.0


class Built(Record):
    """The last line that a build prints."""

    manifest: str
    fingerprint: str
    tokenizer_sha256: str
    vocabulary: int
    tokens: int
    learned: int | None = None
    sources: dict[str, dict[str, int]] = {}
    """Documents of each source: read, held out, for training, and dropped by cause."""


def build(spec: DatasetBuild, place: Workplace, programs: Programs, say: Callable[[str], None]) -> ResolvedDataset:
    """Build the dataset, or find that there is nothing to do. Raises Refused; KeyboardInterrupt when interrupted."""
    name = spec.metadata.name
    folder = place.build(name)
    with directory_lock.hold(folder / "lock", f"the build of dataset {name}"):
        document = spec.model_dump_json(by_alias=True, exclude_none=True, indent=1)
        open_store(folder.as_uri()).put("spec.json", document.encode())
        command = programs.build_of(folder / "spec.json", folder)
        built = _run(command, folder / "build.log", name, say)
        dataset = ResolvedDataset(
            manifest=built.manifest,
            sha256=hashlib.sha256(read_object(built.manifest)).hexdigest(),
            fingerprint=built.fingerprint,
            tokenizer_sha256=built.tokenizer_sha256,
            vocabulary=built.vocabulary,
            tokens=built.tokens,
            learned=built.learned,
        )
        open_store(place.datasets.as_uri()).put(place.dataset_result(name).name, dataset.canonical() + b"\n")
    say(f"dataset {name}: {dataset.manifest}, fingerprint {dataset.fingerprint[:12]}")
    for source, counts in built.sources.items():
        say(f"dataset {name}: source {source}: {documents_of(counts)}")
    return dataset


def documents_of(counts: Mapping[str, int]) -> str:
    """What became of a source's documents; nothing is left out without a number."""
    kept = {"train": "for training", "heldOut": "held out"}
    read = f"{counts.get('read', 0)} documents: "
    dropped = [
        f"{count} dropped ({cause})" for cause, count in counts.items() if cause not in {"read", *kept} and count
    ]
    return read + ", ".join([*(f"{counts.get(split, 0)} {words}" for split, words in kept.items()), *dropped])


def find(name: str, place: Workplace) -> ResolvedDataset | None:
    """What an earlier build came to; None when there was none."""
    path = place.dataset_result(name)
    try:
        return ResolvedDataset.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise Refused(f"{path} is no dataset's result: {error}; build the dataset again") from error


def _run(command: tuple[str, ...], log: Path, name: str, say: Callable[[str], None]) -> Built:
    process = start_process(command, os.environ, log, output=subprocess.PIPE)
    assert process.stdout is not None
    built, progress = None, _Progress()
    try:
        for line in process.stdout:
            built = _result(line) or built
            if shown := progress.shown(line):
                say(f"dataset {name}: {shown}")
        code = process.wait()
    except BaseException:
        _end(process)
        raise
    finally:
        process.stdout.close()
    if code != ExitCode.DONE or built is None:
        known = code in (ExitCode.WRONG_INPUT, ExitCode.UNAVAILABLE)
        words = f"the build of dataset {name} ended with code {code} and no result{last_words(log)}"
        raise Refused(words, ExitCode(code) if known else ExitCode.TROUBLE)
    return built


def _end(process: subprocess.Popen[bytes]) -> None:
    """It goes on where it was at the next start, so it need not be waited for long."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(TERMINATE_LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _result(line: bytes) -> Built | None:
    try:
        return Built.model_validate_json(line)
    except ValidationError:
        return None


class _Stage(Record):
    """Any other line: how far a stage of the build is."""

    stage: str
    done: int
    of: int


class _Progress:
    """Chooses the lines of progress that are worth showing: a stage's end, and one per interval."""

    def __init__(self) -> None:
        self._at = 0.0

    def shown(self, line: bytes) -> str | None:
        """A line of the build for people; None for what need not be shown."""
        try:
            stage = _Stage.model_validate_json(line)
        except ValidationError:
            return None
        now = time.monotonic()
        if stage.done < stage.of and now - self._at < PROGRESS_SECONDS:
            return None
        self._at = now
        return f"{stage.stage} {stage.done}/{stage.of}"
