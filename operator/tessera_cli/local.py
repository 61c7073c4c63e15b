"""`tessera local`: the manifests that a cluster takes, on this machine.

Owns the order: judge everything, say what differs here, build the datasets, then one run after the other. What must
stay true: when anything is wrong with any of it, nothing is started.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from tessera_api.data_fit import shown_samples, unfit_data
from tessera_api.dataset_build import DatasetBuild
from tessera_api.exit_codes import ExitCode
from tessera_api.manifest import ManifestErrors, load_manifests
from tessera_api.resolved_run import ResolvedDataset, ResolvedRun
from tessera_api.run_directory import RunDirectory
from tessera_api.training_run import TrainingRun
from tessera_cli import datasets, directory_lock
from tessera_cli.accelerators import cuda_devices
from tessera_cli.laptop import Fitted, Machine, fit_build, fit_run
from tessera_cli.programs import Programs
from tessera_cli.progress import Progress
from tessera_cli.refusal import Refused
from tessera_cli.report import write_report
from tessera_cli.run_history import read_history, read_status
from tessera_cli.run_log_entries import read_end
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
from tessera_cli.summary import summary
from tessera_cli.supervisor import Limits, Outcome, Plan, Supervisor
from tessera_cli.workplace import Workplace

RESTART_DELAY = "TESSERA_COORDINATOR_RESTART_DELAY"
"""Environment variable for tests and benchmarks: seconds before a dead coordinator is restarted."""


@dataclass(frozen=True)
class Wish:
    """The command line."""

    files: tuple[Path, ...]
    workdir: Path
    nodes: int | None = None
    sets: tuple[str, ...] = ()
    again: str = "tessera local"
    """The command that resumes."""


@dataclass(frozen=True)
class Surroundings:
    """What the command works with."""

    out: TextIO
    programs: Programs = field(default_factory=Programs)
    limits: Limits = field(default_factory=Limits)
    machine: Machine = field(default_factory=lambda: Machine(len(os.sched_getaffinity(0)), cuda_devices()))


def surroundings(out: TextIO) -> Surroundings:
    """This process's own. Raises Refused for a wrong environment variable."""
    text = os.environ.get(RESTART_DELAY, "0")
    try:
        return Surroundings(out, limits=Limits(restart_delay=float(text)))
    except ValueError as error:
        raise Refused(f"{RESTART_DELAY} is {text!r}; give seconds, or unset it") from error


def run_local(wish: Wish, around: Surroundings) -> ExitCode:
    """All of it. Raises Refused before anything is started, or when a build or a run could not end well."""
    return _Local(wish, around).run()


