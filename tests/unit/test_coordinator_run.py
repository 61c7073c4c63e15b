"""A run's life on a real coordinator, end to end on loopback: steps, commits, stops, ends, restarts."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tessera_api.exit_codes import ExitCode
from tessera_api.inspection import Prove
from tessera_api.log import Commit, End
from tessera_api.messages import (
    Ack,
    Assign,
    Beat,
    Closed,
    Committed,
    Finished,
    Join,
    Note,
    Phase,
    PhaseChange,
    Restart,
    Role,
    StatusAnswer,
    StepRecord,
    Steps,
    StopOrder,
    Verdict,
    VerdictWord,
)
from tessera_api.orders import StatusQuestion, StopRun
from tessera_api.record import Record
from tessera_api.seat import Seat
from tests.unit.live_coordinator import FACTS, FakePeer, LiveCoordinator, part, stored, tell


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def steps(opening: Seat, *numbers: int, loss: float = 2.5) -> Steps:
    records = tuple(StepRecord(step=step, tokens=step, loss=loss, time=float(step)) for step in numbers)
    return Steps(generation=opening.generation, records=records)


def test_steps_become_lines_once_each_and_late_ones_of_an_older_generation_none(folder: Path) -> None:
    with LiveCoordinator(folder) as place:

        async def story() -> None:
            agent = await FakePeer.connect(place, "node-0")
            opening = await agent.join()
            agent.say(steps(opening, 1, 2), 1)
            agent.say(steps(opening, 1, 2), 1)
            agent.say(steps(opening.model_copy(update={"generation": 9}), 3), 2)
            agent.say(steps(opening, 3), 3)
            for _ in range(4):
                await agent.hear(Ack)

        tell(story())
        assert [(line["step"], line["generation"], line["world_size"]) for line in place.metrics(3)] == [
            (1, 1, 1),
            (2, 1, 1),
            (3, 1, 1),
        ]


@pytest.mark.parametrize("their_clock", [-3600.0, 0.0, 3600.0])
def test_a_step_is_as_old_as_its_node_says_whatever_the_nodes_clock_shows(folder: Path, their_clock: float) -> None:
    with LiveCoordinator(folder) as place:

        async def story() -> float:
            agent = await FakePeer.connect(place, "node-0")
            opening = await agent.join()
            sent = time.time()
            record = StepRecord(step=1, tokens=1, loss=2.0, time=sent + their_clock - 40.0)
            agent.say(Steps(generation=opening.generation, records=(record,), sent=sent + their_clock), 1)
            await agent.hear(Ack)
            return sent

        sent = tell(story())
        [line] = place.metrics(1)
        assert -40.0 <= line["time"] - sent < -35.0
        assert place.coordinator is not None
        at = place.coordinator.membership.pace.at
        assert at is not None
        assert 35.0 < time.monotonic() - at < 60.0


def test_a_checkpoint_is_committed_with_its_last_part_and_then_acknowledged(folder: Path) -> None:
    with LiveCoordinator(folder, count=2, least=2) as place:

        async def story() -> Seat:
            one, two = await FakePeer.connect(place, "node-0"), await FakePeer.connect(place, "node-1")
            one.say(Join(sequence=1, store_port=5000, fingerprint="cpu", processes=FACTS))
            opening = await two.join()
            one.say(part(opening, 0, 5), 7)
            two.say(part(opening, 1, 5), 8)
            for agent in (one, two):
                assert await agent.hear(Committed) == Committed(generation=1, step=5)
            one.say(part(opening, 0, 5), 9)
            assert await one.hear(Ack) == Ack(sequence=9)
            return opening

        opening = tell(story())
        commit = place.entry(Commit)
    objects = (stored(opening, 0, 5), stored(opening, 1, 5))
    assert (commit.step, commit.position, commit.objects, commit.generation) == (5, 50, objects, 1)


async def broken(place: LiveCoordinator) -> tuple[FakePeer, FakePeer, Seat]:
    """A generation of two that is over: the second member has no workers any more, the first is told to stop its."""
    one, two = await FakePeer.connect(place, "node-0"), await FakePeer.connect(place, "node-1")
    one.say(Join(sequence=1, store_port=5000, fingerprint="cpu", processes=FACTS))
    opening = await two.join()
    two.stream.close()
    two = await FakePeer.connect(place, "node-1")
    two.say(Join(sequence=2, store_port=5000, fingerprint="cpu", processes=FACTS))
    await one.hear(Restart)
    return one, two, opening


async def taken(one: FakePeer, two: FakePeer) -> Assign:
    """Both offer themselves, after a proof of the one whose workers ended, and are taken."""
    one.say(Join(sequence=2, store_port=5000, fingerprint="cpu", processes=FACTS))
    await two.hear(Prove)
    two.say(Join(sequence=3, store_port=5000, fingerprint="cpu", processes=FACTS))
    await one.hear(Assign)
    return await two.hear(Assign)


def test_parts_that_are_stored_after_their_generation_is_over_count_for_the_next(folder: Path) -> None:
    with LiveCoordinator(folder, count=2, least=2) as place:

        async def story() -> Assign:
            one, two, opening = await broken(place)
            two.say(part(opening, 1, 5), 7)
            one.say(part(opening, 0, 5), 7)
            await one.hear(Committed)
            return await taken(one, two)

        resume = tell(story()).seat.resume
        assert (resume.step if resume else None) == 5


def test_a_part_is_void_once_the_next_generation_is_open_and_nobody_is_told_that_it_was_committed(
    folder: Path,
) -> None:
    with LiveCoordinator(folder, count=2, least=2) as place:

        async def story() -> list[Record]:
            one, two, opening = await broken(place)
            one.say(part(opening, 0, 5), 7)
            await taken(one, two)
            two.say(part(opening, 1, 5), 9)
            heard: list[Record] = []
            while not isinstance(message := await two.next(), Ack):
                heard.append(message)
            return heard

        assert not any(isinstance(message, Committed) for message in tell(story()))
        assert [entry for entry in place.log() if isinstance(entry, Commit)] == []


def test_a_part_that_cannot_be_is_refused_with_a_note_and_not_asked_for_again(folder: Path) -> None:
    with LiveCoordinator(folder) as place:

        async def story() -> Ack:
            agent = await FakePeer.connect(place, "node-0")
            opening = await agent.join()
            agent.say(part(opening, 0, 5).model_copy(update={"rank": 5}), 3)
            return await agent.hear(Ack)

        assert tell(story()) == Ack(sequence=3)
        assert "rank 5 in a world of 1" in place.event("Note")["message"]


def test_a_stop_parks_commits_and_ends_with_stopped(folder: Path) -> None:
    with LiveCoordinator(folder) as place:

        async def story() -> tuple[StopOrder, Closed]:
            agent = await FakePeer.connect(place, "node-0")
            opening = await agent.join()
            agent.say(steps(opening, 1), 1)
            controller = await FakePeer.connect(place, "cli", Role.CONTROLLER)
            controller.say(StopRun(reason="Ctrl-C", deadline_seconds=30))
            order = await agent.hear(StopOrder)
            controller.say(StatusQuestion())
            assert (await controller.hear(StatusAnswer)).status["phase"] == "Stopping"
            agent.say(part(opening, 0, 1), 2)
            agent.say(PhaseChange(generation=1, phase=Phase.PARKED, step=1), 3)
            closed = await agent.hear(Closed)
            agent.stream.close()
            return order, closed

        order, closed = tell(story())

        assert place.ended() is ExitCode.STOPPED
        status = json.loads(place.directory.status.read_text())
        assert (order.generation, order.reason, 25 < order.deadline_seconds <= 30) == (1, "Ctrl-C", True)
        assert closed.exit_code == ExitCode.STOPPED
        assert (status["phase"], status["step"], status["nodes"]) == ("Stopped", "1/10", "0/1")
        assert place.entry(Commit).step == 1


def test_the_run_is_complete_when_all_have_finished(folder: Path) -> None:
    with LiveCoordinator(folder) as place:

        async def story() -> Verdict:
            agent = await FakePeer.connect(place, "node-0")
            opening = await agent.join()
            agent.say(steps(opening, 10), 1)
            agent.say(part(opening, 0, 10), 2)
            await agent.hear(Committed)
            agent.say(Finished(generation=1), 3)
            verdict = await agent.hear(Verdict)
            agent.stream.close()
            return verdict

        assert tell(story()) == Verdict(generation=1, say=VerdictWord.GO)
        assert place.ended() is ExitCode.DONE
        end = place.entry(End)
        assert (end.reason, json.loads(place.directory.status.read_text())["phase"]) == ("complete", "Succeeded")


def test_a_run_whose_trainers_end_before_the_last_step_is_committed_has_failed(folder: Path) -> None:
    """`sys.exit(0)` in a program is no complete run."""
    with LiveCoordinator(folder) as place:

        async def story() -> Closed:
            agent = await FakePeer.connect(place, "node-0")
            opening = await agent.join()
            agent.say(part(opening, 0, 9), 1)
            agent.say(Finished(generation=1), 2)
            closed = await agent.hear(Closed)
            agent.stream.close()
            return closed

        assert tell(story()).exit_code == ExitCode.TROUBLE
        assert place.ended() is ExitCode.TROUBLE
        end = place.entry(End)
        assert (end.reason, "the newest commit is of step 9 of 10" in end.message) == ("failed", True)


def test_a_controller_is_answered_with_the_status_and_who_is_counted(folder: Path) -> None:
    with LiveCoordinator(folder) as place:

        async def story() -> StatusAnswer:
            agent, spare = await FakePeer.connect(place, "node-0"), await FakePeer.connect(place, "node-1")
            opening = await agent.join()
            spare.say(Beat(processes=FACTS))
            agent.say(steps(opening, 4), 1)
            await agent.hear(Ack)
            controller = await FakePeer.connect(place, "cli", Role.CONTROLLER)
            controller.say(StatusQuestion(), 5)
            answer = await controller.hear(StatusAnswer)
            assert await controller.hear(Ack) == Ack(sequence=5)
            return answer

        answer = tell(story())
        assert (answer.active, answer.spare, answer.closed) == (("node-0",), ("node-1",), None)
        assert (answer.status["phase"], answer.status["step"]) == ("Running", "4/10")


def test_trouble_with_the_storage_is_an_event_whoever_meets_it(folder: Path) -> None:
    with LiveCoordinator(folder) as place:

        async def story() -> None:
            agent = await FakePeer.connect(place, "node-0")
            for number, name in enumerate(("StorageTrouble", "StorageBack"), 1):
                agent.say(Note(name=name, message="the save of step 5", numbers={"seconds": 0.5}), number)
                await agent.hear(Ack)

        tell(story())
        assert place.coordinator is not None
        place.coordinator.scribe.on_trouble("no route")
        place.coordinator.scribe.on_trouble(None)
        for name in ("StorageTrouble", "StorageBack"):
            said = [(event.get("node"), event["message"]) for event in place.events(name)]
            assert said[0] == ("node-0", "the save of step 5")
            assert said[1][0] is None
        assert "no route" in place.events("StorageTrouble")[1]["message"]


def test_a_restarted_coordinator_goes_on_with_the_generation_that_runs(folder: Path) -> None:
    async def first(place: LiveCoordinator) -> Seat:
        agent = await FakePeer.connect(place, "node-0")
        opening = await agent.join()
        agent.say(steps(opening, 1), 1)
        await agent.hear(Ack)
        return opening

    async def second(place: LiveCoordinator, opening: Seat) -> None:
        agent = await FakePeer.connect(place, "node-0", holding=opening, term_seen=1)
        agent.say(steps(opening, 1, 2), 2)
        agent.say(part(opening, 0, 2), 3)
        await agent.hear(Committed)

    with LiveCoordinator(folder) as place:
        opening = tell(first(place))
    with LiveCoordinator(folder, adopt=True) as place:
        tell(second(place, opening))

        assert [(entry.kind, entry.term) for entry in place.log()] == [
            ("claim", 1),
            ("open", 1),
            ("claim", 2),
            ("commit", 2),
        ]
        assert [line["step"] for line in place.metrics(2)] == [1, 2]
