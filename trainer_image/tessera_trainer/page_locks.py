"""Page-locked memory: a GPU writes to it by itself, several times as fast as through the driver's own buffer.

Memory of the keeper's is locked once by each process that maps it, and let go with that process. What must stay true:
memory that cannot be locked is used as it is; a lock never outlives the mapping that it is of.
"""

from __future__ import annotations

import logging
import mmap
from typing import Any

import torch

from tessera_keeper.shelf import Buffer

logger = logging.getLogger(__name__)


class PageLocks:
    """Of one process, by the number of the buffer."""

    def __init__(self, driver: Any = None) -> None:
        self._driver = driver
        self._held: dict[int, mmap.mmap] = {}
        self._refused = False

    def lock(self, buffer: Buffer) -> None:
        """Locked from now on, if it can be."""
        before = self._held.get(buffer.number)
        if before is buffer.memory or self._refused:
            return
        driver = self._driver or torch.cuda.cudart()  # type: ignore[no-untyped-call]
        if before is not None:
            driver.cudaHostUnregister(_address(before))
            del self._held[buffer.number]
        code = int(driver.cudaHostRegister(_address(buffer.memory), len(buffer.memory), 0))
        if code != 0:
            self._refused = True
            logger.warning("snapshots are copied to ordinary memory: it cannot be locked (CUDA error %d)", code)
            return
        self._held[buffer.number] = buffer.memory


def _address(memory: mmap.mmap) -> int:
    return torch.frombuffer(memory, dtype=torch.uint8).data_ptr()
