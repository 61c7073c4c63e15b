"""What a coordinator leaves behind with its pod, and what an operator that was away makes of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tessera_api.log import Claim, End, Member, Open, StoreAddress
from tessera_api.training_run_status import RunPhase, TrainingRunStatus
from tessera_coordinator.core.history import fold
from tessera_coordinator.last_words import MOST_BYTES, final_status, fitting, leave
from tessera_coordinator.recollection import recollect
from tessera_operator.core.run_decision import Over, decide
from tessera_operator.core.run_status import run_status
from tessera_operator.observe import read_pod
from tests.unit.operator_world import a_pod, a_start, a_view
from tests.unit.test_recollection import TOLD, incident

OPEN = Open(
    term=1,
    generation=3,
    members=(Member(node="a", incarnation="i", processes=1),),
    store=StoreAddress(host="h", port=1),
    nonce="n",
    time=1.0,
)


def final(reason: Any = "complete", message: str = "all 97 steps are done") -> dict[str, object]:
    ended = End(term=1, reason=reason, message=message, time=9.0)
    return final_status(a_start(), fold((Claim(term=1, holder="h", time=0.0), OPEN, ended)), recollect(TOLD))


def document(words: str, role: str = "coordinator", code: int = 0) -> dict[str, Any]:
    """A pod as the API server has it."""
    labels = {"tessera.dev/role": role, "tessera.dev/slot": "c0", "tessera.dev/attempt": "0"}
    ended = {"exitCode": code, "message": words}
    return {
        "metadata": {"name": "gpt-c0-0", "uid": "u", "labels": labels, "creationTimestamp": "2026-11-27T08:00:00Z"},
        "status": {"phase": "Succeeded", "containerStatuses": [{"state": {"terminated": ended}}]},
    }


def test_the_final_status_tells_of_the_whole_run() -> None:
    left = TrainingRunStatus.model_validate(final())

    assert (left.phase, left.step, left.loss, left.restarts) == (RunPhase.SUCCEEDED, "3/97", "2.5000", 2)
    assert [one.number for one in left.incidents or ()] == [1, 2]


def test_what_is_left_fits_and_the_newest_incidents_stay() -> None:
    cause = "n1: no beat for 3.7 s and no step completed since"
    incidents = [incident(number).model_copy(update={"cause": cause}).model_dump() for number in range(1, 21)]

    data = fitting({**final(), "incidents": incidents})

    kept = [one["number"] for one in json.loads(data)["incidents"]]
    assert len(data) <= MOST_BYTES
    assert kept == list(range(21 - len(kept), 21))
    assert 5 < len(kept) < 20


def test_without_a_place_nothing_is_left_and_a_place_that_cannot_be_written_harms_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TESSERA_LAST_WORDS", raising=False)
    leave(final())
    monkeypatch.setenv("TESSERA_LAST_WORDS", str(tmp_path / "nowhere" / "words"))
    leave(final())
    assert list(tmp_path.iterdir()) == []

    monkeypatch.setenv("TESSERA_LAST_WORDS", str(tmp_path / "words"))
    leave(final())
    assert json.loads((tmp_path / "words").read_bytes()) == final()


def test_an_operator_that_was_away_takes_the_end_from_what_was_left() -> None:
    pod = read_pod(document(fitting(final()).decode()))
    assert pod is not None
    view = a_view(pods=(pod, a_pod("n0", phase="Succeeded", exit_code=0)), answer=None)

    plan = decide(view)

    assert plan.over == Over(True, "Complete", "complete: all 97 steps are done")
    status = run_status(view, plan)
    assert (status.phase, status.loss, status.step) == (RunPhase.SUCCEEDED, "2.5000", "97/97")
    assert [one.number for one in status.incidents or ()] == [1, 2]


def test_a_run_that_failed_is_told_as_such() -> None:
    pod = read_pod(document(fitting(final("failed", "a bug at line 3")).decode(), code=70))
    assert pod is not None

    assert decide(a_view(pods=(pod,), answer=None)).over == Over(False, "Failed", "failed: a bug at line 3")


def test_a_run_that_was_stopped_has_not_ended() -> None:
    pod = a_pod("c0", exit_code=75, final=TrainingRunStatus(phase=RunPhase.STOPPED))

    assert decide(a_view(pods=(pod, *a_view().pods[1:]), answer=None)).over is None


@pytest.mark.parametrize("words", ["", "Traceback: a bug", "[1]", '{"phase": "Dreaming"', "{}"])
def test_other_last_words_are_words(words: str) -> None:
    pod = read_pod(document(words, code=1))

    assert pod is not None
    assert (pod.final or TrainingRunStatus()) == TrainingRunStatus()
    assert decide(a_view(pods=(replace(pod, phase="Running"),), answer=None)).over is None


def test_a_worker_leaves_no_status() -> None:
    pod = read_pod(document(fitting(final()).decode(), role="worker"))

    assert pod is not None
    assert pod.final is None
