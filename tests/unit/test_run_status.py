"""status.json: every field, and always something that can be shown, whatever the numbers are."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera_api.journal import StepLine
from tessera_api.times import span
from tessera_api.training_run_status import RunPhase, TrainingRunStatus
from tessera_coordinator.core.ledger import Ledger
from tessera_coordinator.core.status import Seen, status, thousands

CREATED = 1_700_000_000.0
NEWEST = StepLine(
    time=CREATED + 50,
    step=4200,
    tokens=10**9,
    loss=2.91349,
    tokens_per_second=1_912_345.0,
    mfu=0.5204,
    generation=3,
    world_size=32,
)
SEEN = Seen(
    phase=RunPhase.RUNNING,
    message="FirstStep: step 4100",
    total_steps=20000,
    wanted=4,
    active=4,
    generation=3,
    first_generation=1,
    ledger=Ledger({"compute": 7000.0, "recovery": 200.0, "lost_work": 100.0, "spare": 20.4}, uncommitted=120.0),
    node_price=36.0,
    newest=NEWEST,
    seconds_per_step=0.75,
    created=CREATED,
    changed=CREATED + 10,
    now=CREATED + 3480,
)


def document(seen: Seen) -> dict[str, object]:
    return status(seen).model_dump(mode="json", by_alias=True, exclude_none=True)


def condition(kind: str, value: str, reason: str) -> dict[str, str]:
    return {
        "type": kind,
        "status": value,
        "reason": reason,
        "message": "FirstStep: step 4100",
        "lastTransitionTime": "2023-11-14T22:13:30Z",
    }


def test_a_run_in_full_flight_shows_every_column() -> None:
    assert document(SEEN) == {
        "conditions": [condition("Succeeded", "Unknown", "Running"), condition("Running", "True", "Running")],
        "phase": "Running",
        "step": "4200/20000",
        "loss": "2.9135",
        "tokensPerSecond": "1.9M",
        "mfu": "0.520",
        "nodes": "4/4",
        "activeNodes": 4,
        "restarts": 2,
        "goodput": "0.957",
        "ettr": "0.960",
        "nodeSeconds": [
            {"cause": "compute", "seconds": 7000},
            {"cause": "recovery", "seconds": 200},
            {"cause": "lost_work", "seconds": 100},
            {"cause": "spare", "seconds": 20},
            {"cause": "uncommitted", "seconds": 120},
        ],
        "cost": "74.40",
        "lostWorkCost": "1.00",
        "eta": "3h17m",
        "age": "58m0s",
    }


def test_a_run_that_has_not_begun_shows_only_what_is_known() -> None:
    young = replace(
        SEEN, phase=RunPhase.PENDING, newest=None, ledger=Ledger(), seconds_per_step=None, generation=0, active=0
    )

    shown = document(young)

    assert shown.pop("conditions") == [
        condition("Succeeded", "Unknown", "Pending"),
        condition("Running", "False", "Pending"),
    ]
    assert shown == {
        "phase": "Pending",
        "step": "0/20000",
        "nodes": "0/4",
        "activeNodes": 0,
        "restarts": 0,
        "age": "58m0s",
    }


@pytest.mark.parametrize(
    ("phase", "succeeded"),
    [(RunPhase.SUCCEEDED, ("True", "Complete")), (RunPhase.FAILED, ("False", "Failed"))],
)
def test_the_end_decides_whether_it_succeeded(phase: RunPhase, succeeded: tuple[str, str]) -> None:
    shown = document(replace(SEEN, phase=phase))

    assert shown["conditions"] == [
        condition("Succeeded", *succeeded),
        condition("Running", "False", phase.value),
    ]
    assert "eta" not in shown


@settings(max_examples=80, deadline=None)
@given(
    phase=st.sampled_from(RunPhase),
    message=st.text(max_size=1500),
    loss=st.floats(),
    rate=st.none() | st.floats(),
    mfu=st.none() | st.floats(),
    seconds=st.none() | st.floats(0.0, 1e12),
)
def test_whatever_the_numbers_are_there_is_a_status(
    phase: RunPhase,
    message: str,
    loss: float,
    rate: float | None,
    mfu: float | None,
    seconds: float | None,
) -> None:
    newest = NEWEST.model_copy(update={"loss": loss, "tokens_per_second": rate, "mfu": mfu, "step": 2**62})
    seen = replace(SEEN, phase=phase, message=message, newest=newest, seconds_per_step=seconds, generation=2**40)

    shown = status(seen)

    assert TrainingRunStatus.model_validate_json(shown.model_dump_json(by_alias=True, exclude_none=True)) == shown


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-5.0, "0s"), (59.9, "59s"), (60.0, "1m0s"), (3599.0, "59m59s"), (3600.0, "1h0m"), (90061.0, "1d1h")],
)
def test_a_time_is_shown_in_its_two_largest_units(seconds: float, words: str) -> None:
    assert span(seconds) == words


@pytest.mark.parametrize(
    ("rate", "words"),
    [(0.0, "0.0"), (87.06, "87.1"), (12_412.0, "12.4k"), (999_999.0, "1.0M"), (1.9e6, "1.9M"), (2.5e9, "2.5G")],
)
def test_a_rate_is_shown_in_three_digits(rate: float, words: str) -> None:
    assert thousands(rate) == words
