"""The demo: from text files to a model that `transformers` loads, through two kills, on one machine.

    make demo        or        .venv/bin/python scripts/demo.py [--quick] [--workdir DIR]

1. writes two manifests: the Python standard library's sources as a dataset, a small model trained on it;
2. runs them with `tessera local` on three nodes and a spare, and in mid-run kills the node of rank 0, later the
   coordinator;
3. loads the exported model in `transformers` and lets it write a few lines;
4. says what the kills did, and how well the model knows held-out text beside gzip, unigram and bigram.

Exit status 0 when the run outlived both kills, nothing of it is left running and the goal is met, else 1. Ctrl-C ends
everything that was started. `--quick` is the same story with a tiny model in about a minute, without a goal.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from demo_kills import COORDINATOR_SHARE, NODE_SHARE, Attack, Kill, carrying, kill_all, told
from demo_manifests import RUN_NAME, Sizes, dataset_manifest, full, library, quick, run_manifest

from tessera_api.journal import EventName
from tessera_api.resolved_run import ResolvedRun
from tessera_api.run_directory import RunDirectory
from tessera_cli.run_history import RunHistory, read_history

ROOT = Path(__file__).parents[1]
MARK = ".made-by-the-demo"
PROMPTS = ("def main(", 'class Queue:\n    """', "import os\n")
RUN_LIMIT = 3600.0
"""Seconds after which the run is given up."""
AFTERWARDS_LIMIT = 300.0
"""For baselines and generation, each."""
POLL = 0.05
_ENDING = ((signal.SIGTERM, 2.0), (signal.SIGTERM, 15.0), (signal.SIGKILL, 10.0))
"""How `tessera local` is ended: by the second signal it stops without a commit. Seconds are waited after each."""


class Failed(Exception):
    """The demo can't go on; the message says why."""


@dataclass
class Stage:
    """Prints what a reader follows: headings with the time since the start, and lines below them."""

    began: float = field(default_factory=time.monotonic)
    number: int = 0

    @property
    def elapsed(self) -> str:
        """Since the start, as minutes and seconds."""
        seconds = int(time.monotonic() - self.began)
        return f"{seconds // 60}:{seconds % 60:02d}"

    def heading(self, text: str) -> None:
        """A new part."""
        self.number += 1
        print(f"\n[{self.elapsed}] {self.number}. {text}", flush=True)

    def say(self, text: str = "") -> None:
        """Lines of the present part."""
        for line in text.split("\n"):
            print(f"    {line}".rstrip(), flush=True)


@dataclass(frozen=True)
class Place:
    """The demo's own folder."""

    root: Path

    @property
    def run(self) -> RunDirectory:
        """The run's directory."""
        return RunDirectory(self.root / "runs" / RUN_NAME)

    def prepare(self, sizes: Sizes) -> tuple[Path, Path]:
        """A fresh folder with both manifests. An old one is replaced only if the demo made it."""
        if self.root.exists() and any(self.root.iterdir()):
            if not (self.root / MARK).exists():
                raise Failed(f"{self.root} is not empty and not the demo's own: give another folder with --workdir")
            if _lives(self.root):
                raise Failed(f"another demo is at work in {self.root}: end it, or give another folder with --workdir")
            shutil.rmtree(self.root)
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / MARK).write_text(f"{os.getpid()}\n")
        texts = {"dataset.yaml": dataset_manifest(sizes), "run.yaml": run_manifest(sizes)}
        for name, text in texts.items():
            (self.root / name).write_text(text)
        return self.root / "dataset.yaml", self.root / "run.yaml"


def _lives(root: Path) -> bool:
    """Whether the demo that made the folder still runs."""
    try:
        pid = int((root / MARK).read_text())
        return b"demo.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return False


# ---- the run --------------------------------------------------------------------------------------------------------


class Local:
    """`tessera local` as a process; whatever happens, nothing of it lives on."""

    def __init__(self, arguments: Sequence[str], stage: Stage) -> None:
        self._variable = f"TESSERA_DEMO={secrets.token_hex(8)}"
        name, _, value = self._variable.partition("=")
        self._stage = stage
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tessera_cli", "local", *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=os.environ | {name: value},
        )  # fmt: skip
        self._relay = threading.Thread(target=self._pass_on, daemon=True)
        self._relay.start()

    @property
    def pid(self) -> int:
        """Of the command."""
        return self._process.pid

    def _pass_on(self) -> None:
        for line in self._process.stdout or ():
            self._stage.say(line.rstrip("\n"))

    def follow(self, attack: Attack) -> int:
        """Until it ends; its exit code."""
        deadline = time.monotonic() + RUN_LIMIT
        while (code := self._process.poll()) is None:
            if time.monotonic() > deadline:
                raise Failed(f"the run took more than {RUN_LIMIT:.0f} s")
            kill = attack.look() if attack.directory.nodes.exists() else None
            if kill is not None:
                self._stage.say(f">>>>>>>> {_announced(kill)}")
            time.sleep(POLL)
        self._relay.join(10)
        if self._relay.is_alive():
            raise Failed("something of the run still holds its output")
        return code

    def left(self) -> list[int]:
        """Processes that it started and that still live."""
        return [pid for pid in carrying(self._variable.encode()) if pid != os.getpid()]

    def end(self) -> None:
        """Everything, at once; a further Ctrl-C changes nothing about it."""
        if self._process.poll() is None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number, seconds in _ENDING:
            if self._process.poll() is not None:
                break
            self._process.send_signal(number)
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                continue
        kill_all(self.left())


