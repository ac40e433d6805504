"""What an operator asks over HTTP: GET /ready, GET /metrics (Prometheus).

Invariants: no request changes anything; a scrape first refreshes the gauges that are derived from state; printing them does not hold up
the event loop; no answer says what this is made of; what clients send wrong is told in a line.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from aiohttp import web
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from hotlog.kernel.metrics import Metrics
from hotlog.observe.health import STARTING, Health

LOG = logging.getLogger(__name__)
SERVER = "hotlog"
_INDEX = (
    "hotlog\n\n/ready    200 when the broker serves (`degraded` with reasons when something is wrong), 503 with the reasons when not\n"
    "/metrics  Prometheus text\n"
)


async def nothing_derived() -> None:
    """There is no state yet."""


class HttpDoor:
    """One small HTTP server.  `health` says how the broker is, `refresh` sets derived gauges: both may be told later, once there is one."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        health: Callable[[], Health] = lambda: STARTING,
        refresh: Callable[[], Awaitable[None]] = nothing_derived,
    ) -> None:
        self._metrics = metrics
        self.health = health
        self.refresh = refresh
        self._runner: web.ServerRunner | None = None
        self._pages = {"/": self._index, "/ready": self._ready, "/metrics": self._scrape}

    async def listen(self, host: str, port: int) -> tuple[str, int]:
        """Listen; return the address really bound (port 0 picks one)."""
        self._runner = web.ServerRunner(_Server(self._answer))
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        address = self._runner.addresses[0]
        return str(address[0]), int(address[1])

    async def close(self) -> None:
        """Stop listening; no error if it never did, or does no more."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        page = self._pages.get(request.path)
        if page is None:
            return _told("not found\n", status=404)
        if request.method not in ("GET", "HEAD"):
            return _told("only GET is allowed\n", status=405, Allow="GET, HEAD")
        return await page()

    async def _index(self) -> web.Response:
        return _told(_INDEX)

    async def _ready(self) -> web.Response:
        health = self.health()
        return _told(health.text, status=health.status)

    async def _scrape(self) -> web.Response:
        await self.refresh()
        # A thousand topics take 0.4 s to print: in a thread, which gives way to the loop every few ms (the registry has locks).
        text = await asyncio.get_running_loop().run_in_executor(None, generate_latest, self._metrics.registry)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST, "Server": SERVER})


def _told(text: str, *, status: int = 200, **headers: str) -> web.Response:
    return web.Response(text=text, status=status, headers={**headers, "Server": SERVER})


class _Server(web.Server):
    """aiohttp's server, one protocol a connection."""

    def __call__(self) -> web.RequestHandler:
        return _Protocol(self, loop=asyncio.get_running_loop(), access_log=None)  # type: ignore[arg-type]  # none is allowed


class _Protocol(web.RequestHandler):
    """aiohttp's protocol; what is not HTTP is answered and told in a line, without what it is made of."""

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        if status >= 500:
            answer = super().handle_error(request, status, exc, message)  # ours: with its traceback
        else:
            LOG.info("a request of %s is refused with %d: %s", request.remote, status, type(exc).__name__)
            answer = _told("bad request\n", status=status)
            answer.force_close()
        answer.headers["Server"] = SERVER
        return answer
