"""Which keys count while newer ones come, and when the operator makes one."""

from __future__ import annotations

from tessera_api.times import stamp
from tessera_api.training_run import TrainingRun
from tessera_api.training_run_status import ShownKey, TrainingRunStatus
from tessera_coordinator.core.rotation import GRACE_SECONDS, MOVE_SECONDS, Rotation
from tessera_operator.core.key_rotation import EXHAUSTED, first_key, newest_key
from tests.unit.operator_world import NOW, a_run, a_start, a_view

DAY = 86400.0


def rotation(**seen: float) -> Rotation:
    """Keys by number (`k1=0.0`), with the time at which each was first seen."""
    found = Rotation()
    for name, now in seen.items():
        found.sees((int(name[1:]),), now)
    return found


def test_a_key_is_good_until_its_grace_after_a_newer_one_is_over() -> None:
    two = rotation(k1=0.0, k2=100.0)

    assert two.older(1)
    assert not two.older(2)
    assert not two.outdated(1, 100.0 + GRACE_SECONDS)
    assert two.outdated(1, 101.0 + GRACE_SECONDS)
    assert not two.outdated(2, 1e9)


def test_a_third_key_gives_the_first_no_further_grace() -> None:
    three = rotation(k1=0.0, k2=100.0, k3=GRACE_SECONDS)

    assert three.outdated(1, 101.0 + GRACE_SECONDS)
    assert not three.outdated(2, 101.0 + GRACE_SECONDS)


def test_a_key_that_is_seen_again_is_no_newer() -> None:
    again = rotation(k1=0.0, k2=100.0)
    again.sees((1, 2), 5000.0)

    assert again.outdated(1, 101.0 + GRACE_SECONDS)


def test_who_speaks_under_an_older_key_begins_anew_now_and_then() -> None:
    two = rotation(k1=0.0, k2=100.0)

    assert not two.move_due(99.0 + MOVE_SECONDS)
    assert two.move_due(100.0 + MOVE_SECONDS)
    assert not two.move_due(101.0 + MOVE_SECONDS)
    assert two.move_due(100.0 + 2 * MOVE_SECONDS)


def test_nobody_moves_while_there_is_one_key() -> None:
    assert not rotation(k1=0.0).move_due(1e9)


def shown(number: int, made: float, **more: str) -> ShownKey:
    return ShownKey(number=number, made=stamp(made), **more)


def with_key(key: ShownKey | None) -> TrainingRun:
    return a_run(TrainingRunStatus(key=key))


def test_the_first_start_begins_with_key_one_and_each_later_one_with_another() -> None:
    assert first_key(a_view()) == 1
    assert first_key(a_view(run=with_key(shown(3, NOW)))) == 4


def test_a_start_shows_its_key_from_its_first_pass_on() -> None:
    view = a_view(start=a_start(first_key=2), run=with_key(shown(1, NOW)), now=NOW + 5)

    assert newest_key(view) == shown(2, NOW + 5)


def test_a_key_is_followed_by_another_after_its_days() -> None:
    start, run = a_start(first_key=1), with_key(shown(1, NOW))

    assert newest_key(a_view(start=start, run=run, now=NOW + 30 * DAY - 1)) == shown(1, NOW)
    assert newest_key(a_view(start=start, run=run, now=NOW + 30 * DAY)) == shown(2, NOW + 30 * DAY)


def test_another_annotation_asks_for_another_key_once() -> None:
    start, now = a_start(first_key=1), NOW + 60
    asked = newest_key(a_view(start=start, run=with_key(shown(1, NOW)), now=now, rotate_request="leak"))

    assert asked == shown(2, now, request="leak")
    assert newest_key(a_view(start=start, run=with_key(asked), now=now + 60, rotate_request="leak")) == asked
    assert newest_key(a_view(start=start, run=with_key(asked), now=now + 60)) == asked, "it was taken away"


def test_an_annotation_that_was_there_at_the_start_asks_for_nothing() -> None:
    first = newest_key(a_view(start=a_start(first_key=1), now=NOW, rotate_request="old"))

    assert first == shown(1, NOW, request="old")
    assert newest_key(a_view(start=a_start(first_key=1), run=with_key(first), rotate_request="old")) == first


def test_pods_that_can_read_no_further_key_get_none_and_the_status_says_so() -> None:
    view = a_view(start=a_start(first_key=1), run=with_key(shown(5, NOW)), rotate_request="again")

    assert newest_key(view) == shown(5, NOW, request="again", message=EXHAUSTED)


def test_a_run_that_an_older_version_began_keeps_its_one_key() -> None:
    assert newest_key(a_view(start=a_start(), now=NOW + 365 * DAY, rotate_request="leak")) is None
