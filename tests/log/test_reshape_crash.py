"""A follower's log dies in every disk call while it follows, is cut and has its closed segments replaced: each start finds old or new.

The leader's history is a list of batches with offsets and epochs.  What the log holds must be a beginning of it, up to where it was durable at
least; while it is being cut it may still be a beginning of the history from before, and while segments are replaced it may hold their batches
as they were or as they are to be, nothing between.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import pytest

from hotlog.log.manager import LogManager
from hotlog.log.partition_log import PartitionLog
from hotlog.wire.batch import walk
from hotlog.wire.records import decode_batch
from tests.log.dying import Story, die_once, undisturbed
from tests.log.support import TOPIC_ID, TP, batch, closed_segments, config
from tests.sim.entropy import stream
from tests.sim.loop import SimLoop

STEPS = 40
STEPS_OF_SWEEP = 18
PRODUCER = 3
SWEPT = {"fsync": 73, "compact": 36}  # seeds whose first steps cut and replace
OPTIONS = {"segment_bytes": 1024, "index_interval_bytes": 100, "file_delete_delay_ms": 0}
TOPICS = {
    "fsync": config(**OPTIONS),
    "page-cache": config(**OPTIONS, hotlog_durability="page-cache"),
    "compact": config(**OPTIONS, cleanup_policy="compact"),
}

pytestmark = pytest.mark.timeout(300)  # many deaths, and no waiting


class Sent(NamedTuple):
    """One record as the leader has it: it sends it as a batch of its own."""

    offset: int
    epoch: int
    value: bytes


@dataclass
class Followed:
    """What the follower's log may hold."""

    history: list[Sent] = field(default_factory=list)  # the leader's, from offset 0 on; a compacted one has gaps
    other: list[Sent] | None = None  # what it may be as well, while a change is under way
    durable: int = 0  # everything below was reported to be on the device
    epoch: int = 0
    end: int = 0  # the leader's


class Following(Story):
    """See the module's head.  The steps are given by the seed."""

    def __init__(self, loop: SimLoop, seed: int, topic: str, steps: int = STEPS) -> None:
        super().__init__(loop, seed, TOPICS[topic], "follower")
        self.steps = steps
        self.cut_segments = self.replaced_segments = 0
        self.followed = Followed()

    async def live(self, logs: LogManager) -> None:
        log = logs.get(TP) or await logs.create(TP, TOPIC_ID, self.topic)
        for _ in range(self.steps):
            match self.random.choice(
                ["follow"] * 8 + ["sync"] * 2 + ["cut"] * 3 + ["replace"] * 3 + ["tick", "checkpoint", "restart"]
            ):
                case "follow":
                    self.follow(log)
                case "sync":
                    await log.flush()
                    self.followed.durable = log.log_end_offset
                case "cut":
                    await self.cut(log)
                case "replace":
                    await self.replace(log)
                case "tick":
                    while await logs.tick():
                        pass
                case "checkpoint":
                    await logs.checkpoint()
                case "restart":
                    await logs.close()
                    self.followed.durable = log.log_end_offset
                    logs = await self.open(self.fuse.at)
                    assert logs.damage == []
                    log = self.log_of(logs)
                    self.check_whole(await contents(log), log)
        await logs.close()

    def follow(self, log: PartitionLog) -> None:
        """The leader writes some more, and the log follows from its end on."""
        followed = self.followed
        for _ in range(self.random.randrange(1, 5)):
            value = b"%d-%d" % (followed.end, self.random.getrandbits(32)) + b"." * self.random.randrange(400)
            followed.history.append(Sent(followed.end, followed.epoch, value))
            followed.end += 1
        wanted = [sent for sent in followed.history if sent.offset >= log.log_end_offset][: self.random.randrange(1, 5)]
        data = memoryview(bytearray(b"".join(map(as_sent, wanted))))
        if wanted:
            assert log.append_as_follower(data, now_ms=self.clock.now_ms()) == wanted[-1].offset + 1

    async def cut(self, log: PartitionLog) -> None:
        """Another leader, which has not all that this log has."""
        followed = self.followed
        offset = max(log.log_end_offset - self.random.randrange(12), 0)
        followed.other = list(followed.history)
        followed.history = [sent for sent in followed.history if sent.offset < offset]
        kept = followed.history[-1].offset + 1 if followed.history else 0
        followed.durable = min(followed.durable, kept)  # lower than `offset` where a compacted log has a gap
        followed.end = offset
        before = log.segment_count
        end = await log.truncate(offset)
        self.cut_segments += before - log.segment_count
        assert end == log.log_end_offset <= offset
        assert log.high_watermark <= end and log.recovery_point <= end
        followed.other, followed.end = None, max(offset, end)
        followed.epoch += 1

    async def replace(self, log: PartitionLog) -> None:
        """Some closed segments become fewer; in a compacted log records go."""
        await log.flush()
        self.followed.durable = log.log_end_offset
        closed = closed_segments(log)
        first = self.random.randrange(len(closed) + 1)
        old = [info.base_offset for info in closed[first : first + self.random.randrange(1, 5)]]
        if not old:
            return
        end = next(info.end_offset for info in closed if info.base_offset == old[-1])
        held = [sent for sent in await contents(log) if old[0] <= sent.offset < end]
        if self.topic.is_compacted:
            held = [sent for sent in held if self.random.random() < 0.5 or sent.offset == held[-1].offset]
        half = len(held) // 2
        parts = [held[:half], held[half:]] if half and self.random.random() < 0.5 else [held]
        new = [old[0], *(part[0].offset for part in parts[1:])]
        for base, part in zip(new, parts, strict=True):
            await self.disk.run(self.write_cleaned, f"{log.directory}/{base:020d}.log.cleaned", part)
        gone = {offset for offset in range(old[0], end)} - {sent.offset for sent in held}
        followed = self.followed
        followed.other, followed.history = followed.history, [sent for sent in followed.history if sent.offset not in gone]
        await log.replace_segments(old, new)
        self.replaced_segments += len(old)
        followed.other = None
        assert [info.base_offset for info in log.segments() if old[0] <= info.base_offset < end] == new
        self.check_whole(await contents(log), log)

    def write_cleaned(self, path: str, part: list[Sent]) -> None:
        file = self.disk.open(path, create=True)
        file.truncate(0)
        file.append([b"".join(map(as_sent, part))])
        file.close()

    async def check(self, logs: LogManager) -> None:
        assert logs.failures == {}, logs.failures
        log = logs.get(TP)
        if log is None:
            assert self.followed.durable == 0
            return
        assert log.failed is None, logs.damage
        found = await contents(log)
        followed = self.followed
        end = log.log_end_offset
        allowed = [history for history in (followed.history, followed.other) if history is not None]
        match = [history for history in allowed if found == [sent for sent in history if sent.offset < end]]
        assert match, (end, found[-5:], [history[-5:] for history in allowed])
        assert end >= followed.durable
        self.check_whole(found, log)
        followed.history, followed.other = match[0], None
        followed.end = max([end, *(sent.offset + 1 for sent in followed.history)])
        followed.epoch += 1

    def check_whole(self, found: list[Sent], log: PartitionLog) -> None:
        """Epochs and producers agree with the batches."""
        assert all(log.epochs.epoch_at(sent.offset) == sent.epoch for sent in found), (found, log.epochs.entries)
        assert all(start <= log.log_end_offset for _, start in log.epochs.entries)
        state = log.producers.get(PRODUCER)
        newest, last = state.batches[-1].last_offset if state and state.batches else -1, found[-1].offset if found else -1
        assert newest == last or (self.topic.is_compacted and last < newest < log.log_end_offset)


