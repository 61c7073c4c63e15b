"""Runs the benchmarks and prints their figures as one table: `benchmarks/run.py [--quick] [--record] [NAME ...]`.

A benchmark is a script in this folder that prints a JSON line a figure (`figures.py`); what else it prints is passed
on. They run one after the other, since they share the cores that they measure. Ends with 1 if a script failed or a
figure missed its goal. `--record` puts the figures into RESULTS.md, each as it comes; a quick run is never recorded.
What stands behind `--` goes to the script, of which there is one then: `run.py --record recovery -- --only killed`.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from threading import Timer

from figures import COLUMNS, Figure, Origin, recorded

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
LIMIT_SECONDS = 7200.0
GRACE_SECONDS = 30.0


def main() -> None:
    options = _options()
    rows, failed = "", []
    for script in options.scripts or scripts():
        print(f"{script}:", flush=True)
        arguments = [*options.passed, *(["--quick"] if options.quick else [])]
        origin = Origin(datetime.now(UTC).date().isoformat(), " ".join([f"{script}.py", *arguments]), machine())

        def take(figure: Figure, origin: Origin = origin) -> None:
            nonlocal rows
            rows += figure.row(origin)
            if options.record:
                RESULTS.write_text(recorded(RESULTS.read_text(), [figure], origin))
            if figure.holds is False:
                failed.append(f"{figure.name} misses its goal")

        code = take_figures(script, arguments, take)
        if code != 0:
            failed.append(f"{script} ended with {code}")
    print("\n" + COLUMNS + rows)
    sys.exit("\n".join(failed) or None)


def machine() -> str:
    """This machine in words, with its load (of the last minute) now."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    devices = len(list(Path("/dev").glob("nvidia[0-9]*")))
    gpus = f"{devices} NVIDIA GPUs" if devices else "no GPU"
    return f"{os.cpu_count()} cores {platform.machine()}, {memory:.0f} GiB, {gpus}, load {os.getloadavg()[0]:.1f}"


def scripts() -> list[str]:
    """Names of the benchmarks: the scripts of this folder that can be run, but for this one."""
    candidates = sorted(HERE.glob("*.py"))
    return [path.stem for path in candidates if path.stem != "run" and 'if __name__ == "__main__"' in path.read_text()]


def take_figures(script: str, arguments: list[str], take: Callable[[Figure], None]) -> int:
    """Run one script, hand on its figures as they come, return its exit code (negative: killed by that signal)."""
    command = [sys.executable, str(HERE / f"{script}.py"), *arguments]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        limit = Timer(LIMIT_SECONDS, process.terminate)
        limit.start()
        try:
            for figure in _read(process):
                take(figure)
        finally:
            limit.cancel()
            _end(process)
    return process.returncode


def _end(process: subprocess.Popen[str]) -> None:
    """What it froze or cut off is undone by itself, if it is given the time."""
    process.terminate()
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def _read(process: subprocess.Popen[str]) -> Iterator[Figure]:
    assert process.stdout is not None
    for line in process.stdout:
        print(f"  {line}", end="", flush=True)
        figure = Figure.parse(line)
        if figure is not None:
            yield figure
    process.wait(LIMIT_SECONDS)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scripts", nargs="*", metavar="NAME", help="without .py; default: all of them")
    parser.add_argument("--quick", action="store_true", help="smaller and with fewer tries; says less")
    parser.add_argument("--record", action="store_true", help="write the figures into RESULTS.md")
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    options = parser.parse_args(words[:end])
    options.passed = words[end + 1 :]
    if options.passed and len(options.scripts) != 1:
        parser.error("what stands behind -- goes to one script: name it")
    if options.quick and options.record:
        parser.error("a quick run is not recorded")
    if unknown := set(options.scripts) - set(scripts()):
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(scripts())}")
    return options


if __name__ == "__main__":
    main()
