"""/metrics of a program, over HTTP, on its own event loop."""

from __future__ import annotations

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def add_metrics(application: web.Application, registry: CollectorRegistry) -> None:
    """Answer on /metrics with what the registry holds then."""

    async def shown(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE})

    application.router.add_get("/metrics", shown)


async def serve_metrics(registry: CollectorRegistry, host: str, port: int) -> web.AppRunner:
    """Answer from now on; `cleanup()` of the result ends it. Raises OSError when the port is taken."""
    application = web.Application()
    add_metrics(application, registry)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner
