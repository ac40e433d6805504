"""What changes a log that is written: following a leader, cutting the end off, replacing closed segments."""

from __future__ import annotations

import asyncio
import os
import struct
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotlog.kernel.errors import Corrupt, CrcMismatch, Invalid, NotReady, OutOfRange, StorageFailed
from hotlog.log.manager import LogManager
from hotlog.log.partition_log import PartitionLog
from hotlog.log.replacement import finish_replacement
from hotlog.wire.batch import walk
from hotlog.wire.markers import Marker
from hotlog.wire.records import decode_batch
from tests.log.support import T0, TP, append, batch, closed_segments, config, new_log, opened, read_all
from tests.log.test_reshape_crash import Following
from tests.sim.loop import SimLoop, run
from tests.support.disks import IO, FastDisk, FaultyDisk
from tests.tools.patience import SOON_S

SMALL = config(segment_bytes=1024, index_interval_bytes=200, file_delete_delay_ms=0)
COMPACT = config(segment_bytes=1024, index_interval_bytes=200, file_delete_delay_ms=0, cleanup_policy="compact")


def sent(offset: int, epoch: int, *values: bytes, **options: object) -> bytes:
    """A batch as a leader sends it."""
    raw = batch(*values, **options)  # type: ignore[arg-type]
    struct.pack_into(">q", raw, 0, offset)
    struct.pack_into(">i", raw, 12, epoch)
    return bytes(raw)


def follow(log: PartitionLog, *batches: bytes) -> int:
    return log.append_as_follower(memoryview(bytearray(b"".join(batches))), now_ms=T0)


async def values_of(log: PartitionLog, offset: int | None = None) -> list[tuple[int, bytes]]:
    offset = log.local_log_start_offset if offset is None else offset
    found: list[tuple[int, bytes]] = []
    while offset < log.high_watermark:
        piece = await log.read_blocking(offset, 1 << 20, min_one=True)
        headers = list(walk(memoryview(piece.data)))
        for at, header in headers:
            found += [(r.offset, bytes(r.value)) for r in decode_batch(memoryview(piece.data)[at : at + header.size])]
        if not headers:
            break
        offset = headers[-1][1].next_offset
    return found


# Following


async def test_a_follower_keeps_what_the_leader_gave(tmp_path: Path) -> None:
    async with opened(tmp_path, SMALL) as logs:
        log = await new_log(logs, SMALL)
        assert follow(log, sent(0, 3, b"a", b"b"), sent(2, 3, b"c"), sent(7, 5, b"d" * 300, producer=(9, 1, 0))) == 8
        assert follow(log, *(sent(8 + n, 6, b"e" * 300, producer=(9, 1, 1 + n)) for n in range(6))) == 14
        assert follow(log) == 14
        await log.flush()
        headers = await read_all(log)
        assert [(h.base_offset, h.leader_epoch) for h in headers] == [(0, 3), (2, 3), (7, 5), *((8 + n, 6) for n in range(6))]
        assert log.epochs.entries == ((3, 0), (5, 7), (6, 8))
        infos = log.segments()
        assert len(infos) > 2 and all(info.size <= 1024 for info in infos)
        assert all(info.end_offset == following.base_offset for info, following in pairwise(infos))
        state = log.producers.get(9)
        assert state is not None and [batch_.last_offset for batch_ in state.batches] == [9, 10, 11, 12, 13]
        before = headers
    async with opened(tmp_path, SMALL) as logs:
        log = logs.get(TP)  # type: ignore[assignment]
        assert await read_all(log) == before and log.epochs.entries == ((3, 0), (5, 7), (6, 8))
        assert logs.damage == []


@pytest.mark.parametrize(
    ("batches", "why"),
    [
        ([sent(4, 1, b"x")], "offsets"),
        ([sent(4, 1, b"x", b"y")], "offsets"),
        ([sent(5, 1, b"x"), sent(5, 1, b"x")], "offsets"),
        ([sent(5, 0, b"x")], "epoch"),
        ([sent(5, 2, b"x"), sent(6, 1, b"x")], "epoch"),
        ([sent(5 + 2**31, 1, b"x")], "too far"),
    ],
)
async def test_what_goes_back_is_refused_and_nothing_of_it_is_kept(tmp_path: Path, batches: list[bytes], why: str) -> None:
    async with opened(tmp_path) as logs:
        log = await new_log(logs)
        follow(log, sent(0, 1, b"a", b"b", b"c", b"d", b"e"))
        size = log.size
        with pytest.raises(Corrupt, match=why):
            follow(log, *batches)
        assert (log.log_end_offset, log.size, log.epochs.latest) == (5, size, 1)


async def test_bytes_that_are_no_whole_good_batch_are_not_followed(tmp_path: Path) -> None:
    async with opened(tmp_path) as logs:
        log = await new_log(logs)
        whole, other = sent(0, 1, b"a"), sent(1, 1, b"b" * 50)
        assert follow(log, whole, other[:-1]) == 1, "a fetch may be cut off"
        flipped = bytearray(other)
        flipped[-1] ^= 1
        with pytest.raises(CrcMismatch):
            follow(log, bytes(flipped))
        assert log.log_end_offset == 1


async def test_ends_of_transactions_are_followed(tmp_path: Path) -> None:
    async with opened(tmp_path / "leader") as leaders, opened(tmp_path / "follower") as logs:
        leader, log = await new_log(leaders), await new_log(logs)
        for producer, is_commit in ((1, False), (2, True)):
            append(leader, batch(b"x", producer=(producer, 0, 0), is_transactional=True))
            leader.append_marker(Marker(producer, 0, 3, is_commit), now_ms=T0)
        append(leader, batch(b"x", producer=(1, 0, 1), is_transactional=True))
        await leader.wait_durable(5)
        piece = await leader.read_blocking(0, 1 << 20, min_one=True)
        assert follow(log, bytes(piece.data)) == 5
        await log.wait_durable(5)
        assert log.producers.known() == leader.producers.known()
        assert (log.last_stable_offset, leader.last_stable_offset) == (4, 4)
        assert await log.aborted_transactions(0, 5) == [(1, 0)]


async def test_a_follower_is_committed_up_to_any_batch_of_an_append(tmp_path: Path) -> None:
    async with opened(tmp_path, SMALL) as logs:
        log = await new_log(logs, SMALL)
        leader = 0
        log.set_commit_rule(lambda log_end, durable_end: min(log_end, leader))
        follow(log, *(sent(n, 1, b"v" * 200) for n in range(20)))
        for leader in (0, 1, 5, 7, 20, 30):
            log.recommit()
            assert log.high_watermark == min(leader, 20)
            assert [h.base_offset for h in await read_all(log)] == list(range(min(leader, 20)))


# Cutting


