"""A build that is killed goes on where it was, and a large one needs no more memory than a small one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.unit.data_builds import PEAK, environment, manifest_of, objects, words, write_sources

DRIVER = """
import json, os, sys
from pathlib import Path
from tessera_api.dataset_build import DatasetBuild
from tessera_data.build import Sizes, build_dataset

# For each n: a build that kills itself at its n-th rename or link, then one that goes on in the same folders, counting.
def run(build, work, kill_at, report):
    seen = 0
    def watch(event, arguments):
        nonlocal seen
        # Notes on the sources' digests come and go with the files' age; they are no task.
        if event in ("os.rename", "os.link") and "digests-" not in str(arguments[1]):
            seen += 1
            if seen == kill_at:
                os.kill(os.getpid(), 9)
    sys.addaudithook(watch)
    build_dataset(build, work, lambda *_: None, Sizes(2000, 3000))
    report.write_text(str(seen))
    os._exit(0)

def child(*arguments):
    pid = os.fork()
    if pid == 0:
        run(*arguments)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

base = Path(sys.argv[1])
manifest = json.loads((base / "build.json").read_text())
results = []
for kill_at in map(int, sys.argv[2:]):
    place = base / str(kill_at)
    manifest["spec"]["output"]["uri"] = (place / "out").as_uri()
    build = DatasetBuild.model_validate(manifest)
    (place / "out").mkdir(parents=True)
    first = child(build, place / "work", kill_at, place / "first")
    shown = len(list(place.glob("out/*/manifest.json")))
    second = child(build, place / "work", 10**9, place / "second") if first else 0
    again = int((place / ("second" if first else "first")).read_text())
    results.append([first, shown, second, again])
print(json.dumps(results))
"""


def run_driver(folder: Path, kills: Sequence[int]) -> list[list[int]]:
    (folder / "build.json").write_text(json.dumps(manifest_of(folder)))
    command = [sys.executable, "-c", DRIVER, str(folder), *map(str, kills)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, env=environment())
    assert done.stderr == ""
    results: list[list[int]] = json.loads(done.stdout)
    return results


def test_a_build_killed_at_any_write_goes_on_and_redoes_one_task_at_most(tmp_path: Path) -> None:
    folder = write_sources(tmp_path / "data")
    (undisturbed,) = run_driver(folder, [10**6])
    writes = undisturbed[3]
    kills = sorted({*range(1, writes, 9), writes - 1, writes})

    results = run_driver(folder, kills)

    for kill_at, (first, shown, second, again) in zip(kills, results, strict=True):
        published = kill_at == writes  # the last write is the record of that
        assert (first, shown, second) == (-9, int(published), 0), kill_at
        assert again <= writes - (kill_at - 1) + 5, kill_at  # a task writes at most five files, its record last
        assert objects(folder / str(kill_at) / "out") == objects(folder / str(10**6) / "out"), kill_at


def peak_bytes(folder: Path, documents: int) -> int:
    """Of a process that ingests, deduplicates and encodes this many documents of 2 kB, copies of each other in part."""
    (folder / "files").mkdir(parents=True)
    text = words(1, 400)
    with open(folder / "rows.jsonl", "w") as file:
        for number in range(documents):
            file.write(json.dumps({"body": f"{number % (documents // 2)} {text}"}) + "\n")
    (folder / "files" / "a.txt").write_text(text)
    (folder / "build.json").write_text(json.dumps(manifest_of(folder)))
    code = (
        "import sys; from pathlib import Path; from tessera_data.build import *; "
        "from tessera_data.__main__ import _the_build; "
        "build_dataset(_the_build(Path(sys.argv[1])), Path(sys.argv[2]), lambda *_: None, Sizes(1 << 20, 1 << 20)); "
        f"print({PEAK})"
    )
    command = [sys.executable, "-c", code, str(folder / "build.json"), str(folder / "work")]
    one_thread = {**environment(), "RAYON_NUM_THREADS": "1"}  # each encoding thread has an arena of its own
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, env=one_thread)
    assert done.stderr == ""
    return int(done.stdout) * 1024


def test_memory_does_not_grow_with_the_input(tmp_path: Path) -> None:
    small, large = peak_bytes(tmp_path / "small", 3000), peak_bytes(tmp_path / "large", 10_000)

    sizes = [(tmp_path / name / "rows.jsonl").stat().st_size for name in ("small", "large")]
    assert sizes[1] - sizes[0] > 14 << 20
    assert large - small < 12 << 20
