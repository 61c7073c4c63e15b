"""What the warm process can be asked, parsed once at its door."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from typing import Any

LONGEST_WAIT_S = 60.0
"""No request may hold the warm process to a longer wait."""
SLOTS = 1024


@dataclass(frozen=True, slots=True)
class Run:
    """Fork the trainer of a slot. `descriptors`: its standard input, output and error, ours to close."""

    argv: tuple[str, ...]
    """`-m MODULE ...` or `SCRIPT ...`."""
    environment: dict[str, str]
    directory: str
    slot: int
    processors: frozenset[int]
    descriptors: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Clear:
    """Kill and reap every trainer, within `seconds`."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Prove:
    """Prove the node in a fork, within `seconds`."""

    request: dict[str, Any]
    """A `proof.ProofRequest` as JSON."""
    seconds: float


class Ask(Enum):
    """A question that is answered at once."""

    READY = "ready"
    LIST = "list"


Request = Run | Clear | Prove | Ask


def parse_request(payload: bytes, descriptors: tuple[int, ...]) -> Request:
    """The request of a connection. ValueError if it is none."""
    body = json.loads(payload)
    if not isinstance(body, dict):
        raise ValueError("a request is a JSON object")
    match body.get("do"):
        case "run":
            return _run(body, descriptors)
        case "clear":
            return Clear(_seconds(body))
        case "proof":
            if not isinstance(body.get("request"), dict):
                raise ValueError("a proof needs a request")
            return Prove(body["request"], _seconds(body))
        case "ready" | "list":
            return Ask(body["do"])
        case other:
            raise ValueError(f"unknown request {other!r}")


def _seconds(body: dict[str, Any]) -> float:
    seconds = body.get("seconds")
    if not isinstance(seconds, int | float) or not 0 <= seconds <= LONGEST_WAIT_S:
        raise ValueError(f"seconds is {seconds!r}, not a number from 0 to {LONGEST_WAIT_S:.0f}")
    return float(seconds)


def _run(body: dict[str, Any], descriptors: tuple[int, ...]) -> Run:
    argv, environment, slot = body.get("argv"), body.get("env"), body.get("slot")
    if not isinstance(argv, list) or not all(isinstance(each, str) for each in argv):
        raise ValueError("argv is not a list of strings")
    if not isinstance(environment, dict) or not all(isinstance(each, str) for each in environment.values()):
        raise ValueError("env is not a table of strings")
    if not isinstance(slot, str) or not slot.isdecimal() or int(slot) >= SLOTS:
        raise ValueError(f"slot (LOCAL_RANK) is {slot!r}, not a number below {SLOTS}")
    processors = body.get("processors")
    if not isinstance(processors, list) or not all(isinstance(each, int) for each in processors):
        raise ValueError("processors is not a list of numbers")
    directory = body.get("cwd")
    if not isinstance(directory, str):
        raise ValueError("cwd is not a string")
    if len(descriptors) != 3:
        raise ValueError(f"{len(descriptors)} descriptors came with the request, not 3")
    return Run(
        argv=tuple(argv),
        environment=environment,
        directory=directory,
        slot=int(slot),
        processors=frozenset(processors),
        descriptors=(descriptors[0], descriptors[1], descriptors[2]),
    )


def unfit_argv(argv: tuple[str, ...]) -> str:
    """Why a fork cannot run these arguments; empty if it can. Options of the interpreter act at its start only."""
    if not argv or (argv[0] == "-m" and len(argv) < 2):
        return "no program is named"
    if argv[0].startswith("-") and argv[0] != "-m":
        return f"the interpreter's option {argv[0]} acts only at its start"
    return ""
