"""A coordinator that decides nothing: writes down what a supervisor tells it, and answers from files that a test puts
there.

Files in the run directory: `told.jsonl` (every order, with the time), `answer.json` (a StatusAnswer), `end` (an exit
code: say Closed, exit with it). It leaves `greeted` after a hello and `answered`, a copy of the last answer given. A
stop order ends it with ExitCode.STOPPED, unless there is a file `deaf`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from contextlib import suppress
from pathlib import Path

from tessera_api.exit_codes import ExitCode
from tessera_api.keys import Keys
from tessera_api.messages import FROM_AGENT, Closed, Hello, StatusAnswer, Welcome
from tessera_api.orders import StatusQuestion, StopRun
from tessera_api.stream import MessageStream, StreamClosed
from tessera_api.wire import Side


class StandIn:
    """See the module."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._streams: list[MessageStream] = []
        self._code: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def serve(self, host: str, port: int) -> int:
        server = await asyncio.start_server(self._accept, host, port)
        watching = asyncio.create_task(self._watch())
        code = await self._code
        watching.cancel()
        for stream in self._streams:
            with suppress(StreamClosed):
                stream.send(Closed(reason="the stand-in is told to end", exit_code=code))
        await asyncio.sleep(0.05)  # what was sent leaves
        server.close()
        return code

    async def _watch(self) -> None:
        while not self._code.done():
            end = self._directory / "end"
            if end.exists():
                self._code.set_result(int(end.read_text()))
            await asyncio.sleep(0.01)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(StreamClosed):
            key = (self._directory / "key").read_bytes()
            stream = await MessageStream.begin(reader, writer, Keys(key), Side.SERVER, 5)
            self._streams.append(stream)
            while True:
                self._take(stream, (await stream.receive(None)).body)

    def _take(self, stream: MessageStream, body: dict[str, object]) -> None:
        message = FROM_AGENT.validate_python(body)
        if isinstance(message, Hello):
            stream.send(Welcome(run="stand-in", term=1))
            (self._directory / "greeted").touch()
            return
        if isinstance(message, StatusQuestion):
            stream.send(self._answer())
            return
        with open(self._directory / "told.jsonl", "a") as file:
            file.write(json.dumps({"at": time.time(), **message.model_dump(mode="json")}) + "\n")
        if isinstance(message, StopRun) and not (self._directory / "deaf").exists() and not self._code.done():
            self._code.set_result(ExitCode.STOPPED)

    def _answer(self) -> StatusAnswer:
        path = self._directory / "answer.json"
        if not path.exists():
            return StatusAnswer(status={})
        answer = path.read_bytes()
        (self._directory / "answered").write_bytes(answer)
        return StatusAnswer.model_validate_json(answer)


async def _main(directory: Path, address: str) -> int:
    host, _, port = address.rpartition(":")
    return await StandIn(directory).serve(host, int(port))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--run-directory", type=Path, required=True)
    parser.add_argument("--listen", required=True)
    arguments = parser.parse_args()
    sys.exit(asyncio.run(_main(arguments.run_directory, arguments.listen)))
