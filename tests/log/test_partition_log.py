"""Append, roll, read, reopen: the main story of one log, and the rules at its edges."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from random import Random

import pytest

from hotlog.kernel.errors import Corrupt, InvalidProducerEpoch, OutOfOrderSequence, OutOfRange, TooLarge
from hotlog.kernel.ids import TopicPartition
from hotlog.log.index import AbortedTransaction, encode_txn
from hotlog.log.producer_snapshot import parse_snapshot
from hotlog.log.writer import Appended
from hotlog.wire.batch import check_produced, crc_ok, header_at, walk
from hotlog.wire.markers import Marker
from hotlog.wire.records import decode_batch
from tests.fixtures.raw_batch import RawRecord, raw_batch
from tests.log.support import T0, TP, Ear, append, batch, config, new_log, opened, read_all
from tests.support.disks import FaultyDisk, WatchedDisk
from tests.tools.patience import SOON_S

SMALL = config(segment_bytes=2048, index_interval_bytes=300)


async def test_what_was_appended_is_read_again_after_a_clean_stop(tmp_path: Path) -> None:
    async with opened(tmp_path, SMALL) as logs:
        log = await new_log(logs, SMALL)
        for index in range(50):
            done = append(log, batch(b"%03d" % index * 20))
            assert done.base_offset == index and done.end_offset == index + 1
        await log.wait_durable(50)
        assert log.high_watermark == 50
        assert len(log.segments()) > 3
        first = await read_all(log)
    async with opened(tmp_path, SMALL) as logs:
        log = logs.get(TP)  # type: ignore[assignment]
        assert (log.log_end_offset, log.high_watermark, log.local_log_start_offset) == (50, 50, 0)
        assert await read_all(log) == first
        assert [header.base_offset for header in first] == list(range(50))
        append(log, batch(b"more"))
        await log.wait_durable(51)
        assert (await read_all(log, 49))[-1].base_offset == 50
        assert logs.damage == []


async def test_batches_are_stamped_and_otherwise_untouched(tmp_path: Path) -> None:
    async with opened(tmp_path) as logs:
        log = await new_log(logs)
        log.set_leader_epoch(7)
        append(log, batch(b"first", b"second"))
        sent = bytes(batch(b"a", b"b", b"c", codec=4))
        done = append(log, sent, sent)
        assert (done.base_offset, done.last_offset, done.append_time_ms, done.log_start_offset) == (2, 7, -1, 0)
        await log.wait_durable(8)
        piece = log.read(2, 1 << 20, min_one=True)
        assert piece is not None and piece.end_offset_limit == 8
        stored = bytes(piece.data)
        assert stored[16 : len(sent)] == sent[16:] and stored[len(sent) + 16 :] == sent[16:]
        assert [(h.base_offset, h.leader_epoch) for _, h in walk(stored)] == [(2, 7), (5, 7)]


async def test_log_append_time(tmp_path: Path) -> None:
    topic = config(message_timestamp_type="LogAppendTime")
    async with opened(tmp_path, topic) as logs:
        log = await new_log(logs, topic)
        done = append(log, batch(b"x", b"y", timestamp=5), now_ms=T0 + 77)
        assert done.append_time_ms == T0 + 77
        await log.wait_durable(2)
        piece = log.read(0, 1 << 20, min_one=True)
        assert piece is not None
        data = memoryview(piece.data)
        assert crc_ok(data) and header_at(data).is_log_append_time and header_at(data).max_timestamp == T0 + 77
        assert [record.timestamp for record in decode_batch(data)] == [T0 + 77] * 2
        assert await log.offset_for_timestamp(T0 + 77) == (0, T0 + 77, 0)
        assert await log.offset_of_max_timestamp() == (0, T0 + 77, 0)


@pytest.mark.parametrize("claim", [T0 + 9, 2**62])
async def test_a_batch_that_claims_a_later_time_than_it_has_is_still_answered(tmp_path: Path, claim: int) -> None:
    """As it may lie in a log from before the door looked: ListOffsets(-3) waited for ever."""
    async with opened(tmp_path) as logs:
        log = await new_log(logs)
        append(log, batch(b"x", timestamp=T0))
        append(log, raw_batch([RawRecord(T0 + 3), RawRecord(T0 + 8), RawRecord(T0 + 8)], max_timestamp=claim))
        await log.wait_durable(4)
        assert await asyncio.wait_for(log.offset_of_max_timestamp(), SOON_S) == (2, T0 + 8, 0)
        assert await asyncio.wait_for(log.offset_for_timestamp(T0 + 9), SOON_S) is None
        log.advance_log_start(3)
        assert await asyncio.wait_for(log.offset_of_max_timestamp(), SOON_S) == (3, T0 + 8, 0)


async def test_more_than_a_segment_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path, SMALL) as logs:
        log = await new_log(logs, SMALL)
        with pytest.raises(TooLarge, match=r"segment\.bytes"):
            append(log, batch(b"x" * 2048))
        assert log.log_end_offset == 0


async def test_duplicates_gaps_and_old_epochs(tmp_path: Path) -> None:
    async with opened(tmp_path) as logs:
        log = await new_log(logs)
        append(log, batch(b"other"))
        sent = bytes(batch(b"a", b"b", producer=(9, 1, 0)))
        first = append(log, sent)
        size = log.size
        again = append(log, sent)
        assert again.is_duplicate and again[:2] == first[:2] == (1, 2) and again.end_offset == 3
        with pytest.raises(OutOfOrderSequence):
            append(log, batch(b"c", producer=(9, 1, 3)))
        with pytest.raises(InvalidProducerEpoch):
            append(log, batch(b"c", producer=(9, 0, 2)))
        assert (log.size, log.log_end_offset) == (size, 3)
        append(log, batch(b"c", producer=(9, 1, 2)))


async def test_reads_obey_their_bounds(tmp_path: Path) -> None:
    async with opened(tmp_path) as logs:
        log = await new_log(logs)
        sizes = []
        for number in range(6):
            before = log.size
            append(log, batch(b"v" * 100 * (number + 1), b"w"))
            sizes.append(log.size - before)
        await log.wait_durable(12)
        for first in range(6):
            offset = 2 * first + 1  # the second record of a batch: the batch comes whole
            for bytes_max in (0, 1, sizes[first] - 1, sizes[first], sizes[first] + 10, 1 << 20):
                piece = log.read(offset, bytes_max, min_one=True)
                assert piece is not None and header_at(piece.data).base_offset == 2 * first
                assert len(piece.data) == min(max(bytes_max, sizes[first]), sum(sizes[first:]))
                strict = log.read(offset, bytes_max, min_one=False)
                assert strict is not None and len(strict.data) <= bytes_max
                assert bool(strict.data) == (bytes_max >= sizes[first])
        end = log.read(12, 1000, min_one=True)
        assert end is not None and not end.data
        for offset in (-1, 13):
            with pytest.raises(OutOfRange):
                log.read(offset, 1000, min_one=True)


async def test_a_cold_page_never_stalls_the_loop(tmp_path: Path) -> None:
    async with opened(tmp_path, SMALL) as logs:
        log = await new_log(logs, SMALL)
        for number in range(40):
            append(log, batch(b"%d" % number * 50))
        await log.wait_durable(40)
    disk = FaultyDisk()
    async with opened(tmp_path, SMALL, disk=disk) as logs:
        log = logs.get(TP)  # type: ignore[assignment]
        disk.is_cold = True
        assert log.read(3, 1000, min_one=True) is None and disk.cold_reads > 0
        piece = await log.read_blocking(3, 1000, min_one=True)
        assert header_at(piece.data).base_offset == 3
        with pytest.raises(OutOfRange):
            log.read(41, 1000, min_one=True)
        with pytest.raises(OutOfRange):
            await log.read_blocking(41, 1000, min_one=True)


async def test_readers_wake_when_data_is_durable(tmp_path: Path) -> None:
    async with opened(tmp_path) as logs:
        log = await new_log(logs)
        seen: list[int] = []
        woken = asyncio.Event()

        def wake() -> None:
            seen.append(log.high_watermark)
            woken.set()

        ear = Ear(wake)
        log.add_ear(ear)
        append(log, batch(b"x"))
        assert seen == []
        await woken.wait()
        assert seen == [1]
        append(log, batch(b"x"))
        await log.wait_durable(2)
        assert seen == [1], "once"
        log.add_ear(ear)
        log.remove_ear(ear)
        log.remove_ear(ear)
        append(log, batch(b"x"))
        await log.wait_durable(3)
        assert seen == [1]


async def test_readers_wake_when_the_log_begins_later(tmp_path: Path) -> None:
    async with opened(tmp_path) as logs:
        log = await new_log(logs)
        append(log, batch(b"x"), batch(b"x"))
        await log.wait_durable(2)
        seen: list[int] = []
        log.add_ear(Ear(lambda: seen.append(log.log_start_offset)))
        log.advance_log_start(1)
        assert seen == [1]


async def test_an_open_transaction_bounds_committed_reads(tmp_path: Path) -> None:
    async with opened(tmp_path) as logs:
        log = await new_log(logs)
        for number in range(3):
            append(log, batch(b"%d" % number))
        append(log, batch(b"in a transaction", producer=(5, 0, 0), is_transactional=True))
        append(log, batch(b"after"))
        await log.wait_durable(5)
        assert (log.last_stable_offset, log.high_watermark) == (3, 5)
        piece = log.read(0, 1 << 20, min_one=True, committed_only=True)
        assert piece is not None and piece.end_offset_limit == 3
        assert [header.base_offset for _, header in walk(memoryview(piece.data))] == [0, 1, 2]
        waiting = log.read(3, 1 << 20, min_one=True, committed_only=True)
        assert waiting is not None and not waiting.data
        assert len(await read_all(log)) == 5
        log.append_marker(Marker(5, 0, 0, is_commit=True), now_ms=T0)
        assert log.last_stable_offset == 3, "the marker is not committed"
        await log.wait_durable(6)
        assert log.last_stable_offset == 6


async def bases_of_thirty(tmp_path: Path) -> list[int]:
    """A log of thirty records that was closed again: where its segments begin."""
    async with opened(tmp_path, SMALL) as logs:
        log = await new_log(logs, SMALL)
        for _ in range(30):
            append(log, batch(b"x" * 100))
        await log.wait_durable(30)
        return [info.base_offset for info in log.segments()]


async def test_aborted_transactions_come_from_the_index_files(tmp_path: Path) -> None:
    bases = await bases_of_thirty(tmp_path)
    home = tmp_path / "clicks-0"
    entries = [AbortedTransaction(1, 0, 3, 2), AbortedTransaction(2, bases[1], bases[1] + 2, bases[1])]
    for base, entry in zip(bases, entries, strict=False):
        (home / f"{base:020d}.txnindex").write_bytes(encode_txn(entry))
    async with opened(tmp_path, SMALL) as logs:
        log = logs.get(TP)  # type: ignore[assignment]
        assert log._reader.aborted_transactions(0, 30, wait=True) == [(1, 0), (2, bases[1])]
        assert log._reader.aborted_transactions(4, bases[1], wait=True) == []
        assert log._reader.aborted_transactions(3, 5, wait=True) == [(1, 0)]


async def test_a_committed_read_brings_its_aborted_transactions_without_a_file_read_on_the_loop(tmp_path: Path) -> None:
    await bases_of_thirty(tmp_path)
    (tmp_path / "clicks-0" / f"{0:020d}.txnindex").write_bytes(encode_txn(AbortedTransaction(1, 0, 3, 2)))
    disk = WatchedDisk()
    async with opened(tmp_path, SMALL, disk=disk) as logs:
        log = logs.get(TP)  # type: ignore[assignment]
        disk.asked.clear()
        assert log.read(0, 1000, min_one=True) is not None
        assert log.read(0, 1000, min_one=True, committed_only=True) is None, "the index must be read first, in a thread"
        assert disk.paths("read") == []
        assert (await log.read_blocking(0, 1000, min_one=True, committed_only=True)).aborted == [(1, 0)]
        now = log.read(0, 1000, min_one=True, committed_only=True)
        assert now is not None and now.aborted == [(1, 0)]
        assert len(disk.paths("read")) == 1


async def test_aborted_transactions_whose_index_is_of_a_later_segment_come_with_every_read(tmp_path: Path) -> None:
    later = (await bases_of_thirty(tmp_path))[1]
    (tmp_path / "clicks-0" / f"{later:020d}.txnindex").write_bytes(encode_txn(AbortedTransaction(1, 0, later, later)))
    async with opened(tmp_path, SMALL) as logs:
        log = logs.get(TP)  # type: ignore[assignment]
        assert (await log.read_blocking(0, 1000, min_one=True, committed_only=True)).aborted == [(1, 0)]
        for _ in range(3):  # the first one remembers the place
            now = log.read(0, 1000, min_one=True, committed_only=True)
            assert now is not None and now.aborted == [(1, 0)]
        after = log.read(29, 1000, min_one=True, committed_only=True)
        assert after is not None and after.aborted == []


async def test_appends_can_be_blocked(tmp_path: Path) -> None:
    from hotlog.kernel.errors import DiskFull

    async with opened(tmp_path) as logs:
        log = await new_log(logs)
        log.block_appends("the store is away")
        with pytest.raises(DiskFull, match="the store is away"):
            append(log, batch(b"x"))
        log.block_appends(None)
        append(log, batch(b"x"))


async def test_a_segment_file_that_somebody_removed_is_damage(tmp_path: Path) -> None:
    async with opened(tmp_path, SMALL) as logs:
        log = await new_log(logs, SMALL)
        for _ in range(40):
            append(log, batch(b"x" * 100))
        await log.wait_durable(40)
        logs._parts.pool.forget(log.segments()[0].log_path)
        Path(log.segments()[0].log_path).unlink()
        with pytest.raises(Corrupt, match="is gone"):
            log.read(0, 1000, min_one=True)


async def test_a_log_of_which_everything_was_dropped_is_opened_again_where_it_ended(tmp_path: Path) -> None:
    async with opened(tmp_path) as logs:
        log = await new_log(logs)
        append(log, batch(b"a", b"b"))
        log.roll(T0)
        await log.flush()
        await log.drop_local_before(2)
        log = await logs.reopen(TP)
        assert (log.log_start_offset, log.log_end_offset) == (2, 2) and logs.damage == []
        assert append(log, batch(b"c")).base_offset == 2


async def test_one_batch_by_the_short_way_leaves_what_the_long_way_leaves(tmp_path: Path) -> None:
    """Files, indexes, rolls by size, by time and by a full index, epochs, producers, answers and refusals."""
    topic = config(segment_bytes=9000, index_interval_bytes=200, segment_ms=1000, segment_index_bytes=80)
    short, long = TopicPartition("short", 0), TopicPartition("long", 0)
    async with opened(tmp_path, topic) as logs:
        first, second = await new_log(logs, topic, short), await new_log(logs, topic, long)
        random, sequence, now_ms = Random(5), 0, T0
        for number in range(400):
            now_ms += random.choice((0, 10, 400 if number > 300 else 1))
            producer = (-1, -1, -1)
            if random.random() < 0.5:
                producer = (7, 0, random.choice((sequence, sequence, max(sequence - 1, 0), sequence + 5)))
            made = batch(
                b"x" * random.choice((1, 60, 900)), timestamp=random.choice((now_ms, -1, now_ms - 50)), producer=producer
            )
            headers = check_produced(memoryview(made), batch_bytes_max=1 << 20)
            outcomes: list[object] = []
            for append_one in (partial(first.append, now_ms=now_ms), partial(second._writer._append_any, now_ms=now_ms)):
                try:
                    outcomes.append(append_one(memoryview(bytearray(made)), headers))
                except OutOfOrderSequence as error:
                    outcomes.append(str(error))
            assert outcomes[0] == outcomes[1], number
            if producer[0] == 7 and isinstance(outcomes[0], Appended) and not outcomes[0].is_duplicate:
                sequence = producer[2] + 1
            if number % 100 == 50:
                for log in (first, second):
                    log.set_leader_epoch(number)
        assert len(first.segments()) > 20
        assert [info._replace(log_path="") for info in first.segments()] == [
            info._replace(log_path="") for info in second.segments()
        ]
        assert first.epochs.entries == second.epochs.entries
        assert first.producers.encode() == second.producers.encode()
        await first.flush()
        await second.flush()
        assert first.marks.committed == second.marks.committed
    for path in sorted(Path(first.directory).iterdir()):
        other = Path(second.directory) / path.name
        assert path.read_bytes() == other.read_bytes() or path.name == "partition.metadata", path.name


async def test_a_snapshot_is_as_large_as_what_is_alive_and_is_of_the_roll(tmp_path: Path) -> None:
    async with opened(tmp_path, SMALL) as logs:
        log = await new_log(logs, SMALL)
        for number in range(20):
            append(log, batch(b"x", producer=(number, 0, 0)), now_ms=T0)
        log.roll(T0 + 1)
        later = T0 + 2 * 86_400_000
        append(log, batch(b"y", producer=(99, 0, 0)), now_ms=later)
        log.roll(later)
        append(log, batch(b"z", producer=(100, 0, 0)), now_ms=later)  # before the snapshot is written, and not in it
        of_waiting = [each[0] for each in parse_snapshot(await log.producer_snapshot_bytes(21))]
        await log.flush()
        of_file = [each[0] for each in parse_snapshot(await log.producer_snapshot_bytes(21))]
        assert of_waiting == of_file == [99]
        assert len(list(parse_snapshot(await log.producer_snapshot_bytes(20)))) == 20
        assert [each[0] for each in parse_snapshot(await log.producer_snapshot_bytes(22))] == [99, 100]
