"""The TLS side of a coordinator's door: which of the run's keys a connection is under.

What must stay true: a key that came after the start is taken as soon as somebody asks for it; a connection that asks
for none of ours ends in the handshake, before it has cost anything.
"""

from __future__ import annotations

import asyncio
import logging
import ssl

from tessera_api.keys import Keys, Ring

logger = logging.getLogger(__name__)


class Handshake:
    """See the module. Raises OSError when the ring can't be read at the start."""

    def __init__(self, ring: Ring) -> None:
        self._ring = ring
        self._held: dict[str, tuple[Keys, ssl.SSLContext | None]] = {}
        self._read()

    @property
    def numbers(self) -> tuple[int, ...]:
        """Of the keys that are known."""
        return tuple(keys.number for keys, _ in self._held.values())

    def refresh(self) -> None:
        """Look for newer keys; a folder that cannot be read just now is read again the next time."""
        try:
            self._read()
        except OSError as error:
            logger.warning("the run's keys can't be read: %s", error)

    def _read(self) -> None:
        for keys in self._ring():
            if keys.host not in self._held:
                self._held[keys.host] = (keys, keys.for_server() if keys.certificate is not None else None)

    def context(self) -> ssl.SSLContext | None:
        """For the listening socket; None where the run has no certificates."""
        if all(context is None for _, context in self._held.values()):
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.sni_callback = self._asked
        return context

    def _asked(self, connection: ssl.SSLObject, host: str | None, _: ssl.SSLContext) -> int | None:
        if host is not None and host not in self._held:
            self.refresh()
        context = self._held[host][1] if host in self._held else None
        if context is None:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        connection.context = context
        return None

    def keys_of(self, writer: asyncio.StreamWriter) -> Keys:
        """The key that a connection is under."""
        connection = writer.get_extra_info("ssl_object")
        chosen = connection.context if connection is not None else None
        return next(keys for keys, context in self._held.values() if context is chosen)
