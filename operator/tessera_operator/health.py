"""Whether the process lives: an answer on /healthz for as long as its event loop turns, leading or standing by; and
/metrics beside it."""

from __future__ import annotations

from aiohttp import web
from prometheus_client import CollectorRegistry

from tessera_coordinator.metrics_page import add_metrics


async def serve_health(port: int, registry: CollectorRegistry) -> web.AppRunner:
    """Answer from now on; `cleanup()` of the result ends it. Raises OSError when the port is taken."""
    application = web.Application()
    application.router.add_get("/healthz", _healthy)
    add_metrics(application, registry)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", port).start()
    return runner


async def _healthy(_: web.Request) -> web.Response:
    return web.Response(text="ok")
