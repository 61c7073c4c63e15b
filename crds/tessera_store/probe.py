"""Proof that a store keeps the promise on which the run's log stands: a name is created once.

Some S3 look-alikes ignore `If-None-Match` and overwrite; on such a store two coordinators could both "win".
"""

from __future__ import annotations

import uuid

from tessera_store.errors import ObjectExists, StoreRefused
from tessera_store.store import Store


def probe(store: Store, prefix: str = "probe/") -> None:
    """Creates one object twice. Raises StoreRefused unless the second fails and the first bytes remain.

    Leaves nothing behind, except when killed in the middle: then one small object under `prefix`.
    """
    name = f"{prefix}{uuid.uuid4().hex}"
    first, second = f"first {name}".encode(), f"second {name}".encode()
    store.create(name, first)
    try:
        _create_again(store, name, second)
        if store.get(name) != first:
            raise StoreRefused(
                f"{store.uri} {_COMPLAINT}: it refused a second creation of {name}, yet replaced the bytes"
            )
    finally:
        store.delete(name)


_COMPLAINT = (
    "does not honour conditional creation (If-None-Match: *), so two coordinators could corrupt a run; "
    "use a store that does (AWS S3, SeaweedFS, MinIO, Ceph from Squid on, a local folder)"
)


def _create_again(store: Store, name: str, data: bytes) -> None:
    try:
        store.create(name, data)
    except ObjectExists:
        return
    raise StoreRefused(f"{store.uri} {_COMPLAINT}: it accepted a second creation of {name}")