def _announced(kill: Kill) -> str:
    what = f"{kill.node}, the node of rank 0 ({kill.processes} processes)" if kill.node else "the coordinator"
    return f"kill -9: {what}, at step {kill.step}"


def train(place: Place, sizes: Sizes, stage: Stage) -> list[Kill]:
    """The dataset, the run and both kills. Raises Failed."""
    manifests = place.prepare(sizes)
    arguments = [*map(str, manifests), "--workdir", str(place.root)]
    stage.heading("A dataset from the Python standard library, and a model trained on it")
    stage.say(f"folder      {place.root}\nsources     {library()}")
    stage.say(f"command     tessera local {shlex.join(arguments)}")
    stage.say(f"later       SIGKILL to the node of rank 0 at {NODE_SHARE:.0%} of {sizes.steps} steps,")
    stage.say(f"            and to the coordinator at {COORDINATOR_SHARE:.0%}\n")
    local = Local(arguments, stage)
    attack = Attack(place.run, sizes.steps, local.pid)
    try:
        code = local.follow(attack)
        left = local.left()
    finally:
        local.end()
    if code != 0:
        raise Failed(f"tessera local ended with exit code {code}; its programs' logs are in {place.run.logs}")
    if left:
        raise Failed(f"{len(left)} processes of the run lived on after its end (they were killed now)")
    if len(attack.kills) != 2:
        raise Failed(f"the run was over after {len(attack.kills)} of 2 kills")
    return attack.kills


# ---- afterwards -----------------------------------------------------------------------------------------------------


def output_of(*module_and_arguments: str) -> str:
    """What a program of ours prints. Raises Failed with its last words."""
    try:
        ended = subprocess.run(
            [sys.executable, "-m", *module_and_arguments],
            capture_output=True, text=True, timeout=AFTERWARDS_LIMIT, check=False, stdin=subprocess.DEVNULL,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{module_and_arguments[0]} took more than {AFTERWARDS_LIMIT:.0f} s") from error
    if ended.returncode != 0:
        raise Failed(f"{module_and_arguments[0]} ended with exit code {ended.returncode}:\n{ended.stderr[-2000:]}")
    return ended.stdout


def bits_per_byte(history: RunHistory) -> float:
    """Of the model on the held-out documents, as the run measured it at its end. Raises Failed."""
    for event in reversed(history.events):
        if event.name is EventName.NOTE and "bits_per_byte" in event.numbers:
            return event.numbers["bits_per_byte"]
    raise Failed("the run did not say what the model makes of the held-out text")


def judge(history: RunHistory, place: Place, sizes: Sizes, stage: Stage) -> bool:
    """Bits per byte beside three simple models; whether the goal is met."""
    (dataset,) = history.resolved.datasets.values()
    simple = json.loads(output_of("tessera_data", "baselines", dataset.manifest, "--cache", str(place.root / "cache")))
    model = bits_per_byte(history)
    stage.heading(
        f"Bits per byte on the {simple['bytes']:,} bytes of held-out files, which no model has seen (less is better)"
    )
    for name in ("unigram", "bigram", "gzip"):
        stage.say(f"{name:12}{simple[name]:8.3f}")
    stage.say(f"{'this model':12}{model:8.3f}")
    if sizes.goal is None:
        stage.say("no goal: the quick form is too short for one")
        return True
    met = model <= sizes.goal
    stage.say(f"{'goal':12}{sizes.goal:8.3f}  {'met' if met else 'MISSED'}")
    return met


def demo(place: Place, sizes: Sizes, stage: Stage) -> bool:
    """All of it; whether everything is as it should be. Raises Failed."""
    kills = train(place, sizes, stage)
    resolved = ResolvedRun.model_validate_json(place.run.run_json.read_bytes())
    history = read_history(place.run, resolved)
    stage.heading("The exported model, loaded by transformers, goes on writing")
    prompts = [word for prompt in PROMPTS for word in ("--prompt", prompt)]
    stage.say(output_of("tessera_trainer.generate", str(place.run.export), *prompts, "--tokens", "48").rstrip())
    stage.heading("What happened")
    for kill in kills:
        first, *others = told(kill, history)
        stage.say(first)
        for line in others:
            stage.say(f"    {line}")
    stage.say(f"goodput {history.status.goodput}: of all the nodes' time, the share that went into steps that count")
    met = judge(history, place, sizes, stage)
    stage.heading("Where it is")
    stage.say(f"report      {place.run.report}\nmodel       {place.run.export}\nthe run     {place.run.root}")
    return met


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny model, about a minute, no goal")
    parser.add_argument(
        "--workdir", type=Path, default=ROOT / ".tessera" / "demo", help="a folder of its own (%(default)s)"
    )
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    stage = Stage()
    try:
        met = demo(Place(options.workdir.resolve()), quick() if options.quick else full(), stage)
    except Failed as failed:
        print(f"\n[{stage.elapsed}] the demo failed: {failed}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n[{stage.elapsed}] interrupted; nothing is left running", file=sys.stderr)
        return 1
    print(f"\n[{stage.elapsed}] done" + ("" if met else ", but the goal was missed"))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
