"""What was found damaged stays refused over restarts: the file that names the segments, and the starts that look at them."""

from __future__ import annotations

import errno
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotlog.kernel.errors import DamagedRecords
from hotlog.log.damaged_segments import DamagedSegment, parse_segments, print_segments
from hotlog.log.manager import LogManager
from hotlog.log.partition_log import PartitionLog
from hotlog.log.scrub import SegmentScrub
from hotlog.wire.batch import header_at, walk
from tests.log.support import T0, TP, append, batch, config, kill, manager, new_log, opened, read_all
from tests.support.disks import FastDisk, FaultyDisk, WatchedDisk

NAME = "damaged-segments"
COUNT = 50
ENTRIES = st.frozensets(
    st.builds(
        DamagedSegment,
        st.from_regex(r"[a-zA-Z0-9._-]{1,249}", fullmatch=True),
        st.integers(0, 2**31 - 1),
        st.integers(0, 2**63 - 1),
    ),
    max_size=5,
)

# The file


@given(segments=ENTRIES)
def test_what_is_printed_is_parsed(segments: frozenset[DamagedSegment]) -> None:
    assert parse_segments(print_segments(segments)) == (segments, True)


def test_the_bytes_are_as_documented() -> None:
    raw = print_segments({DamagedSegment("clicks", 1, 77), DamagedSegment("clicks", 0, 1500)})
    assert raw == b"clicks 0 1500\nclicks 1 77\ncrc32c 5c2e1e27\n"


