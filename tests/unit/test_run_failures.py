"""Telling failures apart by what torch 2.15 says of a broken peer, and by what programs say of their own mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tessera_run import is_collective_error, place_of

GLOO_CLOSED = (
    "[/__w/pytorch/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by peer"
    " [127.0.0.1]:14230. This is typically caused by a remote worker crashing."
)


@pytest.mark.parametrize(
    "text",
    [
        GLOO_CLOSED,
        "[../gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:1234: Connection reset by peer",
        "[/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 3000ms for recv"
        " operation to complete",
        "Application timeout caused pair closure",
        "Gloo connectFullMesh failed with [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:144] no error",
    ],
)
def test_what_gloo_says_of_a_broken_peer_is_a_collective_error(text: str) -> None:
    wrapped = ValueError("while the step ran")
    wrapped.__cause__ = RuntimeError(text)

    assert [is_collective_error(RuntimeError(text)), is_collective_error(wrapped)] == [True, True]


@pytest.mark.parametrize("name", ["DistBackendError", "DistNetworkError", "DistStoreError"])
def test_torchs_own_types_are_collective_errors(name: str) -> None:
    kind = type(name, (RuntimeError,), {})

    assert is_collective_error(kind("whatever it says"))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("gloo/transport is a word in a text"),
        KeyError("nccl"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("nccl2 requires at least one CUDA device"),
        RuntimeError("the gloo back-end was not built in"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
        RuntimeError("a download timed out waiting for the server"),
        ConnectionRefusedError(111, "Connection refused"),
        ConnectionResetError(104, "Connection reset by peer"),
        BrokenPipeError(32, "Broken pipe"),
        KeyboardInterrupt(),
    ],
    ids=repr,
)
def test_a_programs_own_error_is_not_a_collective_one(error: BaseException) -> None:
    assert not is_collective_error(error)


def test_errors_that_cause_each_other_are_not_followed_for_ever() -> None:
    one, two = ValueError("a"), ValueError("b")
    one.__cause__, two.__cause__ = two, one

    assert not is_collective_error(one)


def test_a_place_is_the_last_line_of_the_traceback() -> None:
    try:
        json.loads("{")
    except ValueError as error:
        place = place_of(error)

    file, line = place.split(" ")[0].rsplit(":", 1)
    assert (Path(file).name, line.isdigit(), place.split(" ")[1]) == ("decoder.py", True, "JSONDecodeError")
    assert place_of(ValueError("never raised")) == "ValueError"
