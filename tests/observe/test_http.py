"""GET /ready and /metrics as a load balancer and Prometheus ask for them."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator

import aiohttp
import pytest
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector

from hotlog.kernel.metrics import Metrics
from hotlog.observe.health import Health
from hotlog.observe.http import HttpDoor
from tests.tools.patience import PATIENCE_S


async def nothing() -> None:
    """No gauge is derived."""


async def test_ready_says_why_not_and_metrics_are_refreshed_before_they_are_told() -> None:
    metrics, health = Metrics(), [Health(refusing=("starting",))]

    async def refresh() -> None:
        metrics.log_size_bytes.labels("clicks").set(42)

    door = HttpDoor(metrics, health=lambda: health[0], refresh=refresh)
    host, port = await door.listen("127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession(f"http://{host}:{port}") as client:

            async def get(path: str) -> tuple[int, str]:
                async with client.get(path) as answer:
                    return answer.status, await answer.text()

            assert await get("/ready") == (503, "not ready\nstarting\n")
            health[0] = Health(degraded=("the disk is full", "the store is away"))
            assert await get("/ready") == (200, "degraded\nthe disk is full\nthe store is away\n")
            health[0] = Health(refusing=("log a-0 failed",), degraded=("the store is away",))
            assert await get("/ready") == (503, "not ready\nlog a-0 failed\nthe store is away\n")
            health[0] = Health()
            assert await get("/ready") == (200, "ready\n")
            status, text = await get("/metrics")
            assert (status, 'kafka_log_size_bytes{topic="clicks"} 42.0' in text) == (200, True)
            assert (await get("/nowhere"))[0] == 404
            async with client.post("/ready") as refused:
                assert refused.status == 405
    finally:
        await door.close()


class Slow(Collector):
    """Metrics that are printed only once the event loop has had a turn."""

    def __init__(self) -> None:
        self.asked, self.go_on = threading.Event(), threading.Event()

    def describe(self) -> Iterator[GaugeMetricFamily]:
        yield GaugeMetricFamily("slow", "Slow.")

    def collect(self) -> Iterator[GaugeMetricFamily]:
        self.asked.set()
        assert self.go_on.wait(PATIENCE_S), "the loop stood still while metrics were printed"
        yield GaugeMetricFamily("slow", "Slow.", value=1.0)


async def test_the_loop_goes_on_while_metrics_are_printed() -> None:
    metrics, slow = Metrics(), Slow()
    metrics.registry.register(slow)
    door = HttpDoor(metrics, health=Health, refresh=nothing)
    host, port = await door.listen("127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession(f"http://{host}:{port}") as client:
            scrape = asyncio.create_task(client.get("/metrics"))
            async with asyncio.timeout(PATIENCE_S):
                while not slow.asked.is_set():
                    await asyncio.sleep(0.001)
            async with client.get("/ready") as ready:
                assert ready.status == 200
            slow.go_on.set()
            async with await scrape as answer:
                assert "slow 1.0" in await answer.text()
    finally:
        slow.go_on.set()
        await door.close()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (bytes.fromhex("16030100c8010000c40303") + b"\0" * 60, 400),
        (b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"PUT /ready HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 405),
        (b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (b"GET /metrics HTTP/1.0\r\n\r\n", 200),
    ],
    ids=["long line", "long header", "bad length", "tls", "404", "405", "ready", "metrics"],
)
async def test_no_answer_says_what_the_door_is_made_of(sent: bytes, status: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    door = HttpDoor(Metrics(), health=Health, refresh=nothing)
    host, port = await door.listen("127.0.0.1", 0)
    try:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(sent)
        async with asyncio.timeout(PATIENCE_S):
            head = await reader.readuntil(b"\r\n\r\n")
        writer.close()
    finally:
        await door.close()
    assert head.split()[1] == b"%d" % status
    assert b"Server: hotlog\r\n" in head
    assert b"aiohttp" not in head.lower()
    assert b"python" not in head.lower()
    assert [
        line for line in caplog.records if line.exc_info or line.levelno >= logging.WARNING or len(line.getMessage()) > 500
    ] == []
