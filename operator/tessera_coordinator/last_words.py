"""A coordinator's last words: the run's final status, left where Kubernetes keeps it with the pod, so that an operator
that was away when the run ended can still tell how."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path

from tessera_api.resolved_run import ResolvedRun
from tessera_api.training_run_status import RunPhase
from tessera_coordinator.core.history import History
from tessera_coordinator.core.ledger import Ledger
from tessera_coordinator.core.status import Seen, status
from tessera_coordinator.recollection import Recollection

logger = logging.getLogger(__name__)

VARIABLE = "TESSERA_LAST_WORDS"
"""Names the file; without it nothing is said."""
MOST_BYTES = 4096
"""Kubernetes keeps no more of a container."""


def final_status(resolved: ResolvedRun, history: History, known: Recollection) -> dict[str, object]:
    """The status of a run whose log has its last entry, from log and journal: for whoever did not lead it to there."""
    assert history.ended is not None
    complete = history.ended.reason == "complete"
    now = time.time()
    seen = Seen(
        phase=RunPhase.SUCCEEDED if complete else RunPhase.FAILED,
        message=f"{history.ended.reason}: {history.ended.message}",
        total_steps=resolved.total_steps,
        wanted=known.size.count if known.size else resolved.run.spec.nodes.count,
        active=0,
        generation=history.generation,
        first_generation=1,
        ledger=Ledger(known.ledger.seconds, known.ledger.uncommitted) if known.ledger else Ledger(),
        node_price=resolved.node_price,
        newest=known.newest,
        seconds_per_step=None,
        created=resolved.created,
        changed=history.ended.time,
        now=now,
        incidents=known.incidents[-20:],
    )
    return status(seen).model_dump(mode="json", by_alias=True, exclude_none=True)


def leave(document: dict[str, object]) -> None:
    """Leave a status behind, if there is a place for it; of its incidents the newest that fit."""
    path = os.environ.get(VARIABLE)
    if path is None:
        return
    try:
        Path(path).write_bytes(fitting(document))
    except OSError as error:
        logger.warning("last words are lost: %s", error)


def fitting(document: dict[str, object]) -> bytes:
    """The document as JSON of at most `MOST_BYTES`: without its oldest incidents where that is needed."""
    incidents = document.get("incidents")
    kept = list(incidents) if isinstance(incidents, list) else []
    while True:
        data = json.dumps({**document, "incidents": kept} if kept else _without(document), separators=(",", ":"))
        if len(data.encode()) <= MOST_BYTES or not kept:
            return data.encode()
        kept = kept[1:]


def _without(document: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in document.items() if name != "incidents"}
