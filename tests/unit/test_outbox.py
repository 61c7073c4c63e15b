"""Reports that must arrive: repeated until they are safe, forgotten once they are or no longer matter, bounded."""

from __future__ import annotations

from tessera_api.messages import Finished, Leave, Note, Part, Report, StepRecord, Steps
from tessera_api.trouble import Trouble, TroubleKind
from tessera_trainer.outbox import MAX_KEPT, MAX_RECORDS, Outbox, as_sent


def note(text: str, generation: int = 1) -> Note:
    return Note(generation=generation, name="Note", message=text)


def part(step: int, generation: int = 1) -> Part:
    return Part(generation=generation, rank=0, step=step, position=step, objects=())


def record(step: int) -> StepRecord:
    return StepRecord(step=step, tokens=step, loss=1.0, time=float(step))


def kept(outbox: Outbox) -> list[Report]:
    return [report for _, report in outbox.unsafe()]


def test_what_is_not_acknowledged_is_said_again_in_order_and_under_its_number() -> None:
    outbox = Outbox()
    said = [outbox.add(note(text)) for text in "abc"]

    outbox.acknowledged(2)
    outbox.acknowledged(99)

    assert said == [(1, note("a")), (2, note("b")), (3, note("c"))]
    assert outbox.unsafe() == [(1, note("a")), (3, note("c"))]


def test_a_number_is_never_used_twice() -> None:
    outbox = Outbox()
    outbox.add(note("a"))
    outbox.acknowledged(1)

    assert outbox.add(note("b"))[0] == 2


def test_parts_are_kept_until_their_checkpoint_or_a_later_one_is_committed() -> None:
    outbox = Outbox()
    for step in (5, 10, 15):
        outbox.add(part(step))

    outbox.committed(1, 10)

    assert kept(outbox) == [part(15)]


def test_a_commit_of_an_older_generation_says_nothing_of_this_ones_parts() -> None:
    outbox = Outbox()
    outbox.add(part(5, generation=2))

    outbox.committed(1, 10)

    assert kept(outbox) == [part(5, generation=2)]


def test_a_new_generation_forgets_what_older_ones_said_but_for_notes_and_leaving() -> None:
    outbox = Outbox()
    outbox.step(record(9))
    trouble = Trouble(generation=1, what=TroubleKind.COLLECTIVE, rank=0)
    for report in (note("a"), part(5), trouble, Finished(generation=1), Leave(reason="x"), part(7, generation=2)):
        outbox.add(report)

    outbox.generation_began(2)

    assert kept(outbox) == [note("a"), Leave(reason="x"), part(7, generation=2)]
    assert outbox.take_steps(2) is None


def test_steps_that_wait_share_messages_of_bounded_size() -> None:
    outbox = Outbox()
    for step in range(MAX_RECORDS + 1):
        outbox.step(record(step))

    taken = [outbox.take_steps(3), outbox.take_steps(3), outbox.take_steps(3)]

    first = Steps(generation=3, records=tuple(record(step) for step in range(MAX_RECORDS)))
    assert taken == [(1, first), (2, Steps(generation=3, records=(record(MAX_RECORDS),))), None]


def test_steps_say_when_they_are_sent_and_other_messages_stay_as_they_are() -> None:
    steps = Steps(generation=3, records=(record(1),))

    assert as_sent(steps, 7.5) == Steps(generation=3, records=(record(1),), sent=7.5)
    assert as_sent(note("a"), 7.5) == note("a")


def test_it_is_bounded_and_gives_up_steps_and_notes_first_and_parts_last() -> None:
    outbox = Outbox()
    outbox.add(part(1))
    outbox.add(Finished(generation=1))
    outbox.add(note("a"))
    for step in range(2, MAX_KEPT - 1):
        outbox.add(part(step))
    assert len(kept(outbox)) == MAX_KEPT

    outbox.add(part(MAX_KEPT))
    outbox.add(part(MAX_KEPT + 1))

    assert (len(kept(outbox)), outbox.dropped) == (MAX_KEPT, 2)
    assert all(isinstance(report, Part) for report in kept(outbox))
    assert kept(outbox)[0] == part(1)
