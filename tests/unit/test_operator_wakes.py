"""The queue of keys: one pass at a time for each, none lost, failures ever slower."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from tessera_operator.wakes import Key, Wakes

A, B = Key("trainingruns", "team", "a"), Key("trainingruns", "team", "b")


def run(story: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(20):
            await story

    asyncio.run(limited())


class Worker:
    """Notes who is worked on, and lets a test hold a pass."""

    def __init__(self) -> None:
        self.passes: list[Key] = []
        self.at_once: dict[Key, int] = {}
        self.most = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun = asyncio.Event()
        self.answers: list[float | Exception | None] = []
        self.enough = asyncio.Event()
        self.expected = 0

    async def work(self, key: Key) -> float | None:
        self.passes.append(key)
        if len(self.passes) >= self.expected:
            self.enough.set()
        self.at_once[key] = self.at_once.get(key, 0) + 1
        self.most = max(self.most, self.at_once[key])
        self.begun.set()
        await self.gate.wait()
        self.at_once[key] -= 1
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Exception):
            raise answer
        return answer


async def until(wakes: Wakes, worker: Worker, passes: int) -> None:
    task = asyncio.create_task(wakes.run())
    await expect(worker, passes)
    task.cancel()


async def expect(worker: Worker, passes: int) -> None:
    """So many passes, and no more."""
    worker.expected = passes
    if len(worker.passes) < passes:
        worker.enough.clear()
        await worker.enough.wait()
    await asyncio.sleep(0.1)


def test_many_wakes_of_a_key_are_one_pass() -> None:
    async def story() -> None:
        worker = Worker()
        wakes = Wakes(worker.work)
        for _ in range(20):
            wakes.wake(A)
        wakes.wake(B)
        await until(wakes, worker, 2)
        assert sorted(worker.passes) == [A, B]

    run(story())


def test_a_key_that_is_woken_while_it_is_worked_is_worked_again_after_and_never_twice_at_a_time() -> None:
    async def story() -> None:
        worker = Worker()
        wakes = Wakes(worker.work)
        worker.gate.clear()
        wakes.wake(A, 0.0)
        task = asyncio.create_task(wakes.run())
        await worker.begun.wait()
        for _ in range(5):
            wakes.wake(A, 0.0)
        await asyncio.sleep(0.05)
        worker.gate.set()
        await expect(worker, 2)
        task.cancel()
        assert (worker.passes, worker.most) == ([A, A], 1)

    run(story())


def test_a_pass_says_when_it_wants_to_look_again() -> None:
    async def story() -> None:
        worker = Worker()
        worker.answers = [0.01, 0.01, None]
        wakes = Wakes(worker.work)
        wakes.wake(A)
        await until(wakes, worker, 3)
        assert worker.passes == [A, A, A]

    run(story())


def test_an_earlier_wake_wins() -> None:
    async def story() -> None:
        worker = Worker()
        wakes = Wakes(worker.work)
        wakes.wake(A, 60.0)
        wakes.wake(A, 0.0)
        wakes.wake(A, 60.0)
        await until(wakes, worker, 1)
        assert worker.passes == [A]

    run(story())


def test_a_pass_that_breaks_is_tried_again_and_the_others_go_on() -> None:
    async def story() -> None:
        worker = Worker()
        worker.answers = [RuntimeError("a bug")]
        wakes = Wakes(worker.work, workers=1)
        wakes.wake(A, 0.0)
        await asyncio.sleep(0.01)
        wakes.wake(B, 0.0)
        await until(wakes, worker, 3)
        assert worker.passes == [A, B, A]

    run(story())
