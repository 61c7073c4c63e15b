"""A drill: the stream to the coordinator as over a network that loses packets. TCP says a lost one again after a fifth
of a second, then after twice that, and all that came behind it waits: words arrive late and in bursts, and none is
missing."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

from tessera_api.stream import MessageStream

HELD_SECONDS = (0.2, 0.4, 0.8)
BETWEEN_SECONDS = (0.05, 0.5)


async def shake(stream: Callable[[], MessageStream | None], seconds: float) -> None:
    """For so long; `stream` is the one that there is then."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        held = stream()
        if held is not None:
            held.hold()
            try:
                await asyncio.sleep(random.choice(HELD_SECONDS))
            finally:
                held.let_go()
        await asyncio.sleep(random.uniform(*BETWEEN_SECONDS))