def test_any_flipped_bit_or_cut_is_noticed_and_costs_one_line_at_most() -> None:
    segments = frozenset(DamagedSegment("clicks", number, 1500) for number in range(3))
    raw = print_segments(segments)
    for bit in range(len(raw) * 8):
        body = bytearray(raw)
        body[bit // 8] ^= 1 << bit % 8
        found, is_whole = parse_segments(bytes(body))
        assert not is_whole
        assert len(segments - found) <= (2 if raw[bit // 8] == ord("\n") else 1)
    for cut in range(len(raw)):
        assert not parse_segments(raw[:cut])[1]


@given(raw=st.one_of(st.binary(), st.text("0189 \nabc-", max_size=40).map(str.encode)))
def test_any_bytes_say_something_or_nothing(raw: bytes) -> None:
    found, is_whole = parse_segments(raw)
    assert parse_segments(print_segments(found)) == (found, True)
    assert is_whole == (raw == print_segments(found))


# A log that was found damaged


async def fill(logs: LogManager, **options: object) -> PartitionLog:
    log = await new_log(logs, config(segment_bytes=2000, index_interval_bytes=200, **options))
    for number in range(COUNT):
        append(log, batch(b"%03d" % number + b"x" * 97, timestamp=T0 + number))
    await log.flush()
    await logs.checkpoint()
    return log


def rot(log: PartitionLog, segment: int, *, byte: int) -> int:
    """Flip a bit in byte `byte` of the third batch of a segment; the offset of the batch."""
    path = Path(log.segments()[segment].log_path)
    body = bytearray(path.read_bytes())
    position, header = list(walk(body))[2]
    body[position + byte] ^= 0x10
    path.write_bytes(body)
    return header.base_offset


async def scrub(log: PartitionLog) -> None:
    """As the scrubber does with all segments."""
    for want in log.scrub.scrub_ranges():
        done = SegmentScrub(FastDisk(1), want)
        while done.step():
            pass
        log.scrub.note_damage(want.base_offset, done.damages, is_all=True)
    await log.scrub.wait_damage_saved()


async def killed_after_a_find(directory: Path) -> tuple[PartitionLog, int]:
    """A life that found a rotten batch and ended by kill -9: its log, and the offset of the batch."""
    logs = manager(directory)
    await logs.open()
    log = await fill(logs)
    bad = rot(log, 1, byte=90)
    await scrub(log)
    await kill(logs)
    return log, bad


async def end(logs: LogManager, how: str) -> None:
    await (logs.close() if how == "stop" else kill(logs))


async def check_around(log: PartitionLog, bad: set[int]) -> None:
    """Offsets in `bad` are refused, all others are served."""
    for offset in range(log.local_log_start_offset, COUNT):
        if offset in bad:
            with pytest.raises(DamagedRecords):
                await log.read_blocking(offset, 1, min_one=True)
        else:
            assert header_at((await log.read_blocking(offset, 1, min_one=True)).data).base_offset == offset


async def reopened(directory: Path) -> tuple[LogManager, PartitionLog]:
    logs = manager(directory)
    await logs.open(config_of=lambda tp: config(segment_bytes=2000, index_interval_bytes=200))
    assert logs.failures == {}
    log = logs.get(TP)
    assert log is not None
    return logs, log


@pytest.mark.parametrize("how", ["kill", "stop"])
@pytest.mark.parametrize(
    ("segment", "byte"), [(0, 90), (1, 3), (1, 10), (1, 15), (1, 90), (-1, 90)], ids=lambda value: str(value)
)  # base offset, length, leader epoch, record bytes; closed and active
async def test_damage_is_refused_after_a_restart_without_a_scrub(tmp_path: Path, how: str, segment: int, byte: int) -> None:
    logs = manager(tmp_path)
    await logs.open()
    log = await fill(logs)
    bad = rot(log, segment, byte=byte)
    await scrub(log)
    base = log.segments()[segment].base_offset
    assert (tmp_path / NAME).read_bytes() == print_segments({DamagedSegment("clicks", 0, base)})
    damages = log.scrub.damaged_segments()[0][1]
    await end(logs, how)
    for again in ("kill", "stop"):  # nor is it forgotten by the second life
        logs, log = await reopened(tmp_path)
        ((info, found),) = log.scrub.damaged_segments()
        assert (info.base_offset, found) == (base, damages)
        await check_around(log, {bad})
        await end(logs, again)
    logs, log = await reopened(tmp_path)
    append(log, batch(b"it goes on"))
    await log.flush()
    await check_around(log, {bad})
    await logs.close()


async def test_rot_would_be_served_again_if_the_file_did_not_say_where_to_look(tmp_path: Path) -> None:
    """What the tests above show is the file's doing."""
    async with opened(tmp_path) as logs:
        log = await fill(logs)
        rot(log, 1, byte=90)
        await scrub(log)
    (tmp_path / NAME).unlink()
    logs, log = await reopened(tmp_path)
    await check_around(log, set())
    await logs.close()


async def test_damage_that_a_start_finds_itself_is_kept_too(tmp_path: Path) -> None:
    async with opened(tmp_path) as logs:
        log = await fill(logs)
        path = Path(log.segments()[1].log_path)
    body = bytearray(path.read_bytes())
    position, _ = list(walk(body))[-1]
    body[position + 3] ^= 0x10
    path.write_bytes(body)
    logs, log = await reopened(tmp_path)
    ((info, _),) = log.scrub.damaged_segments()
    assert (tmp_path / NAME).read_bytes() == print_segments({DamagedSegment("clicks", 0, info.base_offset)})
    await kill(logs)


# Forgetting


async def test_segments_that_are_dropped_leave_the_file_and_the_last_one_takes_it_along(tmp_path: Path) -> None:
    async with opened(tmp_path) as logs:
        log = await fill(logs)
        rot(log, 0, byte=90)
        rot(log, 2, byte=90)
        await scrub(log)
        infos = log.segments()
        both = {DamagedSegment("clicks", 0, infos[number].base_offset) for number in (0, 2)}
        assert (tmp_path / NAME).read_bytes() == print_segments(both)
        await log.drop_local_before(infos[0].end_offset)
        await logs.checkpoint()
        assert (tmp_path / NAME).read_bytes() == print_segments({one for one in both if one.base_offset})
        await log.drop_local_before(infos[2].end_offset)
        await logs.checkpoint()
        assert not (tmp_path / NAME).exists()


async def test_a_segment_that_is_whole_again_is_forgotten_and_a_partition_that_is_deleted_too(tmp_path: Path) -> None:
    logs = manager(tmp_path)
    await logs.open()
    log = await fill(logs)
    path = Path(log.segments()[1].log_path)
    good = path.read_bytes()
    rot(log, 1, byte=90)
    await scrub(log)
    await kill(logs)
    rotten = path.read_bytes()
    path.write_bytes(good)
    logs, log = await reopened(tmp_path)
    assert not (tmp_path / NAME).exists()
    await check_around(log, set())
    path.write_bytes(rotten)
    await scrub(log)
    assert (tmp_path / NAME).exists()
    await logs.delete(TP)
    await logs.checkpoint()
    assert not (tmp_path / NAME).exists()
    await logs.close()


async def test_what_is_known_of_a_partition_that_cannot_be_opened_is_kept(tmp_path: Path) -> None:
    log, bad = await killed_after_a_find(tmp_path)
    metadata = Path(log.directory) / "partition.metadata"
    good = metadata.read_bytes()
    metadata.write_bytes(b"?")
    async with opened(tmp_path) as logs:
        assert list(logs.failures) == [TP]
        await logs.checkpoint()
    metadata.write_bytes(good)
    logs, log = await reopened(tmp_path)
    await check_around(log, {bad})
    await logs.close()


# A file that says nothing, or anything


@settings(max_examples=40, deadline=None)
@given(
    raw=st.one_of(
        st.binary(max_size=60),
        st.text("clicks 01589\n", max_size=60).map(str.encode),
        st.lists(st.integers(0, 60)).map(lambda bases: print_segments({DamagedSegment("clicks", 0, base) for base in bases})),
    )
)
async def test_no_content_of_the_file_fails_a_start_or_invents_damage(raw: bytes) -> None:
    with TemporaryDirectory() as folder:
        directory = Path(folder)
        logs = manager(directory)
        await logs.open()
        await fill(logs)
        await kill(logs)
        (directory / NAME).write_bytes(raw)
        logs, log = await reopened(directory)
        assert log.scrub.damaged_segments() == []
        assert log.failed is None
        assert len(await read_all(log)) == COUNT
        assert [where for where, _ in logs.damage] == ([] if parse_segments(raw)[1] else [NAME])
        assert not (directory / NAME).exists(), "what it says is not so"
        await kill(logs)


async def test_a_damaged_file_is_told_and_its_good_lines_are_used(tmp_path: Path) -> None:
    _, bad = await killed_after_a_find(tmp_path)
    good = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(b"\xff" * 9 + b"\n" + good)
    logs, log = await reopened(tmp_path)
    assert NAME in [where for where, _ in logs.damage]
    await check_around(log, {bad})
    assert (tmp_path / NAME).read_bytes() == good
    await kill(logs)


async def test_a_file_that_the_disk_does_not_give_and_does_not_take_stops_nobody(tmp_path: Path) -> None:
    async with opened(tmp_path) as logs:
        await fill(logs)
    (tmp_path / NAME).mkdir()
    logs, log = await reopened(tmp_path)
    assert [where for where, _ in logs.damage] == [NAME]
    await check_around(log, set())
    bad = rot(log, 1, byte=90)
    await scrub(log)
    await check_around(log, {bad})
    (tmp_path / NAME).rmdir()
    await logs.checkpoint()
    assert (tmp_path / NAME).is_file()
    await logs.close()


async def test_a_full_disk_is_asked_again(tmp_path: Path) -> None:
    disk = FaultyDisk()
    logs = manager(tmp_path, disk=disk)
    await logs.open()
    log = await fill(logs)
    bad = rot(log, 1, byte=90)
    disk.fail("write_atomic", f"*/{NAME}", errno.ENOSPC)
    await scrub(log)
    await check_around(log, {bad})
    await logs.checkpoint()
    assert not (tmp_path / NAME).exists()
    disk.heal()
    await logs.checkpoint()
    assert (tmp_path / NAME).exists()
    await kill(logs)


async def test_who_has_no_damage_has_no_file_and_asks_for_none(tmp_path: Path) -> None:
    disk = WatchedDisk()
    for _ in range(2):
        async with opened(tmp_path, disk=disk) as logs:
            log = logs.get(TP) or await fill(logs)
            await scrub(log)
            await logs.checkpoint()
    assert len(disk.asked) > 20
    assert [path for _, path in disk.asked if NAME in path] == []
