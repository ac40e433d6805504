"""Where the next read begins is remembered, and forgotten when the log is no longer what it was."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from hotlog.kernel.errors import HotlogError, OutOfRange
from hotlog.log.file_part import FilePart
from hotlog.log.partition_log import PartitionLog
from hotlog.log.places import PLACES_MAX
from hotlog.log.segment import Segment
from hotlog.wire.batch import walk
from tests.log.support import append, batch, closed_segments, config, new_log, opened
from tests.support.disks import FastDisk

HOT = config(hotlog_durability="page-cache")
SMALL = config(hotlog_durability="page-cache", segment_bytes=2048, index_interval_bytes=300, file_delete_delay_ms=0)


def looked_up(log: PartitionLog, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The offsets that are searched from now on."""
    found: list[int] = []
    files = log._reader._files
    locate = files.locate

    def noted(segment: Segment, offset: int, *given: Any, **named: Any) -> Any:
        found.append(offset)
        return locate(segment, offset, *given, **named)

    monkeypatch.setattr(files, "locate", noted)
    return found


async def test_who_reads_on_is_searched_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path, HOT) as logs:
        log = await new_log(logs, HOT)
        for _ in range(40):
            append(log, batch(b"x" * 1000))
        searched, offset = looked_up(log, monkeypatch), 0
        while offset < 40:
            piece = log.read(offset, 4096, min_one=False)
            assert piece is not None and not isinstance(piece.data, FilePart)
            offset = [header.next_offset for _, header in walk(memoryview(piece.data))][-1]
        assert searched == [0]


async def test_who_waits_at_the_end_is_not_searched_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path, HOT) as logs:
        log = await new_log(logs, HOT)
        searched = looked_up(log, monkeypatch)
        for offset in range(20):
            append(log, batch(b"x" * 500))
            piece = log.read(offset, 1 << 20, min_one=True)
            assert piece is not None and len(piece.data) > 500
        assert searched == []


async def test_places_of_one_log_are_few(tmp_path: Path) -> None:
    async with opened(tmp_path, HOT) as logs:
        log = await new_log(logs, HOT)
        for _ in range(50):
            append(log, batch(b"x"))
        for offset in range(50):
            log.read(offset, 100, min_one=True)
        assert 0 < len(log._reader._places.by_offset) <= PLACES_MAX


@pytest.mark.parametrize("seed", range(12))
async def test_what_is_read_is_what_a_search_finds_whatever_became_of_the_log(tmp_path: Path, seed: int) -> None:
    """Readers that go on, beside appends, rolls, truncation, deletion, replaced segments: `read_blocking` knows no places."""
    chance = random.Random(seed)
    async with opened(tmp_path, SMALL, disk=FastDisk(2)) as logs:
        log = await new_log(logs, SMALL)
        readers = [0] * 5
        for _ in range(150):
            act = chance.random()
            if act < 0.5:
                for _ in range(chance.randint(1, 4)):
                    append(
                        log,
                        *(batch(bytes([chance.randrange(256)]) * chance.randint(1, 400)) for _ in range(chance.randint(1, 3))),
                    )
            elif act < 0.56 and log.log_end_offset > log.local_log_start_offset:
                await log.truncate(chance.randint(log.local_log_start_offset, log.log_end_offset))
            elif act < 0.6:
                log.advance_log_start(chance.randint(log.log_start_offset, log.high_watermark))
            elif act < 0.64:
                await log.drop_local_before(chance.randint(0, log.high_watermark))
            elif act < 0.68:
                log.roll(0)
            elif act < 0.74:
                await replaced(log, chance)
            for number in range(len(readers)):
                readers[number] = await read_both(log, readers[number], chance)


async def read_both(log: PartitionLog, offset: int, chance: random.Random) -> int:
    """One read on both ways; where its reader goes on."""
    bytes_max, min_one, is_committed = chance.choice([1, 100, 300, 1000, 1 << 20]), chance.random() < 0.8, chance.random() < 0.3
    try:
        slow = await log.read_blocking(offset, bytes_max, min_one=min_one, committed_only=is_committed)
    except OutOfRange:
        with pytest.raises(OutOfRange):
            log.read(offset, bytes_max, min_one=min_one, committed_only=is_committed)
        return chance.randint(log.local_log_start_offset, log.log_end_offset)
    fast = log.read(offset, bytes_max, min_one=min_one, committed_only=is_committed)
    assert fast is not None and not isinstance(fast.data, FilePart)
    assert bytes(fast.data) == bytes(slow.data)
    if len(fast.data):
        assert fast == fast._replace(end_offset_limit=slow.end_offset_limit, aborted=slow.aborted)
    headers = [header for _, header in walk(memoryview(slow.data))]
    return (
        headers[-1].next_offset
        if headers and chance.random() < 0.9
        else chance.randint(log.local_log_start_offset, log.log_end_offset)
    )


async def replaced(log: PartitionLog, chance: random.Random) -> None:
    """A run of closed segments becomes one."""
    closed = closed_segments(log)[-2:]
    if len(closed) < 2 or closed[0].base_offset < log.log_start_offset:
        return
    parts = [await asyncio.to_thread(Path(info.log_path).read_bytes) for info in closed]
    Path(f"{log.directory}/{closed[0].base_offset:020d}.log.cleaned").write_bytes(b"".join(parts))
    try:
        await log.replace_segments([info.base_offset for info in closed], [closed[0].base_offset])
    except HotlogError:
        Path(f"{log.directory}/{closed[0].base_offset:020d}.log.cleaned").unlink(missing_ok=True)
