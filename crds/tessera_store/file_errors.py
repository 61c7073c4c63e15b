"""The one place where the operating system's errors become the store's."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from tessera_store.errors import ObjectMissing, StoreError, StoreRefused, StoreUnavailable

_REMEDIES = {
    errno.EACCES: "give this user the right to it",
    errno.EPERM: "give this user the right to it, or use a file system that has hard links",
    errno.EROFS: "mount it writable",
    errno.EOPNOTSUPP: "use a file system that has hard links",
    errno.EXDEV: "keep the whole store on one file system",
    errno.ENAMETOOLONG: "use a shorter path",
    errno.ENOTDIR: "a file stands where a folder is needed; remove it or choose another place",
    errno.EISDIR: "a folder stands where an object is needed; remove it or choose another place",
    errno.ELOOP: "a symbolic link leads in a circle; remove it",
}


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Around what reads an object: that nothing is there, or a folder, means that the object is missing."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise ObjectMissing(f"there is no object {name} ({error})") from error
    except OSError as error:
        raise _translate(error, f"cannot read {name}") from error


@contextmanager
def writing(name: str) -> Iterator[None]:
    """Around what writes: FileNotFoundError and FileExistsError pass through, since the writer decides on them."""
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError as error:
        raise _translate(error, f"cannot write {name}") from error


def _translate(error: OSError, sentence: str) -> StoreError:
    remedy = _REMEDIES.get(error.errno or 0)
    if remedy is not None:
        return StoreRefused(f"{sentence}: {error}; {remedy}")
    return StoreUnavailable(f"{sentence}: {error}")
