"""Drills: the faults that `tessera drill` knows, on a real run of the real trainer, and the same bits afterwards.

python benchmarks/drills.py [--quick] [--rounds N] [--work DIR]: a JSON line a figure; what each drill said goes to
standard error. One run (`tessera local`, three nodes and a spare, 1 million parameters, exact mode) is hurt again and
again; then one that nobody touches goes as far, and losses and gradient norms of all steps are compared, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from workload import Workload, build

from tessera_api.drill import OF_THE_API_SERVER, Fault
from tessera_api.run_directory import RunDirectory

ROUNDS = 3
SMALL = Workload("llama-1m", 1_000_000, 64, 12, 20, 3, 1, 4, hang_seconds=5)
QUICK = (Fault.WORKER_KILL,)
TABLE = tuple(fault for fault in Fault if fault not in OF_THE_API_SERVER | {Fault.LOSS_SPIKE})
"""Those of a local run. After a loss spike the run is another, without the data that came with it:
tests/train/test_loss_guard.py."""
START_SECONDS = 300.0
STEP_SECONDS = 120.0
BETWEEN = 15
"""Steps from one drill to the next."""
SECONDS = 5.0
"""How long a fault lasts that does."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    faults, rounds = (QUICK, 1) if options.quick else (TABLE, options.rounds)
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        kept, seconds, hurt = disturbed(Path(folder), faults, rounds)
        alone = undisturbed(Path(folder), max(hurt))
    tries = rounds * len(faults)
    differ = sum(hurt[step] != alone.get(step) for step in hurt)
    for said in (
        {"name": f"drills, {len(faults)} faults: promise kept", "value": kept, "unit": f"of {tries}", "goal": "all"},
        {"name": "drills: steps that differ from the undisturbed run's", "value": differ, "unit": f"of {len(hurt)}"},
    ):
        holds = said["value"] == (tries if said.get("goal") == "all" else 0)
        print(json.dumps({"spread": None, "goal": "0", **said, "holds": holds, "quick": options.quick}))
    for fault, values in seconds.items():
        name = f"drill {fault}: from the fault to the next step"
        said = {"name": name, "value": median(values), "spread": [min(values), max(values)], "unit": "s"}
        print(json.dumps({**said, "goal": None, "holds": None, "quick": options.quick}))


Numbers = tuple[float, float | None]
"""Loss and gradient norm of a step."""


def disturbed(
    folder: Path, faults: tuple[Fault, ...], rounds: int, workload: Workload = SMALL
) -> tuple[int, dict[str, list[float]], dict[int, Numbers]]:
    """How many promises were kept, seconds from fault to next step by fault, and the numbers of each step."""
    kept, seconds = 0, dict[str, list[float]]()
    with driven(folder, "hurt", workload) as directory:
        for fault in faults * rounds:
            until(directory, newest(directory) + BETWEEN)
            words = ["drill", str(directory.root), "--fault", fault.value, "--seconds", str(SECONDS)]
            done = subprocess.run(
                [sys.executable, "-m", "tessera_cli", *words], stdout=subprocess.PIPE, text=True, check=False
            )
            print(f"{fault.value}: {' | '.join(done.stdout.splitlines())}", file=sys.stderr, flush=True)
            kept += done.returncode == 0
            if found := re.findall(r"after +([\d.]+) s", done.stdout):
                seconds.setdefault(fault.value, []).append(round(sum(map(float, found)), 2))
        until(directory, newest(directory) + BETWEEN)
        return kept, seconds, numbers(directory)


def undisturbed(folder: Path, steps: int, workload: Workload = SMALL) -> dict[int, Numbers]:
    """The numbers of a run that is left alone, up to this step."""
    with driven(folder, "alone", workload) as directory:
        until(directory, steps, STEP_SECONDS + 2.0 * steps)
        return numbers(directory)


@contextmanager
def driven(folder: Path, name: str, workload: Workload = SMALL) -> Iterator[RunDirectory]:
    """`tessera local`, until the block ends."""
    run = workload.manifest(name, (folder / "storage").as_uri())
    run["spec"]["drills"] = "Allowed"
    run["spec"]["nodes"]["spares"] = 1 if workload.count > 1 else 0
    manifest = folder / f"{name}.yaml"
    manifest.write_text("\n---\n".join(map(json.dumps, (build(folder / "data", 512), run))))
    command = [sys.executable, "-m", "tessera_cli", "local", str(manifest), "--workdir", str(folder / "work")]
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    directory = RunDirectory(folder / "work" / "runs" / name)
    try:
        begun(folder / f"{name}.log", process)
        until(directory, 2 * BETWEEN, START_SECONDS)
        yield directory
    except BaseException:
        print((folder / f"{name}.log").read_text()[-4000:], file=sys.stderr, flush=True)
        raise
    finally:
        process.terminate()
        process.wait(120)


def begun(log: Path, process: subprocess.Popen[bytes]) -> None:
    """Raises ChildProcessError where the command is refused."""
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        return
    raise ChildProcessError(log.read_text())


def numbers(directory: RunDirectory) -> dict[int, Numbers]:
    """Of each step, as the highest generation made it."""
    found: dict[int, tuple[int, Numbers]] = {}
    for text in directory.metrics.read_text().splitlines():
        line = json.loads(text)
        made = (line["generation"], (line["loss"], line.get("grad_norm")))
        found[line["step"]] = max(found.get(line["step"], made), made, key=lambda one: one[0])
    return {step: made for step, (_, made) in found.items()}


def newest(directory: RunDirectory) -> int:
    """The newest step; -1 before the first."""
    if not directory.metrics.exists():
        return -1
    lines = directory.metrics.read_text().splitlines()
    return max((json.loads(text)["step"] for text in lines[-50:] if text.endswith("}")), default=-1)


def until(directory: RunDirectory, step: int, limit: float = STEP_SECONDS) -> None:
    """Raises TimeoutError."""
    deadline = time.monotonic() + limit
    while newest(directory) < step:
        if time.monotonic() > deadline:
            raise TimeoutError(f"step {step} was not made within {limit:.0f} s; the newest is {newest(directory)}")
        time.sleep(0.2)


if __name__ == "__main__":
    main()
