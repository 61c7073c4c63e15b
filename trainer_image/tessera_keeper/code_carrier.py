"""Carries compiled code from the node of rank 0 to nodes that have none, by way of the run's storage.

A node that is new, or waits as a spare, fetches what there is before it needs it; what it finds in its own folder later
stands. The node of rank 0 stores its folder whenever that has changed and come to rest. Best effort throughout: where
it fails, trainers compile.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from pathlib import Path

from tessera_api.keys import Ring
from tessera_keeper import compiled_code
from tessera_keeper.compiled_code import NotOurs, TooMuch
from tessera_store import ObjectMissing, Store, StoreError

logger = logging.getLogger(__name__)

LOOK_SECONDS = 10.0
"""From one look to the next; a folder that is the same in two has come to rest."""


class CodeCarrier:
    """Of one node: `folder` is where its trainers keep what they compile."""

    def __init__(self, folder: Path, store: Callable[[], Store], ring: Ring) -> None:
        self._folder, self._store, self._ring = folder, store, ring
        self._name = ""
        self._leads = self._trains = False
        self._seen = ""
        """The folder's content at the last look,"""
        self._carried: tuple[str, int] = ("", -1)
        """and when it was last the storage's, with the number of the key."""
        self._fetched = ""
        """Which version of the object was fetched."""
        self._looked = threading.Event()

    def start(self, fingerprint: str) -> None:
        """This node is of this kind: looks begin, in a thread. Once."""
        self._name = compiled_code.object_name(fingerprint)
        threading.Thread(target=self._run, daemon=True, name="compiled code").start()

    def began(self, leads: bool) -> None:
        """A generation begins, with this node in it; `leads`: it has rank 0."""
        self._leads, self._trains = leads, True

    def looked(self) -> None:
        """Wait until the first look is over."""
        self._looked.wait()

    def _run(self) -> None:
        while True:
            try:
                self.look()
            except Exception:
                logger.exception("compiled code was not carried")
            self._looked.set()
            threading.Event().wait(LOOK_SECONDS * random.uniform(0.8, 1.2))

    def look(self) -> None:
        """Store or fetch what is due. Raises nothing of the storage's."""
        try:
            now = compiled_code.contents(self._folder)
            if self._leads and now:
                self._store_it(now)
            elif not now or not self._trains:
                self._fetch_it()
            self._seen = compiled_code.contents(self._folder)
        except ObjectMissing:
            pass
        except (StoreError, NotOurs, OSError) as error:
            logger.warning("compiled code was not carried: %s", error)

    def _store_it(self, now: str) -> None:
        newest = self._ring()[0]
        if now != self._seen or (now, newest.number) == self._carried:
            return
        try:
            data = compiled_code.pack(self._folder, self._name, newest)
        except TooMuch as error:
            logger.warning("%s", error)
        else:
            self._store().put(self._name, data)
            logger.info("compiled code is stored for new nodes: %.1f MB", len(data) / 1e6)
        self._carried = (now, newest.number)

    def _fetch_it(self) -> None:
        info = self._store().info(self._name)
        version = f"{info.size} {info.modified}"
        if version == self._fetched:
            return
        try:
            if info.size > compiled_code.MAX_BYTES:
                raise NotOurs(f"{self._name} has {info.size} bytes")
            compiled_code.unpack(self._store().get(self._name), self._name, self._ring(), self._folder)
        except NotOurs:
            self._fetched = version  # the same one is not looked at again
            raise
        self._fetched = version
        logger.info("compiled code of this run's nodes was fetched: %.1f MB", info.size / 1e6)
