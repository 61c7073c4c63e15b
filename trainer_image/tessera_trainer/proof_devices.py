"""Every device of the node multiplies to an answer that is known without multiplying.

Two products, both of whole numbers and small enough that every partial sum is exact, in whatever order it is taken.
float32: A[i,k] = i' + k, B[k,j] = k + j' with i' = i mod 128, j' = j mod 128, k < 128, so
    C[i,j] = 128 i'j' + (i' + j') S1 + S2,  S1 = sum k = 8128,  S2 = sum k^2 = 690880;  C < 2^23.
bfloat16 (the matrix units that training uses): A[i,k] = (i + k) mod 2, B[k,j] = (k + j) mod 2, so C[i,j] = 64 where
i and j are both even or both odd, else 0; whole numbers up to 256 are exact.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from tessera_trainer.proof_checks import Multiply, Unfit

INNER = 128
ROWS = {"cpu": 512, "cuda": 4096}
"""Rows and columns of C: enough for every multiprocessor of a large device to have a tile; small on a CPU."""


def check_devices(kind: str, count: int, multiply: Multiply | None = None) -> str:
    """All devices of `kind`, at once. Raises Unfit with the first that is missing or wrong."""
    if kind == "cpu":
        _check_device(torch.device("cpu"), multiply or torch.matmul)
        return "the CPU multiplies exactly"
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if seen < count:
        raise Unfit(
            f"this node shows {seen} CUDA devices, the run takes {count}; check the device plugin, "
            "CUDA_VISIBLE_DEVICES, and whether the driver suits this torch"
        )
    with ThreadPoolExecutor(seen) as pool:
        checks = [pool.submit(_check_device, torch.device("cuda", n), multiply or torch.matmul) for n in range(seen)]
        for check in checks:
            check.result()
    return f"{seen} CUDA devices multiply exactly"


def _check_device(device: torch.device, multiply: Multiply) -> None:
    rows = ROWS[device.type]
    try:
        for dtype, (left, right, expected) in {
            torch.float32: _whole_numbers(rows, device),
            torch.bfloat16: _parities(rows, device),
        }.items():
            product = multiply(left.to(dtype), right.to(dtype))
            wrong = int((product.to(torch.int64) != expected).sum().item())
            if wrong:
                raise Unfit(
                    f"device {device} multiplied two {dtype} matrices to {wrong} wrong numbers of {rows * rows}; "
                    "do not train on it: reset or replace the device"
                )
    except (torch.OutOfMemoryError, torch.AcceleratorError) as error:
        raise Unfit(f"device {device} does not compute: {error}; is another process on it? Else reset it") from error


def _whole_numbers(rows: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """A [rows, 128], B [128, rows], C [rows, rows] of the first product, int64."""
    outer = torch.arange(rows, device=device) % INNER
    inner = torch.arange(INNER, device=device)
    first, second = INNER * (INNER - 1) // 2, (INNER - 1) * INNER * (2 * INNER - 1) // 6
    i, j = outer[:, None], outer[None, :]
    return i + inner, inner[:, None] + outer, INNER * i * j + (i + j) * first + second


def _parities(rows: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """A, B, C of the second product, shaped and typed alike."""
    outer = torch.arange(rows, device=device)
    inner = torch.arange(INNER, device=device)
    expected = torch.where((outer[:, None] + outer) % 2 == 0, INNER // 2, 0)
    return (outer[:, None] + inner) % 2, (inner[:, None] + outer) % 2, expected
