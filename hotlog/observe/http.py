"""What an operator asks over HTTP: GET /ready, GET /metrics (Prometheus).

Invariants: no request changes anything; a scrape first refreshes the gauges that are derived from state; printing them does not hold up
the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from hotlog.kernel.metrics import Metrics
from hotlog.observe.health import Health

_INDEX = (
    "hotlog\n\n/ready    200 when the broker serves (`degraded` with reasons when something is wrong), 503 with the reasons when not\n"
    "/metrics  Prometheus text\n"
)


class HttpDoor:
    """One small HTTP server.  `health` says how the broker is; `refresh` sets derived gauges."""

    def __init__(self, metrics: Metrics, *, health: Callable[[], Health], refresh: Callable[[], None]) -> None:
        self._metrics = metrics
        self._health = health
        self._refresh = refresh
        self._runner: web.AppRunner | None = None

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen; return the address really bound (port 0 picks one)."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/", self._index),
                web.get("/ready", self._ready),
                web.get("/metrics", self._scrape),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        address = self._runner.addresses[0]
        return str(address[0]), int(address[1])

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _index(self, request: web.Request) -> web.Response:
        return web.Response(text=_INDEX)

    async def _ready(self, request: web.Request) -> web.Response:
        health = self._health()
        return web.Response(text=health.text, status=health.status)

    async def _scrape(self, request: web.Request) -> web.Response:
        self._refresh()
        # A thousand topics take 0.4 s to print: in a thread, which gives way to the loop every few ms (the registry has locks).
        text = await asyncio.get_running_loop().run_in_executor(None, generate_latest, self._metrics.registry)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})
