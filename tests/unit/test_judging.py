"""What becomes of a generation that ended unplanned: nodes prove themselves, are replaced, or the run ends."""

from __future__ import annotations

from tessera_api.exit_codes import ExitCode
from tessera_api.failure import FailureClass, Rung
from tessera_api.inspection import Prove
from tessera_api.journal import EventName
from tessera_api.messages import Assign, Closed
from tessera_api.trouble import TroubleKind
from tessera_coordinator.core.effects import Fail, Judged
from tessera_coordinator.core.judging import PROOF_SECONDS
from tessera_coordinator.core.ladder import Ruling
from tessera_coordinator.core.state import State
from tests.unit.run_world import World, running

PLACE = "train.py:3 KeyError"


def crashes(world: World, name: str, *others: str, place: str = PLACE) -> None:
    """A trainer of `name` fails; all nodes join again."""
    world.trouble(name, TroubleKind.EXCEPTION, place)
    for node in (name, *others):
        world.join(node)


def rulings(world: World) -> list[Ruling]:
    return [effect.ruling for effect in world.others if isinstance(effect, Judged)]


def told(world: World, name: str, kind: type) -> list[object]:
    return [message for message in world.agents[name].inbox if isinstance(message, kind)]


def test_an_incident_is_told_its_class_node_rank_and_what_is_done() -> None:
    world = running()

    crashes(world, "n1", "n0", "n2")

    (ruling,) = rulings(world)
    assert (ruling.cause.failure, ruling.cause.node, ruling.cause.rank) == (FailureClass.WORKER_CRASH, "n1", 0)
    assert ruling.rung is Rung.RESTART
    (diagnosed,) = [event for event in world.said if event.name is EventName.DIAGNOSED]
    assert diagnosed.message == f"WorkerCrash on rank 0 at {PLACE}; RestartInPlace: broken"
    assert world.members() == ("n0", "n1", "n2")


def test_the_second_time_the_node_in_question_proves_itself_before_the_next_generation() -> None:
    world = running()
    world.proves = False
    crashes(world, "n1", "n0", "n2")
    crashes(world, "n1", "n0", "n2")

    assert told(world, "n1", Prove) == [Prove(join=3, reason=world.said[-1].message)]
    assert (told(world, "n0", Prove), world.machine.state) == ([], State.FORMING)
    world.join("n1")
    assert (world.members(), world.number()) == (("n0", "n1", "n2"), 3)


def test_a_long_proof_is_not_waited_for_and_a_node_that_knows_of_none_is_taken_in_the_end() -> None:
    world = running()
    world.proves = False
    crashes(world, "n1", "n0", "n2")
    crashes(world, "n1", "n0", "n2")

    world.after(5.2)
    assert world.members() == ("n0", "n2")
    world = running(least=3)
    world.proves = False
    crashes(world, "n1", "n0", "n2")
    crashes(world, "n1", "n0", "n2")
    world.after(PROOF_SECONDS - 1)
    assert world.members() == ()
    world.after(2)
    assert world.members() == ("n0", "n1", "n2")


def test_the_third_time_a_spare_takes_its_place_and_it_is_sent_away() -> None:
    world = running(spares=1)
    for _ in range(3):
        crashes(world, "n1", "n0", "n2")

    assert [ruling.rung for ruling in rulings(world)] == [Rung.RESTART, Rung.RE_FORM, Rung.REPLACE]
    assert world.members() == ("n0", "n2", "s0")
    (closed,) = told(world, "n1", Closed)
    assert isinstance(closed, Closed)
    assert closed.exit_code == ExitCode.REPLACED


def test_without_a_spare_the_run_shrinks_where_it_may_and_waits_where_it_may_not() -> None:
    shrinks, waits = running(least=2), running(least=3)
    for world in (shrinks, waits):
        for _ in range(3):
            crashes(world, "n1", "n0", "n2")

    assert (shrinks.members(), waits.members()) == (("n0", "n2"), ())
    waits.arrive("new")
    assert waits.members() == ("n0", "n2", "new")


def test_a_node_that_was_sent_away_is_told_again_whenever_it_speaks() -> None:
    world = running(spares=1)
    for _ in range(3):
        crashes(world, "n1", "n0", "n2")
    world.agents["n1"].inbox.clear()

    world.hello("n1")
    world.beat("n1")
    world.join("n1")

    assert [type(message) for message in world.agents["n1"].inbox] == [Closed]
    world.after(20, steps_by=("n0", "n2", "s0"))
    assert told(world, "n1", Assign) == []


def test_the_same_error_on_its_replacement_ends_the_run() -> None:
    world = running(spares=1)
    for _ in range(3):
        crashes(world, "n1", "n0", "n2")
    crashes(world, "s0", "n0", "n2")

    (failed,) = [effect for effect in world.others if isinstance(effect, Fail)]
    assert PLACE in failed.message
    assert rulings(world)[-1].cause.failure is FailureClass.USER_ERROR
    world.after(60)
    assert world.members() == ()


def test_a_node_found_lost_while_the_others_come_back_is_the_cause_of_their_crashes() -> None:
    world = running(spares=1)
    world.after(0.3)
    world.close_stream("n2")
    world.trouble("n1", TroubleKind.EXCEPTION, PLACE)
    world.join("n1")
    world.join("n0")
    world.after(1)

    (ruling,) = rulings(world)
    assert (ruling.cause.failure, ruling.cause.node, ruling.rung) == (FailureClass.LOST_NODE, "n2", Rung.REPLACE)
    assert world.members() == ("n0", "n1", "s0")
    assert told(world, "n1", Closed) == []


def test_a_planned_end_is_no_failure() -> None:
    world = running(count=2, least=1, spares=1)
    world.machine.wanted = world.machine.wanted.__class__(3, 1)
    world.after(12, steps_by=("n0", "n1"))
    world.carry_out(world.machine.phase(1, world.agents["n0"].phase.PARKED, 40, world.now))
    world.carry_out(world.machine.committed(1, 40, world.now))
    world.join("n0")
    world.join("n1")

    assert (rulings(world), world.members()) == ([], ("n0", "n1", "s0"))


def test_a_stop_code_of_wrong_input_ends_the_run_at_once() -> None:
    world = running()

    crashes(world, "n1", "n0", "n2", place="exit code 64")

    assert [type(effect) for effect in world.others if isinstance(effect, Fail)] == [Fail]
    assert [ruling.rung for ruling in rulings(world)] == [Rung.END]