def as_sent(sent: Sent) -> bytes:
    raw = batch(sent.value, timestamp=1_000_000 + sent.offset, producer=(PRODUCER, 0, sent.offset))
    struct.pack_into(">q", raw, 0, sent.offset)
    struct.pack_into(">i", raw, 12, sent.epoch)
    return bytes(raw)


async def contents(log: PartitionLog) -> list[Sent]:
    """Every record of the local log, also what is not committed."""
    await log.flush()
    found: list[Sent] = []
    offset = 0
    while offset < log.log_end_offset:
        piece = await log.read_blocking(offset, 500, min_one=True)
        whole = [(at, header) for at, header in walk(memoryview(piece.data))]
        for at, header in whole:
            for record in decode_batch(memoryview(piece.data)[at : at + header.size]):
                found.append(Sent(record.offset, header.leader_epoch, bytes(record.value)))
        if not whole:
            break
        offset = whole[-1][1].next_offset
    return found


def story(seed: int, topic: str, steps: int = STEPS) -> Callable[[SimLoop], Following]:
    return partial(Following, seed=seed, topic=topic, steps=steps)


@pytest.mark.parametrize(("topic", "power"), [("fsync", False), ("fsync", True), ("compact", True)])
def test_a_death_in_every_disk_call(topic: str, power: bool) -> None:
    swept = story(SWEPT[topic], topic, STEPS_OF_SWEEP)
    whole = undisturbed(swept)
    assert whole.cut_segments > 1 and whole.replaced_segments > 2, "the story has become too tame"
    for at in range(1, whole.fuse.calls + 1):
        die_once(swept, at, power=power)


@pytest.mark.parametrize("power", [False, True], ids=["kill", "power"])
def test_deaths_in_many_stories_and_once_more_while_recovering(power: bool) -> None:
    chance = stream(7, "crash points")
    for seed in range(10, 60):
        topic = list(TOPICS)[seed % len(TOPICS)]
        die_once(story(seed, topic), chance.randrange(20, 500), power=power, again=chance.randrange(1, 40) if seed % 2 else None)
