"""Whether the process lives: an answer on /healthz for as long as its event loop turns, leading or standing by."""

from __future__ import annotations

from aiohttp import web


async def serve_health(port: int) -> web.AppRunner:
    """Answer from now on; `cleanup()` of the result ends it. Raises OSError when the port is taken."""
    application = web.Application()
    application.router.add_get("/healthz", _healthy)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", port).start()
    return runner


async def _healthy(_: web.Request) -> web.Response:
    return web.Response(text="ok")
