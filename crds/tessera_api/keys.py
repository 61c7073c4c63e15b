"""The keys of a run, and the folder that they come in.

A run has numbered keys, and the newest of them counts. On a cluster each brings a certificate, for TLS; who has it is
told by the name that a client asks for in the handshake (SNI), so that both ends know which key a stream is under
before the first byte of it. A run on one machine has one key, number 0, and no TLS.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tessera_api.run_directory import RunDirectory


@dataclass(frozen=True)
class Keys:
    """What one end of a stream holds."""

    run: bytes
    """Everybody's of the run: every message is authenticated with it."""
    control: bytes | None = None
    """Coordinators' and controllers' alone; None where the run's is enough, or this end is neither."""
    number: int = 0
    certificate: str | None = None
    """PEM, of the run's coordinators; None: no TLS."""
    files: tuple[Path, Path] | None = None
    """Coordinators': certificate and private key."""

    @property
    def host(self) -> str:
        """What a coordinator is called in the handshake, wherever it is."""
        return host_of(self.number)

    def for_client(self) -> ssl.SSLContext | None:
        """TLS 1.3 with no authority but this certificate."""
        if self.certificate is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(cadata=self.certificate)
        return context

    def for_server(self) -> ssl.SSLContext:
        """TLS 1.3 with this key's certificate. Raises OSError (files gone, or no pair)."""
        assert self.files is not None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = 0
        context.load_cert_chain(*self.files)
        return context


def host_of(number: int) -> str:
    """The name in the certificate of a key."""
    return f"key-{number}.tessera"


Ring = Callable[[], tuple[Keys, ...]]
"""The keys that are held at this moment, the newest first; never none."""


def only(run: bytes, control: bytes | None = None) -> Ring:
    """The ring of a run that has one key and no TLS."""
    keys = (Keys(run, control),)
    return lambda: keys


def ring_of(directory: RunDirectory) -> Ring:
    """The ring in a run's folder: read anew each time, since keys come while programs run. It raises OSError where
    there is no key."""
    return lambda: _read(directory)


def _read(directory: RunDirectory) -> tuple[Keys, ...]:
    numbers = sorted((int(path.name) for path in directory.keys.glob("[0-9]*") if path.name.isdigit()), reverse=True)
    found = tuple(_numbered(directory.keys / str(number), number) for number in numbers)
    return found or (Keys(directory.key.read_bytes(), _optional(directory.control_key)),)


def _numbered(folder: Path, number: int) -> Keys:
    certificate, private = folder / "tls.crt", folder / "tls.key"
    return Keys(
        run=(folder / "key").read_bytes(),
        control=_optional(folder / "control"),
        number=number,
        certificate=certificate.read_text(),
        files=(certificate, private) if private.exists() else None,
    )


def _optional(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
