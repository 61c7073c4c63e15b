"""What the agent and the keeper of a node say to each other, a JSON document a line.

The keeper begins with the port at which other nodes reach it. The agent says when a generation begins and asks what is
held; the keeper answers, and says which parts it has stored. Of compiled code it says when it has looked for some.
"""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from typing import Any

from tessera_api.drill import Fault
from tessera_api.keys import Ring
from tessera_api.messages import Part
from tessera_keeper.code_carrier import CodeCarrier
from tessera_keeper.keeping import Keeping, Neighbour
from tessera_keeper.line import DocumentLine

logger = logging.getLogger(__name__)


class Control:
    """The keeper's end."""

    def __init__(self, agent: DocumentLine, ring: Ring, carrier: CodeCarrier | None = None) -> None:
        self._agent, self._ring, self._carrier = agent, ring, carrier

    def report(self, part: Part) -> None:
        """A part is in the storage."""
        with suppress(OSError):  # the agent is gone, and this process ends
            self._agent.say({"part": part.model_dump(mode="json")})

    def serve(self, keeping: Keeping, port: int) -> None:
        """Until the agent is gone."""
        try:
            self._agent.say({"port": port})
            while (document := self._agent.hear()) is not None:
                self._do(keeping, document)
        except (OSError, ValueError) as error:
            logger.info("the agent is gone: %s", error)

    def _looked(self, carrier: CodeCarrier) -> None:
        carrier.looked()
        with suppress(OSError):
            self._agent.say({"looked": True})

    def _do(self, keeping: Keeping, document: dict[str, Any]) -> None:
        match document["do"]:
            case "begin":
                at = document["neighbour"]
                generation = int(document["generation"])
                keeping.begin(document["folder"], generation, Neighbour((at[0], at[1]), self._ring) if at else None)
                if self._carrier is not None:
                    self._carrier.began(leads=document["leads"])
            case "carry" if self._carrier is not None:
                self._carrier.start(document["fingerprint"])
                threading.Thread(target=self._looked, args=(self._carrier,), daemon=True).start()
            case "kept":
                kept = [part.model_dump(mode="json") for part in keeping.shelf.kept()]
                self._agent.say({"number": document["number"], "kept": kept})
            case "drill":
                keeping.drill.order(Fault(document["fault"]), float(document["seconds"]))
            case other:
                raise ValueError(f"the agent said {other!r}")
