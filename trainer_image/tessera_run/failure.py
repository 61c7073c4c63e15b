"""Telling failures apart: did this program break, or its storage, or did a peer break the collective it sat in?"""

from __future__ import annotations

import errno
import traceback

_COLLECTIVE_TYPES = frozenset({"DistBackendError", "DistNetworkError", "DistStoreError", "HolderLost"})
"""Of torch, and `tessera_trainer.kept_parts`'s: it too says that a peer is gone."""
_COLLECTIVE_WORDS = ("gloo/transport/", "connectfullmesh", "pair closure", "communicator was aborted")
"""Of gloo and NCCL only: a program's own trouble with the network or with a back-end's settings is its own, and a
process that parked for it would wait for nobody."""


def is_collective_error(error: BaseException) -> bool:
    """Whether the error, or one that it came from, was raised by a collective whose peer is gone.

    torch raises its own types from NCCL and the stores, and plain RuntimeErrors from gloo; those are known by their
    words (seen with torch 2.15 when a peer was killed and when it hung).
    """
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if type(cause).__name__ in _COLLECTIVE_TYPES:
            return True
        text = str(cause).lower()
        if isinstance(cause, RuntimeError) and any(word in text for word in _COLLECTIVE_WORDS):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


_STORAGE_TYPES = frozenset({"StoreError", "StoreUnavailable", "StoreRefused", "NotCommitted"})
"""Of `tessera_store`, which this package does not import; an object that is missing is the program's own trouble."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def is_storage_error(error: BaseException) -> bool:
    """Whether the error, or one that it was raised from, says that a storage is out or full: nothing is wrong with the
    program, and the next try may go well."""
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        full = isinstance(cause, OSError) and cause.errno in _FULL
        if full or type(cause).__name__ in _STORAGE_TYPES:
            return True
        cause = cause.__cause__
    return False


def place_of(error: BaseException) -> str:
    """File, line and type of the traceback's last line: the same place is taken for the same cause."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].filename}:{frames[-1].lineno} " if frames else ""
    return f"{where}{type(error).__name__}"[-300:]
