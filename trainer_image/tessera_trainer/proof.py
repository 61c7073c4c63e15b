"""The node's proof: what must hold on this node before it may join a run (design.md §2.1).

Owns the list of checks, their limits and the result. Each check runs in a thread of its own with a limit, all at once,
so that a silent storage or a dead mount costs its limit and is named. The full proof belongs into a fresh process (a
fork of the warm one, or `python -m tessera_trainer.proof REQUEST`), since it touches the devices; the light one touches
none and serves re-joins.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from tessera_trainer import proof_checks
from tessera_trainer.proof_checks import Unfit


@dataclass(frozen=True, slots=True)
class ProofRequest:
    """What to prove."""

    device: str
    """`cpu` or `cuda`."""
    storage: str
    """URI of the run's storage."""
    run_directory: str
    """Where the node writes its logs and sockets; must be a folder that takes files."""
    world_size: int
    """The most ranks that the run may have."""
    threads: int = 1
    """Of each trainer: part of the numerics' fingerprint."""
    light: bool = False
    """Only what is known without touching a device or waiting for storage: folders and device events."""
    devices: int = 1
    """How many devices the run takes of this node (with `cuda`)."""
    mounts: tuple[str, ...] = ()
    """Folders that must be there, beside `run_directory`."""
    shared_memory: str = "/dev/shm"
    shared_memory_bytes: int = 64 << 20
    """What the trainers of this node need there."""
    limit_s: float = 10.0
    """Of each check. (All of them together take well under 3 s on a sound node.)"""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Check:
    """What one check found. `message` says what was seen, and if it failed, what to change."""

    name: str
    ok: bool
    message: str
    seconds: float


@dataclass(frozen=True, slots=True)
class ProofResult:
    """What the node proved."""

    ok: bool
    checks: tuple[Check, ...]
    fingerprint: str = ""
    """Of the node's numerics (`numerics.fingerprint`); empty in the light proof, and where it could not be taken."""

    @property
    def failures(self) -> str:
        """The failed checks in one line; empty if there are none."""
        return "; ".join(f"{check.name}: {check.message}" for check in self.checks if not check.ok)


Body = Callable[[], str]
"""Does one check and says what it saw. Raises Unfit."""


def prove(request: ProofRequest, multiply: proof_checks.Multiply | None = None) -> ProofResult:
    """Runs the checks. `multiply` stands for the product of two matrices (default: torch's)."""
    fingerprints: list[str] = []
    checks = _light(request) if request.light else {**_light(request), **_full(request, fingerprints, multiply)}
    running = [_Running(name, body) for name, body in checks.items()]
    deadline = time.monotonic() + request.limit_s
    found = tuple(each.result(deadline, request.limit_s) for each in running)
    return ProofResult(all(check.ok for check in found), found, "".join(fingerprints))


def _light(request: ProofRequest) -> dict[str, Body]:
    return {
        "folders": lambda: proof_checks.check_folders((request.run_directory, *request.mounts), request.storage),
        "device events": lambda: proof_checks.check_device_events(request.device),
    }


def _full(request: ProofRequest, fingerprints: list[str], multiply: proof_checks.Multiply | None) -> dict[str, Body]:
    # Imported here, since the agent takes the light proof only; and before the clocks start, since it may take seconds.
    from tessera_trainer import numerics, proof_devices

    def devices() -> str:
        said = proof_devices.check_devices(request.device, request.devices, multiply)
        fingerprints.append(numerics.fingerprint(request.device, request.threads))
        return said

    soft = raise_open_files()
    return {
        "devices": devices,
        "shared memory": lambda: proof_checks.check_shared_memory(request.shared_memory, request.shared_memory_bytes),
        "storage": lambda: proof_checks.check_storage(request.storage),
        "open files": lambda: proof_checks.check_open_files(soft, request.world_size),
    }


class _Running:
    """A check under way."""

    def __init__(self, name: str, body: Body) -> None:
        self._name, self._began = name, time.monotonic()
        self._found: Check | None = None
        self._thread = threading.Thread(target=self._run, args=(body,), name=f"proof-{name}", daemon=True)
        self._thread.start()

    def _run(self, body: Body) -> None:
        try:
            ok, message = True, body()
        except Unfit as unfit:
            ok, message = False, str(unfit)
        except Exception as error:  # noqa: BLE001 - the edge of a check: a surprise is a node that is not proven
            ok, message = False, f"failed unexpectedly with {type(error).__name__}: {error}"
        self._found = Check(self._name, ok, message, round(time.monotonic() - self._began, 4))

    def result(self, deadline: float, limit_s: float) -> Check:
        self._thread.join(max(0.0, deadline - time.monotonic()))
        return self._found or Check(self._name, False, f"gave no answer in {limit_s:g} s", limit_s)


def raise_open_files() -> int:
    """Raises this process' limit of open files to the hard one (children inherit it). Returns what it is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError):
            return soft  # the kernel's own bound is lower; the check says whether it is enough
    return hard


def failed_proof(message: str, seconds: float) -> ProofResult:
    """The result of a proof that gave none."""
    return ProofResult(False, (Check("proof", False, message, round(seconds, 4)),))


def prove_json(request: Mapping[str, Any]) -> str:
    """From request to result, both as JSON: what a fresh process does. One line."""
    names = {field.name for field in fields(ProofRequest)}
    known = {name: value for name, value in request.items() if name in names}
    return json.dumps(asdict(prove(ProofRequest(**{**known, "mounts": tuple(known.get("mounts", ()))}))))


def parse_result(text: str) -> ProofResult:
    """The result from `prove_json`'s line; a failed one if it is not that."""
    try:
        body = json.loads(text)
        checks = tuple(Check(**check) for check in body["checks"])
        return ProofResult(bool(body["ok"]), checks, str(body["fingerprint"]))
    except (ValueError, KeyError, TypeError) as error:
        return failed_proof(f"its result cannot be read: {error!r}", 0.0)


if __name__ == "__main__":
    print(prove_json(json.loads(sys.argv[1])), flush=True)
    os._exit(0)  # a check that hangs in the kernel must not hold us
