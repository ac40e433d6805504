"""GET /ready and /metrics as a load balancer and Prometheus ask for them."""

from __future__ import annotations

import aiohttp

from hotlog.kernel.metrics import Metrics
from hotlog.observe.http import HttpDoor


async def test_ready_says_why_not_and_metrics_are_refreshed_before_they_are_told() -> None:
    metrics, reasons = Metrics(), ["starting"]
    door = HttpDoor(metrics, reasons=lambda: reasons, refresh=lambda: metrics.log_size_bytes.labels("clicks").set(42))
    host, port = await door.start("127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession(f"http://{host}:{port}") as client:

            async def get(path: str) -> tuple[int, str]:
                async with client.get(path) as answer:
                    return answer.status, await answer.text()

            assert await get("/ready") == (503, "starting\n")
            reasons.clear()
            assert await get("/ready") == (200, "ready\n")
            status, text = await get("/metrics")
            assert (status, 'kafka_log_size_bytes{topic="clicks"} 42.0' in text) == (200, True)
            assert (await get("/nowhere"))[0] == 404
            async with client.post("/ready") as refused:
                assert refused.status == 405
    finally:
        await door.close()
