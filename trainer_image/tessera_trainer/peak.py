"""Peak: the most arithmetic that a device can do in a second, and who says so.

Peaks are dense (no sparsity) and of the device as sold, from NVIDIA's data sheets, under the exact name that the driver
reports: a near name is another device (an H200 taken for an A100 shows an MFU of 317 %, `field/trainer.md`). A device
that is not in the table is timed instead, once on a machine, and the source says so.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path

import torch
from torch import Tensor


class Arithmetic(Enum):
    """What matrix products are computed in."""

    BF16 = "bf16"
    TF32 = "tf32"
    FP32 = "fp32"

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of its operands."""
        return torch.bfloat16 if self is Arithmetic.BF16 else torch.float32


@dataclass(frozen=True)
class Peak:
    """FLOPs a second of one device, and where the number comes from, in words for the log and the report."""

    flops: float
    source: str


_TERA = 1e12
_TABLE: dict[str, tuple[float, float, float]] = {
    # name as the driver reports it: teraflops in bf16, tf32, fp32 (outside tensor cores)
    "NVIDIA A10": (125.0, 62.5, 31.2),
    "NVIDIA A100-PCIE-40GB": (312.0, 156.0, 19.5),
    "NVIDIA A100 80GB PCIe": (312.0, 156.0, 19.5),
    "NVIDIA A100-SXM4-40GB": (312.0, 156.0, 19.5),
    "NVIDIA A100-SXM4-80GB": (312.0, 156.0, 19.5),
    "NVIDIA B200": (2250.0, 1125.0, 75.0),
    "NVIDIA GH200 480GB": (989.4, 494.7, 66.9),
    "NVIDIA H100 80GB HBM3": (989.4, 494.7, 66.9),
    "NVIDIA H100 NVL": (835.5, 417.5, 60.0),
    "NVIDIA H100 PCIe": (756.0, 378.0, 51.2),
    "NVIDIA H200": (989.4, 494.7, 66.9),
    "NVIDIA H200 NVL": (835.5, 417.5, 60.0),
    "NVIDIA L4": (121.0, 60.0, 30.3),
    "NVIDIA L40S": (362.0, 183.0, 91.6),
}
_LIMIT_S = 0.8
_WIDTH = {"cpu": 512, "cuda": 8192}


def peak_of(device: torch.device, arithmetic: Arithmetic, memory: Path | None = None) -> Peak:
    """The device's peak: from the table where its name is known, else timed (one second at most).

    `memory`: a folder in which it is kept what was timed, so that only the first start on a machine takes the time.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    known = known_peak(name, arithmetic)
    if known is not None:
        return known
    if memory is None:
        return measured_peak(name, device, arithmetic)
    kept = memory / f"peak-{platform.node()}-{device.type}-{arithmetic.value}-{torch.get_num_threads()}.json"
    with suppress(OSError, ValueError, TypeError):
        return Peak(**json.loads(kept.read_bytes()))
    found = measured_peak(name, device, arithmetic)
    with suppress(OSError):
        _keep(kept, found)
    return found


def _keep(path: Path, peak: Peak) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(asdict(peak)))
    os.replace(part, path)


def known_peak(name: str, arithmetic: Arithmetic) -> Peak | None:
    """The table's entry under exactly this name."""
    if name not in _TABLE:
        return None
    bf16, tf32, fp32 = _TABLE[name]
    teraflops = {Arithmetic.BF16: bf16, Arithmetic.TF32: tf32, Arithmetic.FP32: fp32}[arithmetic]
    return Peak(teraflops * _TERA, f"data sheet of {name}, {arithmetic.value}, dense")


def measured_peak(
    name: str, device: torch.device, arithmetic: Arithmetic, clock: Callable[[], float] = time.perf_counter
) -> Peak:
    """The best of the square matrix products that fit into the limit, with the threads that this process has.

    A measured peak is lower than the true one, so that an MFU over it is too high: the source says "measured".
    """
    width = _WIDTH.get(device.type, _WIDTH["cpu"])
    left = torch.ones(width, width, dtype=arithmetic.dtype, device=device)
    product = torch.empty_like(left)
    _timed(left, product, clock)
    best, begin, tries = _timed(left, product, clock), clock(), 1
    while clock() - begin < _LIMIT_S / 2:
        best, tries = min(best, _timed(left, product, clock)), tries + 1
    return Peak(
        2 * width**3 / best,
        f"measured on {name}: best of {tries} {arithmetic.value} products of {width} x {width}",
    )


def _timed(left: Tensor, product: Tensor, clock: Callable[[], float]) -> float:
    """Seconds of one product, done when this returns."""
    begin = clock()
    torch.mm(left, left, out=product)
    if product.is_cuda:
        torch.cuda.synchronize(product.device)
    return max(clock() - begin, 1e-9)
