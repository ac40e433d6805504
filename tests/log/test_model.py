"""Random lives of a log against a model that is a list."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hotlog.kernel.errors import OutOfOrderSequence, OutOfRange
from hotlog.log.manager import LogManager
from hotlog.log.partition_log import PartitionLog
from hotlog.wire.batch import walk
from tests.log.support import T0, TOPIC_ID, TP, append, batch, config, kill, manager
from tests.support.clocks import HandClock

EXAMPLES = int(os.environ.get("HOTLOG_MODEL_EXAMPLES", "30"))  # more for a night

pytestmark = pytest.mark.timeout(300)  # virtual time or many examples: it ends by itself


@dataclass
class Record:
    """What the model knows of one record."""

    offset: int
    timestamp: int
    value: bytes


@dataclass
class Model:
    """The log as a list of batches (base, records), and what may be read."""

    batches: list[tuple[int, list[Record]]] = field(default_factory=list)
    log_start: int = 0
    end: int = 0
    next_sequence: int = 0
    last_sent: tuple[bytes, int, int] | None = None  # (bytes, base offset, end)

    @property
    def records(self) -> list[Record]:
        return [record for _, records in self.batches for record in records if record.offset >= self.log_start]


class LogLife(RuleBasedStateMachine):
    """Appends, rolls, drops, clean restarts, kills; reads and lookups compared with the model after each."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.home = tempfile.TemporaryDirectory(prefix="hotlog-model-")
        self.clock = HandClock()
        self.model = Model()

    def run_(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    @initialize(
        segment_bytes=st.sampled_from([1024, 4096, 1 << 20]), interval=st.sampled_from([0, 100, 4096]), fsync=st.booleans()
    )
    def begin(self, segment_bytes: int, interval: int, fsync: bool) -> None:
        self.topic = config(
            segment_bytes=segment_bytes,
            index_interval_bytes=interval,
            hotlog_durability="fsync" if fsync else "page-cache",
            file_delete_delay_ms=0,
        )
        self.logs = self.open()
        self.run_(self.logs.create(TP, TOPIC_ID, self.topic))

    def open(self) -> LogManager:
        logs = manager(self.home.name, clock=self.clock)
        self.run_(logs.open(config_of=lambda tp: self.topic))
        return logs

    @property
    def log(self) -> PartitionLog:
        log = self.logs.get(TP)
        assert log is not None
        return log

    @rule(
        times=st.lists(st.integers(-5000, 5000), min_size=1, max_size=5),
        size=st.integers(0, 130),
        idempotent=st.booleans(),
        durable=st.booleans(),
        count=st.integers(1, 6),
    )
    def write(self, times: list[int], size: int, idempotent: bool, durable: bool, count: int) -> None:
        async def work() -> None:
            for _ in range(count):
                producer = (7, 0, self.model.next_sequence) if idempotent else (-1, -1, -1)
                values = [b"%d" % (self.model.end + index) + b"v" * size for index in range(len(times))]
                raw = bytes(batch(*values, timestamps=[T0 + time for time in times], producer=producer))
                done = append(self.log, raw, now_ms=self.clock.ms)
                assert (done.base_offset, done.is_duplicate) == (self.model.end, False)
                made = [Record(done.base_offset + i, T0 + time, values[i]) for i, time in enumerate(times)]
                self.model.batches.append((done.base_offset, made))
                self.model.end += len(times)
                assert done.last_offset == self.model.end - 1
                if idempotent:
                    self.model.next_sequence += len(times)
                    self.model.last_sent = raw, done.base_offset, self.model.end
            if durable:
                await self.log.wait_durable(self.model.end)
                assert self.log.high_watermark == self.model.end

        self.run_(work())

    @precondition(lambda self: self.model.last_sent is not None)
    @rule()
    def send_again(self) -> None:
        async def work() -> None:
            assert self.model.last_sent is not None
            raw, base, end = self.model.last_sent
            done = append(self.log, raw, now_ms=self.clock.ms)
            assert (done.is_duplicate, done.base_offset, done.end_offset) == (True, base, end)

        self.run_(work())

    @precondition(lambda self: self.model.last_sent is not None)
    @rule(gap=st.integers(1, 100))
    def leave_a_gap(self, gap: int) -> None:
        async def work() -> None:
            try:
                append(self.log, batch(b"x", producer=(7, 0, self.model.next_sequence + gap)))
            except OutOfOrderSequence:
                return
            raise AssertionError("a gap was accepted")

        self.run_(work())

    @rule()
    def roll(self) -> None:
        async def work() -> None:
            self.log.roll(self.clock.ms)

        self.run_(work())

    @rule(share=st.floats(0, 1))
    def delete_records(self, share: float) -> None:
        async def work() -> None:
            await self.log.flush()
            offset = int(self.model.log_start + share * (self.model.end - self.model.log_start))
            self.log.advance_log_start(offset)
            await self.log.wait_log_start_saved()
            self.model.log_start = offset

        self.run_(work())

    @rule(share=st.floats(0, 1))
    def drop(self, share: float) -> None:
        async def work() -> None:
            await self.log.flush()
            before = self.log.size
            freed = await self.log.drop_local_before(int(share * self.model.end))
            assert self.log.size == before - freed
            self.model.log_start = max(self.model.log_start, self.log.local_log_start_offset)
            await self.logs.tick()

        self.run_(work())

    @rule()
    def stop_and_start(self) -> None:
        self.run_(self.logs.close())
        self.logs = self.open()
        assert self.logs.damage == []

    @rule(checkpoint=st.booleans())
    def kill_and_start(self, checkpoint: bool) -> None:
        if checkpoint:
            self.run_(self.logs.checkpoint())
        self.run_(kill(self.logs))  # the page cache stays: every written batch is there
        self.logs = self.open()
        assert self.logs.damage == []

    @rule(ms=st.integers(0, 100_000))
    def time_passes(self, ms: int) -> None:
        self.clock.ms += ms
        self.run_(self.logs.tick())

    @rule(share=st.floats(0, 1), bytes_max=st.sampled_from([1, 100, 700, 1 << 20]))
    def read(self, share: float, bytes_max: int) -> None:
        async def work() -> None:
            offset = int(self.model.log_start + share * (self.model.end - self.model.log_start))
            before = self.log.high_watermark
            for piece in (
                self.log.read(offset, bytes_max, min_one=True),
                await self.log.read_blocking(offset, bytes_max, min_one=True),
            ):
                if piece is None:
                    continue
                headers = [header for _, header in walk(memoryview(piece.data))]
                end = piece.end_offset_limit  # an fsync may have ended between
                assert before <= end <= self.log.high_watermark
                if offset >= end:
                    assert not piece.data
                    continue
                wanted = next(base for base, records in self.model.batches if records[-1].offset >= offset)
                assert headers[0].base_offset == wanted
                assert len(piece.data) <= max(bytes_max, headers[0].size)
                assert headers[-1].last_offset < end

        self.run_(work())

    @rule(time=st.integers(-6000, 6000))
    def find_time(self, time: int) -> None:
        async def work() -> None:
            await self.log.flush()
            wanted = next(((r.offset, r.timestamp) for r in self.model.records if r.timestamp >= T0 + time), None)
            found = await self.log.offset_for_timestamp(T0 + time)
            assert (found[:2] if found else None) == wanted
            largest = max(self.model.records, key=lambda r: (r.timestamp, -r.offset), default=None)
            newest = await self.log.offset_of_max_timestamp()
            assert (newest[:2] if newest else None) == ((largest.offset, largest.timestamp) if largest else None)

        self.run_(work())

    @invariant()
    def offsets_agree(self) -> None:
        log = self.log
        assert log.log_end_offset == self.model.end
        assert log.log_start_offset == self.model.log_start == log.local_log_start_offset
        assert log.log_start_offset <= log.high_watermark <= log.log_end_offset
        infos = log.segments()
        assert all(a.end_offset == b.base_offset for a, b in pairwise(infos))
        for offset in (self.model.log_start - 1, self.model.end + 1):
            try:
                log.read(offset, 100, min_one=True)
            except OutOfRange:
                continue
            raise AssertionError(f"{offset} was readable")

    def teardown(self) -> None:
        if hasattr(self, "logs"):
            self.run_(self.logs.close())
            self.logs._parts.disk.close()  # type: ignore[attr-defined]
        self.loop.close()
        self.home.cleanup()


LogLife.TestCase.settings = settings(
    max_examples=EXAMPLES, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestLogLife = LogLife.TestCase
