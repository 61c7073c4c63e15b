"""Reading a snapshot from the memory of the nodes that hold it: what `restore` needs of a storage.

A part that this node holds is read in place; of another's the rows that are wanted travel. What must stay true: no
byte is taken that differs from what its holder has; a holder that is gone is a broken collective, since the
coordinator is about to find the node lost, and then another point to begin from.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from typing import Protocol

from tessera_api.keys import Ring
from tessera_keeper.line import KeeperGone
from tessera_keeper.peer_stream import PeerLost
from tessera_keeper.peers import Address, read_from
from tessera_run import Holder
from tessera_trainer.restore import Sealed, rank_of


class HolderLost(ConnectionError):
    """A node does not give what it was said to hold."""


class LocalParts(Protocol):
    """The keeper of this node."""

    def part(self, name: str) -> mmap.mmap:
        """A part that it holds. Raises KeyError, KeeperGone."""


class KeptParts:
    """See the module. `node` is this node's name."""

    def __init__(
        self,
        objects: Sequence[Sealed],
        holders: Sequence[Holder],
        node: str,
        local: LocalParts,
        ring: Ring,
        read: Callable[[Address, Ring, str, int, int], bytearray] = read_from,
    ) -> None:
        self._objects, self._holders = objects, holders
        self._node, self._local, self._ring, self._read = node, local, ring, read
        self._mapped: dict[str, mmap.mmap] = {}

    def size(self, name: str) -> int:
        """As its holder said."""
        return self._objects[rank_of(name)].size

    def get_range(self, name: str, start: int, length: int) -> bytes:
        """Bytes [start, start + length). Raises HolderLost."""
        holder = self._holders[rank_of(name)]
        length = min(length, self.size(name) - start)
        try:
            if holder.node != self._node:
                return bytes(self._read((holder.host, holder.port), self._ring, name, start, length))
            if name not in self._mapped:
                self._mapped[name] = self._local.part(name)
            return self._mapped[name][start : start + length]
        except (PeerLost, KeyError, KeeperGone) as error:
            raise HolderLost(f"{holder.node} does not give {name}: {error}") from error
