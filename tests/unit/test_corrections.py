"""What trainers wish for (go back, leave data out) stands in the log, once, if it can be; on a real coordinator."""

from __future__ import annotations

from pathlib import Path

import pytest

from tessera_api.log import Rewind, Rewound, Skip, Skipped
from tessera_api.messages import Ack, Committed, Restart, RewindRequest, SkipRequest
from tessera_api.record import Record
from tessera_api.seat import Seat
from tests.unit.live_coordinator import FakePeer, LiveCoordinator, part, tell


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def test_training_goes_back_and_leaves_data_out_as_the_log_says(folder: Path) -> None:
    with LiveCoordinator(folder) as place:

        async def story() -> tuple[Restart, Seat]:
            agent = await FakePeer.connect(place, "node-0")
            opening = await agent.join()
            agent.say(part(opening, 0, 5), 1)
            await agent.hear(Committed)
            agent.say(SkipRequest(generation=1, first=50, last=60, reason="spike"), 2)
            agent.say(RewindRequest(generation=1, from_step=7, to_step=5, reason="spike"), 3)
            restart = await agent.hear(Restart)
            return restart, await agent.join(2)

        restart, opening = tell(story())

        skip, rewind = place.entry(Skip), place.entry(Rewind)
        assert restart.generation == 1
        assert (skip.first, skip.last, rewind.from_step, rewind.to_step) == (50, 60, 7, 5)
        assert opening.resume is not None
        assert (opening.generation, opening.resume.step, opening.resume.position) == (2, 5, 50)
        assert [(span.first, span.last) for span in opening.skips] == [(50, 60)]


def test_training_goes_back_to_the_newest_checkpoint_before_and_the_next_generation_knows_how(folder: Path) -> None:
    with LiveCoordinator(folder) as place:

        async def story() -> Seat:
            agent = await FakePeer.connect(place, "node-0")
            opening = await agent.join()
            for number, step in enumerate((5, 10), 1):
                agent.say(part(opening, 0, step), number)
                await agent.hear(Committed)
            span = Skipped(first=90, last=140)
            agent.say(RewindRequest(generation=1, from_step=12, to_step=9, reason="spike", skip=span, slower=True), 3)
            await agent.hear(Restart)
            return await agent.join(2)

        opening = tell(story())
        assert opening.resume is not None
        assert (opening.resume.step, opening.skips) == (5, (Skipped(first=90, last=140),))
        assert opening.rewinds == (Rewound(to_step=5, from_step=12, slower=True),)


def test_a_rewind_to_the_beginning_needs_no_checkpoint(folder: Path) -> None:
    with LiveCoordinator(folder) as place:

        async def story() -> Seat:
            agent = await FakePeer.connect(place, "node-0")
            opening = await agent.join()
            agent.say(part(opening, 0, 5), 1)
            await agent.hear(Committed)
            agent.say(RewindRequest(generation=1, from_step=7, to_step=0, reason="spike"), 2)
            await agent.hear(Restart)
            return await agent.join(2)

        opening = tell(story())
        assert (opening.generation, opening.resume) == (2, None)


@pytest.mark.parametrize(
    "request_",
    [
        RewindRequest(generation=1, from_step=7, to_step=5, reason="nothing left out", skip=Skipped(first=9, last=9)),
        RewindRequest(generation=1, from_step=3, to_step=5, reason="forwards"),
        RewindRequest(generation=9, from_step=7, to_step=5, reason="another generation"),
        SkipRequest(generation=1, first=60, last=60, reason="nothing"),
        SkipRequest(generation=1, first=60, last=50, reason="backwards"),
        SkipRequest(generation=9, first=50, last=60, reason="another generation"),
    ],
    ids=lambda request_: f"{request_.kind} {request_.reason}",
)
def test_a_trainers_impossible_wish_is_refused_and_the_coordinator_lives(folder: Path, request_: Record) -> None:
    with LiveCoordinator(folder) as place:

        async def story() -> None:
            agent = await FakePeer.connect(place, "node-0")
            opening = await agent.join()
            agent.say(part(opening, 0, 5), 1)
            await agent.hear(Committed)
            agent.say(request_, 2)
            assert await agent.hear(Ack) in (Ack(sequence=1), Ack(sequence=2))
            agent.say(part(opening, 0, 8), 3)
            await agent.hear(Committed)

        tell(story())
        assert [entry.kind for entry in place.log()] == ["claim", "open", "commit", "commit"]
        assert place.event("Note")["message"]


def test_a_wish_that_is_said_again_is_written_once(folder: Path) -> None:
    with LiveCoordinator(folder) as place:

        async def story() -> None:
            agent = await FakePeer.connect(place, "node-0")
            opening = await agent.join()
            agent.say(part(opening, 0, 5), 1)
            for _ in range(2):
                agent.say(SkipRequest(generation=1, first=50, last=60, reason="spike"), 2)
            for _ in range(2):
                agent.say(RewindRequest(generation=1, from_step=7, to_step=5, reason="spike"), 3)
            await agent.hear(Restart)
            await agent.join(2)

        tell(story())
        assert [entry.kind for entry in place.log()] == ["claim", "open", "commit", "skip", "rewind", "open"]
