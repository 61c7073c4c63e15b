"""Live nodes: reading `nodes.json`, which the coordinator writes about every second."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

from tessera_api.record import Record
from tessera_api.run_directory import RunDirectory


class LiveNode(Record):
    """What stands there of one node, as far as it is needed."""

    model_config = {**Record.model_config, "alias_generator": to_camel, "populate_by_name": True}

    agent_pid: int
    sessions: Annotated[frozenset[int], Field(max_length=200)] = frozenset()


_DOCUMENT: TypeAdapter[dict[str, LiveNode]] = TypeAdapter(dict[str, LiveNode])


def sessions_of(directory: RunDirectory, node: str, agent_pid: int) -> frozenset[int]:
    """The sessions of a node that has just ended; only what was written of this very process counts."""
    own = frozenset((agent_pid,))
    try:
        nodes = _DOCUMENT.validate_json(directory.nodes.read_bytes())
    except (OSError, ValidationError):  # not yet written: its processes are found by their mark
        return own
    known = nodes.get(node)
    return own | known.sessions if known is not None and known.agent_pid == agent_pid else own
