"""The checks of a node's proof that need no device of their own: folders, memory, storage, limits, device events.

Each says what it saw, or raises Unfit with what to change.
"""

from __future__ import annotations

import importlib
import mmap
import os
import tempfile
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from tessera_store import ObjectMissing, Patience, StoreError, open_store

if TYPE_CHECKING:
    from torch import Tensor

    Multiply = Callable[[Tensor, Tensor], Tensor]
else:
    Multiply = Callable

PROBE_PREFIX = "proof/"
MAPPED_BYTES = 1 << 20
STORAGE_PATIENCE = Patience(attempts=3, first_wait_s=0.1, longest_wait_s=0.5, connect_timeout_s=2.0, read_timeout_s=5.0)

FILES_BASE = 256
"""Interpreter, libraries, logs, pipes and sockets of agent and warm process, shards held open by a reader."""
FILES_PER_RANK = 8
"""Of the busiest process, for each rank of the run: 3 gloo groups (world, mesh, checkpoint) with a socket to each peer;
2 clients of the TCPStore for each rank at its host; 2 for NCCL's bootstrap; 1 in reserve."""


class Unfit(Exception):
    """A check failed; the message says what was found and what to change."""


def check_folders(folders: Sequence[str], storage: str) -> str:
    """The mounts are there, answer and take files. A file store's folder may be missing: its first write makes it."""
    for folder in folders:
        try:
            os.scandir(folder).close()
        except OSError as error:
            raise Unfit(f"{folder}: {error.strerror}; is the volume mounted?") from error
        if not os.access(folder, os.W_OK | os.X_OK):
            raise Unfit(f"{folder} cannot be written by user {os.geteuid()}; change its owner, or the run's user")
    said = f"{len(folders)} answered"
    parts = urlsplit(storage)
    if parts.scheme == "file":
        place = unquote(parts.path)
        if os.path.lexists(place) and not os.path.isdir(place):
            raise Unfit(f"{place} (storage) is no folder; name one in spec.storage.uri")
        said += ", and the storage's folder" if os.path.isdir(place) else "; the storage's folder is not made yet"
    return said


def check_shared_memory(place: str, needed: int) -> str:
    """Room for what the trainers share, and memory that can be mapped there."""
    try:
        status = os.statvfs(place)
        free = status.f_bavail * status.f_frsize
        if free < needed:
            raise Unfit(
                f"{place} has {free >> 20} MiB free, the trainers need {needed >> 20} MiB; give it more "
                "(Kubernetes: an emptyDir with medium Memory; docker: --shm-size)"
            )
        with tempfile.TemporaryFile(dir=place) as file:
            file.truncate(MAPPED_BYTES)
            with mmap.mmap(file.fileno(), MAPPED_BYTES) as mapped:
                mapped[-1:] = b"\x5a"
                mapped.flush()
                seen = os.pread(file.fileno(), 1, MAPPED_BYTES - 1)
    except OSError as error:
        raise Unfit(
            f"{place} cannot hold shared memory: {error}; mount a tmpfs there that this user may write"
        ) from error
    if seen != b"\x5a":
        raise Unfit(f"{place} does not share memory between mappings; mount a tmpfs there")
    return f"{place} has {free >> 20} MiB free"


def check_storage(uri: str) -> str:
    """The run's storage answers a read of what is not there, takes an object, gives it back and lets it be deleted."""
    name = f"{PROBE_PREFIX}{uuid.uuid4().hex}"
    remedy = "check spec.storage.uri, the credentials, and that they may read, write and delete"
    try:
        store = open_store(uri, STORAGE_PATIENCE)
        try:
            store.get(name)
            raise Unfit(f"{uri} gave bytes for {name}, which nobody wrote; {remedy}")
        except ObjectMissing:
            pass
        store.put(name, name.encode())
        seen = store.get(name)
        store.delete(name)
    except (StoreError, ValueError) as error:
        raise Unfit(f"{uri}: {error}; {remedy}") from error
    if seen != name.encode():
        raise Unfit(f"{uri} gave other bytes for {name} than were written; it cannot hold checkpoints")
    return f"{uri} answers"


def check_open_files(limit: int, world_size: int) -> str:
    """`limit` open files (the hard limit, to which the soft one was raised) suffice for a run of `world_size` ranks."""
    needed = FILES_BASE + FILES_PER_RANK * world_size
    if limit < needed:
        raise Unfit(
            f"a process may open {limit} files, a run of {world_size} ranks needs {needed} ({FILES_BASE} + "
            f"{FILES_PER_RANK} a rank); raise the hard limit (ulimit -Hn, LimitNOFILE of the container runtime)"
        )
    return f"{limit} open files, {needed} needed"


def check_device_events(device: str) -> str:
    """No uncorrected memory error and no failed row remapping on any NVIDIA device, as its driver counts them.

    NVML tells of an Xid only while it happens, so past ones are not seen; the text says so. It makes no CUDA context.
    """
    if device != "cuda":
        return "the CPU has none"
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return "not checked: pynvml is not installed"
    try:
        nvml.nvmlInit()
        try:
            handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
            for index, handle in enumerate(handles):
                _check_memory_errors(nvml, index, handle)
        finally:
            nvml.nvmlShutdown()
    except nvml.NVMLError as error:
        raise Unfit(
            f"the driver does not answer for its devices: {error}; look at dmesg, reset or replace them"
        ) from error
    return f"{len(handles)} devices without uncorrected errors; past Xid events cannot be read"


def _check_memory_errors(nvml: Any, index: int, handle: Any) -> None:
    try:
        errors = nvml.nvmlDeviceGetTotalEccErrors(
            handle, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
        )
        remapping_failed = nvml.nvmlDeviceGetRemappedRows(handle)[3]
    except nvml.NVMLError_NotSupported:
        return  # a device without ECC, or without row remapping
    if errors or remapping_failed:
        raise Unfit(
            f"device {index} has {errors} uncorrected memory errors since its last reset"
            f"{', and could not remap a row' if remapping_failed else ''}; reset it, or replace the node"
        )
