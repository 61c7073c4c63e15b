"""What is special about S3: answers that get lost, stores that are overloaded, wrong or dishonest.

A small HTTP server on loopback speaks just enough of the protocol and misbehaves as told.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tessera_store import (
    ObjectExists,
    Patience,
    Store,
    StoreRefused,
    StoreUnavailable,
    open_store,
    probe,
)


class Mood(Enum):
    """How the server treats the next request."""

    SANE = "sane"
    ANSWER_LOST = "does it and hangs up"
    OVERLOADED = "does nothing and says 503"
    CONFLICT = "does nothing and says that another write is under way"
    DENIED = "says 403"
    NO_BUCKET = "says that there is no such bucket"


REFUSALS = {
    Mood.OVERLOADED: (503, "SlowDown"),
    Mood.CONFLICT: (409, "ConditionalRequestConflict"),
    Mood.DENIED: (403, "AccessDenied"),
    Mood.NO_BUCKET: (404, "NoSuchBucket"),
}


def _refusal(status: int, code: str) -> tuple[int, bytes]:
    return status, f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode()


class Loopback(ThreadingHTTPServer):
    """An S3 with one bucket; `moods` are used up one a request, then it is sane."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, bytes] = {}
        self.moods: list[Mood] = []
        self.conditional = True
        self.requests: list[str] = []


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: Loopback

    def do_PUT(self) -> None:
        self._treat(self._put)

    def do_GET(self) -> None:
        self._treat(self._get)

    def do_DELETE(self) -> None:
        self._treat(self._delete)

    def log_message(self, format: str, *args: object) -> None:
        """The test's output stays clean."""

    def _treat(self, work: Callable[[bytes], tuple[int, bytes]]) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append(self.command)
        mood = self.server.moods.pop(0) if self.server.moods else Mood.SANE
        if mood in REFUSALS:
            self._answer(*_refusal(*REFUSALS[mood]))
            return
        answer = work(body)
        if mood is Mood.ANSWER_LOST:
            self.close_connection = True
        else:
            self._answer(*answer)

    def _put(self, body: bytes) -> tuple[int, bytes]:
        held = self.server.conditional and self.headers.get("If-None-Match") == "*"
        if held and self.path in self.server.objects:
            return _refusal(412, "PreconditionFailed")
        self.server.objects[self.path] = body
        return 200, b""

    def _get(self, body: bytes) -> tuple[int, bytes]:
        if self.path not in self.server.objects:
            return _refusal(404, "NoSuchKey")
        return 200, self.server.objects[self.path]

    def _delete(self, body: bytes) -> tuple[int, bytes]:
        self.server.objects.pop(self.path, None)
        return 204, b""

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def loopback(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    with Loopback() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        yield server
        server.shutdown()
        thread.join(10)


@pytest.fixture
def store(loopback: Loopback) -> Store:
    return open_store("s3://bucket/run", Patience(attempts=3, first_wait_s=0.001, read_timeout_s=5))


def test_a_creation_whose_answer_got_lost_is_ours(loopback: Loopback, store: Store) -> None:
    loopback.moods = [Mood.ANSWER_LOST]

    store.create("log/00000001", b"ours")

    assert (loopback.requests, loopback.objects) == (["PUT", "PUT", "GET"], {"/bucket/run/log/00000001": b"ours"})


def test_after_a_lost_request_another_writers_object_is_not_ours(loopback: Loopback, store: Store) -> None:
    loopback.objects["/bucket/run/log/00000001"] = b"theirs"
    loopback.moods = [Mood.OVERLOADED]

    with pytest.raises(ObjectExists):
        store.create("log/00000001", b"ours")


@pytest.mark.parametrize("mood", [Mood.OVERLOADED, Mood.CONFLICT])
def test_passing_trouble_is_asked_again(loopback: Loopback, store: Store, mood: Mood) -> None:
    loopback.moods = [mood, mood]

    store.create("log/00000001", b"ours")

    assert loopback.requests == ["PUT", "PUT", "PUT"]


def test_trouble_that_lasts_is_unavailable_after_the_last_attempt(loopback: Loopback, store: Store) -> None:
    loopback.moods = [Mood.OVERLOADED] * 9

    with pytest.raises(StoreUnavailable, match="SlowDown"):
        store.get("log/00000001")

    assert loopback.requests == ["GET"] * 3


@pytest.mark.parametrize(
    ("mood", "remedy"),
    [(Mood.DENIED, "give these credentials the right"), (Mood.NO_BUCKET, "create the bucket or correct storage.uri")],
)
def test_what_waiting_cannot_mend_is_refused_at_once(loopback: Loopback, store: Store, mood: Mood, remedy: str) -> None:
    loopback.moods = [mood]

    with pytest.raises(StoreRefused, match=remedy):
        store.put("part", b"1")

    assert loopback.requests == ["PUT"]


def test_a_silent_store_is_given_up_within_the_limit(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as listening:  # accepts, never answers
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listening.server_port}")
        silent = open_store("s3://bucket/run", Patience(attempts=2, first_wait_s=0.001, read_timeout_s=0.2))

        with pytest.raises(StoreUnavailable, match="timeout"):
            silent.create("log/00000001", b"ours")


def test_missing_credentials_are_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")

    with pytest.raises(StoreRefused, match="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        open_store("s3://bucket/run").get("x")


def test_a_store_that_ignores_the_condition_is_refused_by_the_probe(loopback: Loopback, store: Store) -> None:
    loopback.conditional = False

    with pytest.raises(StoreRefused, match=r"s3://bucket/run does not honour conditional creation .* use a store"):
        probe(store)

    assert loopback.objects == {}
