"""Which settings a library reads once, while it is loaded: a trainer forked from a loaded process cannot change them.

They are the warm process' key: a trainer whose settings differ starts cold.
"""

from __future__ import annotations

from collections.abc import Mapping

PREFIXES = (
    # thread pools and kernels of the mathematical libraries, read when these are loaded
    "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "ONEDNN_", "DNNL_", "ATEN_",
    # read while torch is imported or by its static initialisers
    "PYTORCH_", "TORCHINDUCTOR_", "TORCHDYNAMO_", "TORCH_COMPILE_", "TORCH_LOGS", "TORCH_TRACE",
    "TORCH_CPP_LOG_LEVEL", "TORCH_SHOW_CPP_STACKTRACES", "TORCH_DISTRIBUTED_DEBUG",
    # the interpreter, the loader, the C library
    "PYTHON", "LD_", "MALLOC_", "GLIBC_TUNABLES", "LC_", "LANG",
    # which devices are seen, and how they are driven
    "CUDA_", "NVIDIA_", "HIP_", "ROCR_",
)  # fmt: skip

IMPOSED = {"OPENBLAS_NUM_THREADS": "1"}
"""What the warm process is started with unless the agent's environment says otherwise: numpy's OpenBLAS starts its
threads while it is loaded, and a process with threads cannot be forked safely."""


def differing_settings(loaded: Mapping[str, str], wanted: Mapping[str, str]) -> tuple[str, ...]:
    """Names of load-time settings whose value in `wanted` is not the one in `loaded`, in order.

    `loaded` is the warm process' environment at its start; a setting that we imposed and `wanted` lacks is equal.
    """
    names = {name for name in (*loaded, *wanted) if name.startswith(PREFIXES)}
    return tuple(sorted(name for name in names if loaded.get(name) != wanted.get(name, IMPOSED.get(name))))
