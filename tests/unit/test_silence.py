"""Who is lost, in worlds too large or too odd for the stories of `test_membership`; who makes up the next generation;
and whether trainers have parked."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera_api.exit_codes import ExitCode
from tessera_api.log import Member, Open, StoreAddress
from tessera_api.messages import Join, Processes, StopOrder
from tessera_coordinator.core.effects import Close, OpenGeneration, Send
from tessera_coordinator.core.formation import Plan, Wanted, change, draft
from tessera_coordinator.core.nodes import Node
from tessera_coordinator.core.parking import Parking
from tessera_coordinator.core.silence import Limits, Pace, Scene, lost_members, lost_others

NOW = 1000.0
LIMITS = Limits()
FACTS = Processes(agent_pid=1)


def node(number: int, silent: float = 0.1, **more: object) -> Node:
    """A node last heard of `silent` seconds ago, by a beat."""
    heard = NOW - silent
    return replace(Node(f"n{number}", "i", f"h{number}", 1, number, heard, told=heard), **more)  # type: ignore[arg-type]


def pace(ago: float, step_seconds: float = 0.5) -> Pace:
    """Ten steps, the last of which was completed `ago` seconds ago."""
    steps = Pace()
    for step in range(10):
        steps.completed(step, NOW - ago - (9 - step) * step_seconds)
    return steps


def scene(members: list[Node], steps: Pace, others: tuple[Node, ...] = ()) -> Scene:
    return Scene(tuple(members), others, steps, NOW - 100.0, NOW, LIMITS)


def world(size: int, silent: int, since: float = 4.0) -> list[Node]:
    """The first `silent` of `size` nodes have been silent for `since` seconds."""
    return [node(number, since if number < silent else 0.1) for number in range(size)]


# ---- members ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "silent", "lost"), [(100, 10, 10), (100, 11, 0), (20, 2, 2), (20, 3, 0), (30, 3, 3)])
def test_of_many_nodes_only_a_tenth_or_two_may_fall_silent_at_once_before_steps_have_a_pace(
    size: int, silent: int, lost: int
) -> None:
    found = lost_members(scene(world(size, silent), Pace()))

    assert list(found) == [f"n{number}" for number in range(lost)]


def test_a_mass_that_fell_silent_at_once_is_lost_when_a_heard_node_says_that_steps_stopped() -> None:
    found = lost_members(scene(world(100, 50), pace(ago=4.0)))

    assert len(found) == 50


def test_a_mass_that_fell_silent_at_once_is_lost_when_a_heard_node_met_a_collective_error() -> None:
    nodes = world(100, 50)
    nodes[99].collective_error = NOW - 1.0

    assert len(lost_members(scene(nodes, Pace()))) == 50


def test_a_mass_that_fell_silent_one_after_the_other_is_lost() -> None:
    nodes = [node(number, 3.5 + number if number < 50 else 0.1) for number in range(100)]

    assert len(lost_members(scene(nodes, Pace()))) == 50


def test_a_spare_that_is_heard_says_nothing_of_steps() -> None:
    everybody = world(3, 3)

    assert lost_members(scene(everybody, pace(ago=4.0), (node(9),))) == {}


@pytest.mark.parametrize(("silent_for", "lost"), [(14.9, 0), (15.0, 3)])
def test_members_that_fell_silent_together_are_lost_in_the_end_if_anybody_else_is_heard(
    silent_for: float, lost: int
) -> None:
    gone = scene(world(3, 3, since=silent_for), pace(ago=silent_for), others=(node(9),))

    assert len(lost_members(gone)) == lost


def test_members_that_fell_silent_together_are_never_lost_while_nobody_is_heard() -> None:
    assert lost_members(scene(world(3, 3, since=900.0), pace(ago=900.0))) == {}


def test_a_word_of_a_node_that_is_silent_itself_does_not_count() -> None:
    everybody = world(3, 3)
    everybody[0].collective_error = NOW - 3.9

    assert lost_members(scene(everybody, pace(ago=4.0))) == {}


@pytest.mark.parametrize(("ago", "lost"), [(2.9, []), (3.1, ["n0"])])
def test_a_completed_step_is_proof_of_life_for_three_beats(ago: float, lost: list[str]) -> None:
    assert list(lost_members(scene(world(4, 1), pace(ago)))) == lost


def test_before_the_first_step_the_opening_is_the_proof() -> None:
    young = replace(scene(world(4, 1), Pace()), opened=NOW - 2.0)

    assert lost_members(young) == {}


@pytest.mark.parametrize(
    ("closed", "reaped", "peer_met", "last_step", "lost"),
    [
        pytest.param(0.2, True, True, 9.0, [], id="it may still return"),
        pytest.param(0.4, False, False, 0.4, [], id="nobody else has noticed"),
        pytest.param(0.4, False, False, 1.2, ["n0"], id="no step for two paces"),
        pytest.param(0.4, True, False, 0.4, ["n0"], id="its process has ended"),
        pytest.param(0.4, False, True, 0.4, ["n0"], id="a peer's collective broke"),
    ],
)
def test_a_closed_stream_needs_a_second_sign(
    closed: float, reaped: bool, peer_met: bool, last_step: float, lost: list[str]
) -> None:
    gone = node(0, closed, closed=NOW - closed, reaped=reaped)
    peer = node(1, collective_error=NOW - 0.1 if peer_met else None)

    assert list(lost_members(scene([gone, peer], pace(last_step)))) == lost


@pytest.mark.parametrize("told", [None, NOW - 0.5], ids=["never", "before the stream closed"])
def test_a_peer_that_has_not_said_how_far_it_is_since_the_stream_closed_says_nothing_of_steps(
    told: float | None,
) -> None:
    gone = node(0, 0.4, closed=NOW - 0.4)

    assert lost_members(scene([gone, node(1, told=told)], pace(30.0))) == {}


def test_a_nodes_own_collective_error_is_no_evidence_against_it() -> None:
    gone = node(0, 0.4, closed=NOW - 0.4, collective_error=NOW - 0.5)

    assert lost_members(scene([gone, node(1)], pace(0.4))) == {}


def test_an_old_collective_error_is_no_evidence_either() -> None:
    gone, peer = node(0, 0.4, closed=NOW - 0.4), node(1, collective_error=NOW - 10.0)

    assert lost_members(scene([gone, peer], pace(0.4))) == {}


@settings(max_examples=100, deadline=None)
@given(silences=st.lists(st.floats(0.0, 2.9), min_size=1, max_size=40), ago=st.floats(0.0, 100.0))
def test_nobody_that_beats_and_is_connected_is_ever_lost(silences: list[float], ago: float) -> None:
    nodes = [node(number, silent) for number, silent in enumerate(silences)]

    assert lost_members(scene(nodes, pace(ago))) == {}


# ---- others ------------------------------------------------------------------------------------------------------


def test_nodes_outside_the_generation_are_lost_by_less() -> None:
    others = (
        node(5, 0.2, closed=NOW - 0.2),
        node(6, 0.4, closed=NOW - 0.4),
        node(7, 0.1, closed=NOW - 0.1, reaped=True),
        node(8, 3.5),
        node(9, 0.5),
    )

    assert lost_others(scene([], Pace(), others)) == {
        "n6": "its stream closed and did not return",
        "n7": "its process has ended",
        "n8": "no beat for 3.5 s",
    }


def test_nobody_is_lost_by_silence_when_nobody_at_all_is_heard() -> None:
    assert lost_others(scene(world(3, 3), pace(4.0), (node(8, 3.5), node(9, 3.6)))) == {}


def test_of_nodes_that_fell_silent_for_one_cause_the_first_is_not_lost_before_the_last() -> None:
    """Beats are not in step: a port that dropped all packets for 5 s cost a run its spare."""
    members, spare = (node(0, 2.2), node(1, 2.5), node(2, 3.1)), node(9, 3.1)
    silent = scene(list(members), pace(ago=3.1), (spare,))

    assert (lost_members(silent), lost_others(silent)) == ({}, {})


# ---- the pace ----------------------------------------------------------------------------------------------------


def test_the_pace_is_known_after_five_steps_and_takes_steps_that_were_not_told_into_account() -> None:
    steps = Pace()

    firsts = [steps.completed(step, at) for step, at in ((4, 10.0), (4, 10.5), (3, 11.0), (6, 12.0), (7, 13.0))]

    assert firsts == [True, False, False, False, False]
    assert (steps.highest, steps.at, steps.first_at, steps.median()) == (7, 13.0, 10.0, None)
    for step in (8, 9, 10):
        steps.completed(step, 13.0 + (step - 7) * 2.0)
    assert steps.median() == 2.0


def test_a_step_that_is_told_late_does_not_turn_the_clock_back() -> None:
    steps = Pace()
    steps.completed(1, 10.0)

    steps.completed(2, 9.0)

    assert (steps.at, list(steps.durations)) == (10.0, [])


# ---- formation ---------------------------------------------------------------------------------------------------


def offer(number: int, fingerprint: str = "cpu", **more: object) -> Node:
    join = Join(sequence=1, store_port=5000 + number, fingerprint=fingerprint, processes=FACTS)
    return replace(node(number), join=join, **more)  # type: ignore[arg-type]


def before(*numbers: int, fingerprint: str | None = "cpu") -> Open:
    members = tuple(Member(node=f"n{number}", incarnation="i", processes=1) for number in numbers)
    store = StoreAddress(host="h", port=1)
    return Open(term=1, generation=4, members=members, store=store, nonce="a", fingerprint=fingerprint, time=0.0)


def names(plan: Plan) -> list[str] | None:
    return [member.node for member in plan.opening.members] if plan.opening else None


def test_the_plan_names_members_store_number_and_numerics() -> None:
    plan = draft([offer(2), offer(3)], None, Wanted(2, 1, first_generation=7), LIMITS, 0.0)

    members = tuple(Member(node=name, incarnation="i", processes=1) for name in ("n2", "n3"))
    store = StoreAddress(host="h2", port=5002)
    assert plan == Plan(OpenGeneration(7, members, store, "cpu", "first"), {})


def test_old_members_keep_their_order_and_spares_follow_by_arrival() -> None:
    nodes = [offer(1), offer(2), offer(3), offer(4), offer(5)]

    plan = draft(nodes, before(5, 9, 2), Wanted(4, 1), LIMITS, 0.0)

    assert names(plan) == ["n5", "n2", "n1", "n3"]
    assert plan.opening is not None
    assert plan.opening.generation == 5


@pytest.mark.parametrize(("waited", "expected"), [(4.9, None), (5.0, ["n0", "n2"])])
def test_an_old_member_that_still_stops_its_workers_is_waited_for_so_long(
    waited: float, expected: list[str] | None
) -> None:
    plan = draft([offer(0), node(1), offer(2)], before(0, 1), Wanted(2, 2), LIMITS, waited)

    assert names(plan) == expected


@pytest.mark.parametrize(
    ("offers", "waited", "expected"),
    [(2, 29.9, None), (2, 30.0, 2), (1, 99.0, None), (3, 0.0, 3), (4, 0.0, 3)],
)
def test_the_first_generation_waits_for_count_then_makes_do_with_min(
    offers: int, waited: float, expected: int | None
) -> None:
    found = names(draft([offer(number) for number in range(offers)], None, Wanted(3, 2), LIMITS, waited))

    assert (len(found) if found else None) == expected


def test_an_offer_without_a_stream_does_not_count() -> None:
    gone = offer(1, closed=NOW - 1.0)

    assert names(draft([offer(0), gone], before(9), Wanted(2, 1), LIMITS, 9.0)) == ["n0"]


def test_other_numerics_than_the_runs_are_refused_by_name_and_not_counted() -> None:
    plan = draft([offer(0, "old"), offer(1)], None, Wanted(2, 2, fingerprint="cpu"), LIMITS, 99.0)

    assert names(plan) is None
    assert list(plan.refused) == ["n0"]
    assert "old" in plan.refused["n0"]


def test_there_is_room_for_as_many_as_are_wanted_and_ready() -> None:
    nodes = [offer(0), offer(1), offer(2), node(3), offer(4, closed=NOW - 1)]

    words = [change(nodes, before(0, 9), Wanted(count, 1)) for count in (2, 3, 4, 9)]

    assert words == ["", "growth by 1", "growth by 2", "growth by 2"]


@pytest.mark.parametrize(
    ("wanted", "words", "members"),
    [
        (Wanted(2, 1), "to go on without n2", ["n0", "n1"]),
        (Wanted(3, 1, leaving=frozenset({"n1"})), "to go on without n1", ["n0", "n2", "n5"]),
        (Wanted(2, 1, leaving=frozenset({"n0"})), "to go on without n0", ["n1", "n2"]),
        (Wanted(3, 1, leaving=frozenset({"n5"})), "", ["n0", "n1", "n2"]),
        (Wanted(1, 1, leaving=frozenset({"n1", "n2", "n5"})), "to go on without n1, n2", ["n0"]),
        (Wanted(4, 4, leaving=frozenset({"n1"})), "growth by 1", ["n0", "n1", "n2", "n5"]),
    ],
    ids=[
        "fewer",
        "a spare takes the place",
        "the first leaves",
        "a spare leaves",
        "most leave",
        "nobody can be missed",
    ],
)
def test_a_generation_is_changed_into_the_one_that_is_then_drafted(
    wanted: Wanted, words: str, members: list[str]
) -> None:
    assert change([node(0), node(1), node(2), offer(5)], before(0, 1, 2), wanted) == words

    everybody = [offer(0), offer(1), offer(2), offer(5)]
    assert names(draft(everybody, before(0, 1, 2), wanted, LIMITS, 0.0)) == members


# ---- parking -----------------------------------------------------------------------------------------------------


def test_an_order_is_obeyed_once_the_step_that_they_parked_at_is_committed() -> None:
    parking = Parking()
    parking.stop("Ctrl-C", 30, NOW)
    told = [parking.obeyed()]
    parking.parked(7)
    told.append(parking.obeyed())
    parking.committed(6)
    told.append(parking.obeyed())
    parking.committed(7)
    told.append(parking.obeyed())

    assert told == [False, False, False, True]


def test_the_order_is_told_with_the_time_that_is_left() -> None:
    parking = Parking()
    assert parking.orders(before(0, 1), ("a",), NOW) == []

    parking.change("growth", 60, NOW)

    for later, left in ((20, 40), (90, 0)):
        order = StopOrder(generation=4, reason="growth", deadline_seconds=left)
        assert parking.orders(before(0, 1), ("a", "b"), NOW + later) == [Send("a", order), Send("b", order)]


def test_no_more_time_is_told_than_was_given_however_the_clock_rounds() -> None:
    clock = 2043.0920857201634
    assert (clock + 30) - clock > 30
    parking = Parking()

    parking.stop("Ctrl-C", 30, clock)

    order = StopOrder(generation=4, reason="Ctrl-C", deadline_seconds=30)
    assert parking.orders(before(0, 1), ("a",), clock) == [Send("a", order)]


def test_a_new_generation_has_grown_but_still_stops() -> None:
    grown, stopping = Parking(), Parking()
    grown.change("growth", 0, NOW)
    stopping.change("growth", 0, NOW)
    stopping.stop("Ctrl-C", 0, NOW)
    for parking in (grown, stopping):
        parking.parked(5)
        parking.committed(5)
        parking.generation_began(committed=-1)

    assert [grown.changing, grown.stopping, stopping.changing, stopping.stopping] == [False, False, False, True]
    assert [grown.step, stopping.step, stopping.obeyed()] == [-1, -1, False]


def test_growth_that_is_not_obeyed_in_time_is_forgotten_and_a_stop_is_not() -> None:
    growing, stopping = Parking(), Parking()
    growing.change("growth", 5, NOW)
    stopping.stop("Ctrl-C", 5, NOW)

    early = [parking.overdue(NOW + 4.9) for parking in (growing, stopping)]
    late = [parking.overdue(NOW + 5) for parking in (growing, stopping)]

    assert early == [[], []]
    assert late == [[], [Close("stopped: Ctrl-C; not committed in time, the last commit stands", ExitCode.STOPPED)]]
    assert (growing.order, stopping.stopping) == (None, True)
