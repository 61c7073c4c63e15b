"""The learning rate of a step, by number."""

from __future__ import annotations

import pytest

from tessera_trainer.schedule import Schedule, ScheduleKind


def rates(schedule: Schedule) -> list[float]:
    return [schedule.rate(step) for step in range(schedule.total_steps)]


def test_warm_up_rises_in_equal_parts_to_the_peak() -> None:
    schedule = Schedule(kind=ScheduleKind.WSD, peak="8e-4", warmup_steps=4, total_steps=6)
    assert rates(schedule) == pytest.approx([0.0002, 0.0004, 0.0006, 0.0008, 0.0008, 0.0008], rel=1e-15)


def test_linear_falls_in_equal_parts_to_the_final_rate() -> None:
    schedule = Schedule(kind=ScheduleKind.LINEAR, peak="1", warmup_steps=1, total_steps=5, final_share="0")
    assert rates(schedule) == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_cosine_is_half_way_down_at_half_time() -> None:
    schedule = Schedule(kind=ScheduleKind.COSINE, peak="1", total_steps=4, final_share="0")
    assert rates(schedule) == pytest.approx([0.8535533905932737, 0.5, 0.14644660940672627, 0.0], abs=1e-15)


def test_cosine_ends_at_the_final_share() -> None:
    schedule = Schedule(kind=ScheduleKind.COSINE, peak="6e-4", warmup_steps=10, total_steps=100)
    assert schedule.rate(99) == pytest.approx(6e-5, rel=1e-12)


def test_wsd_holds_the_peak_and_falls_at_the_end() -> None:
    schedule = Schedule(
        kind=ScheduleKind.WSD, peak="1", warmup_steps=2, decay_steps=2, total_steps=8, final_share="0.5"
    )
    assert rates(schedule) == [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5]


@pytest.mark.parametrize("kind", list(ScheduleKind))
def test_the_rate_stays_at_the_final_one_after_the_end(kind: ScheduleKind) -> None:
    schedule = Schedule(kind=kind, peak="1", decay_steps=5, total_steps=10, final_share="0.25")
    assert schedule.rate(1_000) == 0.25


def test_the_rate_is_the_float_of_the_decimal_string() -> None:
    assert Schedule(kind=ScheduleKind.WSD, peak="0.0003", total_steps=2).rate(0) == 0.0003


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"peak": "0"}, "must be positive"),
        ({"final_share": "1.5"}, "between 0 and 1"),
        ({"total_steps": 0}, "at least 1"),
        ({"warmup_steps": 8, "decay_steps": 3}, "are longer than the 10 steps"),
    ],
)
def test_numbers_that_make_no_schedule_are_refused(fields: dict[str, object], words: str) -> None:
    given = {"kind": ScheduleKind.WSD, "peak": "1", "total_steps": 10} | fields
    with pytest.raises(ValueError, match=words):
        Schedule(**given)  # type: ignore[arg-type]
