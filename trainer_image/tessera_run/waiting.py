"""Which collective this process waits in: asked of torch's flight recorder, which `torch.distributed` has on by default
for NCCL and gloo. Torch is not imported for it: a program that has not loaded it waits in none."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

_RECORDER = "torch._C._distributed_c10d"
_DUMPS = ("_dump_nccl_trace_json", "_dump_fr_trace_json")
"""NCCL's, then all others'."""
MAX_WORDS = 100


def waits_in() -> dict[str, Any] | None:
    """The first collective that was begun and is not over: `group`, `number` (of the group's, from 1 on; the same for
    all ranks of it) and `operation`, its name with types and sizes. None: there is none, or nobody knows."""
    recorder = sys.modules.get(_RECORDER)
    for name in _DUMPS:
        if (dump := getattr(recorder, name, None)) is not None:
            found = first_open(json.loads(dump()).get("entries", ()))
            if found is not None:
                return found
    return None


def first_open(entries: Iterable[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Of the recorder's entries, oldest first."""
    for entry in entries:
        if not entry.get("retired") and entry.get("state") != "completed":
            name = str(entry["profiling_name"]).rpartition(":")[2]
            number = entry["p2p_seq_id"] if entry.get("is_p2p") else entry["collective_seq_id"]
            shapes = zip(entry.get("input_dtypes", ()), entry.get("input_sizes", ()), strict=False)
            words = " ".join([name, *(f"{kind}{size}" for kind, size in shapes)])
            group = entry["process_group"][-1] or entry["process_group"][0]
            return {"group": str(group)[:MAX_WORDS], "number": int(number), "operation": words[:MAX_WORDS]}
    return None