async def filled(logs: LogManager, topic: object = SMALL, count: int = 30) -> PartitionLog:
    log = await new_log(logs, topic)  # type: ignore[arg-type]
    for number in range(count):
        log.set_leader_epoch(number // 10)
        append(log, batch(b"%d" % number + b"v" * 150, b"w", timestamp=T0 + number, producer=(9, 0, 2 * number)))
    await log.flush()
    return log


@pytest.mark.parametrize("offset", [60, 59, 41, 40, 39, 21, 20, 8, 2, 1, 0])
async def test_everything_goes_back_with_the_end(tmp_path: Path, offset: int) -> None:
    end = offset // 2 * 2
    async with opened(tmp_path, SMALL) as logs:
        log = await filled(logs)
        assert await log.truncate(offset) == end
        assert (log.log_end_offset, log.high_watermark, log.last_stable_offset, log.durable_end) == (end, end, end, end)
        assert log.recovery_point <= end
        assert [h.base_offset for h in await read_all(log)] == list(range(0, end, 2))
        assert log.epochs.entries == tuple((epoch, 20 * epoch) for epoch in range(3) if 20 * epoch < end)
        state = log.producers.get(9)
        assert (state.batches[-1].last_sequence if state else -1) == end - 1
        found = await log.offset_of_max_timestamp()
        assert found is None if end == 0 else found is not None and found[:2] == (end - 2, T0 + end // 2 - 1)
        with pytest.raises(OutOfRange):
            log.read(end + 1, 100, min_one=True)
        log.set_leader_epoch(7)
        for number in range(5):
            append(log, batch(b"new" * 80, b"w", producer=(9, 0, end + 2 * number)))
        await log.wait_durable(end + 10)
        before = await read_all(log)
        assert [h.base_offset for h in before] == list(range(0, end + 10, 2))
    async with opened(tmp_path, SMALL) as logs:
        log = logs.get(TP)  # type: ignore[assignment]
        assert await read_all(log) == before and logs.damage == []
        assert log.epochs.entries[-1] == (7, end)


async def test_an_epoch_without_a_record_goes_too(tmp_path: Path) -> None:
    """As in Kafka: the leader may know another one there."""
    async with opened(tmp_path, SMALL) as logs:
        log = await filled(logs)
        log.set_leader_epoch(9)
        assert await log.truncate(100) == 60 and log.epochs.latest == 9
        assert await log.truncate(60) == 60 and log.epochs.latest == 2


async def test_a_cut_waits_for_the_flush_and_nobody_writes_meanwhile(tmp_path: Path) -> None:
    disk = FaultyDisk()
    async with opened(tmp_path, SMALL, disk=disk) as logs:
        log = await filled(logs)
        disk.hold()
        append(log, batch(b"late"))
        waiting = asyncio.ensure_future(log.wait_durable(61))
        await disk.is_holding()
        cutting = asyncio.ensure_future(log.truncate(30))
        await asyncio.sleep(0)
        for refused in (lambda: append(log, batch(b"x")), lambda: follow(log, sent(61, 9, b"x")), lambda: log.roll(T0)):
            with pytest.raises(NotReady):
                refused()
        assert not log.maybe_roll(T0 + 10**12)
        disk.let_go()
        assert await asyncio.wait_for(cutting, SOON_S) == 30
        await asyncio.wait_for(asyncio.gather(waiting, return_exceptions=True), SOON_S)
        append(log, batch(b"x"))
        await log.wait_durable(31)
        assert log.high_watermark == 31


async def test_who_waits_for_what_is_cut_is_told(tmp_path: Path) -> None:
    async with opened(tmp_path, SMALL) as logs:
        log = await filled(logs)
        log.set_commit_rule(lambda log_end, durable_end: 40)
        append(log, batch(b"x", b"y"))
        waiting = asyncio.ensure_future(log.wait_committed(62))
        await log.truncate(50)
        with pytest.raises(NotReady, match="cut"):
            await asyncio.wait_for(waiting, SOON_S)


async def test_a_log_is_not_cut_below_its_start(tmp_path: Path) -> None:
    async with opened(tmp_path, SMALL) as logs:
        log = await filled(logs)
        log.advance_log_start(21)
        for offset in (20, 21):
            with pytest.raises(OutOfRange):
                await log.truncate(offset)
        assert log.log_end_offset == 60
        assert await log.truncate(23) == 22


async def test_a_disk_that_fails_while_the_log_is_cut_ends_it(tmp_path: Path) -> None:
    disk = FaultyDisk()
    async with opened(tmp_path, SMALL, disk=disk) as logs:
        log = await filled(logs)
        disk.fail("sync", "*.log", IO)
        with pytest.raises(StorageFailed):
            await log.truncate(30)
        assert log.failed is not None
        with pytest.raises(StorageFailed):
            append(log, batch(b"x"))
    async with opened(tmp_path, SMALL) as logs:
        log = logs.get(TP)  # type: ignore[assignment]
        assert 30 <= log.log_end_offset <= 60 and logs.damage == []


async def test_a_cut_that_was_begun_is_ended_though_nobody_waits_for_it(tmp_path: Path) -> None:
    disk = FaultyDisk()
    async with opened(tmp_path, SMALL, disk=disk) as logs:
        log = await filled(logs)
        disk.hold()
        cutting = asyncio.ensure_future(log.truncate(30))
        await disk.is_holding()
        cutting.cancel()
        await asyncio.wait([cutting])
        assert cutting.cancelled()
        with pytest.raises(NotReady):
            append(log, batch(b"x"))
        disk.let_go()
        async with asyncio.timeout(SOON_S):
            while log.is_writing:
                await asyncio.sleep(0)
        assert log.log_end_offset == 30
        append(log, batch(b"x"))
        await log.flush()
        assert [offset for offset, _ in await values_of(log)] == list(range(31))


# Replacing


def cleaned(log: PartitionLog, base: int, *batches: bytes) -> int:
    path = Path(log.directory) / f"{base:020d}.log.cleaned"
    path.write_bytes(b"".join(batches))
    return base


async def test_a_run_is_replaced_and_readers_go_on(tmp_path: Path) -> None:
    async with opened(tmp_path, SMALL) as logs:
        log = await filled(logs)
        closed = closed_segments(log)
        old = [info.base_offset for info in closed[1:4]]
        end = closed[3].end_offset
        piece = await log.read_blocking(old[0], 1 << 20, min_one=True)
        part = log.read(old[1], 200_000, min_one=True)
        values = [value for offset, value in await values_of(log) if old[0] <= offset < end]
        before = log._segments.all
        one = sent(old[0], 1, *values, timestamp=T0)
        await log.replace_segments(old, [cleaned(log, old[0], one)])
        assert [info.base_offset for info in log.segments()][:3] == [0, old[0], end]
        assert (await log.read_blocking(old[0], 1 << 20, min_one=True)).data[:16] == one[:16]
        assert part is not None and len(part.data) and piece.data, "what was answered stays"
        for segment in before[1:4]:  # a reader that had found its segment before
            found = logs._parts.reader.locate(segment, segment.base_offset + 2, segment.size, wait=True)
            assert found is not None and found.base_offset == segment.base_offset + 2
        assert [offset for offset, _ in await values_of(log)] == list(range(60))
        await log.upkeep.tick(T0 + 1)
        assert logs.damage == []
        assert not [path for path in Path(log.directory).iterdir() if path.suffix in (".deleted", ".swap", ".cleaned")]
    async with opened(tmp_path, SMALL) as logs:
        assert [offset for offset, _ in await values_of(logs.get(TP))] == list(range(60))  # type: ignore[arg-type]
        assert logs.damage == []


@pytest.mark.parametrize("is_split", [False, True])
async def test_all_that_is_committed_may_be_replaced_while_nobody_appends(tmp_path: Path, is_split: bool) -> None:
    """The committed end lies at the last byte of the last old segment: the new ones have other sizes."""
    async with opened(tmp_path, SMALL) as logs:
        log = await filled(logs)
        log.roll(T0)
        await log.flush()
        wanted = await values_of(log)
        old = [info.base_offset for info in closed_segments(log)][-1:]
        run = [sent(o, 1, v + b"longer" * 9, timestamp=T0) for o, v in wanted if o >= old[0]]
        new = [cleaned(log, old[0], *run[:2]), cleaned(log, old[0] + 2, *run[2:])] if is_split else [cleaned(log, old[0], *run)]
        before = log._segments.all
        await log.replace_segments(old, new)
        assert [offset for offset, _ in await values_of(log)] == list(range(60)) and logs.damage == []
        assert log.marks.readable_bytes(before[-2]) == before[-2].size, "a reader that had found it before goes on"
        append(log, batch(b"next"))
        await log.flush()
        assert [offset for offset, _ in await values_of(log)] == list(range(61))


@pytest.mark.parametrize("rounds", [1, 2])
async def test_files_of_replaced_segments_are_not_held_open_once_they_are_gone(tmp_path: Path, rounds: int) -> None:
    async with opened(tmp_path, SMALL) as logs:
        log = await filled(logs)
        wanted = await values_of(log)
        for _ in range(rounds):
            for info in closed_segments(log):
                run = [sent(o, 1, v) for o, v in wanted if info.base_offset <= o < info.end_offset]
                await log.replace_segments([info.base_offset], [cleaned(log, info.base_offset, *run)])
            assert [offset for offset, _ in await values_of(log)] == list(range(60))
        await log.upkeep.tick(T0 + 1)
        held = [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
        assert not [path for path in held if str(tmp_path) in path and path.endswith("(deleted)")]


async def test_readers_that_read_all_the_time_see_old_or_new(tmp_path: Path) -> None:
    async with opened(tmp_path, SMALL, disk=FastDisk(4)) as logs:
        log = await filled(logs)
        wanted = await values_of(log)
        stop = False

        async def read() -> int:
            rounds = 0
            while not stop:
                assert await values_of(log) == wanted
                rounds += 1
            return rounds

        readers = [asyncio.ensure_future(read()) for _ in range(3)]
        for _ in range(12):
            closed = closed_segments(log)
            old = [info.base_offset for info in closed]
            new = [
                cleaned(
                    log, info.base_offset, *(sent(o, o // 20, v) for o, v in wanted if info.base_offset <= o < info.end_offset)
                )
                for info in closed
            ]
            await log.replace_segments(old, new)
            await log.upkeep.tick(T0 + 1)  # removes the old files at once
        stop = True
        assert min(await asyncio.gather(*readers)) > 0
        assert logs.damage == [] and not any(segment.index_broken for segment in log._segments.all)


async def test_what_does_not_cover_the_run_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path, SMALL) as logs:
        log = await filled(logs)
        infos = log.segments()
        old, end = [info.base_offset for info in infos[:2]], infos[1].end_offset
        values = [value for offset, value in await values_of(log) if offset < end]
        bad = [
            [sent(0, 1, *values[:-1])],
            [sent(0, 1, *values, b"more")],
            [sent(0, 1, *values[:2]), sent(4, 1, *values[4:])],
            [sent(0, 1, *values)[:-1]],
            [],
        ]
        for batches in bad:
            with pytest.raises(Invalid):
                await log.replace_segments(old, [cleaned(log, 0, *batches)])
        with pytest.raises(Invalid):
            await log.replace_segments(old, [cleaned(log, 2, sent(2, 1, *values[2:]))])
        for wrong in ([], [old[1], old[0]], [old[0], infos[2].base_offset], [infos[-1].base_offset], [5]):
            with pytest.raises(Invalid):
                await log.replace_segments(wrong, [0])
        log.set_commit_rule(lambda log_end, durable_end: 0)
        assert [offset for offset, _ in await values_of(log)] == list(range(60))
        cleaned(log, 0, sent(0, 1, *values))
        await log.replace_segments(old, [0])
        assert [offset for offset, _ in await values_of(log)] == list(range(60)) and logs.damage == []


async def test_a_compacted_log_may_have_gaps(tmp_path: Path) -> None:
    async with opened(tmp_path, COMPACT) as logs:
        log = await filled(logs, COMPACT)
        infos = log.segments()
        old = [info.base_offset for info in infos[:3]]
        await log.replace_segments(old, [cleaned(log, 0, sent(1, 0, b"one"), sent(old[2], 0, b"last"))])
        rest = list(range(infos[3].base_offset, 60))
        assert [offset for offset, _ in await values_of(log)] == [1, old[2], *rest]
        with pytest.raises(Invalid):
            await log.replace_segments([0, rest[0]], [cleaned(log, 0, sent(1, 0, b"one"))])
    async with opened(tmp_path, COMPACT) as logs:
        log = logs.get(TP)  # type: ignore[assignment]
        assert [offset for offset, _ in await values_of(log)] == [1, old[2], *rest] and logs.damage == []


@pytest.mark.parametrize(
    ("left", "wanted"),
    [
        (["0.log", "5.log", "9.log", "0.log.cleaned", "0.index.cleaned"], ["0.log", "5.log", "9.log"]),
        (["0.log", "5.log", "9.log", "5.log.swap", "0.log.cleaned"], ["0.log", "5.log", "9.log"]),
        (["0.log", "5.log", "9.log", "0.index.swap", "0.log.cleaned"], ["0.log", "5.log", "9.log"]),
        (["0.log", "0.index", "5.log", "9.log", "0.log.swap", "0.index.swap"], ["0.index new", "0.log new", "9.log"]),
        (["0.log.deleted", "5.log", "9.log", "0.log.swap"], ["0.log new", "0.log.deleted", "9.log"]),
        (["9.log", "0.log.swap", "0.index"], ["0.log new", "9.log"]),
        (["0.log", "9.log", "5.log.swap", "5.index.swap"], ["0.log", "5.index new", "5.log new", "9.log"]),
        (["0.log", "5.log", "5.index.swap"], ["0.log", "5.log"]),
        (["0.log.swap", "0.txnindex", "5.log", "5.txnindex", "9.log"], ["0.log new", "0.txnindex", "9.log"]),
        (["0.log.swap", "0.txnindex.swap", "0.txnindex", "5.log", "9.log"], ["0.log new", "0.txnindex new", "9.log"]),
    ],
)
def test_what_a_crash_left_of_a_replacement_is_finished_by_kafkas_rules(
    tmp_path: Path, left: list[str], wanted: list[str]
) -> None:
    """The new segments hold [base, 9); names are shortened."""
    for name in left:
        base, suffix = name.split(".", 1)
        raw = sent(8, 0, b"new") if "swap" in suffix or "cleaned" in suffix else b"old"
        (tmp_path / f"{int(base):020d}.{suffix}").write_bytes(raw)
    disk = FastDisk(1)
    assert finish_replacement(disk, str(tmp_path), disk.listdir(str(tmp_path)))
    found = []
    for path in sorted(tmp_path.iterdir()):
        base, suffix = path.name.split(".", 1)
        found.append(f"{int(base)}.{suffix}" + (" new" if path.read_bytes() != b"old" else ""))
    assert found == wanted
    names = disk.listdir(str(tmp_path))
    assert not finish_replacement(disk, str(tmp_path), names), "nothing is left to do"
    disk.close()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1 << 32), topic=st.sampled_from(["fsync", "page-cache", "compact"]))
def test_any_life_of_a_follower_holds_a_beginning_of_its_leaders_history(seed: int, topic: str) -> None:
    """Follows, cuts, replacements and restarts in any order; what is there is compared after each."""

    async def main(loop: SimLoop) -> None:
        life = Following(loop, seed, topic)
        await life.live(await life.open())
        await life.check(await life.open())

    run(main)
