"""A long poll hears of every append, whenever it comes: one is made at each point where a fetch waits for something.

On virtual time an append that is not heard of shows: the fetch is answered when its max wait is over, seconds later.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Generator
from typing import Any

import pytest

from hotlog.answers.api import Caller, Pending, RequestContext, Spliced
from hotlog.apis.fetch import general_way
from hotlog.apis.fetch.short_way import short
from hotlog.broker.broker import Broker
from hotlog.front.dispatch import Dispatch
from hotlog.kernel.metrics import Metrics
from hotlog.wire import apis
from hotlog.wire.batch import header_at
from hotlog.wire.fetch_request import decode
from hotlog.wire.records import NewRecord, encode_batch
from tests.sim.test_ninety_days import SETTINGS
from tests.sim.world import SimWorld, simulate
from tests.wire.serving import fetch, frame_of
from tests.wire.strategies import read, written

VERSION = 12
WAIT_MS = 20_000
SOON_S = 2.0  # disk and store of the simulator answer within it
TAIL, OTHER, OLD = "tail", "other", "old"
MOMENTS_MAX = 16  # of a fetch of the short way
CALLER = Caller(("127.0.0.1", 1), 1)
DOOR = Dispatch(Metrics()).door(1, VERSION)
HOT = {"hotlog.durability": "page-cache"}  # readable as soon as it is appended


class Watched:
    """Awaits `inner`; calls `at(n)` before it begins (0) and whenever it waits for something (1, 2, ...)."""

    def __init__(self, inner: Any, at: Callable[[int], None]) -> None:
        self._inner = inner
        self._at = at

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._inner.__await__()
        number = 0
        self._at(number)
        try:
            waits_for = steps.send(None)
            while True:
                number += 1
                self._at(number)
                yield waits_for
                waits_for = steps.send(None)
        except StopIteration as end:
            return end.value


class Scene:
    """A broker with topic `tail` (nothing to read yet), `other` (one batch) and `old` (its first batches only in the store)."""

    def __init__(self, world: SimWorld, broker: Broker) -> None:
        self.world = world
        self.broker = broker
        self.ends: dict[str, int] = {}

    @classmethod
    async def open(cls, world: SimWorld) -> Scene:
        life = await world.boot()
        scene = cls(world, life.broker)
        for topic in (TAIL, OTHER):
            await life.broker.create_topic(topic, 1, HOT)
        await life.broker.create_topic(OLD, 1, {"segment.bytes": "1024", "local.retention.ms": "1", "segment.ms": "1000"})
        for _ in range(6):
            scene.append(OLD, size=900)
            await asyncio.sleep(60)
        scene.append(OTHER)
        for _ in range(4):
            await asyncio.sleep(60)
            await life.beat()
        partition = life.broker.partition(OLD, 0)
        assert partition is not None
        assert partition.log.local_log_start_offset > 0
        return scene

    def append(self, topic: str, size: int = 100) -> None:
        partition = self.broker.partition(topic, 0)
        assert partition is not None
        now_ms = self.broker.clock.now_ms()
        data = encode_batch([NewRecord(now_ms, None, b"." * size)])
        appended = partition.log.append(memoryview(data), [header_at(data)], now_ms=now_ms)
        self.ends[topic] = appended.end_offset

    async def _general(self, request: Any, at: Callable[[int], None]) -> tuple[list[Any], int]:
        """An answer, and where its body begins."""
        context = RequestContext(1, VERSION, 1, "test", CALLER, self.broker.clock.monotonic())
        answer = general_way.handle(self.broker, context, decode(VERSION, memoryview(written(request)), 0))
        if not isinstance(answer, Spliced):
            answer = await Watched(answer, at)
        assert isinstance(answer, Spliced)
        return answer.buffers, 0

    async def _short(self, request: Any, at: Callable[[int], None]) -> tuple[list[Any], int]:
        """The same by the short way; its moments are turns of the loop, then milliseconds."""
        frame = memoryview(frame_of(request, 1)[4:])
        answer = short(self.broker, VERSION)(CALLER, frame, 0, len(frame))
        if not isinstance(answer, Pending):
            return (answer, 9) if isinstance(answer, list) else (([answer], 9) if answer else await self._general(request, at))
        done = asyncio.get_running_loop().create_future()
        answer.door, answer.owner, answer.arrived = DOOR, Waiting(done), self.broker.clock.monotonic()
        for number in range(MOMENTS_MAX):
            if not done.done():
                at(number)
                await asyncio.sleep(0 if number < MOMENTS_MAX // 2 else 0.001)
        await done
        assert answer.buffers is not None
        return answer.buffers, 9

    async def poll(
        self, offsets: dict[str, int], bytes_min: int, at: Callable[[int], None], *, is_short: bool = False
    ) -> dict[str, int]:
        """One fetch by its bytes; returns bytes of records by topic."""
        parts = [fetch(topic, {0: at}, bytes_min=bytes_min, wait_ms=WAIT_MS, version=VERSION) for topic, at in offsets.items()]
        request = dataclasses.replace(parts[0], topics=tuple(part.topics[0] for part in parts))
        buffers, head = await (self._short(request, at) if is_short else self._general(request, at))
        frame = b"".join([bytes(each) if not hasattr(each, "read_now") else await each.read(0, len(each)) for each in buffers])
        response = read(apis.response_type(1, VERSION), frame, head)
        return {topic.topic: sum(len(part.records or b"") for part in topic.partitions) for topic in response.responses}


class Waiting:
    """Who waits for an answer of the short way."""

    def __init__(self, done: asyncio.Future[None]) -> None:
        self._done = done

    def answered(self, pending: Pending) -> None:
        self._done.set_result(None)


@pytest.mark.parametrize("is_short", [False, True], ids=["general", "short"])
@pytest.mark.parametrize("cached", [1.0, 0.5, 0.0])
@pytest.mark.parametrize(
    ("topics", "bytes_min"),
    [((TAIL,), 1), ((TAIL, OTHER), 400), ((TAIL, OLD), 100_000)],
    ids=["tail", "hot and tail", "cold and tail"],
)
def test_an_append_at_any_moment_of_a_fetch_answers_it(
    topics: tuple[str, ...], bytes_min: int, cached: float, is_short: bool
) -> None:
    async def append_at(scene: Scene, moment: int) -> bool:
        """A fetch during whose `moment`-th wait a record is appended; False if it did not wait that often while its time ran."""
        loop, came = scene.world.loop, -1.0
        began = loop.time()
        offsets = {TAIL: scene.ends.get(TAIL, 0), OTHER: 0, OLD: 0}

        def at(number: int) -> None:
            nonlocal came
            if number == moment and loop.time() - began < WAIT_MS / 1000:  # a last read comes when the time is over
                came = loop.time()
                scene.append(TAIL, size=max(bytes_min, 100))

        found = await scene.poll({topic: offsets[topic] for topic in topics}, bytes_min, at, is_short=is_short)
        if came < 0:
            return False
        assert found[TAIL] > 0, f"an append at moment {moment} is not in the answer"
        assert loop.time() - came < SOON_S, f"an append at moment {moment} was answered {loop.time() - came} s later"
        return True

    async def main(world: SimWorld) -> None:
        scene = await Scene.open(world)
        world.machine.page_cache = cached
        moment = 0
        while await append_at(scene, moment):
            moment += 1
        assert moment >= 2, "a fetch waits at least once"

    simulate(11, main, settings=SETTINGS)
