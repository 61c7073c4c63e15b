"""Where a checkpoint's bytes lie. That it exists is said by the log alone (`log.Commit`)."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field

from tessera_api.record import Count, Record

ROOT = "checkpoints/"
_PREFIX = re.compile(r"^checkpoints/(\d{8,12})-(\d+)\.(\d+)-([0-9a-z]{1,32})/")


class CheckpointPrefix(Record):
    """The folder that one save of one generation writes to. Never written to by another."""

    step: Count
    term: Annotated[int, Field(ge=1)]
    generation: Annotated[int, Field(ge=1)]
    nonce: Annotated[str, Field(pattern=r"^[0-9a-z]{1,32}$")]

    def __str__(self) -> str:
        return f"{ROOT}{self.step:08d}-{self.term}.{self.generation}-{self.nonce}/"


def parse_prefix(object_name: str) -> CheckpointPrefix | None:
    """The folder that an object's name lies in, or None where the name is no checkpoint's."""
    match = _PREFIX.match(object_name)
    if match is None:
        return None
    step, term, generation, nonce = match.groups()
    return CheckpointPrefix(step=int(step), term=int(term), generation=int(generation), nonce=nonce)


def part_name(prefix: CheckpointPrefix, rank: int, world_size: int) -> str:
    """The object of one rank's shard."""
    return f"{prefix}rank-{rank:05d}-of-{world_size:05d}.safetensors"
