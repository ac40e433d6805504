"""The process dies in every single disk call of a log's life, by kill -9 and by power loss, and once more while it recovers."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from hotlog.kernel.metrics import Metrics
from hotlog.kernel.settings import Settings
from hotlog.log.manager import LogManager
from hotlog.log.partition_log import PartitionLog
from hotlog.wire.batch import walk
from hotlog.wire.records import decode_batch
from tests.log.support import TOPIC_ID, TP, append, batch, config
from tests.sim.clock import SimClock
from tests.sim.disk import Machine, SimDisk
from tests.sim.entropy import SimEntropy, stream
from tests.sim.fuse import Fuse
from tests.sim.loop import SimLoop, cancel_tasks, run
from tests.sim.trace import Trace

STEPS = 30
TOPICS = {
    "fsync": config(segment_bytes=1024, index_interval_bytes=100, file_delete_delay_ms=0),
    "page-cache": config(segment_bytes=1024, index_interval_bytes=100, file_delete_delay_ms=0, hotlog_durability="page-cache"),
}

pytestmark = pytest.mark.timeout(300)  # many deaths and examples, and no waiting


@dataclass
class Story:
    """What the clients of one log know."""

    values: list[bytes] = field(default_factory=list)  # by offset, written or tried
    acked: int = 0  # everything below was promised durable
    start_asked: int = 0
    start_saved: int = 0
    calls: int = 0


class Life:
    """A machine, and the processes that live on it one after the other."""

    def __init__(self, loop: SimLoop, seed: int, durability: str) -> None:
        self.loop = loop
        self.topic = TOPICS[durability]
        self.random = stream(seed, "steps")
        self.clock = SimClock(loop)
        self.story = Story()
        self.fuse = Fuse()
        self.disk = SimDisk(Machine(stream(seed, "disk")), self.clock, Trace(loop), self.fuse)

    async def open(self, at: int | None = None) -> LogManager:
        self.fuse.at = at
        settings = Settings.resolve({"hotlog.disk.reserve.bytes": "0"})
        logs = LogManager(self.clock, self.disk, SimEntropy(1), settings, Metrics(), "/data")
        await logs.open(config_of=lambda tp: self.topic)
        return logs

    async def die(self, power: bool) -> None:
        mine = asyncio.current_task()
        assert mine is not None
        self.story.calls += self.fuse.calls
        self.fuse = Fuse()
        self.disk = self.disk.lose_power(self.fuse) if power else self.disk.kill(self.fuse)
        await cancel_tasks(self.loop, keep=[mine])

    async def begin(self, at: int) -> None:
        await self.live(await self.open(at))

    async def go_on(self, at: int) -> None:
        logs = await self.open(at)
        await self.check(logs)
        await self.live(logs)

    async def recover(self, at: int) -> None:
        await self.check(await self.open(at))

    async def until_death(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` until it ends or the process dies in it; then nothing it says counts any more."""
        task, death = self.loop.create_task(work), self.loop.create_task(self.fuse.wait())
        await asyncio.wait([task, death], return_when=asyncio.FIRST_COMPLETED)
        death.cancel()
        if not self.fuse.blown:
            await task
        elif task.done() and not task.cancelled():
            task.exception()

    async def live(self, logs: LogManager) -> None:
        """Appends, acks, rolls, drops, restarts, in an order that the seed gives."""
        log = logs.get(TP) or await logs.create(TP, TOPIC_ID, self.topic)
        for _ in range(STEPS):
            match self.random.choice(["append"] * 5 + ["ack"] * 3 + ["roll", "tick", "checkpoint", "drop", "start", "restart"]):
                case "append":
                    offset = log.log_end_offset
                    del self.story.values[offset:]  # what was tried and lost is tried again with something else
                    self.story.values += [b"lost with the page cache"] * (offset - len(self.story.values))
                    value = b"%d-%d" % (offset, self.random.getrandbits(32)) + b"." * self.random.randrange(300)
                    self.story.values.append(value)
                    append(log, batch(value, timestamp=self.clock.now_ms(), producer=(3, 0, offset)), now_ms=self.clock.now_ms())
                case "ack":
                    await log.wait_durable(log.log_end_offset)
                    if log.config.is_fsynced:
                        self.story.acked = log.log_end_offset
                        assert log.high_watermark == log.log_end_offset
                case "roll":
                    log.roll(self.clock.now_ms())
                case "tick":
                    while await logs.tick():
                        pass
                case "checkpoint":
                    await logs.checkpoint()
                case "drop":
                    self.story.start_asked = max(self.story.start_asked, log.high_watermark)
                    await log.drop_local_before(log.high_watermark - self.random.randrange(10))
                    self.story.start_saved = log.log_start_offset
                case "start":
                    wanted = min(log.log_start_offset + self.random.randrange(3), log.high_watermark)
                    self.story.start_asked = max(self.story.start_asked, wanted)
                    log.advance_log_start(wanted)
                    await log.wait_log_start_saved()
                    self.story.start_saved = log.log_start_offset
                case "restart":
                    await logs.close()
                    self.story.acked = log.log_end_offset
                    logs = await self.open(self.fuse.at)
                    assert logs.damage == []
                    log = self.log_of(logs)
        await logs.close()

    def log_of(self, logs: LogManager) -> PartitionLog:
        assert logs.failures == {}
        log = logs.get(TP)
        assert log is not None
        return log

    async def check(self, logs: LogManager) -> None:
        """Acked is readable, what is readable was written, in order, and the log goes on."""
        assert logs.failures == {}, logs.failures
        log = logs.get(TP)
        if log is None:
            assert self.story.acked == 0 and self.story.start_saved == 0
            return
        assert log.failed is None, logs.damage
        assert self.story.acked <= log.log_end_offset <= len(self.story.values)
        assert log.high_watermark == log.log_end_offset == log.durable_end
        assert self.story.start_saved <= log.log_start_offset <= max(self.story.start_asked, 0)
        offset = log.local_log_start_offset
        assert offset == log.log_start_offset
        while offset < log.high_watermark:
            before = offset
            piece = await log.read_blocking(offset, 700, min_one=True)
            for position, header in walk(memoryview(piece.data)):
                for record in decode_batch(memoryview(piece.data)[position : position + header.size]):
                    if record.offset >= offset:
                        assert (record.offset, bytes(record.value)) == (offset, self.story.values[offset])
                        offset += 1
            assert offset > before, (offset, piece, log.segments())
        if log.log_end_offset > log.log_start_offset:
            last = log.log_end_offset - 1
            again = batch(self.story.values[last], producer=(3, 0, last))
            assert append(log, again, now_ms=self.clock.now_ms()).is_duplicate


