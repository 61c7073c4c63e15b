"""Incidents: what was lost, when it was noticed, when training went on, and what had to be done again."""

from __future__ import annotations

from tessera_api.failure import FailureClass, Rung
from tessera_api.incident import Finding, Incident
from tessera_api.journal import EvidenceLine
from tessera_coordinator.core.causes import Cause, Evidence
from tessera_coordinator.core.failures import Sign
from tessera_coordinator.core.incidents import Incidents, findings_of
from tessera_coordinator.core.ladder import Ruling
from tessera_coordinator.journal import MAX_LINE_BYTES


def test_an_incident_from_its_beginning_until_training_is_past_where_it_was() -> None:
    incidents = Incidents()

    told = [
        [incidents.begin("node-1: gone", ("node-1",), 3, highest=10, now=100.0)],
        incidents.stepped(11, 100.5),
        incidents.opened(4, 101.0),
        incidents.stepped(9, 102.0),
        incidents.stepped(10, 103.0),
        incidents.stepped(11, 104.0),
        incidents.stepped(12, 105.0),
    ]

    begun = Incident(
        number=1,
        cause="node-1: gone",
        nodes=("node-1",),
        detected=100.0,
        generation_before=3,
        highest_step_before=10,
    )
    reopened = begun.model_copy(update={"generation_after": 4, "opened": 101.0})
    stepping = reopened.model_copy(update={"next_step": 102.0, "first_step_after": 9, "steps_lost": 2})
    passed = stepping.model_copy(update={"passed_highest": 104.0})
    assert told == [[begun], [], [reopened], [stepping], [], [passed], []]
    assert (incidents.count, incidents.steps_lost) == (1, 2)


def test_a_generation_that_loses_nothing_passes_at_its_first_step() -> None:
    incidents = Incidents()
    incidents.begin("c", (), 1, highest=10, now=1.0)
    incidents.opened(2, 2.0)

    (done,) = incidents.stepped(11, 3.0)

    assert (done.first_step_after, done.steps_lost, done.next_step, done.passed_highest) == (11, 0, 3.0, 3.0)


def test_an_incident_before_the_first_step_loses_none() -> None:
    incidents = Incidents()
    incidents.begin("c", (), 1, highest=-1, now=1.0)
    incidents.opened(2, 2.0)

    (done,) = incidents.stepped(1, 3.0)

    assert (done.steps_lost, done.passed_highest) == (0, 3.0)


def test_a_second_incident_before_the_next_step_moves_the_firsts_opening() -> None:
    incidents = Incidents()
    incidents.begin("first", (), 1, highest=10, now=1.0)
    incidents.opened(2, 2.0)
    incidents.begin("second", (), 2, highest=10, now=3.0)

    changed = incidents.opened(3, 4.0)

    assert [(each.cause, each.generation_after, each.opened) for each in changed] == [
        ("first", 3, 4.0),
        ("second", 3, 4.0),
    ]


def test_a_restarted_coordinator_goes_on_where_the_documents_end() -> None:
    before = Incidents()
    documents = {1: before.begin("first", ("a",), 1, highest=5, now=1.0), 2: None}
    for changed in (before.opened(2, 2.0), before.stepped(4, 3.0), before.stepped(6, 4.0)):
        documents |= {each.number: each for each in changed}
    documents[2] = before.begin("second", ("b",), 2, highest=9, now=5.0)
    after = Incidents.resumed([each for each in documents.values() if each is not None])

    assert (after.count, after.steps_lost) == (2, 2)
    assert [each.number for each in after.opened(3, 6.0)] == [2]
    assert after.begin("third", (), 3, 9, 7.0).number == 3


def test_what_it_was_is_known_once_it_is_judged_and_counted_by_class() -> None:
    incidents = Incidents()
    incidents.begin("n1: its workers ended", ("n1",), 3, highest=10, now=1.0)
    cause = Cause(FailureClass.WORKER_CRASH, "train.py:3 KeyError", "n1", 4, "KeyError: 'x'")

    (judged,) = incidents.judged(3, Ruling(cause, Rung.RE_FORM, 2))

    assert (judged.failure, judged.node, judged.rank) == (FailureClass.WORKER_CRASH, "n1", 4)
    assert (judged.place, judged.words, judged.action) == ("train.py:3 KeyError", "KeyError: 'x'", Rung.RE_FORM)
    assert incidents.classes == {FailureClass.WORKER_CRASH: 1}
    assert Incidents.resumed([judged]).classes == {FailureClass.WORKER_CRASH: 1}
    assert incidents.judged(99, Ruling(cause, Rung.RESTART, 1)) == []


def test_the_bundle_of_an_incident_is_in_order_of_time_and_fits_into_a_line_of_the_journal() -> None:
    nasty = '\x00"' * 4000
    seen = [Evidence(Sign.PROGRAM, float(-n), f"n{n}", n, nasty[:300], nasty, nasty) for n in range(200)]

    findings = findings_of(seen, past=1000.0)

    assert [finding.time for finding in findings[:2]] == [801.0, 802.0]
    assert findings[0].log != ""
    assert len(EvidenceLine(number=1, findings=findings).canonical()) < MAX_LINE_BYTES


def test_a_log_that_fits_is_kept_whole() -> None:
    (finding,) = findings_of([Evidence(Sign.PROGRAM, 1.0, "n1", 0, "SIGSEGV", "no word", "the last line")], 0.0)

    assert finding == Finding(
        kind="a trainer ended", time=1.0, node="n1", rank=0, place="SIGSEGV", words="no word", log="the last line"
    )
