"""The entries of a run's log, as a bystander reads them. Storage trouble becomes `Refused` here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError

from tessera_api.exit_codes import ExitCode
from tessera_api.log import End, Entry, parse_entry
from tessera_api.run_directory import LOG_PREFIX
from tessera_cli.refusal import Refused
from tessera_store import StoreError, StoreRefused, open_store


@contextmanager
def _told(storage: str) -> Iterator[None]:
    try:
        yield
    except (StoreRefused, ValueError) as error:
        raise Refused(f"storage {storage}: {error}") from error
    except StoreError as error:
        raise Refused(f"storage {storage} does not answer: {error}; try again", ExitCode.UNAVAILABLE) from error


def read_entries(storage: str) -> list[Entry]:
    """All entries, in order. Raises Refused."""
    with _told(storage):
        store = open_store(storage)
        try:
            return [parse_entry(store.get(info.name)) for info in store.list(LOG_PREFIX)]
        except ValidationError as error:
            raise Refused(f"the log in {storage} is not of this version: {error}") from error


def read_end(storage: str) -> End | None:
    """The entry that ended the run, if it has ended. Raises Refused."""
    with _told(storage):
        store = open_store(storage)
        names = [info.name for info in store.list(LOG_PREFIX)]
        if not names:
            return None
        try:
            last = parse_entry(store.get(names[-1]))
        except ValidationError as error:
            raise Refused(f"the log in {storage} is not of this version: {error}") from error
        return last if isinstance(last, End) else None


def read_object(uri: str) -> bytes:
    """The bytes of one object. Raises Refused."""
    folder, _, name = uri.rpartition("/")
    with _told(uri):
        return open_store(folder).get(name)
