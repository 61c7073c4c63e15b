"""What can go wrong with an object store, in words that a caller can act on.

Each adapter maps its outside errors to these once and keeps the cause (`__cause__`). A caller that can wait catches
`StoreUnavailable`; `StoreRefused` will not go away by waiting and its message says what to change.
"""

from __future__ import annotations


class StoreError(Exception):
    """Any failure of an object store."""


class ObjectExists(StoreError):
    """A conditional creation found another object under the name; nothing was written."""


class ObjectMissing(StoreError):
    """There is no object of this name."""


class StoreUnavailable(StoreError):
    """Passing trouble (network, limit, overload, full disk) outlasted the retries. A write may yet have happened."""


class StoreRefused(StoreError):
    """The store will not do this however often it is asked: permissions, bucket, address, or a missing ability."""
