"""The trainers' lines: a local socket on which `tessera_run` reports, served on the link's event loop.

Owns which trainers of this node are connected. A line belongs to one generation; what an older one says is not passed
on.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from pathlib import Path
from typing import Any

from tessera_api.inspection import Collective
from tessera_api.log import StoredObject
from tessera_api.messages import Note, Part, Phase, PhaseChange, Report, RewindRequest, SkipRequest, StepRecord
from tessera_api.seat import PAGE, Pieces, Seat
from tessera_api.trouble import Trouble, TroubleKind
from tessera_trainer.node_link import NodeLink

logger = logging.getLogger(__name__)

HELLO_SECONDS = 20.0
MAX_LINE_BYTES = 64 << 20


class TrainerLines:
    """See the module."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: dict[asyncio.StreamWriter, int] = {}
        self._pids: dict[asyncio.StreamWriter, int] = {}
        self._ranks: dict[asyncio.StreamWriter, int] = {}
        self._link: NodeLink | None = None
        self._troubled = 0
        """The last generation of which a trainer said that it is in trouble."""
        self._asked = 0
        self._waits: dict[int, Collective | None] = {}
        """What ranks answered to the last question."""

    @property
    def path(self) -> Path:
        """Where trainers connect to: `tessera_run.run.SOCKET_VARIABLE` tells them."""
        return self._path

    def pids(self) -> tuple[int, ...]:
        """The trainers that are connected."""
        return tuple(self._pids.values())

    def trainers(self) -> dict[int, int]:
        """Their pids, by rank. From any thread."""
        return {self._ranks[writer]: pid for writer, pid in tuple(self._pids.items()) if writer in self._ranks}

    def troubled(self, generation: int, limit_s: float) -> bool:
        """Whether a trainer of this generation has said what its trouble is. To be asked once all of them have ended:
        waits until all that they said is read."""
        deadline = time.monotonic() + limit_s
        while self._pids and time.monotonic() < deadline:
            time.sleep(0.005)
        return self._troubled == generation

    def ask_what_they_wait_in(self) -> None:
        """From any thread but the loop's."""
        assert self._link is not None
        self._asked += 1
        self._waits = {}
        question: dict[str, object] = {"waits?": self._asked}
        self._link.loop.call_soon_threadsafe(self.tell, question)

    def wait_in(self, ranks: frozenset[int], limit_s: float) -> dict[int, Collective | None]:
        """What was answered, once all of these ranks have, or the limit is over."""
        deadline = time.monotonic() + limit_s
        while not ranks <= set(self._waits) and time.monotonic() < deadline:
            time.sleep(0.005)
        return dict(self._waits)

    def attach(self, link: NodeLink) -> None:
        """Serve on the link's loop, from before its thread starts."""
        self._link = link
        self._path.unlink(missing_ok=True)
        link.loop.create_task(self._serve())

    def tell(self, document: dict[str, object]) -> None:
        """A document for every trainer of this node. On the loop."""
        data = json.dumps(document).encode() + b"\n"
        for writer in self._lines:
            writer.write(data)

    async def _serve(self) -> None:
        await asyncio.start_unix_server(self._line, str(self._path), limit=MAX_LINE_BYTES)

    async def _line(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self._link is not None
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                hello = json.loads(await reader.readline())
            held = self._link.open
            if held is None or int(hello["generation"]) != held.generation:
                return
            rank, generation = int(hello["rank"]), held.generation
            writer.write(json.dumps(self._welcome(held)).encode() + b"\n")
            self._ranks[writer] = rank
            self._lines[writer], self._pids[writer] = generation, int(hello["pid"])
            while data := await reader.readline():
                self._take(data, writer, generation)
        except (OSError, ValueError, KeyError, TypeError, TimeoutError) as error:
            logger.warning("a trainer's line broke: %s: %s", type(error).__name__, error)
        finally:
            self._lines.pop(writer, None)
            self._pids.pop(writer, None)
            self._ranks.pop(writer, None)
            writer.close()

    def _welcome(self, held: Seat) -> dict[str, Any]:
        assert self._link is not None
        stop = None
        if self._link.stop_order is not None:
            order, came = self._link.stop_order
            left = max(0.0, order.deadline_seconds - (time.monotonic() - came))
            stop = {"reason": order.reason, "seconds": left}
        return {
            "term": held.term,
            "generation": held.generation,
            "nonce": held.nonce,
            "resume": held.resume.model_dump(mode="json") if held.resume is not None else None,
            "skips": [{"first": skip.first, "last": skip.last} for skip in held.skips],
            "rewinds": [rewound.model_dump() for rewound in held.rewinds or ()],
            "stop": stop,
        }

    def _take(self, data: bytes, writer: asyncio.StreamWriter, generation: int) -> None:
        """Nonsense costs the report and not the line, with whose end the trainer would end."""
        rank = self._ranks[writer]
        try:
            said = json.loads(data)
            if said["do"] == "pieces":
                self._ask(int(said["first"]), writer, generation)
            else:
                self._hear(said, rank, generation)
        except (ValueError, KeyError, TypeError) as error:
            logger.warning("rank %d said what cannot be passed on: %s", rank, error)

    def _ask(self, first: int, writer: asyncio.StreamWriter, generation: int) -> None:
        """For objects of the point that the generation begins from."""
        assert self._link is not None

        def answered(pieces: Pieces) -> None:
            told = pieces.model_dump(mode="json", include={"first", "pieces"})
            writer.write(json.dumps(told).encode() + b"\n")

        # The ranks of a node, and nodes side by side, want parts of the same pages.
        self._link.pieces.ask(generation, first - first % PAGE, answered)

    def _hear(self, said: dict[str, Any], rank: int, generation: int) -> None:
        link = self._link
        assert link is not None
        if link.open is None or link.open.generation != generation:
            return
        match said["do"]:
            case "step":
                record = StepRecord.model_validate({key: value for key, value in said.items() if key != "do"})
                link.stepped(record, rank == 0)
            case "waits":
                if said["number"] == self._asked:
                    self._waits[rank] = Collective.model_validate(said["in"]) if said["in"] is not None else None
            case "progress":
                link.progress.progressed(int(said["units"]))
            case "phase":
                phase = Phase(said["name"])
                link.progress.phase = phase
                if rank == 0:
                    link.report(PhaseChange(generation=generation, phase=phase, step=int(said["step"])))
            case _:
                self._forward(link, said, rank, generation)

    def _forward(self, link: NodeLink, said: dict[str, Any], rank: int, generation: int) -> None:
        if said["do"] == "trouble":
            self._troubled = generation
            if said["what"] == TroubleKind.COLLECTIVE.value:
                link.met_collective_error()
        link.report(_report(said, rank, generation))


def _report(said: dict[str, Any], rank: int, generation: int) -> Report:
    """A trainer's document as a message. Raises ValueError, KeyError, ValidationError."""
    match said["do"]:
        case "part":
            objects = tuple(StoredObject(**stored) for stored in said["objects"])
            return Part(
                generation=generation,
                rank=rank,
                step=said["step"],
                position=said["position"],
                objects=objects,
                seconds=said["seconds"],
                stall_seconds=said["stall_seconds"],
            )
        case "trouble":
            return Trouble(
                generation=generation,
                what=TroubleKind(said["what"]),
                rank=rank,
                place=said["place"][:300],
                message=said["message"][:2000],
                log=said.get("log", "")[-4000:],
            )
        case "note":
            return Note(
                generation=generation, name=said["name"][:63], message=said["message"][:2000], numbers=said["numbers"]
            )
        case "rewind":
            return RewindRequest(
                generation=generation,
                from_step=said["from_step"],
                to_step=said["to_step"],
                reason=said["reason"][:2000],
                skip=said["skip"],
                slower=said["slower"],
            )
        case "skip":
            return SkipRequest(
                generation=generation, first=said["first"], last=said["last"], reason=said["reason"][:2000]
            )
        case other:
            raise ValueError(f"a trainer said {other!r}, which is no word of tessera_run")
