"""A drill, as the annotation `tessera.dev/drill` of a run asks for it. Pure.

    IDENTITY FAULT [NODE] [SECONDS]

What must stay true: the same value asks for one drill, once; a value that cannot be read asks for none.
"""

from __future__ import annotations

from pydantic import ValidationError

from tessera_api.drill import Drill


def drill_of(value: str) -> Drill | None:
    """None where nothing is asked for, or nothing that there is."""
    words = value.split()
    if not 2 <= len(words) <= 4:
        return None
    said: dict[str, object] = {"identity": words[0], "fault": words[1]}
    for word in words[2:]:
        key = "seconds" if word.replace(".", "", 1).isdigit() else "node"
        said[key] = word
    try:
        return Drill.model_validate(said)
    except ValidationError:
        return None
