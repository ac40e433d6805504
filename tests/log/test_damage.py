"""The way around damage that is known: what lies before is served up to it, what lies behind is found, itself it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from hotlog.kernel.errors import DamagedRecords
from hotlog.log.damage import Damage, sound_part
from hotlog.log.partition_log import PartitionLog
from hotlog.wire.batch import walk
from tests.log.support import append, batch, config, new_log, opened

DAMAGES = (Damage(100, 200, 10, 20, "rot"), Damage(300, 300, 30, 31, "lost"), Damage(400, 500, 40, 40, "rubbish"))


@pytest.mark.parametrize(
    ("offset", "wanted"),
    [(0, (0, 100, 0)), (9, (0, 100, 0)), (20, (200, 300, 1)), (29, (200, 300, 1)), (31, (300, 400, 2)), (40, (500, 1000, None))],
)
def test_the_sound_part_ends_where_damage_begins(offset: int, wanted: tuple[int, int, int | None]) -> None:
    start, limit, ahead = sound_part("x", DAMAGES, offset, 1000)
    assert (start, limit, None if ahead is None else DAMAGES.index(ahead)) == wanted


@pytest.mark.parametrize("offset", [10, 19, 30])
def test_damaged_offsets_are_refused_by_name(offset: int) -> None:
    with pytest.raises(DamagedRecords, match=r"x: offsets \[.*\) at bytes \[.*\): (rot|lost)"):
        sound_part("x", DAMAGES, offset, 1000)


def test_damage_beyond_what_is_readable_is_not_ahead() -> None:
    assert sound_part("x", DAMAGES, 0, 100) == (0, 100, None)


async def offsets_from(log: PartitionLog, offset: int) -> list[int]:
    found = await log.read_blocking(offset, 1 << 20, min_one=True)
    return [header.base_offset for _, header in walk(found.data)]


@pytest.mark.parametrize("scribble", [b"", b"\xff" * 61, bytes(61)], ids=["payload", "ones", "zeros"])
async def test_reads_go_around_damage_whatever_its_header_says(tmp_path: Path, scribble: bytes) -> None:
    async with opened(tmp_path) as logs:
        log = await new_log(logs, config(index_interval_bytes=200, segment_bytes=2000))
        for number in range(40):
            append(log, batch(b"%03d" % number + b"x" * 97))
        await log.flush()
        first = log._segments.all[0]
        size = first.size // first.end_offset
        bad = Damage(3 * size, 4 * size, 3, 4, "the batch fails its CRC-32C")
        first.damage = (bad,)
        path = Path(first.log_path)
        body = bytearray(path.read_bytes())
        body[bad.position : bad.position + len(scribble)] = scribble
        path.write_bytes(body)
        assert await offsets_from(log, 0) == [0, 1, 2]
        assert await offsets_from(log, 2) == [2]
        with pytest.raises(DamagedRecords, match="fails its CRC"):
            log.read(3, 1 << 20, min_one=True)
        with pytest.raises(DamagedRecords):
            await log.read_blocking(3, 1 << 20, min_one=True)
        for offset in range(4, first.end_offset):
            assert (await offsets_from(log, offset))[0] == offset
        assert await offsets_from(log, first.end_offset) != []
        first.damage = (bad._replace(end=first.size, end_offset=first.end_offset),)
        with pytest.raises(DamagedRecords):
            log.read(first.end_offset - 1, 1 << 20, min_one=True)


async def test_a_gap_before_damage_does_not_lead_past_it(tmp_path: Path) -> None:
    """In a compacted log the next batch may be the damaged one: it is not skipped in silence."""
    async with opened(tmp_path, config(cleanup_policy="compact")) as logs:
        log = await new_log(logs, config(cleanup_policy="compact", segment_bytes=1024))
        for _ in range(6):
            append(log, batch(b"x" * 300))
        await log.flush()
        log._segments.all[0].damage = (Damage(0, log._segments.all[0].size, 1, log._segments.all[0].end_offset, "rot"),)
        with pytest.raises(DamagedRecords):
            log.read(0, 1 << 20, min_one=True)


async def test_a_lookup_by_time_does_not_open_a_damaged_batch(tmp_path: Path) -> None:
    async with opened(tmp_path) as logs:
        log = await new_log(logs)
        append(log, batch(b"one", timestamp=1_700_000_000_000))
        append(log, batch(b"two", timestamp=1_700_000_000_500))
        await log.flush()
        segment = log._segments.all[0]
        segment.damage = (Damage(segment.size // 2, segment.size, 1, 2, "rot"),)
        assert await log.offset_for_timestamp(1_700_000_000_000) == (0, 1_700_000_000_000, 0)
        with pytest.raises(DamagedRecords):
            await log.offset_for_timestamp(1_700_000_000_400)
