"""From what is seen of a generation's end to its cause: the first one decides, and what it did to others never does."""

from __future__ import annotations

import pytest

from tessera_api.failure import FailureClass
from tessera_coordinator.core.causes import MOST_EVIDENCE, Case, Cause, Evidence
from tessera_coordinator.core.failures import Sign, row_of

F = FailureClass


@pytest.mark.parametrize(
    ("sign", "place", "words", "failure"),
    [
        (Sign.PROGRAM, "train.py:3 KeyError", "KeyError: 'x'", F.WORKER_CRASH),
        (Sign.PROGRAM, "SIGSEGV", "ended by SIGSEGV, without a word", F.WORKER_CRASH),
        (Sign.PROGRAM, "", "ended by SIGKILL, without a word", F.WORKER_CRASH),
        (Sign.PROGRAM, "exit code 3", "ended by exit code 3, without a word", F.WORKER_CRASH),
        (Sign.PROGRAM, "exit code 64", "ended by exit code 64, without a word", F.USER_ERROR),
        (Sign.PROGRAM, "exit code 641", "ended by exit code 641, without a word", F.WORKER_CRASH),
        (Sign.PROGRAM, "out of memory: a trainer was killed", "out of memory: ...", F.OUT_OF_MEMORY),
        (Sign.PROGRAM, "train.py:9 MemoryError", "MemoryError: ", F.OUT_OF_MEMORY),
        (
            Sign.PROGRAM,
            "a.py:1 RuntimeError",
            "[enforce fail at alloc_cpu.cpp:128] err == 0. DefaultCPUAllocator: can't allocate memory: you tried",
            F.OUT_OF_MEMORY,
        ),
        (Sign.PROGRAM, "train.py:9 OutOfMemoryError", "CUDA out of memory. Tried to allocate", F.DEVICE_OUT_OF_MEMORY),
        (Sign.PROGRAM, "a.py:1 RuntimeError", "HIP out of memory", F.DEVICE_OUT_OF_MEMORY),
        (Sign.PROGRAM, "a.py:1 AcceleratorError", "CUDA error: uncorrectable ECC error encountered", F.SICK_DEVICE),
        (Sign.PROGRAM, "a.py:1 RuntimeError", "GPU has fallen off the bus", F.SICK_DEVICE),
        (Sign.PROGRAM, "a.py:1 SickDevice", "unit 3 had no finite loss on rank 1", F.SICK_DEVICE),
        (Sign.PROGRAM, "a.py:1 LossDiverged", "step 9: the loss rose, again", F.LOSS_SPIKE),
        (Sign.PROGRAM, "a.py:1 ForeignModel", "config.json: nobody here knows what x changes", F.USER_ERROR),
        (Sign.PROGRAM, "a.py:1 RuntimeError", "CUDA error: an illegal memory access", F.WORKER_CRASH),
        (Sign.STORAGE, "a.py:1 StoreUnavailable", "no answer", F.STORAGE),
        (Sign.LOST, "", "no beat for 3.0 s", F.LOST_NODE),
        (Sign.LEFT, "", "told to end", F.PREEMPTION),
        (Sign.LEFT, "", "unfit: device events: Xid 79 was reported", F.SICK_DEVICE),
        (Sign.LEFT, "", "unfit: folders: the disk is full", F.UNKNOWN),
        (Sign.LEFT, "", "agent ends: RuntimeError()", F.UNKNOWN),
        (Sign.HANG, "hang at train.py:9 step", "hang: nothing was computed", F.HANG),
        (Sign.REWOUND, "", "from step 9 to 4: a NaN gradient", F.NON_FINITE),
        (Sign.REWOUND, "", "from step 9 to 4: the loss rose by 3 nats", F.LOSS_SPIKE),
        (Sign.COLLECTIVE, "", "connection closed by peer", F.UNKNOWN),
        (Sign.QUIET, "", "its workers ended", F.UNKNOWN),
    ],
)
def test_the_table(sign: Sign, place: str, words: str, failure: FailureClass) -> None:
    assert row_of(sign, place, words).failure is failure


