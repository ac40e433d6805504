"""Differential: what was appended to a real hot log and tiered by the real uploader answers from the cold tier as it did from the hot one."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path
from random import Random

import pytest

from hotlog.log.partition_log import PartitionLog
from hotlog.wire.batch import walk
from tests.log.support import T0, append, batch, closed_segments
from tests.tiering.support import KEYS, Node, node, tiered
from tests.tools.patience import PATIENCE_S
from tiering.read.history import History, Shelf
from tiering.replay.direct import DirectReader, Run
from tiering.store.lanes import LaneGate
from tiering.tier import ColdPartition


async def lived(here: Node, seed: int) -> tuple[PartitionLog, ColdPartition]:
    """A log with all codecs, epochs, wandering times, batches larger than segments, tiered up to its active segment."""
    random = Random(seed)
    log = await here.create()
    cold = await here.attach(log)
    time = T0
    for _ in range(70):
        if random.random() < 0.08:
            log.set_leader_epoch(log.leader_epoch + random.randint(1, 3))
        count = random.randint(1, 6)
        times = []
        for _ in range(count):
            time += random.randint(-400, 700)
            times.append(time)
        values = [random.randbytes(random.choice([0, 20, 400, 1500])) for _ in range(count)]
        append(log, batch(*values, timestamps=times, codec=random.choice([0, 1, 2, 3, 4])), now_ms=T0 + 1000)
    await log.flush()
    await here.copy_all()
    assert cold.end_offset == log.active.base_offset > 60
    return log, cold


async def hot_read(log: PartitionLog, offset: int, bytes_max: int, end: int) -> bytes:
    """Whole batches below `end`, as the hot log gives them."""
    data = memoryview((await log.read_blocking(offset, bytes_max, min_one=True)).data)
    data = data[: sum(header.size for _, header in walk(data))]
    stop = next((position for position, header in walk(data) if header.base_offset >= end), len(data))
    return bytes(data[:stop])


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("kind", ["CreateTime", "LogAppendTime"])
async def test_cold_answers_are_the_hot_ones(tmp_path: Path, seed: int, kind: str) -> None:
    async with node(tmp_path, config=tiered(segment_bytes=12_000, message_timestamp_type=kind)) as here:
        log, cold = await lived(here, seed)
        end = cold.end_offset
        whole = b"".join(Path(info.log_path).read_bytes() for info in closed_segments(log))
        for offset in range(end):
            for bytes_max in (1, 3000):
                given = bytes((await cold.read(offset, bytes_max, wait_ms=int(PATIENCE_S * 1000))).data)
                hot = await hot_read(log, offset, bytes_max, end)
                # The hot log stops where a segment ends, the cold tier goes on over objects.
                assert given.startswith(hot)
                assert len(given) <= max(bytes_max, len(hot))
                assert whole.find(given) == whole.find(hot)
        for time in sorted({header.max_timestamp + shift for header in headers_of(log, end) for shift in (-300, -1, 0, 1)} | {0}):
            found = await log.offset_for_timestamp(time)
            assert await cold.offset_for_timestamp(time) == (found if found and found[0] < end else None)
        for epoch in range(log.leader_epoch + 2):
            hot_epoch, hot_end = log.end_offset_for_epoch(epoch)
            if hot_end <= end and hot_epoch >= 0:
                assert await cold.end_offset_for_epoch(epoch) == (hot_epoch, hot_end)
        assert await cold.aborted_transactions(0, end) == log._reader.aborted_transactions(0, end, wait=True) == []


def headers_of(log: PartitionLog, end: int) -> list:  # type: ignore[type-arg]
    data = b"".join(Path(info.log_path).read_bytes() for info in closed_segments(log))
    return [header for _, header in walk(data) if header.base_offset < end]


@pytest.mark.parametrize("start", [0, 7, 40, 61])
async def test_the_largest_time_and_times_above_a_raised_start(tmp_path: Path, start: int) -> None:
    async with node(tmp_path, config=tiered(segment_bytes=12_000)) as here:
        log, cold = await lived(here, 3)
        log.advance_log_start(start)
        await cold.advance_start(start)
        end = cold.end_offset
        hot = [time for offset, time, _ in records_of(log, end) if offset >= start]
        found = await cold.offset_of_max_timestamp()
        assert found is not None
        assert found[1] == max(hot)
        assert found[0] == next(offset for offset, time, _ in records_of(log, end) if offset >= start and time == max(hot))
        for time in sorted(set(hot))[::5]:
            expected = await log.offset_for_timestamp(time)
            assert await cold.offset_for_timestamp(time) == (expected if expected and expected[0] < end else None)


def records_of(log: PartitionLog, end: int) -> list[tuple[int, int, int]]:
    from hotlog.wire.records import decode_batch

    data = b"".join(Path(info.log_path).read_bytes() for info in closed_segments(log))
    view = memoryview(data)
    result = []
    for position, header in walk(view):
        if header.base_offset < end:
            result += [
                (r.offset, r.timestamp, header.leader_epoch) for r in decode_batch(view[position : position + header.size])
            ]
    return result


async def test_direct_runs_are_the_local_bytes(tmp_path: Path) -> None:
    async with node(tmp_path, config=tiered(segment_bytes=12_000)) as here:
        log, cold = await lived(here, 4)
        local = b"".join(Path(info.log_path).read_bytes() for info in closed_segments(log))
        assert cold.view is not None
        history = History(Shelf.of(here.store, LaneGate(4, 100), 1 << 20), KEYS, "clicks", cold.view)
        data = b""
        async with aclosing(DirectReader(history, depth=2).runs(0, cold.end_offset)) as parts:
            async for part in parts:
                assert isinstance(part, Run)
                data += part.data
        assert data == local
