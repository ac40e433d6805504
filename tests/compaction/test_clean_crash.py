"""The process dies in every disk call of a log's life with cleanings in it: no value is ever older than one that was read before.

What a reader saw of a key, and what was acknowledged, is remembered over deaths: whatever comes later has that record or a newer one, or, if
it was a tombstone, none of that key at all.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from functools import partial

import pytest

from compaction.cleaner import Cleaner
from hotlog.log.manager import LogManager
from hotlog.log.partition_log import PartitionLog
from tests.compaction.cleaning import cleaner_of, compacted, put, seen_by_reader
from tests.log.dying import Story, die_once, undisturbed
from tests.log.support import TOPIC_ID, TP
from tests.sim.entropy import SimEntropy, stream
from tests.sim.loop import SimLoop

STEPS, STEPS_OF_SWEEP = 40, 14
TOPIC = compacted(segment_bytes=1024, index_interval_bytes=100, delete_retention_ms=60_000)
KEYS = [b"k%d" % n for n in range(6)]

pytestmark = pytest.mark.timeout(300)  # many deaths, and no waiting


class Cleaned(Story):
    """See the module's head.  The steps are given by the seed."""

    def __init__(self, loop: SimLoop, seed: int, steps: int = STEPS) -> None:
        super().__init__(loop, seed, TOPIC, "cleaner")
        self.steps = steps
        self.tried: dict[int, tuple[bytes, bytes | None]] = {}  # by offset, as written last
        self.known: dict[bytes, int] = {}  # the newest offset of a key that was acknowledged, or read
        self.cleanings = self.sequence = 0

    async def live(self, logs: LogManager) -> None:
        log = logs.get(TP) or await logs.create(TP, TOPIC_ID, self.topic)
        cleaner = self.cleaner(log)
        for _ in range(self.steps):
            match self.random.choice(["put"] * 6 + ["read"] * 2 + ["clean"] * 4 + ["wait", "tick", "checkpoint", "restart"]):
                case "put":
                    await self.put(log)
                case "read":
                    await self.read(log)
                case "clean":
                    log.roll(self.clock.now_ms())
                    self.cleanings += await cleaner.tick()
                    await self.read(log)
                case "wait":
                    await asyncio.sleep(40)
                case "tick":
                    while await logs.tick():
                        pass
                case "checkpoint":
                    await logs.checkpoint()
                case "restart":
                    await logs.close()
                    logs = await self.open(self.fuse.at)
                    assert logs.damage == []
                    log = self.log_of(logs)
                    cleaner = self.cleaner(log)
                    await self.read(log)
        await logs.close()

    def cleaner(self, log: PartitionLog) -> Cleaner:
        """One with room for a few keys, so that some cleanings stop within a segment."""
        return cleaner_of(log, disk=self.disk, clock=self.clock, entropy=SimEntropy(1), log_cleaner_dedupe_buffer_size=1400)

    async def put(self, log: PartitionLog) -> None:
        now_ms = self.clock.now_ms()
        pairs = []
        for _ in range(self.random.randrange(1, 4)):
            value = b"%d" % self.random.getrandbits(32) + b"." * self.random.randrange(90) if self.random.random() < 0.8 else None
            pairs.append((self.random.choice(KEYS), value))
        state = log.producers.get(3)
        sequence = state.batches[-1].last_sequence + 1 if state and state.batches else 0
        codec = self.random.choice([0, 0, 3])
        base = log.log_end_offset
        self.tried = {offset: pair for offset, pair in self.tried.items() if offset < base}
        self.tried.update((base + n, pair) for n, pair in enumerate(pairs))
        end = put(log, *pairs, now_ms=now_ms, codec=codec, producer=(3, 0, sequence)) + len(pairs)
        await log.wait_durable(end)
        self.known.update((key, base + n) for n, (key, _) in enumerate(pairs))

    async def read(self, log: PartitionLog) -> None:
        headers, records = await seen_by_reader(log)
        for record in records:
            assert self.tried[record.offset] == (record.key, record.value), "order, offsets, keys and values are as written"
        latest = {record.key: record.offset for record in records}
        for key, offset in self.known.items():
            if latest.get(key, -1) < offset:
                assert key not in latest, f"{key!r}: offset {latest[key]} came back, {offset} was known"
                assert self.tried[offset][1] is None, f"{key!r} at {offset} is lost"
        for key, offset in latest.items():
            assert key is not None
            self.known[key] = max(offset, self.known.get(key, -1))
        state = log.producers.get(3)
        written = [header.last_offset for header in headers if header.producer_id == 3]
        assert not written or (state is not None and state.batches[-1].last_offset == written[-1] == log.log_end_offset - 1)

    async def check(self, logs: LogManager) -> None:
        assert logs.failures == {}, logs.failures
        log = logs.get(TP)
        if log is None:
            assert not self.known
            return
        assert log.failed is None, logs.damage
        await self.read(log)


def story(seed: int, steps: int = STEPS) -> Callable[[SimLoop], Cleaned]:
    return partial(Cleaned, seed=seed, steps=steps)


@functools.cache
def swept() -> tuple[int, int]:
    """The first seed whose short story is not tame, and its calls: which one it is changes with the order of the house's own steps."""
    told = (undisturbed(story(seed, STEPS_OF_SWEEP)) for seed in range(50))
    return next((each.seed, each.fuse.calls) for each in told if each.cleanings > 1)


@pytest.mark.parametrize("power", [False, True], ids=["kill", "power"])
@pytest.mark.parametrize("part", range(2))
def test_a_death_in_every_disk_call(power: bool, part: int) -> None:
    seed, calls = swept()
    for at in range(1 + part, calls + 1, 2):
        die_once(story(seed, STEPS_OF_SWEEP), at, power=power)


@pytest.mark.parametrize("power", [False, True], ids=["kill", "power"])
def test_deaths_in_many_stories_and_once_more_while_recovering(power: bool) -> None:
    chance = stream(11, "crash points")
    for seed in range(20, 44):
        die_once(story(seed), chance.randrange(20, 900), power=power, again=chance.randrange(1, 60) if seed % 2 else None)
