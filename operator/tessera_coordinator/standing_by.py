"""Standing by: a coordinator that does not lead watches the one that does, until it is gone or the run has ended."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from tessera_api.keys import Ring
from tessera_api.messages import Role
from tessera_coordinator.client import Address, ControllerClient
from tessera_coordinator.core.history import History
from tessera_coordinator.core.succession import Succession
from tessera_store import StoreError

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.25
READ_SECONDS = 10.0
"""How often the log is read for the run's end; at once when the leader says that the run is over."""
QUESTION_SECONDS = 0.5


async def stand_by(succession: Succession, leader: ControllerClient, read: Callable[[], History]) -> bool:
    """Until it is time to lead (True), or the log says that the run has ended (False). `read` reads the log."""
    leader.on_status = lambda answer: succession.leader_heard(time.monotonic())
    asking = asyncio.create_task(leader.run())
    read_at, told = time.monotonic() + READ_SECONDS, False
    try:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = time.monotonic()
            if succession.due(now):
                logger.info("takes the lead: %s", succession.words(now))
                return True
            over = leader.closed.done() and not told
            if over or now >= read_at:
                told, read_at = leader.closed.done(), now + READ_SECONDS
                if await _ended(read):
                    return False
    finally:
        asking.cancel()


async def _ended(read: Callable[[], History]) -> bool:
    """Whether the log has its last entry; a storage that is away says nothing."""
    try:
        return (await asyncio.to_thread(read)).ended is not None
    except StoreError as error:
        logger.warning("the log cannot be read: %s", error)
        return False


def client_of(peer: Address, ring: Ring, name: str) -> ControllerClient:
    """Asks the other coordinator, as one that stands by."""
    return ControllerClient((peer,), ring, name, QUESTION_SECONDS, Role.STANDBY)
