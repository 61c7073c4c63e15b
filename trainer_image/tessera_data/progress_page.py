"""How far a build is, for whoever asks: a line of JSON over HTTP, `{"stage": "encode", "done": 3, "of": 40}`."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class ProgressPage:
    """Answers on a port, in a thread, from `begin` on."""

    def __init__(self) -> None:
        self._said = b"{}"

    def say(self, stage: str, done: int, of: int) -> None:
        """From now on this is the answer."""
        self._said = json.dumps({"stage": stage, "done": done, "of": of}).encode()

    def begin(self, host: str, port: int) -> int:
        """Returns the port. Raises OSError (address in use)."""
        page = self

        class Answer(BaseHTTPRequestHandler):
            timeout = 5.0

            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(page._said)))
                self.end_headers()
                self.wfile.write(page._said)

            def log_message(self, format: str, *arguments: object) -> None:
                """Nothing: one who asks every ten seconds is no news."""

        server = ThreadingHTTPServer((host, port), Answer)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, name="progress", daemon=True).start()
        return int(server.server_address[1])
