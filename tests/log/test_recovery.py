"""After a kill or a power loss: torn tails are cut, damage is reported, what can be rebuilt is rebuilt."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hotlog.kernel.errors import Corrupt, OutOfOrderSequence, OutOfRange, StorageFailed
from hotlog.log.manager import LogManager
from hotlog.log.partition_log import PartitionLog
from hotlog.wire.batch import walk
from tests.log.support import T0, TOPIC_ID, TP, append, batch, closed_segments, config, kill, manager, new_log, opened, read_all
from tests.support.disks import FaultyDisk

SMALL = config(segment_bytes=4096, index_interval_bytes=200)
DIR = "clicks-0"


async def written(directory: Path, count: int, *, clean: bool = False, checkpoint_at: int = -1, size: int = 100) -> None:
    """A data directory with `count` batches of an idempotent producer in it, left by kill -9 (or cleanly)."""
    logs = manager(directory)
    await logs.open(config_of=lambda tp: SMALL)
    log = await new_log(logs, SMALL)
    log.set_leader_epoch(3)
    for number in range(count):
        append(log, batch(b"%06d" % number + b"v" * size, timestamp=T0 + number, producer=(9, 0, number)))
        if number == checkpoint_at:
            await log.flush()
            await logs.checkpoint()
    await log.wait_durable(count)
    await (logs.close() if clean else kill(logs))


async def offsets_of(logs: LogManager) -> list[int]:
    log = logs.get(TP)
    assert log is not None
    return [header.base_offset for header in await read_all(log)]


def last_log(directory: Path) -> Path:
    return max((directory / DIR).glob("*.log"))


@pytest.mark.timeout(300)  # hundreds of starts
async def test_a_tail_torn_at_every_byte_is_cut_at_the_last_whole_batch(tmp_path: Path) -> None:
    await written(tmp_path / "made", 5, size=20)
    whole = last_log(tmp_path / "made").read_bytes()
    size = len(whole) // 5
    for cut in range(4 * size, 5 * size):
        for tail in (b"", bytes(size)):  # cut short, or zero-filled by the file system
            copy = tmp_path / "copy"
            shutil.copytree(tmp_path / "made", copy)
            last_log(copy).write_bytes(whole[:cut] + tail)
            async with opened(copy, SMALL) as logs:
                log = logs.get(TP)
                assert log is not None and log.failed is None, (cut, logs.damage)
                kept = 5 if (whole[:cut] + tail).startswith(whole) else 4  # its last bytes may have been zeros anyway
                assert await offsets_of(logs) == list(range(kept))
                done = append(log, batch(b"next", producer=(9, 0, kept)))
                assert done.base_offset == kept
                await log.wait_durable(kept + 1)
            async with opened(copy, SMALL) as logs:
                assert await offsets_of(logs) == list(range(kept + 1)) and logs.damage == []
            shutil.rmtree(copy)


async def test_lost_sectors_before_whole_batches_are_cut_not_served(tmp_path: Path) -> None:
    """Unsynced writes may reach the device in any order: what follows a hole was never acked."""
    await written(tmp_path, 9, size=300)
    path = last_log(tmp_path)
    raw = bytearray(path.read_bytes())
    size = len(raw) // 9
    raw[3 * size + 100 : 4 * size] = bytes(size - 100)
    path.write_bytes(raw)
    async with opened(tmp_path, SMALL) as logs:
        assert await offsets_of(logs) == [0, 1, 2]
        assert [where for where, _ in logs.damage] == ["log-tail"]
        assert logs.get(TP).failed is None  # type: ignore[union-attr]


@pytest.mark.parametrize("checkpoint_at", [-1, 8])
async def test_a_flipped_bit_in_an_acked_batch_is_reported_not_cut(tmp_path: Path, checkpoint_at: int) -> None:
    """In the middle, above and below the recovery point: above it by its CRC, below it by its header."""
    await written(tmp_path, 9, size=300, checkpoint_at=checkpoint_at)
    path = last_log(tmp_path)
    raw = bytearray(path.read_bytes())
    size = len(raw) // 9
    raw[4 * size + (200 if checkpoint_at < 0 else 10)] ^= 4
    path.write_bytes(raw)
    logs = manager(tmp_path)
    await logs.open(config_of=lambda tp: SMALL)
    other = await logs.create(TP._replace(partition=1), TOPIC_ID, SMALL)
    log = logs.get(TP)
    assert log is not None and isinstance(log.failed, Corrupt)
    assert "offset 4" in str(log.failed) and [where for where, _ in logs.damage] == ["log"]
    piece = log.read(0, 1 << 20, min_one=True)
    assert piece is not None and [header.base_offset for _, header in walk(memoryview(piece.data))] == [0, 1, 2, 3]
    with pytest.raises(Corrupt, match="offset 4"):  # nobody waits at the damage for ever
        log.read(4, 1 << 20, min_one=True)
    with pytest.raises(StorageFailed):
        append(log, batch(b"x"))
    with pytest.raises(OutOfRange):
        log.read(10_000, 1000, min_one=True)
    assert closed_segments(log) == ()
    append(other, batch(b"x"))  # the others serve
    await other.wait_durable(1)
    await logs.close()
    assert path.read_bytes() == bytes(raw) and not (tmp_path / ".kafka_cleanshutdown").exists()


async def test_a_flipped_bit_in_the_last_acked_batch_is_no_torn_tail(tmp_path: Path) -> None:
    """Nothing valid follows it, as behind a torn append; but one bit is not how an append tears."""
    await written(tmp_path, 9, size=300)
    path = last_log(tmp_path)
    raw = bytearray(path.read_bytes())
    raw[8 * (len(raw) // 9) + 200] ^= 4
    path.write_bytes(raw)
    async with opened(tmp_path, SMALL) as logs:
        log = logs.get(TP)
        assert log is not None and isinstance(log.failed, Corrupt)
        assert "offset 8" in str(log.failed)
        piece = log.read(0, 1 << 20, min_one=True)
        assert piece is not None and [header.base_offset for _, header in walk(memoryview(piece.data))] == list(range(8))
    assert path.read_bytes() == bytes(raw)


async def test_only_what_lies_above_the_recovery_point_is_checked(tmp_path: Path) -> None:
    """A CRC below the recovery point is not looked at when a log starts (a scrub's or a reader's business)."""
    await written(tmp_path, 9, size=300, checkpoint_at=8)
    path = last_log(tmp_path)
    raw = bytearray(path.read_bytes())
    raw[100] ^= 4
    path.write_bytes(raw)
    async with opened(tmp_path, SMALL) as logs:
        assert len(await offsets_of(logs)) == 9


@pytest.mark.parametrize("at", [4, 5])
async def test_the_batch_exactly_at_the_recovery_point_is_checked_and_the_one_below_is_not(tmp_path: Path, at: int) -> None:
    await written(tmp_path, 9, size=300, checkpoint_at=4)  # batches of one record: 5 is the recovery point
    path = last_log(tmp_path)
    raw = bytearray(path.read_bytes())
    raw[at * (len(raw) // 9) + 200] ^= 4
    path.write_bytes(raw)
    async with opened(tmp_path, SMALL) as logs:
        log = logs.get(TP)
        assert log is not None
        if at < 5:
            assert log.failed is None
        else:
            assert isinstance(log.failed, Corrupt) and "offset 5" in str(log.failed)
            assert await offsets_of_sound(log, 5) == [0, 1, 2, 3, 4]


async def offsets_of_sound(log: PartitionLog, end: int) -> list[int]:
    piece = await log.read_blocking(0, 1 << 20, min_one=True)
    return [header.base_offset for _, header in walk(memoryview(piece.data)) if header.base_offset < end]


Harm = Callable[[Path], None]


def flip(pattern: str, where: float = 0.5) -> Harm:
    def harm(directory: Path) -> None:
        for path in (directory / DIR).glob(pattern):
            raw = bytearray(path.read_bytes())
            if raw:
                raw[min(int(len(raw) * where), len(raw) - 1)] ^= 1
                path.write_bytes(raw)

    return harm


def remove(pattern: str) -> Harm:
    def harm(directory: Path) -> None:
        found = list((directory / DIR).glob(pattern))
        assert found
        for path in found:
            path.unlink()

    return harm


def overwrite(pattern: str, content: bytes) -> Harm:
    def harm(directory: Path) -> None:
        for path in directory.glob(pattern):
            path.write_bytes(content)

    return harm


HARMS: dict[str, Harm] = {
    "index gone": remove("*.index"),
    "timeindex gone": remove("*.timeindex"),
    "index flipped": flip("*.index"),
    "index flipped at its end": flip("*.index", 0.99),
    "timeindex flipped": flip("*.timeindex"),
    "timeindex flipped at its end": flip("*.timeindex", 0.99),
    "index cut": overwrite(DIR + "/*.index", b"\0\0\0"),
    "index zeroed": overwrite(DIR + "/*.index", bytes(80)),
    "timeindex empty": overwrite(DIR + "/*.timeindex", b""),
    "timeindex zeroed": overwrite(DIR + "/*.timeindex", bytes(120)),
    "snapshots flipped": flip("*.snapshot"),
    "snapshots gone": remove("*.snapshot"),
    "epochs flipped": flip("leader-epoch-checkpoint", 0.0),
    "epochs gone": remove("leader-epoch-checkpoint"),
    "epochs junk": overwrite(DIR + "/leader-epoch-checkpoint", b"\xff\xfe"),
    "recovery points junk": overwrite("recovery-point-offset-checkpoint", b"0\n9\n"),
    "log starts junk": overwrite("log-start-offset-checkpoint", b"junk"),
}


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("harm", sorted(HARMS))
async def test_what_can_be_rebuilt_is_rebuilt(tmp_path: Path, harm: str, clean: bool) -> None:
    await written(tmp_path, 120, clean=clean)
    HARMS[harm](tmp_path)
    async with opened(tmp_path, SMALL) as logs:
        log = logs.get(TP)
        assert log is not None and log.failed is None, logs.damage
        assert await offsets_of(logs) == list(range(120))
        for offset in range(0, 120, 7):
            assert (await read_all(log, offset))[0].base_offset == offset
            found = await log.offset_for_timestamp(T0 + offset)
            assert found == (offset, T0 + offset, 3)
        assert await log.offset_of_max_timestamp() == (119, T0 + 119, 3)
        assert all(info.max_timestamp == T0 + info.end_offset - 1 for info in log.segments())
        assert log.end_offset_for_epoch(3) == (3, 120)
        with pytest.raises(OutOfOrderSequence):
            append(log, batch(b"gap", producer=(9, 0, 121)))
        assert append(log, batch(b"%06d" % 119 + b"v" * 100, timestamp=T0 + 119, producer=(9, 0, 119))).is_duplicate
        append(log, batch(b"next", timestamp=T0 + 120, producer=(9, 0, 120)))
        await log.wait_durable(121)
        await log.upkeep.tick(T0)
    async with opened(tmp_path, SMALL) as logs:
        assert await offsets_of(logs) == list(range(121))
        assert logs.damage == []  # mended for good


@pytest.mark.timeout(300)  # hundreds of starts
async def test_every_flipped_bit_of_a_live_index_is_survived(tmp_path: Path) -> None:
    """A closed segment's index turns bad while the broker runs: reads are right, the index is written anew."""
    await written(tmp_path, 60, clean=True)
    indexes = sorted((tmp_path / DIR).glob("*.index"))[:1] + sorted((tmp_path / DIR).glob("*.timeindex"))[:1]
    for path in indexes:
        good = path.read_bytes()
        for bit in range(0, len(good) * 8, 5):
            raw = bytearray(good)
            raw[bit // 8] ^= 1 << bit % 8
            async with opened(tmp_path, SMALL) as logs:
                log = logs.get(TP)
                assert log is not None
                path.write_bytes(raw)
                for offset in range(0, 60, 3):
                    assert (await read_all(log, offset))[0].base_offset == offset
                    assert await log.offset_for_timestamp(T0 + offset) == (offset, T0 + offset, 3)
                await log.upkeep.tick(T0)
                path.write_bytes(good)


async def test_left_overs_of_a_crash_are_cleared(tmp_path: Path) -> None:
    await written(tmp_path, 60)
    home = tmp_path / DIR
    (home / "00000000000000000000.log.deleted").write_bytes(b"x")
    (home / "leader-epoch-checkpoint.1.2.tmp").write_bytes(b"x")
    (home / "00000000000000009999.index").write_bytes(b"x")
    (home / "00000000000000009999.snapshot").write_bytes(b"x")
    (tmp_path / "half-0").mkdir()
    (tmp_path / "half-0" / "00000000000000000000.log").write_bytes(b"")
    (tmp_path / "gone-0.0123456789abcdef0123456789abcdef-delete").mkdir()
    async with opened(tmp_path, SMALL) as logs:
        assert [log.tp for log in logs.all()] == [TP] and logs.failures == {}
        await logs.tick()
        assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == [DIR]
        names = {p.name for p in home.iterdir()}
        assert not any(name.endswith((".deleted", ".tmp")) or "9999" in name for name in names)


async def test_a_directory_without_segments_is_not_an_empty_log(tmp_path: Path) -> None:
    """Offsets would be given out twice."""
    await written(tmp_path, 10)
    for path in (tmp_path / DIR).glob("*.log"):
        path.unlink()
    async with opened(tmp_path, SMALL) as logs:
        assert logs.get(TP) is None
        assert isinstance(logs.failures[TP], Corrupt)


async def test_recovery_is_on_the_device_before_it_is_served(tmp_path: Path) -> None:
    await written(tmp_path, 10)
    disk = FaultyDisk()
    async with opened(tmp_path, SMALL, disk=disk) as logs:
        log = logs.get(TP)
        assert log is not None and log.high_watermark == 10
        assert str(last_log(tmp_path)) in disk.syncs


async def test_what_is_kept_before_a_torn_tail_is_on_the_device_before_it_is_served(tmp_path: Path) -> None:
    """After kill -9 it was in the page cache only: served and then lost with the power, its offsets would be given out twice."""
    await written(tmp_path, 10)
    path = last_log(tmp_path)
    path.write_bytes(path.read_bytes()[:-7])
    disk = FaultyDisk()
    async with opened(tmp_path, SMALL, disk=disk) as logs:
        log = logs.get(TP)
        assert log is not None and log.high_watermark == 9
        assert str(path) in disk.syncs


async def test_a_kill_in_the_middle_of_a_roll(tmp_path: Path) -> None:
    """The new segment's file exists, empty or not there; indexes of the old one are not whole."""
    await written(tmp_path, 60)
    home = tmp_path / DIR
    bases = sorted(int(path.stem) for path in home.glob("*.log"))
    (home / f"{60:020d}.log").write_bytes(b"")
    (home / f"{bases[-1]:020d}.timeindex").unlink()
    async with opened(tmp_path, SMALL) as logs:
        log = logs.get(TP)
        assert log is not None and log.active.base_offset == 60
        assert await offsets_of(logs) == list(range(60))
        append(log, batch(b"x", producer=(9, 0, 60)))
        await log.wait_durable(61)


async def test_a_lost_segment_end_takes_later_unsynced_segments_with_it(tmp_path: Path) -> None:
    await written(tmp_path, 60)
    paths = sorted((tmp_path / DIR).glob("*.log"))
    raw = paths[-2].read_bytes()
    paths[-2].write_bytes(raw[:-300] + bytes(300))  # never synced, neither was what follows
    async with opened(tmp_path, SMALL) as logs:
        log = logs.get(TP)
        assert log is not None and log.failed is None, logs.damage
        end = log.log_end_offset
        assert int(paths[-2].stem) < end < int(paths[-1].stem) and not paths[-1].exists()
        assert await offsets_of(logs) == list(range(end))


def snapshot_of(log: PartitionLog) -> bytes:
    return log.producers.encode()


async def test_producer_state_is_the_same_after_recovery(tmp_path: Path) -> None:
    for clean in (True, False):
        await written(tmp_path / str(clean), 50, clean=clean)
    states = []
    for clean in (True, False):
        async with opened(tmp_path / str(clean), SMALL) as logs:
            states.append(snapshot_of(logs.get(TP)))  # type: ignore[arg-type]
    assert states[0] == states[1]


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("oldest", [0, 1, 2, 3, 100])
async def test_producer_state_replayed_from_an_older_snapshot_misses_no_batch(tmp_path: Path, clean: bool, oldest: int) -> None:
    """Every batch is of a producer of its own, and all snapshots but the `oldest` ones are lost: one of them lies within a segment."""
    async with opened(tmp_path, SMALL) as logs:
        log = await new_log(logs, SMALL)
        for number in range(37):
            append(log, batch(b"v" * 100, producer=(number, 0, 0)))
    logs = manager(tmp_path)
    await logs.open(config_of=lambda tp: SMALL)
    log = logs.get(TP)  # type: ignore[assignment]
    assert log.active.base_offset < 37
    for number in range(37, 100):
        append(log, batch(b"v" * 100, producer=(number, 0, 0)))
    await log.flush()
    await logs.checkpoint()
    await (logs.close() if clean else kill(logs))
    snapshots = sorted((tmp_path / DIR).glob("*.snapshot"))
    assert f"{37:020d}.snapshot" in [path.name for path in snapshots[1:4]]
    for path in snapshots[oldest:]:
        path.unlink()
    async with opened(tmp_path, SMALL) as logs:
        producers = logs.get(TP).producers  # type: ignore[union-attr]
        found = {number: producers.get(number) for number in range(100)}
        assert [number for number, state in found.items() if state is None or state.batches[-1].last_offset != number] == []
