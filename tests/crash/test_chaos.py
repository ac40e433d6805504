"""Chaos from outside, on the real thing: a broker that is killed and stopped, a store that is, and a path to it on which all goes wrong.

HOTLOG_CHAOS_S (default 15) is how long it goes on.  The broker is `hotlog serve` on MinIO behind a proxy that delays, cuts, answers 503
and loses answers; the client is librdkafka with acks=all and idempotence.  Afterwards everything acknowledged is there once and in order,
hot or cold, and the manifests agree with the bucket.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from tests.crash.test_kill import Load, check, create, read_all
from tests.fixtures.faulty_s3 import Forward, Rule, answer, cut_before, faulty_proxy, lose_response
from tests.fixtures.s3_servers import S3Server
from tests.tools.hotlog_server import HotlogServer
from tests.tools.patience import PATIENCE_S

SECONDS = float(os.environ.get("HOTLOG_CHAOS_S", "15"))
SETTINGS = {
    "log.segment.bytes": "131072",
    "remote.log.manager.task.interval.ms": "200",
    "log.retention.check.interval.ms": "500",
    "log.segment.delete.delay.ms": "100",
    "hotlog.cache.memory.bytes": "4194304",
}


class Weather(threading.Thread):
    """The proxy in a loop of its own.  `worst` is how many of a hundred requests meet something."""

    def __init__(self, upstream: str, chance: random.Random) -> None:
        super().__init__(daemon=True)
        self.worst = 0
        self.met: dict[str, int] = {}
        self.endpoint = ""
        self._upstream = upstream
        self._chance = chance
        self._is_up = threading.Event()
        self._ending: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        async with faulty_proxy(self._upstream) as proxy:
            proxy.rules.extend(Rule(method, "", self._act) for method in ("GET", "PUT", "POST", "DELETE", "HEAD"))
            self.endpoint = proxy.endpoint
            self._is_up.set()
            await self._ending.wait()

    async def _act(self, request: web.Request, forward: Forward) -> web.StreamResponse:
        if self._chance.randrange(100) >= self.worst:
            return await forward()
        name = self._chance.choice(["late", "cut", "unavailable", "lost", "slow down"])
        self.met[name] = self.met.get(name, 0) + 1
        if name == "late":
            await asyncio.sleep(self._chance.random() * 2)
            return await forward()
        if name == "cut":
            return await cut_before(request, forward)
        if name == "lost":
            return await lose_response(request, forward)
        return await answer(503, "SlowDown" if name == "slow down" else "ServiceUnavailable")(request, forward)

    def begin(self) -> None:
        self.start()
        assert self._is_up.wait(PATIENCE_S)

    def end(self) -> None:
        assert self._loop is not None
        assert self._ending is not None
        self._loop.call_soon_threadsafe(self._ending.set)
        self.join(PATIENCE_S)


class Trouble:
    """What happens to the broker; each ends with a broker that serves."""

    def __init__(self, server: HotlogServer, weather: Weather, chance: random.Random) -> None:
        self.server = server
        self.weather = weather
        self.chance = chance
        self.made: dict[str, int] = {}

    def make(self) -> None:
        name = self.chance.choice(["kill", "stop", "weather", "weather", "away"])
        self.made[name] = self.made.get(name, 0) + 1
        getattr(self, f"_{name}")()

    def _kill(self) -> None:
        self.server.kill()
        self.server.start()  # in whatever weather: hot data needs no store

    def _stop(self) -> None:
        assert self.server.process is not None
        self.server.process.send_signal(signal.SIGSTOP)
        time.sleep(self.chance.random() * 2)
        self.server.process.send_signal(signal.SIGCONT)

    def _weather(self) -> None:
        self.weather.worst = self.chance.choice([0, 5, 20, 50])
        time.sleep(self.chance.random() * 3)

    def _away(self) -> None:
        self.weather.worst = 100
        time.sleep(self.chance.random() * 3)
        if self.chance.random() < 0.3:
            self._kill()
        self.weather.worst = 0


@pytest.fixture
def weather(minio: S3Server) -> Iterator[Weather]:
    weather = Weather(minio.endpoint, random.Random())
    weather.begin()
    yield weather
    weather.end()


@pytest.fixture
def server(tmp_path: Path, minio: S3Server, minio_url: str, weather: Weather) -> Iterator[HotlogServer]:
    store = minio_url.replace(minio.endpoint, weather.endpoint)
    server = HotlogServer(folder=tmp_path / "broker", settings=SETTINGS, store=store)
    server.start()
    yield server
    server.stop()


@pytest.mark.timeout(6 * PATIENCE_S + 3 * SECONDS)
def test_nothing_acknowledged_is_lost_whatever_goes_wrong(server: HotlogServer, weather: Weather) -> None:
    seed = random.randrange(2**32)
    trouble = Trouble(server, weather, random.Random(seed))
    create(server, "hot")
    create(server, "cold", **{"local.retention.ms": "1", "retention.ms": "-1"})
    loads = {topic: Load(server.bootstrap, topic, pause_s=0.1) for topic in ("hot", "cold")}
    for load in loads.values():
        load.start()
    ends = time.monotonic() + SECONDS
    while time.monotonic() < ends:
        time.sleep(trouble.chance.random())
        trouble.make()
    weather.worst = 0
    for load in loads.values():
        load.wait_for_more(100)  # the broker serves again
        load.stop()
    print(f"seed {seed}: {trouble.made}, {weather.met}, {[len(load.acked) for load in loads.values()]} acknowledged")
    for topic, load in loads.items():
        check(read_all(server, topic), load)
    assert server.store is not None
    for topic in loads:
        command = [sys.executable, "-m", "hotlog", "manifest", "verify", topic, "--store", server.store]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "Traceback" not in server.errors.read_text()
