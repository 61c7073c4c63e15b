"""The numerics' fingerprint: everything outside the run's own document that may change a bit (design.md §2.7).

Exact mode refuses a node whose fingerprint differs from the run's: an older CPU was seen to give other bits for the
same program.
"""

from __future__ import annotations

import hashlib
import json
import platform

import torch


def fingerprint(device: str, threads: int) -> str:
    """Instruction set or device, library versions and thread count, readable first and hashed after."""
    facts = {
        "torch": torch.__version__,
        "threads": threads,
        "machine": platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "build": hashlib.sha256(torch.__config__.show().encode()).hexdigest(),
        "mkldnn": torch.backends.mkldnn.is_available(),  # type: ignore[no-untyped-call]
    }
    if device == "cuda":
        facts |= {"cuda": str(torch.version.cuda), "device": torch.cuda.get_device_name(0)}
    code = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    name = facts["device"] if device == "cuda" else facts["capability"]
    return f"{str(name).replace(' ', '-')[:30]}/{threads}/{code}"
