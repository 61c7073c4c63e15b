"""What trainers of a node want to know of the point that their generation begins from, beyond what came with the seat.

A question stands until it is answered, and is asked anew on every new stream. On the link's event loop.
"""

from __future__ import annotations

from collections.abc import Callable

from tessera_api.record import Record
from tessera_api.seat import Pieces, PiecesQuestion


class PiecesAsked:
    """The questions of the present generation. `send` says one to the coordinator, if there is one."""

    def __init__(self, send: Callable[[Record], None]) -> None:
        self._send = send
        self._asked: dict[int, list[Callable[[Pieces], None]]] = {}
        self._generation = 0

    def ask(self, generation: int, first: int, answered: Callable[[Pieces], None]) -> None:
        """For objects from number `first` on; `answered` is called with them."""
        if generation != self._generation:
            self._generation, self._asked = generation, {}
        asked = first in self._asked
        self._asked.setdefault(first, []).append(answered)
        if not asked:
            self._send(PiecesQuestion(generation=generation, first=first))

    def again(self) -> None:
        """On a new stream."""
        for first in self._asked:
            self._send(PiecesQuestion(generation=self._generation, first=first))

    def heard(self, pieces: Pieces) -> None:
        """An answer; one to an older generation's question is passed over."""
        if pieces.generation == self._generation:
            for answered in self._asked.pop(pieces.first, ()):
                answered(pieces)
