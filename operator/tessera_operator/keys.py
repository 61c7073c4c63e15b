"""The keys of runs, derived from the operator's one secret, so that none has to be read back from the cluster.

Each is HKDF-like (one HMAC-SHA256 block) of the operator's secret, the run's uid and the key's number: the operator can
make it again after any restart, needs no right to read Secrets, and one key tells nothing about another. The TLS pair
is derived as well: an Ed25519 key (RFC 8032) is any 32 bytes, and its signatures are the same each time, so that
the certificate is.
"""

import datetime
import hashlib
import hmac
from dataclasses import dataclass
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID

from tessera_api.keys import Keys, host_of

KEY_BYTES = 32
_BEGIN = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_END = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
"""A certificate is good for as long as its key is, whatever a node's clock says; RFC 5280 has this end for that."""


def run_key(secret: bytes, uid: str) -> bytes:
    """The one key of a run that an older version began."""
    return _derived(secret, b"tessera run key 1", uid)


def control_key(secret: bytes, uid: str) -> bytes:
    """Its control key."""
    return _derived(secret, b"tessera control key 1", uid)


def _derived(secret: bytes, use: bytes, uid: str, number: int | None = None) -> bytes:
    counted = b"" if number is None else b"\0%d" % number
    return hmac.new(secret, use + b"\0" + uid.encode() + counted, hashlib.sha256).digest()


@dataclass(frozen=True)
class RunKeys:
    """One of a run's numbered keys, all of it."""

    number: int
    run: bytes
    """With which coordinators, agents and operator authenticate each other."""
    control: bytes
    """With which coordinators and operator show that they are none of the run's nodes."""
    certificate: str
    """PEM, of the coordinators."""
    private: str
    """PEM, PKCS 8."""

    def held(self) -> Keys:
        """As the operator holds it."""
        return Keys(self.run, self.control, self.number, self.certificate)


@lru_cache(maxsize=512)
def run_keys(secret: bytes, uid: str, number: int) -> RunKeys:
    """The run's key `number`, from 1."""
    run, control = (_derived(secret, use, uid, number) for use in (b"tessera run key 2", b"tessera control key 2"))
    private = Ed25519PrivateKey.from_private_bytes(_derived(secret, b"tessera tls key 2", uid, number))
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    pem = private.private_bytes(encoding, form, serialization.NoEncryption()).decode()
    return RunKeys(number, run, control, _certificate(private, uid, number), pem)


def _certificate(private: Ed25519PrivateKey, uid: str, number: int) -> str:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"tessera run {uid}"[:64])])
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    builder = (
        x509.CertificateBuilder(name, name, private.public_key(), number, _BEGIN, _END)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host_of(number))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=False)
    )
    return builder.sign(private, None).public_bytes(serialization.Encoding.PEM).decode()


def ring(secret: bytes, uid: str, first: int | None, newest: int | None) -> tuple[Keys, ...]:
    """What the operator holds of a run's keys, the newest first. `first`: of the start; None: an older version's."""
    if first is None:
        return (Keys(run_key(secret, uid), control_key(secret, uid)),)
    return tuple(run_keys(secret, uid, number).held() for number in range(max(newest or first, first), first - 1, -1))
