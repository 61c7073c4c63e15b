"""Makes a keeper's storage slow: with this folder on PYTHONPATH, each part of a checkpoint takes SLOW_PUT_SECONDS more
until it is there. For benchmarks and tests; other programs are left alone."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

if "tessera_keeper" in sys.orig_argv:
    from tessera_store.files import FileStore

    _put = FileStore.put

    def _slowly(store: FileStore, name: str, data: bytes | Path) -> None:
        if name.startswith("checkpoints/"):
            time.sleep(float(os.environ["SLOW_PUT_SECONDS"]))
        _put(store, name, data)

    FileStore.put = _slowly  # type: ignore[method-assign, assignment]
