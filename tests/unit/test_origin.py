"""The run that first weights come from: its last commit is pinned once, and only of a complete run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tessera_api.log import Commit, End, Open, StoreAddress, StoredObject
from tessera_api.log import Member as LogMember
from tessera_api.resolved_run import FirstWeights, ResolvedOrigin, ResolvedRun
from tessera_api.run_directory import ORIGIN_NAME
from tessera_coordinator.origin import OriginUnfit, pin_origin
from tessera_coordinator.run_log import RunLog
from tessera_store import ObjectMissing, Store, open_store
from tests.unit.operator_world import a_start

PART = StoredObject(name="checkpoints/9/part-0", size=4, sha256="a" * 64)
MEMBER = LogMember(node="n0", incarnation="i", processes=1)
OPEN = Open(term=1, generation=1, members=(MEMBER,), store=StoreAddress(host="n0", port=1), nonce="x", time=0.0)
COMMIT = Commit(term=1, generation=1, step=9, position=72, objects=(PART,), time=0.0)


@pytest.fixture
def base(tmp_path: Path) -> Store:
    return open_store((tmp_path / "base").as_uri())


@pytest.fixture
def own(tmp_path: Path) -> Store:
    return open_store((tmp_path / "own").as_uri())


def train(base: Store, *entries: Open | Commit | End) -> None:
    log = RunLog(base)
    log.claim("test", 0.0)
    for entry in entries:
        log.append(entry)


def chained(base: Store) -> ResolvedRun:
    return a_start().model_copy(update={"origin": ResolvedOrigin(run="base", storage=base.uri)})


def test_the_last_commit_of_a_complete_run_is_left_for_the_ranks(base: Store, own: Store) -> None:
    train(base, OPEN, COMMIT, End(term=1, reason="complete", message="done", time=0.0))

    pin_origin(own, chained(base))

    first = FirstWeights.model_validate_json(own.get(ORIGIN_NAME))
    assert first == FirstWeights(storage=base.uri, step=9, objects=(PART,))


def test_what_was_pinned_stays_whatever_becomes_of_the_other_run(base: Store, own: Store, tmp_path: Path) -> None:
    train(base, OPEN, COMMIT, End(term=1, reason="complete", message="done", time=0.0))
    pin_origin(own, chained(base))
    before = own.get(ORIGIN_NAME)

    pin_origin(own, chained(open_store((tmp_path / "emptied").as_uri())))

    assert own.get(ORIGIN_NAME) == before


@pytest.mark.parametrize(
    "entries",
    [(), (OPEN, COMMIT), (OPEN, COMMIT, End(term=1, reason="failed", message="no", time=0.0))],
    ids=["nothing trained", "not ended", "failed"],
)
def test_a_run_that_is_not_complete_gives_no_weights(
    base: Store, own: Store, entries: tuple[Open | Commit | End, ...]
) -> None:
    train(base, *entries)

    with pytest.raises(OriginUnfit, match="holds no complete run: complete base first"):
        pin_origin(own, chained(base))
    with pytest.raises(ObjectMissing):
        own.get(ORIGIN_NAME)


def test_a_run_with_fresh_weights_leaves_nothing(own: Store) -> None:
    pin_origin(own, a_start())

    with pytest.raises(ObjectMissing):
        own.get(ORIGIN_NAME)
