"""Which accelerators this machine offers: found without importing what would use them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

_DEVICE = re.compile(r"nvidia[0-9]+")


def cuda_devices(environment: Mapping[str, str] = os.environ, devices: Path = Path("/dev")) -> int:
    """How many CUDA devices there are for us: the kernel driver's, or fewer when CUDA_VISIBLE_DEVICES says so."""
    present = sum(_DEVICE.fullmatch(entry.name) is not None for entry in devices.iterdir())
    offered = environment.get("CUDA_VISIBLE_DEVICES")
    if offered is None:
        return present
    named = [name for name in offered.split(",") if name.strip()]
    return min(present, len(named))
