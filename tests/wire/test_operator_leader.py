"""The operator's election on a Lease of a real API server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from kubernetes.aio import client, config

from tessera_operator.cluster import Cluster, ClusterError
from tessera_operator.leader import LEASE_SECONDS, RENEW_SECONDS, Leader, LeadershipLost
from tests.cluster.control_plane import ControlPlane


class Clock:
    """A monotonic clock that a test turns."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Away(Cluster):
    """An API server that cannot be reached while `away`."""

    away = False

    async def _call(self, *more: Any, **words: Any) -> dict[str, Any]:
        if self.away:
            raise ClusterError(0, "no route")
        return await super()._call(*more, **words)


@asynccontextmanager
async def candidates(plane: ControlPlane, lease: str) -> AsyncIterator[tuple[Leader, Leader, Clock, Away]]:
    await config.load_kube_config(str(plane.kubeconfig))
    clock, first, second = Clock(), Away(client.ApiClient()), Cluster(client.ApiClient())
    try:
        one, two = (Leader(c, "default", lease, name, clock) for c, name in ((first, "one"), (second, "two")))
        yield one, two, clock, first
    finally:
        await first.close()
        await second.close()


def run(story: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await story

    asyncio.run(limited())


def test_of_two_one_leads_and_the_other_takes_over_when_the_lease_stood_still_for_its_time(plane: ControlPlane) -> None:
    async def story() -> None:
        async with candidates(plane, "takeover") as (one, two, clock, _):
            assert await one.attempt()
            assert not await two.attempt()
            clock.now += LEASE_SECONDS - 1
            assert await one.attempt()  # renewed
            assert not await two.attempt()
            clock.now += LEASE_SECONDS - 1
            assert not await two.attempt()
            clock.now += 2
            assert await two.attempt()
            assert not await one.attempt()

    run(story())


def test_of_many_that_try_at_once_one_leads(plane: ControlPlane) -> None:
    async def story() -> None:
        await config.load_kube_config(str(plane.kubeconfig))
        clusters = [Cluster(client.ApiClient()) for _ in range(8)]
        leaders = [Leader(cluster, "default", "race", f"c{place}") for place, cluster in enumerate(clusters)]
        assert sum(await asyncio.gather(*(leader.attempt() for leader in leaders))) == 1
        for cluster in clusters:
            await cluster.close()

    run(story())


def test_a_lease_that_was_released_is_free_at_once(plane: ControlPlane) -> None:
    async def story() -> None:
        async with candidates(plane, "released") as (one, two, _, _):
            assert await one.attempt()
            await two.release()  # not its own
            assert not await two.attempt()
            await one.release()
            assert await two.attempt()

    run(story())


def test_a_leader_that_slept_for_too_long_ends_without_a_word_to_the_server(plane: ControlPlane) -> None:
    async def story() -> None:
        async with candidates(plane, "asleep") as (one, _, clock, _):
            await one.acquire()
            keeping = asyncio.create_task(one.keep(0.01))
            await asyncio.sleep(0)  # it has begun
            clock.now += RENEW_SECONDS + 5
            with pytest.raises(LeadershipLost, match="not renewed for 15 s"):
                await keeping

    run(story())


def test_a_leader_that_cannot_reach_the_server_ends_before_another_may_lead(plane: ControlPlane) -> None:
    async def story() -> None:
        async with candidates(plane, "away") as (one, two, clock, cluster):
            await one.acquire()
            assert not await two.attempt()
            cluster.away = True
            keeping = asyncio.create_task(one.keep(0.01))
            await asyncio.sleep(0.1)
            assert not keeping.done()  # a while without an answer is borne
            clock.now += RENEW_SECONDS
            with pytest.raises(LeadershipLost):
                await keeping
            assert not await two.attempt()

    run(story())


def test_a_leader_that_finds_another_in_its_place_ends(plane: ControlPlane) -> None:
    async def story() -> None:
        async with candidates(plane, "replaced") as (one, two, _, _):
            await one.acquire()
            await one.release()
            assert await two.attempt()
            with pytest.raises(LeadershipLost, match="two leads"):
                await one.keep(0.01)

    run(story())


def test_a_renewal_counts_from_its_request_and_not_from_a_late_answer(plane: ControlPlane) -> None:
    async def story() -> None:
        async with candidates(plane, "late") as (one, _, clock, cluster):
            genuine = cluster.create

            async def late(path: str, document: dict[str, Any]) -> bool:
                made = await genuine(path, document)
                clock.now += RENEW_SECONDS + 2  # the answer was so long under way
                return made

            cluster.create = late  # type: ignore[method-assign]
            await one.acquire()
            with pytest.raises(LeadershipLost, match="not renewed for 12 s"):
                await one.keep(0.01)

    run(story())
