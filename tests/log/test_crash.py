"""The process dies in every single disk call of a log's life, by kill -9 and by power loss, and once more while it recovers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import pytest

from hotlog.log.manager import LogManager
from hotlog.log.partition_log import PartitionLog
from hotlog.wire.batch import walk
from hotlog.wire.records import decode_batch
from tests.log.dying import Story, die_once, kill_then_lose_power, undisturbed
from tests.log.support import TOPIC_ID, TP, append, batch, config
from tests.sim.entropy import stream
from tests.sim.lives import lived
from tests.sim.loop import SimLoop, run

STEPS = 30
TOPICS = {
    "fsync": config(segment_bytes=1024, index_interval_bytes=100, file_delete_delay_ms=0),
    "page-cache": config(segment_bytes=1024, index_interval_bytes=100, file_delete_delay_ms=0, hotlog_durability="page-cache"),
}

pytestmark = pytest.mark.timeout(300)  # many deaths and examples, and no waiting


@dataclass
class Known:
    """What the clients of one log know."""

    values: list[bytes] = field(default_factory=list)  # by offset, written or tried
    acked: int = 0  # everything below was promised durable
    start_asked: int = 0
    start_saved: int = 0


class Clients(Story):
    """Appends, acks, rolls, drops, restarts, in an order that the seed gives."""

    def __init__(self, loop: SimLoop, seed: int, durability: str) -> None:
        super().__init__(loop, seed, TOPICS[durability], "steps")
        self.known = Known()

    async def live(self, logs: LogManager) -> None:
        log = logs.get(TP) or await logs.create(TP, TOPIC_ID, self.topic)
        for _ in range(STEPS):
            match self.random.choice(["append"] * 5 + ["ack"] * 3 + ["roll", "tick", "checkpoint", "drop", "start", "restart"]):
                case "append":
                    offset = log.log_end_offset
                    del self.known.values[offset:]  # what was tried and lost is tried again with something else
                    self.known.values += [b"lost with the page cache"] * (offset - len(self.known.values))
                    value = b"%d-%d" % (offset, self.random.getrandbits(32)) + b"." * self.random.randrange(300)
                    self.known.values.append(value)
                    append(log, batch(value, timestamp=self.clock.now_ms(), producer=(3, 0, offset)), now_ms=self.clock.now_ms())
                case "ack":
                    await log.wait_durable(log.log_end_offset)
                    if log.config.is_fsynced:
                        self.known.acked = log.log_end_offset
                        assert log.high_watermark == log.log_end_offset
                case "roll":
                    log.roll(self.clock.now_ms())
                case "tick":
                    while await logs.tick():
                        pass
                case "checkpoint":
                    await logs.checkpoint()
                case "drop":
                    self.known.start_asked = max(self.known.start_asked, log.high_watermark)
                    await log.drop_local_before(log.high_watermark - self.random.randrange(10))
                    self.known.start_saved = log.log_start_offset
                case "start":
                    wanted = min(log.log_start_offset + self.random.randrange(3), log.high_watermark)
                    self.known.start_asked = max(self.known.start_asked, wanted)
                    log.advance_log_start(wanted)
                    await log.wait_log_start_saved()
                    self.known.start_saved = log.log_start_offset
                case "restart":
                    await logs.close()
                    self.known.acked = log.log_end_offset
                    logs = await self.open(self.fuse.at)
                    assert logs.damage == []
                    log = self.log_of(logs)
        await logs.close()

    async def check(self, logs: LogManager) -> None:
        """Acked is readable, what is readable was written, in order, and the log goes on."""
        assert logs.failures == {}, logs.failures
        log = logs.get(TP)
        if log is None:
            assert self.known.acked == 0 and self.known.start_saved == 0
            return
        assert log.failed is None, logs.damage
        assert self.known.acked <= log.log_end_offset <= len(self.known.values)
        assert log.high_watermark == log.log_end_offset == log.durable_end
        assert self.known.start_saved <= log.log_start_offset <= max(self.known.start_asked, 0)
        offset = log.local_log_start_offset
        assert offset == log.log_start_offset
        while offset < log.high_watermark:
            before = offset
            piece = await log.read_blocking(offset, 700, min_one=True)
            for position, header in walk(memoryview(piece.data)):
                for record in decode_batch(memoryview(piece.data)[position : position + header.size]):
                    if record.offset >= offset:
                        assert (record.offset, bytes(record.value)) == (offset, self.known.values[offset])
                        offset += 1
            assert offset > before, (offset, piece, log.segments())
        if log.log_end_offset > log.log_start_offset:
            last = log.log_end_offset - 1
            again = batch(self.known.values[last], producer=(3, 0, last))
            assert append(log, again, now_ms=self.clock.now_ms()).is_duplicate


def story(seed: int, durability: str = "fsync") -> Callable[[SimLoop], Clients]:
    return partial(Clients, seed=seed, durability=durability)


def calls_of(seed: int, durability: str = "fsync") -> int:
    return undisturbed(story(seed, durability)).fuse.calls


@pytest.mark.parametrize("power", [False, True], ids=["kill", "power"])
def test_a_death_in_every_disk_call(power: bool) -> None:
    total = calls_of(1)
    assert total > 200
    for at in range(1, total + 1):
        die_once(story(1), at, power=power)


@pytest.mark.parametrize("power", [False, True], ids=["kill", "power"])
def test_deaths_without_fsync_before_the_ack(power: bool) -> None:
    for seed in range(2, 6):
        for at in range(1 + seed, calls_of(seed, "page-cache"), 12):
            die_once(story(seed, "page-cache"), at, power=power)


@pytest.mark.parametrize("power", [False, True], ids=["kill", "power"])
def test_a_second_death_while_recovering(power: bool) -> None:
    chance = stream(5, "crash points")
    for seed in range(60):
        die_once(story(seed), chance.randrange(5, 250), power=power, again=chance.randrange(1, 40))


def test_a_power_loss_after_the_life_that_followed_a_kill() -> None:
    """What a killed process had made and not synced is there for the next one, and must not be trusted to stay."""
    chance = stream(7, "crash points")
    for seed in (1, 3):
        for at in range(1, calls_of(seed) + 1):
            kill_then_lose_power(story(seed), at, chance.randrange(20, 90))


async def acked(life: Clients, log: PartitionLog) -> None:
    offset = log.log_end_offset
    life.known.values[offset:] = [b"%d" % offset]
    append(log, batch(life.known.values[offset], producer=(3, 0, offset)), now_ms=life.clock.now_ms())
    await log.wait_durable(log.log_end_offset)
    life.known.acked = log.log_end_offset


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("call", range(1, 9))
def test_what_is_acked_in_a_segment_of_a_killed_process_outlives_a_power_loss(seed: int, call: int) -> None:
    """All before the roll is below the recovery point, so that the start has nothing to repair."""

    async def main(loop: SimLoop) -> None:
        life = Clients(loop, seed, "fsync")
        logs = await life.open()
        log = await logs.create(TP, TOPIC_ID, life.topic)
        await acked(life, log)
        await logs.checkpoint()
        life.fuse.at = life.fuse.calls + call

        async def roll() -> None:
            log.roll(life.clock.now_ms())
            await acked(life, log)

        await lived(life.fuse, roll())
        await life.die(power=False)
        await acked(life, life.log_of(await life.open()))
        await life.die(power=True)
        await life.check(await life.open())

    run(main)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("call", range(1, 12))
def test_a_log_start_that_a_killed_process_wrote_outlives_a_power_loss_once_it_was_told(seed: int, call: int) -> None:
    async def main(loop: SimLoop) -> None:
        life = Clients(loop, seed, "fsync")
        logs = await life.open()
        log = await logs.create(TP, TOPIC_ID, life.topic)
        for _ in range(4):
            await acked(life, log)
        life.fuse.at = life.fuse.calls + call
        life.known.start_asked = 3
        log.advance_log_start(3)
        await lived(life.fuse, log.wait_log_start_saved())
        await life.die(power=False)
        log = life.log_of(await life.open())
        await log.wait_log_start_saved()
        life.known.start_saved = log.log_start_offset
        await life.die(power=True)
        await life.check(await life.open())

    run(main)