class _Local:
    def __init__(self, wish: Wish, around: Surroundings) -> None:
        self._wish, self._around = wish, around
        self._place = Workplace(wish.workdir.resolve())

    def _say(self, text: str) -> None:
        print(text, file=self._around.out, flush=True)

    def run(self) -> ExitCode:
        try:
            resources = load_manifests(self._wish.files, self._wish.sets)
        except ManifestErrors as error:
            raise Refused(str(error)) from error
        builds = [fit_build(one, self._place, self._wish.sets) for one in resources if isinstance(one, DatasetBuild)]
        runs = self._ask_all([one for one in resources if isinstance(one, TrainingRun)])
        todo = self._judge(runs, {build.resource.metadata.name for build in builds})
        if runs and not todo:
            return ExitCode.DONE
        self._show_overrides([*builds, *(run.fitted for run in todo)])
        try:
            for build in builds:
                datasets.build(build.resource, self._place, self._around.programs, self._say)
        except KeyboardInterrupt:
            self._say(f"stopped while the datasets were built; to go on: {self._wish.again}")
            return ExitCode.STOPPED
        self._judge_data(todo)
        for run in todo:
            code = self._drive(run)
            if code is not ExitCode.DONE:
                return code
        return ExitCode.DONE

    def _ask_all(self, runs: Sequence[TrainingRun]) -> list[Asked]:
        """Each as it is to run here. Raises Refused with everything that does not fit."""
        asked, refusals = [], []
        for run in runs:
            try:
                asked.append(self._ask(run))
            except Refused as refused:
                refusals.append(str(refused))
        if refusals:
            raise Refused("\n".join(refusals))
        return asked

    def _ask(self, run: TrainingRun) -> Asked:
        fitted, device = fit_run(run, self._place, self._wish.sets, self._around.machine, self._wish.nodes)
        return Asked(run, fitted, device, self._around.machine)

    # ---- judging ------------------------------------------------------------------------------------------------

    def _judge(self, runs: Sequence[Asked], built: set[str]) -> list[Asked]:
        """The runs that are still to be driven. Raises Refused with everything that is wrong."""
        refusals: list[Refused] = []
        todo = []
        for place, run in enumerate(runs):
            try:
                if not self._is_finished(run):
                    todo.append(run)
                    before = {other.name for other in runs[:place]}
                    self._judge_needs(run, built, before)
            except Refused as refused:
                refusals.append(refused)
        if refusals:
            code = refusals[0].code if len(refusals) == 1 else ExitCode.WRONG_INPUT
            raise Refused("\n".join(map(str, refusals)), code)
        return todo

    def _is_finished(self, run: Asked) -> bool:
        """Whether there is nothing to do. Raises Refused when the run can't be driven with this manifest."""
        directory = self._place.run(run.name)
        holder = directory_lock.holder(directory.lock)
        if holder is not None:
            raise Refused(
                f"run {run.name} is being driven by process {holder or '(unknown)'}: watch it with"
                f" `tessera status {directory.root}`, or end it with `tessera stop {directory.root}`",
                ExitCode.IN_USE,
            )
        before = earlier_start(directory)
        if before is None:
            return False
        changes = refuse_changes(before, run.asked)
        refuse_other_storage(before, run, directory.root)
        end = read_end(before.storage)
        if end is not None and end.reason == "failed":
            raise Refused(
                f"run {run.name} has failed for good ({end.message}): nothing can follow in its log;"
                " give the run another name",
                ExitCode.TROUBLE,
            )
        if end is not None:
            self._say(f"run {run.name} is finished ({end.message}): nothing to do; its report is {directory.report}")
            return True
        self._say(f"run {run.name} goes on: start {before.start + 1}")
        for change in changes:
            self._say(f"  changed since start {before.start}: {change}")
        return False

    def _judge_needs(self, run: Asked, built: set[str], before: set[str]) -> None:
        mix = run.asked.spec.data.mix
        missing = [
            entry.dataset
            for entry in mix
            if entry.dataset not in built and datasets.find(entry.dataset, self._place) is None
        ]
        if missing:
            raise Refused(
                f"run {run.name} needs the dataset {', '.join(missing)}, which is not in {self._place.datasets}:"
                " give its DatasetBuild manifest before the run's"
            )
        origin = run.asked.spec.model.from_
        if origin is not None and origin.run is not None and origin.run not in before:
            resolve_origin(run.asked, self._place)

    def _judge_data(self, runs: Sequence[Asked]) -> None:
        """Raises Refused with everything in which the datasets do not fit the runs, before the first one starts."""
        refusals: list[str] = []
        known: dict[str, ResolvedDataset] = {}
        for run in runs:
            model, found = run.asked.spec.model, self._datasets(run)
            known[run.name] = found[run.asked.spec.data.mix[0].dataset]
            try:
                if (before := earlier_start(self._place.run(run.name))) is not None:
                    refuse_other_data(before, found)
                origin = model.from_.run if model.from_ else None
                if origin is not None and origin not in known:
                    known[origin] = next(iter(known_run(self._place.run(origin)).datasets.values()))
                if words := unfit_data(run.asked, found, known.get(origin) if origin else None):
                    refusals.append(words)
            except Refused as refused:
                refusals.append(str(refused))
        if refusals:
            raise Refused("\n".join(refusals))

    def _show_overrides(self, fitted: Sequence[Fitted[DatasetBuild] | Fitted[TrainingRun]]) -> None:
        lines = [str(override) for one in fitted for override in one.overrides]
        if lines:
            self._say("What differs from the manifests on this machine:")
            for line in lines:
                self._say(f"  {line}")

    # ---- driving ------------------------------------------------------------------------------------------------

    def _drive(self, run: Asked) -> ExitCode:
        directory = self._place.run(run.name)
        with directory_lock.hold(directory.lock, f"run {run.name}"):
            before, found = earlier_start(directory), self._datasets(run)
            if before is not None:
                refuse_other_data(before, found)
            resolved = write_start(run, self._place, found, before)
            for line in shown_samples(run.asked, found):
                self._say(line)
            plan = Plan(directory, resolved, run_key(directory.key), self._around.programs, self._around.limits)
            outcome = log_has_the_last_word(resolved, asyncio.run(_supervise(plan, self._around.out)))
            history = read_history(directory, resolved)
            write_report(directory.report, history)
        for line in summary(history, directory, outcome.code, outcome.reason):
            self._say(line)
        if outcome.code is not ExitCode.DONE:
            self._say(f"to go on from the last checkpoint: {self._wish.again}")
        return outcome.code

    def _datasets(self, run: Asked) -> dict[str, ResolvedDataset]:
        found = {entry.dataset: datasets.find(entry.dataset, self._place) for entry in run.asked.spec.data.mix}
        if gone := [name for name, dataset in found.items() if dataset is None]:
            raise Refused(f"dataset {', '.join(gone)} is gone from {self._place.datasets}: build it again")
        return {name: dataset for name, dataset in found.items() if dataset is not None}


async def _supervise(plan: Plan, out: TextIO) -> Outcome:
    """Drive one start and show it; Ctrl-C and SIGTERM stop it."""
    progress = _progress(plan.directory, plan.resolved, out)
    supervisor = Supervisor(plan, progress.say)
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        loop.add_signal_handler(number, supervisor.interrupt)
    following = asyncio.create_task(_follow(progress))
    try:
        return await supervisor.run()
    finally:
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following
        progress.look(last=True)
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


def _progress(directory: RunDirectory, resolved: ResolvedRun, out: TextIO) -> Progress:
    nodes: Callable[[], str | None] = lambda: read_status(directory).nodes  # noqa: E731 - a name for its type
    return Progress(directory, resolved.total_steps, out, nodes)


async def _follow(progress: Progress) -> None:
    while True:
        progress.look()
        await asyncio.sleep(progress.seconds)


def log_has_the_last_word(resolved: ResolvedRun, seen: Outcome) -> Outcome:
    """How the start ended: what stands in the log counts more than how a program exited."""
    try:
        end = read_end(resolved.storage)
    except Refused:  # storage is away: what was seen is all that is known
        return seen
    if end is None:
        return (
            seen if seen.code is not ExitCode.DONE else Outcome(ExitCode.TROUBLE, f"no end in the log: {seen.reason}")
        )
    return Outcome(ExitCode.DONE if end.reason == "complete" else ExitCode.TROUBLE, end.message)