def test_training_that_diverges_again_and_again_is_not_tried_again() -> None:
    assert row_of(Sign.PROGRAM, "guard.py:9 LossDiverged", "step 9: the loss rose, again").permanent
    assert row_of(Sign.PROGRAM, "origin.py:9 ForeignModel", "config.json: nobody here knows what x changes").permanent
    assert not row_of(Sign.PROGRAM, "train.py:9 ZeroDivisionError", "").permanent


def test_every_sign_has_a_row_that_takes_whatever_is_left() -> None:
    assert all(row_of(sign, "", "").failure in F for sign in Sign)


def crash(at: float, rank: int, place: str = "train.py:3 KeyError", node: str | None = None) -> Evidence:
    return Evidence(Sign.PROGRAM, at, node or f"node-{rank}", rank, place, "broken")


def broken(at: float, node: str) -> Evidence:
    return Evidence(Sign.COLLECTIVE, at, node, 0, words="closed by peer")


def lost(at: float, node: str) -> Evidence:
    return Evidence(Sign.LOST, at, node, words="no beat")


def judged(*evidence: Evidence, ranks: int = 8, stepped: bool = True) -> Cause:
    case = Case()
    for seen in evidence:
        case.add(seen)
    cause = case.cause(ranks, stepped)
    assert cause is not None
    return cause


def test_nothing_seen_is_no_cause() -> None:
    assert Case().cause(8, True) is None


def test_who_crashed_is_the_cause_and_not_those_whose_collective_broke_of_it() -> None:
    found = judged(broken(1.0, "node-1"), broken(1.1, "node-2"), crash(1.4, 3))

    assert (found.failure, found.node, found.rank, found.place) == (F.WORKER_CRASH, "node-3", 3, "train.py:3 KeyError")


def test_a_node_that_was_silent_since_before_a_crash_is_the_cause_although_it_was_found_lost_later() -> None:
    found = judged(crash(5.0, 3), broken(4.6, "node-1"), lost(4.2, "node-2"))

    assert (found.failure, found.node, found.place) == (F.LOST_NODE, "node-2", "")


def test_an_abort_near_another_failure_is_its_consequence_and_a_lone_one_a_crash() -> None:
    abort = crash(4.0, 3, "SIGABRT")

    assert judged(abort, lost(9.0, "node-2")).failure is F.LOST_NODE
    assert judged(abort, lost(20.0, "node-2")).place == "SIGABRT"
    assert judged(broken(3.9, "node-1"), abort).failure is F.WORKER_CRASH


def test_of_a_collective_that_broke_for_itself_nobody_is_to_blame() -> None:
    assert judged(broken(1.0, "node-1")) == Cause(F.UNKNOWN, "", words="closed by peer")


@pytest.mark.parametrize(
    ("ranks", "stepped", "failure"),
    [(4, False, F.USER_ERROR), (5, False, F.WORKER_CRASH), (4, True, F.WORKER_CRASH)],
)
def test_what_half_of_the_ranks_meet_before_the_first_step_is_the_users(
    ranks: int, stepped: bool, failure: FailureClass
) -> None:
    found = judged(crash(1.0, 0), crash(1.2, 1), crash(1.3, 2, "other.py:9 OSError"), ranks=ranks, stepped=stepped)

    assert (found.failure, found.nodes) == (failure, frozenset({"node-0", "node-1"}))


def test_what_is_seen_twice_counts_once_and_what_is_kept_is_bounded() -> None:
    case = Case()
    for _ in range(2):
        case.add(crash(1.0, 0))
    assert len(case.evidence) == 1
    for rank in range(2 * MOST_EVIDENCE):
        case.add(crash(2.0, rank))
    assert len(case.evidence) == MOST_EVIDENCE