def total_calls(seed: int, durability: str) -> int:
    async def main(loop: SimLoop) -> int:
        life = Life(loop, seed, durability)
        await life.live(await life.open())
        return life.fuse.calls

    return run(main)


def crash_once(seed: int, durability: str, at: int, power: bool, again: int | None) -> None:
    async def main(loop: SimLoop) -> None:
        life = Life(loop, seed, durability)
        await life.until_death(life.begin(at))
        await life.die(power)
        if again is not None:
            await life.until_death(life.recover(again))
            await life.die(power)
        logs = await life.open()
        await life.check(logs)
        await life.live(logs)  # and it goes on
        await life.check(await life.open())

    try:
        run(main)
    except BaseException as error:
        error.add_note(f"crash_once({seed}, {durability!r}, {at}, {power}, {again})")
        raise


@pytest.mark.parametrize("power", [False, True], ids=["kill", "power"])
def test_a_death_in_every_disk_call(power: bool) -> None:
    total = total_calls(1, "fsync")
    assert total > 200
    for at in range(1, total + 1):
        crash_once(1, "fsync", at, power, None)


@pytest.mark.parametrize("power", [False, True], ids=["kill", "power"])
def test_deaths_without_fsync_before_the_ack(power: bool) -> None:
    for seed in range(2, 6):
        for at in range(1 + seed, total_calls(seed, "page-cache"), 12):
            crash_once(seed, "page-cache", at, power, None)


@pytest.mark.parametrize("power", [False, True], ids=["kill", "power"])
def test_a_second_death_while_recovering(power: bool) -> None:
    chance = stream(5, "crash points")
    for seed in range(60):
        crash_once(seed, "fsync", chance.randrange(5, 250), power, chance.randrange(1, 40))


def kill_then_lose_power(seed: int, at: int, again: int) -> None:
    async def main(loop: SimLoop) -> None:
        life = Life(loop, seed, "fsync")
        await life.until_death(life.begin(at))
        await life.die(power=False)
        await life.until_death(life.go_on(again))
        await life.die(power=True)
        await life.check(await life.open())

    try:
        run(main)
    except BaseException as error:
        error.add_note(f"kill_then_lose_power({seed}, {at}, {again})")
        raise


def test_a_power_loss_after_the_life_that_followed_a_kill() -> None:
    """What a killed process had made and not synced is there for the next one, and must not be trusted to stay."""
    chance = stream(7, "crash points")
    for seed in (1, 3):
        for at in range(1, total_calls(seed, "fsync") + 1):
            kill_then_lose_power(seed, at, chance.randrange(20, 90))


async def acked(life: Life, log: PartitionLog) -> None:
    offset = log.log_end_offset
    life.story.values[offset:] = [b"%d" % offset]
    append(log, batch(life.story.values[offset], producer=(3, 0, offset)), now_ms=life.clock.now_ms())
    await log.wait_durable(log.log_end_offset)
    life.story.acked = log.log_end_offset


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("call", range(1, 9))
def test_what_is_acked_in_a_segment_of_a_killed_process_outlives_a_power_loss(seed: int, call: int) -> None:
    """All before the roll is below the recovery point, so that the start has nothing to repair."""

    async def main(loop: SimLoop) -> None:
        life = Life(loop, seed, "fsync")
        logs = await life.open()
        log = await logs.create(TP, TOPIC_ID, life.topic)
        await acked(life, log)
        await logs.checkpoint()
        life.fuse.at = life.fuse.calls + call

        async def roll() -> None:
            log.roll(life.clock.now_ms())
            await acked(life, log)

        await life.until_death(roll())
        await life.die(power=False)
        await acked(life, life.log_of(await life.open()))
        await life.die(power=True)
        await life.check(await life.open())

    run(main)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("call", range(1, 12))
def test_a_log_start_that_a_killed_process_wrote_outlives_a_power_loss_once_it_was_told(seed: int, call: int) -> None:
    async def main(loop: SimLoop) -> None:
        life = Life(loop, seed, "fsync")
        logs = await life.open()
        log = await logs.create(TP, TOPIC_ID, life.topic)
        for _ in range(4):
            await acked(life, log)
        life.fuse.at = life.fuse.calls + call
        life.story.start_asked = 3
        log.advance_log_start(3)
        await life.until_death(log.wait_log_start_saved())
        await life.die(power=False)
        log = life.log_of(await life.open())
        await log.wait_log_start_saved()
        life.story.start_saved = log.log_start_offset
        await life.die(power=True)
        await life.check(await life.open())

    run(main)
