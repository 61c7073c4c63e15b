"""What is told about a run: stalls in node-seconds, whatever the number of ranks, and each step once."""

from __future__ import annotations

import pytest

from tessera_api.journal import StepLine
from tessera_api.log import Commit, Member, Open, StoreAddress
from tessera_coordinator.accounts import Accounts, Past
from tessera_coordinator.core.commits import ReadyCommit
from tessera_coordinator.core.incidents import Incidents
from tessera_coordinator.core.ledger import Activity, Ledger

OPEN = Open(
    term=1,
    generation=3,
    members=tuple(Member(node=name, incarnation="1", processes=8) for name in "ab"),
    store=StoreAddress(host="h", port=1),
    nonce="ab",
    time=0.0,
)


def line(step: int, generation: int = 3, data_seconds: float | None = None) -> StepLine:
    return StepLine(
        time=1.0, step=step, tokens=1, loss=1.0, generation=generation, world_size=16, data_seconds=data_seconds
    )


@pytest.mark.parametrize("adopted", [False, True], ids=["opened", "adopted"])
def test_stalls_are_counted_in_node_seconds_and_not_once_a_rank(adopted: bool) -> None:
    ledger = Ledger()
    accounts = Accounts(Incidents(), ledger, Past(0.0))
    if adopted:
        accounts.adopted(OPEN)
    else:
        accounts.opened(OPEN)
    ledger.spend(Activity.COMPUTING, 100.0)

    accounts.step(line(1, data_seconds=1.5))
    commit = Commit(term=1, generation=3, step=1, position=1, objects=(), time=0.0)
    accounts.committed(commit, ReadyCommit(3, 1, 1, (), 9.0, stall_seconds=2.0))

    seconds = {cause: value for cause, value in accounts.final_ledger(50.0).seconds.items() if value}
    assert seconds == {"compute": 93.0, "data_wait": 3.0, "checkpoint_stall": 4.0}


def test_a_step_is_new_once_in_each_generation() -> None:
    accounts = Accounts(Incidents(), Ledger(), Past(0.0))

    told = []
    for each in (line(1), line(1), line(2), line(1), line(1, generation=4), line(3, generation=3)):
        told.append(accounts.is_new(each))
        if told[-1]:
            accounts.step(each)

    assert told == [True, False, True, False, True, False]
