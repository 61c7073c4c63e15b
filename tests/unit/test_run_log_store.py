"""The log on real stores: eight processes race for its numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tessera_api.log import Commit, Member, Open, StoreAddress
from tessera_coordinator.core.history import History, IllegalEntry, fold
from tessera_coordinator.run_log import RunLog, Superseded
from tessera_store import open_store

RACERS = 8
CLAIMS = 4  # the others win fewer races than a claimant may lose in a row
LIMIT_S = 60

RACER = """
import sys
from tessera_coordinator.run_log import RunLog, Superseded
from tessera_store import open_store
log = RunLog(open_store(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
print(*[log.claim(sys.argv[2], 0.0).term for _ in range(int(sys.argv[3]))])
"""


def test_eight_processes_race_and_every_number_has_one_winner(store_uri: str) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, store_uri, f"racer-{number}", str(CLAIMS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for number in range(RACERS)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("\n")
        racer.stdin.flush()

    won = [racer.communicate(timeout=LIMIT_S)[0].split() for racer in racers]

    assert sorted(int(term) for terms in won for term in terms) == list(range(1, RACERS * CLAIMS + 1))
    store = open_store(store_uri)
    assert [info.name for info in store.list("log/")] == [f"log/{n:08d}" for n in range(1, RACERS * CLAIMS + 1)]
    assert RunLog(store).read_all().term == RACERS * CLAIMS


OPENED = Open(
    term=1,
    generation=1,
    members=(Member(node="node-1", incarnation="a", processes=1),),
    store=StoreAddress(host="127.0.0.1", port=1),
    nonce="n",
    time=2.0,
)
COMMIT = Commit(term=1, generation=1, step=5, position=40, objects=(), time=3.0)


@pytest.fixture
def writer(tmp_path: Path) -> RunLog:
    """A log on local files with a claim and an open."""
    log = RunLog(open_store(tmp_path.as_uri()))
    log.claim("here", 1.0)
    log.append(OPENED)
    return log


def test_a_log_is_read_back_as_it_was_written(store_uri: str) -> None:
    store = open_store(store_uri)
    log = RunLog(store)
    claim = log.claim("here", 1.0)

    assert [log.append(OPENED), log.append(COMMIT)] == [2, 3]

    assert RunLog(store).read_all() == fold((claim, OPENED, COMMIT))
    assert RunLog(store, "elsewhere/").read_all() == History()


def test_a_reader_reads_on_from_where_it_was(writer: RunLog, tmp_path: Path) -> None:
    reader = RunLog(open_store(tmp_path.as_uri()))
    assert reader.read_all().newest is None
    writer.append(COMMIT)

    assert reader.read_all() == writer.history
    assert reader.history.newest == COMMIT


def test_a_log_with_a_hole_is_refused(writer: RunLog, tmp_path: Path) -> None:
    (tmp_path / "log" / "00000001").unlink()

    with pytest.raises(IllegalEntry, match="log entry 1 is missing"):
        RunLog(open_store(tmp_path.as_uri())).read_all()


def test_an_entry_that_cannot_be_read_is_named(writer: RunLog, tmp_path: Path) -> None:
    (tmp_path / "log" / "00000003").write_bytes(b"rubbish")

    with pytest.raises(IllegalEntry, match="log entry 3 cannot be read"):
        writer.append(COMMIT)


def test_who_only_reads_cannot_write(writer: RunLog, tmp_path: Path) -> None:
    reader = RunLog(open_store(tmp_path.as_uri()))
    reader.read_all()

    with pytest.raises(Superseded, match="ours is 0"):
        reader.append(COMMIT)
