"""Log compaction on a real log: what remains, what stays of producers, tombstones and markers, several passes, damage, rate."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

import pytest

from compaction import cleaner as cleaner_module
from compaction.trusted_clock import TrustedClock
from hotlog.log import files
from hotlog.log.index import AbortedTransaction, encode_txn, parse_txn
from hotlog.wire.batch import DELETE_HORIZON_MASK
from hotlog.wire.key_map import KEY_BYTES
from tests.compaction.cleaning import (
    Pair,
    Scene,
    cleaner_of,
    compacted,
    newest,
    on_a_log,
    pairs_of,
    put,
    scene,
    seen_by_reader,
)
from tests.fixtures.key_maps import kind
from tests.fixtures.raw_batch import RawRecord, raw_batch
from tests.log.support import T0, TOPIC_ID, TP, new_log, opened
from tests.partitions.hosted import hosted
from tests.support.clocks import HandClock
from tests.support.disks import NO_SPACE, FastDisk, FaultyDisk

__all__ = ["kind"]  # a fixture
DAY_MS = 86_400_000


@on_a_log()
async def test_the_newest_value_of_every_key_remains_where_it_was(s: Scene) -> None:
    for number in range(60):
        put(s.log, (b"k%d" % (number % 5), b"v%d" % number + b"." * 40))
    before = s.log.size
    assert await s.clean() == 1
    records = await s.records()
    assert pairs_of(records) == [(n, b"k%d" % (n % 5), b"v%d" % n + b"." * 40) for n in range(55, 60)]
    assert s.log.size < before / 3
    assert (s.log.clean.cleaned_end, s.log.log_start_offset, s.log.log_end_offset) == (60, 0, 60)
    assert await s.clean() == 0


@pytest.mark.parametrize("codec", range(5))
async def test_a_batch_keeps_its_offsets_and_its_codec(tmp_path: Path, codec: int, kind: object) -> None:
    async def body(s: Scene) -> None:
        put(s.log, (b"a", b"1" * 200), (b"b", b"2" * 200), (b"c", b"3" * 200), codec=codec)
        put(s.log, (b"a", b"4" * 200), (b"c", b"5"), codec=codec)
        await s.clean()
        headers, records = await seen_by_reader(s.log)
        assert pairs_of(records) == [(1, b"b", b"2" * 200), (3, b"a", b"4" * 200), (4, b"c", b"5")]
        assert [(h.base_offset, h.last_offset, h.codec, h.record_count) for h in headers] == [(0, 2, codec, 1), (3, 4, codec, 2)]
        assert [record.timestamp for record in records] == [T0 + 1, T0, T0 + 1]
        assert headers[0].max_timestamp == T0 + 1, "of what remains"

    await on_a_log()(body)(tmp_path, kind)


@on_a_log()
async def test_what_has_nothing_out_of_date_keeps_its_bytes(s: Scene) -> None:
    for number in range(12):
        put(s.log, (b"k%d" % number, b"v" * 100), codec=3)
    s.log.roll(T0)
    await s.log.flush()
    whole = b"".join(Path(info.log_path).read_bytes() for info in s.log.segments())
    await s.clean()
    assert b"".join(Path(info.log_path).read_bytes() for info in s.log.segments()) == whole


@on_a_log()
async def test_a_segment_of_which_all_remains_is_left_alone(s: Scene) -> None:
    for number in range(2):
        put(s.log, (b"k%d" % number, b"v" * 400))
    s.log.roll(T0)
    await s.log.flush()
    before = s.log.active, s.log._segments.all[0]
    await s.clean()
    assert (s.log.active, s.log._segments.all[0]) == before, "it is not even replaced"
    assert s.log.clean.cleaned_end == 2
    assert not [name for name in s.logs._disk.listdir(s.log.directory) if files.CLEANED in name]


@on_a_log()
async def test_a_tombstone_stays_for_its_time_from_the_first_cleaning_on(s: Scene) -> None:
    put(s.log, (b"a", b"1"), (b"b", b"1"))
    put(s.log, (b"a", None), (b"c", b"1"))
    await s.clean()
    headers, records = await seen_by_reader(s.log)
    assert pairs_of(records) == [(1, b"b", b"1"), (2, b"a", None), (3, b"c", b"1")]
    assert [bool(h.attributes & DELETE_HORIZON_MASK) for h in headers] == [False, True]
    assert headers[1].base_timestamp == T0 + DAY_MS
    assert [record.timestamp for record in records] == [T0 + 1, T0, T0 + 1], "times are what they were"
    s.clock.ms += DAY_MS - 1
    put(s.log, (b"d", b"1"))
    await s.clean()
    assert (2, b"a", None) in pairs_of(await s.records())
    s.clock.ms += 1
    put(s.log, (b"d", b"2"))
    await s.clean()
    assert pairs_of(await s.records()) == [(1, b"b", b"1"), (3, b"c", b"1"), (5, b"d", b"2")]


@on_a_log()
async def test_the_time_of_a_tombstone_begins_by_the_wall_clock(s: Scene) -> None:
    """What is trusted is behind the wall after a long downtime: a day from then would be over once the wall is confirmed."""
    trusted = TrustedClock(s.clock, T0 - 30 * DAY_MS)
    s.cleaner = cleaner_of(s.log, disk=FastDisk(2), clock=s.clock, trusted=trusted)
    put(s.log, (b"a", b"1"))
    put(s.log, (b"a", None))
    await s.clean()
    assert trusted.vouch(T0)
    put(s.log, (b"b", b"1"))
    await s.clean()
    assert pairs_of(await s.records()) == [(1, b"a", None), (2, b"b", b"1")]


@on_a_log()
async def test_tombstones_of_a_tiered_topic_stay_for_what_the_store_has(s: Scene) -> None:
    put(s.log, (b"a", b"1"))
    put(s.log, (b"a", None))
    hosted(s.log).config = compacted(remote_storage_enable="true")
    await s.clean()
    s.clock.ms += 2 * DAY_MS
    put(s.log, (b"b", b"1"))
    await s.clean()
    assert pairs_of(await s.records()) == [(1, b"a", None), (2, b"b", b"1")]


@on_a_log()
async def test_the_last_batch_of_a_producer_stays_without_its_records(s: Scene) -> None:
    for number in range(4):
        put(s.log, (b"k", b"%d" % number), producer=(7, 0, number))
    put(s.log, (b"k", b"x"), producer=(8, 1, 0))
    put(s.log, (b"k", b"newest"))
    await s.clean()
    headers, records = await seen_by_reader(s.log)
    assert pairs_of(records) == [(5, b"k", b"newest")]
    assert [(h.base_offset, h.producer_id, h.last_sequence, h.record_count) for h in headers] == [(3, 7, 3, 0), (4, 8, 0, 0), (5, -1, headers[2].last_sequence, 1)]  # fmt: skip


async def test_a_producer_goes_on_after_a_restart_that_has_no_snapshot(tmp_path: Path) -> None:
    topic = compacted()
    async with opened(tmp_path, topic) as logs:
        s = await scene(logs, HandClock(T0), FastDisk(2), topic)
        for number in range(4):
            put(s.log, (b"k", b"%d" % number), producer=(7, 0, number))
        put(s.log, (b"k", b"newest"))
        await s.clean()
        directory = Path(s.log.directory)
    for snapshot in directory.glob("*.snapshot"):
        snapshot.unlink()
    async with opened(tmp_path, topic) as logs:
        log = logs.get(TP)
        assert log is not None and logs.damage == []
        again = put(log, (b"k", b"3"), producer=(7, 0, 3))
        assert again == 3, "it is known to be here"
        assert put(log, (b"k", b"4"), producer=(7, 0, 4)) == 5


async def _several(s: Scene) -> None:
    for number in range(40):
        put(s.log, (b"k%02d" % (number % 20), b"v%d" % number))
    assert await s.clean() > 2, "the map has room for a few keys only"
    assert pairs_of(await s.records()) == [(n, b"k%02d" % (n % 20), b"v%d" % n) for n in range(20, 40)]
    assert s.log.clean.cleaned_end == 40


def test_more_keys_than_fit_take_more_passes(tmp_path: Path, kind: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleaner_module, "key_map", lambda size, wanted, seed, load: kind(min(7, wanted), seed))  # type: ignore[operator]
    asyncio.run(on_a_log()(_several)(tmp_path, kind))


async def test_one_batch_with_more_keys_than_fit_is_told(tmp_path: Path) -> None:
    clock, disk = HandClock(T0), FastDisk(2)
    async with opened(tmp_path, compacted(), clock=clock, disk=disk) as logs:
        s = await scene(logs, clock, disk, None, log_cleaner_dedupe_buffer_size=3 * KEY_BYTES)
        put(s.log, *((b"k%d" % n, b"v") for n in range(9)))
        assert await s.clean() == 0
        assert s.metrics.uncleanable_bytes.rows == {("clicks", "0"): float(s.log.size)}
        assert "log.cleaner.dedupe.buffer.size has room for" in s.log.clean.trouble
        assert len(await s.records()) == 9


@on_a_log()
async def test_records_without_a_key_from_before_it_was_compacted_go(s: Scene) -> None:
    s.log.reconfigure(compacted(cleanup_policy="delete"))
    put(s.log, (None, b"old"), (b"a", b"1"))
    s.log.reconfigure(compacted())
    put(s.log, (b"a", b"2"))
    await s.clean()
    assert pairs_of(await s.records()) == [(2, b"a", b"2")], "as in Kafka: it cannot be compacted"


async def test_a_log_that_is_compacted_no_more_still_has_its_gaps(tmp_path: Path) -> None:
    """A start, a scrub and a copy must not take them for damage."""
    topic = compacted()
    async with opened(tmp_path, topic) as logs:
        s = await scene(logs, HandClock(T0), FastDisk(2), topic)
        for number in range(60):
            put(s.log, (b"k%d" % (number % 5), b"v" * 50))
        await s.clean()
        wanted = pairs_of(await s.records())
        directory = Path(s.log.directory)
    for name in ("recovery-point-offset-checkpoint", ".kafka_cleanshutdown"):
        (tmp_path / name).unlink()
    for index in directory.glob("*index"):
        index.unlink()
    plain = compacted(cleanup_policy="delete")
    async with opened(tmp_path, plain) as logs:
        log = logs.get(TP)
        assert log is not None and log.failed is None and log.has_gaps
        assert pairs_of((await seen_by_reader(log))[1]) == wanted


@on_a_log(compacted())
async def test_every_segment_ends_where_its_last_batch_ends(s: Scene) -> None:
    """Also where nothing of its last batches remains: whoever reads a segment, or copies it, comes to where the next one begins."""
    for number in range(60):
        put(s.log, (b"k%d" % (number % 20), b"v" * 50))
    for _ in range(30):
        put(s.log, (b"one", b"v" * 50))
    await s.clean()
    put(s.log, *((b"k%d" % number, b"w") for number in range(20)))
    await s.clean()
    infos = s.log.segments()[:-1]
    headers, _ = await seen_by_reader(s.log)
    assert len(infos) > 1
    assert {info.end_offset for info in infos} <= {header.next_offset for header in headers}


async def test_what_is_cut_off_is_not_clean_any_more(tmp_path: Path) -> None:
    async with opened(tmp_path, compacted()) as logs:
        s = await scene(logs, HandClock(T0), FastDisk(2))
        for number in range(30):
            put(s.log, (b"k%d" % number, b"v" * 50))
        await s.clean()
        assert s.log.clean.cleaned_end == 30
        end = await s.log.truncate(12)
        assert s.log.clean.cleaned_end == end <= 12
        for _ in range(40):
            put(s.log, (b"k", b"v" * 50))
        await s.clean()
        assert s.log.clean.cleaned_end == s.log.log_end_offset
        assert len(newest(await s.records())) == end + 1


@on_a_log()
async def test_a_damaged_log_is_not_cleaned_but_named(s: Scene) -> None:
    for number in range(20):
        put(s.log, (b"k", b"v%d" % number + b"." * 100))
    s.log.roll(T0)
    await s.log.flush()
    info = s.log.segments()[1]
    raw = bytearray(Path(info.log_path).read_bytes())
    raw[100] ^= 1
    Path(info.log_path).write_bytes(raw)
    before = [each.base_offset for each in s.log.segments()]
    assert await s.clean() == 0
    assert [each.base_offset for each in s.log.segments()] == before
    assert s.metrics.uncleanable_bytes.rows and s.metrics.uncleanable_count._value.get() == 1
    assert f"{info.log_path}: a batch that cannot be read" in s.log.clean.trouble
    raw[100] ^= 1
    Path(info.log_path).write_bytes(raw)
    assert await s.clean() == 0, "not before an hour"
    s.clock.ms += 3_600_000
    assert await s.clean() == 1
    assert s.metrics.uncleanable_bytes.rows == {} and s.log.clean.trouble == ""
    assert not [name for name in s.logs._disk.listdir(s.log.directory) if files.CLEANED in name]


@on_a_log(compacted(segment_bytes=1 << 20), log_cleaner_io_buffer_size=1024)
async def test_a_batch_larger_than_a_piece_is_read(s: Scene) -> None:
    put(s.log, (b"a", b"x" * 200_000), (b"b", b"y"))
    put(s.log, (b"a", b"z"))
    await s.clean()
    assert pairs_of(await s.records()) == [(1, b"b", b"y"), (2, b"a", b"z")]


@on_a_log(log_cleaner_io_max_bytes_per_second="1000")
async def test_all_that_is_read_and_written_is_held_to_the_rate(s: Scene) -> None:
    slept: list[float] = []

    async def pace(count: int) -> None:
        slept.append(count)

    s.cleaner._rate.pace = pace  # type: ignore[method-assign]
    for number in range(60):
        put(s.log, (b"k%d" % (number % 5), b"v%d" % number + b"." * 40))
    s.log.roll(T0)
    await s.log.flush()
    size = sum(info.size for info in s.log.segments())
    await s.clean()
    assert sum(slept) >= 2 * size, "read for its keys, read again and written"
    assert max(slept) < 70 * 1024


@on_a_log()
async def test_no_segment_becomes_larger_than_segment_bytes(s: Scene) -> None:
    """Tombstones grow by their horizon: the run becomes two segments rather than one too large."""
    for number in range(20):
        put(s.log, *((b"k%d-%d" % (number, n), None) for n in range(15)))
    await s.clean()
    assert all(info.size <= 1024 for info in s.log.segments())
    headers, records = await seen_by_reader(s.log)
    assert len(records) == 300
    assert all(h.attributes & DELETE_HORIZON_MASK for h in headers)


def marker(offset: int, producer: int, kind_: int) -> bytes:
    """A control batch: ABORT 0, COMMIT 1."""
    record = RawRecord(T0, struct.pack(">hh", 0, kind_), struct.pack(">hi", 0, 0))
    return bytes(raw_batch([record], base_offset=offset, attributes=0x30, producer=(producer, 0, -1)))


def transactional(offset: int, producer: int, *pairs: Pair) -> bytes:
    records = [RawRecord(T0, key, value) for key, value in pairs]
    return bytes(raw_batch(records, base_offset=offset, attributes=0x10, producer=(producer, 0, 0)))


async def test_transactions(tmp_path: Path, kind: object) -> None:
    """Aborted data goes, its marker a cleaning and a delete horizon later; so do markers of which nothing is left."""
    clock, disk, topic = HandClock(T0), FastDisk(2), compacted(segment_bytes=1 << 20)
    async with opened(tmp_path, topic, clock=clock, disk=disk) as logs:
        log = await logs.create(TP, TOPIC_ID, topic)
        directory = Path(log.directory)
    batches = [
        transactional(0, 1, (b"a", b"1")), transactional(1, 2, (b"a", b"aborted"), (b"b", b"aborted")), marker(3, 1, 1),
        marker(4, 2, 0), transactional(5, 1, (b"b", b"2")), marker(6, 1, 1),
    ]  # fmt: skip
    for old in directory.glob("0*"):
        old.unlink()
    (directory / f"{0:020d}.log").write_bytes(b"".join(batches))
    (directory / f"{0:020d}.txnindex").write_bytes(encode_txn(AbortedTransaction(2, 1, 4, 5)))
    for suffix in ("log", "index", "timeindex"):
        (directory / f"{7:020d}.{suffix}").write_bytes(b"")
    for name in ("recovery-point-offset-checkpoint", ".kafka_cleanshutdown"):
        (tmp_path / name).unlink(missing_ok=True)
    async with opened(tmp_path, topic, clock=clock, disk=disk) as logs:
        found = logs.get(TP)
        assert found is not None and found.failed is None
        log = found
        s = Scene(logs, log, clock, disk)
        log.producers.take_over(type(log.producers)(1))  # none is active
        log.marks.recommit()
        put(log, (b"z", b"1"))
        assert await s.clean() == 1
        headers, _ = await seen_by_reader(log)
        assert [(h.base_offset, h.is_control, bool(h.attributes & DELETE_HORIZON_MASK)) for h in headers] == [
            (0, False, False), (3, True, False), (4, True, False), (5, False, False), (6, True, False), (7, False, False),
        ]  # fmt: skip
        assert [*parse_txn((directory / f"{0:020d}.txnindex").read_bytes())] == [AbortedTransaction(2, 1, 4, 5)]
        put(log, (b"a", b"3"), (b"b", b"3"))
        await s.clean()
        headers, _ = await seen_by_reader(log)
        marked = [(h.base_offset, bool(h.attributes & DELETE_HORIZON_MASK)) for h in headers if h.is_control]
        assert marked == [(3, False), (4, True), (6, False)], "of the aborted one nothing was left before"
        assert (directory / f"{0:020d}.txnindex").read_bytes() == b""
        put(log, (b"z", b"3"))
        await s.clean()
        headers, _ = await seen_by_reader(log)
        marked = [(h.base_offset, bool(h.attributes & DELETE_HORIZON_MASK)) for h in headers if h.is_control]
        assert marked == [(3, True), (4, True), (6, True)], "and now of none"
        clock.ms += DAY_MS
        put(log, (b"z", b"2"))
        await s.clean()
        headers, records = await seen_by_reader(log)
        assert not [h for h in headers if h.is_control]
        assert pairs_of(records) == [(8, b"a", b"3"), (9, b"b", b"3"), (11, b"z", b"2")]


@pytest.mark.parametrize("call", ["create", "sync"])
async def test_a_disk_that_is_full_before_the_exchange_keeps_nothing_of_it(tmp_path: Path, call: str) -> None:
    """What was written for nothing does not stay on a disk that has no room."""
    clock, disk = HandClock(T0), FaultyDisk()
    async with opened(tmp_path, compacted(), clock=clock, disk=disk) as logs:
        log = await new_log(logs, compacted())
        cleaner = cleaner_of(log, disk=disk, clock=clock)
        for number in range(30):
            put(log, (b"k", b"%d" % number + b"." * 40))
        log.roll(T0)
        await log.flush()
        disk.fail(call, f"*{files.INDEX}{files.CLEANED}" if call == "create" else f"*{files.LOG}{files.CLEANED}", NO_SPACE)
        await cleaner.tick()
        assert disk.failed and log.failed is None
        assert not [name for name in disk.listdir(log.directory) if name.endswith(files.CLEANED)]
        disk.heal()
        clock.ms += 3_600_000
        assert await cleaner.tick()
        assert len((await seen_by_reader(log))[1]) == 1
