"""The one who asks a build's pods how far they are. They say it over HTTP, to anybody: it is no secret."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp
from pydantic import ValidationError

from tessera_operator import names
from tessera_operator.core.build_decision import BuildProgress

LIMIT_SECONDS = 1.0
MOST_BYTES = 1000
MOST_ASKED = 3
"""Of a build's pods: each of them knows as much as any other."""


async def ask(pods: Sequence[Mapping[str, Any]]) -> BuildProgress | None:
    """What the first of them says that answers; None when none does in time."""
    for status in [pod.get("status") or {} for pod in pods][:MOST_ASKED]:
        address = status.get("podIP") if status.get("phase") == "Running" else None
        if address is not None and (said := await _ask(str(address))) is not None:
            return said
    return None


async def _ask(address: str, port: int = names.BUILD_PORT) -> BuildProgress | None:
    host = f"[{address}]" if ":" in address else address
    limit = aiohttp.ClientTimeout(total=LIMIT_SECONDS)
    try:
        async with aiohttp.ClientSession(timeout=limit) as session, session.get(f"http://{host}:{port}/") as answer:
            return BuildProgress.model_validate_json(await answer.content.read(MOST_BYTES))
    except (TimeoutError, aiohttp.ClientError, OSError, ValidationError):
        return None
