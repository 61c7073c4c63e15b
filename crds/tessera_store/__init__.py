"""The object store adapter: one face (`Store`) for local files and S3, one error tree, and the probe."""

from tessera_store.address import open_store
from tessera_store.errors import ObjectExists, ObjectMissing, StoreError, StoreRefused, StoreUnavailable
from tessera_store.patience import Patience
from tessera_store.probe import probe
from tessera_store.store import ObjectInfo, Store

__all__ = [
    "ObjectExists",
    "ObjectInfo",
    "ObjectMissing",
    "Patience",
    "Store",
    "StoreError",
    "StoreRefused",
    "StoreUnavailable",
    "open_store",
    "probe",
]
