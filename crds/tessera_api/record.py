"""Record: the base of everything that crosses a process or a version: immutable, and deaf to fields it does not know.

Unknown fields are ignored, not refused: a program of the next minor version may add one (`messages.PROTOCOL`).
What a person writes (the two resources) is strict instead; see `resource.py`.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Record(BaseModel):
    """An immutable value with a canonical JSON form."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=True, ser_json_inf_nan="constants")

    def canonical(self) -> bytes:
        """The one byte form of this value: sorted keys, no blanks, unset optional fields left out."""
        document = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    def short_hash(self) -> str:
        """The first 16 hex digits of the sha256 of the canonical form: enough to tell two values of one run apart."""
        return hashlib.sha256(self.canonical()).hexdigest()[:16]


Name = Annotated[str, Field(min_length=1, max_length=63)]
"""A node's or a run's name."""
Text = Annotated[str, Field(max_length=2000)]
"""A sentence for people; whoever takes it from outside cuts it to this length."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=2**62)]
