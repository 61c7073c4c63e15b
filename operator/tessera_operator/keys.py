"""The keys of runs, derived from the operator's one secret, so that none has to be read back from the cluster.

A run's key is HKDF-like (one HMAC-SHA256 block) of the operator's secret and the run's uid: the operator can make it
again after any restart, needs no right to read Secrets, and one run's key tells nothing about another's.
"""

import hashlib
import hmac

KEY_BYTES = 32


def run_key(secret: bytes, uid: str) -> bytes:
    """The key with which coordinator, agents and operator of the run `uid` authenticate each other."""
    return hmac.new(secret, b"tessera run key 1\0" + uid.encode(), hashlib.sha256).digest()


def control_key(secret: bytes, uid: str) -> bytes:
    """The key with which coordinators and operator show that they are none of the run's nodes."""
    return hmac.new(secret, b"tessera control key 1\0" + uid.encode(), hashlib.sha256).digest()
