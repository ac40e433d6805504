"""The scrub: any flipped bit of a segment is found, named by its offsets, and kept from readers."""

from __future__ import annotations

import asyncio
import errno
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotlog.kernel.errors import DamagedRecords
from hotlog.log.damage import Damage
from hotlog.log.partition_log import PartitionLog
from hotlog.log.scrub import DAMAGES_MAX, PIECE_BYTES, ScrubRange, SegmentScrub
from hotlog.wire.batch import header_at, walk
from tests.log.support import T0, TP, append, batch, config, new_log, opened
from tests.support.disks import FastDisk, FaultyDisk

DISK = FastDisk(1)


@dataclass
class Sample:
    """A closed segment as a log left it: its range, its bytes, and where its batches begin (their end last)."""

    want: ScrubRange
    body: bytes
    starts: list[int]

    def flipped(self, bit: int) -> bytes:
        body = bytearray(self.body)
        body[bit // 8] ^= 1 << bit % 8
        return bytes(body)


def scrub(want: ScrubRange) -> SegmentScrub:
    done = SegmentScrub(DISK, want)
    for _ in range(10_000):
        if not done.step():
            return done
    raise AssertionError("the scrub never ends")


async def make_log(directory: Path) -> Sample:
    """Batches of many sizes under three leader epochs, some with several records; closed."""
    async with opened(directory) as logs:
        log = await new_log(logs, config(index_interval_bytes=300))
        for number in range(60):
            if number in (20, 40):
                log.set_leader_epoch(number)
            values = [b"%d" % number * (number % 7 + 1) * 4] * (number % 3 + 1)
            append(log, batch(*values, timestamp=T0 + number * 10, codec=(0, 1)[number % 5 == 0]))
        log.roll(T0)
        await log.flush()
        want = log.scrub.scrub_ranges()[0]
        body = Path(want.path).read_bytes()
        starts = [position for position, _ in walk(body)] + [len(body)]
        return Sample(want, body, starts)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return asyncio.run(make_log(tmp_path_factory.mktemp("log")))


def scrub_body(sample: Sample, body: bytes) -> SegmentScrub:
    """Scrub other bytes in place of the sample's."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.log"
        path.write_bytes(body)
        return scrub(sample.want._replace(path=str(path)))


def test_what_is_whole_passes(sample: Sample) -> None:
    done = scrub(sample.want)
    assert sample.want.indexes is not None
    assert min(index.length for index in sample.want.indexes) > 0
    assert len(sample.want.epochs) == 3
    assert (done.damages, done.is_index_wrong, done.is_epochs_wrong) == ([], False, False)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_single_flipped_bit_is_found_and_only_its_batch_is_damaged(sample: Sample, data: st.DataObject) -> None:
    bit = data.draw(st.integers(0, len(sample.body) * 8 - 1))
    done = scrub_body(sample, sample.flipped(bit))
    index = next(index for index, (start, end) in enumerate(pairwise(sample.starts)) if start <= bit // 8 < end)
    header = header_at(sample.body, sample.starts[index])
    (damage,) = done.damages
    assert damage[:4] == (sample.starts[index], sample.starts[index + 1], header.base_offset, header.next_offset)
    assert not done.is_index_wrong


def test_every_bit_of_every_header_is_found(sample: Sample) -> None:
    """First, middle and last batch of the segment and of an epoch: their neighbours differ."""
    for index in (0, 1, 19, 20, 39, 58, 59):
        for bit in range(sample.starts[index] * 8, (sample.starts[index] + 61) * 8):
            damages = scrub_body(sample, sample.flipped(bit)).damages
            assert [damage.position for damage in damages] == [sample.starts[index]], (index, bit)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_of_an_index_is_found(sample: Sample, data: st.DataObject) -> None:
    assert sample.want.indexes is not None
    which = data.draw(st.integers(0, 1))
    index = sample.want.indexes[which]
    body = bytearray(Path(index.path).read_bytes())
    bit = data.draw(st.integers(0, len(body) * 8 - 1))
    body[bit // 8] ^= 1 << bit % 8
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.index"
        path.write_bytes(body)
        indexes = list(sample.want.indexes)
        indexes[which] = index._replace(path=str(path))
        done = scrub(sample.want._replace(indexes=(indexes[0], indexes[1])))
        assert done.is_index_wrong and not done.damages
        path.write_bytes(body[:-1])
        assert scrub(sample.want._replace(indexes=(indexes[0], indexes[1]))).is_index_wrong
        path.unlink()
        assert scrub(sample.want._replace(indexes=(indexes[0], indexes[1]))).is_index_wrong


@pytest.mark.parametrize("keep", [0, 30, 61, 700])
def test_a_file_that_was_cut_off_is_damaged_from_there(sample: Sample, keep: int) -> None:
    (damage,) = scrub_body(sample, sample.body[:keep]).damages
    start = max(start for start in sample.starts if start <= keep)
    assert (damage.position, damage.end, damage.end_offset) == (start, len(sample.body), sample.want.end_offset)


def test_zeros_over_many_batches_are_one_damage_and_the_rest_is_read(sample: Sample) -> None:
    first, last = sample.starts[10], sample.starts[30]
    (damage,) = scrub_body(sample, sample.body[: first + 9] + bytes(last - first - 9) + sample.body[last:]).damages
    assert damage[:4] == (first, last, header_at(sample.body, first).base_offset, header_at(sample.body, last).base_offset)


def test_damage_without_end_is_bounded(tmp_path: Path) -> None:
    body, position = bytearray(), []
    for number in range(2 * DAMAGES_MAX + 20):
        one = batch(b"x" * 20)
        one[:8] = number.to_bytes(8, "big")
        one[-1] ^= number % 2
        position.append(len(body))
        body += one
    path = tmp_path / "x.log"
    path.write_bytes(body)
    done = scrub(ScrubRange(0, len(position), len(body), str(path), False, (), None))
    assert len(done.damages) == DAMAGES_MAX
    assert done.damages[-1].end == len(body)
    assert all(before.end < after.position for before, after in pairwise(done.damages))


def test_a_checkpoint_that_disagrees_with_many_batches_is_wrong_itself(sample: Sample) -> None:
    epochs = ((0, 0), (20, header_at(sample.body, sample.starts[25]).base_offset), sample.want.epochs[2])
    done = scrub(sample.want._replace(epochs=epochs))
    assert (done.damages, done.is_epochs_wrong) == ([], True)


def test_offsets_may_be_missing_in_a_compacted_log_only(sample: Sample) -> None:
    first, last = sample.starts[10], sample.starts[12]
    body = sample.body[:first] + sample.body[last:]
    want = sample.want._replace(size=len(body), indexes=None)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.log"
        path.write_bytes(body)
        assert scrub(want._replace(path=str(path), has_gaps=True)).damages == []
        assert scrub(want._replace(path=str(path))).damages != []


@pytest.mark.parametrize("flip", [None, 3_000_000])
def test_a_batch_larger_than_a_piece_is_walked_in_pieces(tmp_path: Path, flip: int | None) -> None:
    parts = [batch(b"a" * 10), batch(b"b" * 5 * PIECE_BYTES), batch(b"c" * 10)]
    for offset, part in enumerate(parts):
        part[:8] = offset.to_bytes(8, "big")
    body = bytearray(b"".join(parts))
    if flip is not None:
        body[flip] ^= 4
    path = tmp_path / "x.log"
    path.write_bytes(body)
    done = SegmentScrub(DISK, ScrubRange(0, 3, len(body), str(path), False, (), None))
    steps = [done.step()]
    while steps[-1]:
        steps.append(done.step())
    assert max(steps) <= PIECE_BYTES or flip is not None
    assert [damage.offset for damage in done.damages] == ([] if flip is None else [1])


def test_what_the_disk_cannot_read_is_damage_and_other_errors_are_not(sample: Sample) -> None:
    disk = FaultyDisk()
    disk.fail("read", "*.log", errno.EIO)
    done = SegmentScrub(disk, sample.want)
    while done.step():
        pass
    (damage,) = done.damages
    assert (damage.position, damage.end) == (0, len(sample.body))
    disk.fail("read", "*.log", errno.EMFILE)
    with pytest.raises(OSError, match="Too many open files"):
        SegmentScrub(disk, sample.want).step()
    with pytest.raises(FileNotFoundError):
        SegmentScrub(disk, sample.want._replace(path=sample.want.path + ".gone")).step()


# The log's side


async def filled(logs: object, **settings: object) -> PartitionLog:
    log = await new_log(logs, config(segment_bytes=2000, index_interval_bytes=200, **settings))  # type: ignore[arg-type]
    for number in range(50):
        append(log, batch(b"%03d" % number + b"x" * 97, timestamp=T0 + number))
    await log.flush()
    return log


async def test_only_what_is_readable_is_offered(tmp_path: Path) -> None:
    async with opened(tmp_path) as logs:
        log = await filled(logs)
        assert [want.end_offset for want in log.scrub.scrub_ranges()] == [segment.end_offset for segment in log.segments()]
        append(log, batch(b"not synced yet"))
        *closed, active = log.scrub.scrub_ranges()
        assert (active.end_offset, active.indexes) == (50, None)
        assert active.size < log.active.size
        assert all(want.indexes is not None for want in closed)
        assert all(not scrub(want).damages for want in log.scrub.scrub_ranges())


async def test_damage_is_remembered_told_once_and_forgotten_when_it_is_gone(tmp_path: Path) -> None:
    async with opened(tmp_path) as logs:
        log = await filled(logs)
        want = log.scrub.scrub_ranges()[0]
        path = Path(want.path)
        body = path.read_bytes()
        path.write_bytes(body[:100] + bytes([body[100] ^ 1]) + body[101:])
        done = scrub(want)
        assert log.scrub.note_damage(want.base_offset, done.damages, is_all=True) == done.damages
        assert log.scrub.note_damage(want.base_offset, done.damages, is_all=True) == []
        assert [(info.base_offset, list(damages)) for info, damages in log.scrub.damaged_segments()] == [(0, done.damages)]
        with pytest.raises(DamagedRecords):
            log.read(0, 1000, min_one=True)
        path.write_bytes(body)
        assert log.scrub.note_damage(want.base_offset, scrub(want).damages, is_all=True) == []
        assert log.scrub.damaged_segments() == []
        assert log.read(0, 1000, min_one=True) is not None
        assert log.scrub.note_damage(12345, [Damage(0, 1, 0, 1, "x")], is_all=True) == [], "a segment that was dropped meanwhile"


async def test_a_wrong_index_is_made_anew_but_not_from_damaged_batches(tmp_path: Path) -> None:
    async with opened(tmp_path) as logs:
        log = await filled(logs)
        want = log.scrub.scrub_ranges()[0]
        assert want.indexes is not None
        good = Path(want.indexes[0].path).read_bytes()
        Path(want.indexes[0].path).write_bytes(bytes(len(good)))
        assert scrub(want).is_index_wrong
        log.scrub.note_index_broken(want.base_offset)
        log.scrub.note_damage(want.base_offset, [Damage(0, 1, 0, 1, "x")], is_all=True)
        await log.upkeep.tick(T0)
        assert Path(want.indexes[0].path).read_bytes() == bytes(len(good))
        log.scrub.note_damage(want.base_offset, [], is_all=True)
        await log.upkeep.tick(T0)
        assert Path(want.indexes[0].path).read_bytes() == good
        assert not scrub(log.scrub.scrub_ranges()[0]).is_index_wrong


async def test_what_a_new_round_has_not_reached_yet_stays_known(tmp_path: Path) -> None:
    async with opened(tmp_path) as logs:
        log = await filled(logs)
        first, second, third = (Damage(at, at + 10, at, at + 1, "rot") for at in (100, 200, 300))
        assert log.scrub.note_damage(0, [first, third], is_all=True) == [first, third]
        assert log.scrub.note_damage(0, [second], is_all=False) == [second]
        assert log.scrub.damaged_segments()[0][1] == (second, third)
        assert log.scrub.note_damage(0, [second], is_all=True) == []
        assert log.scrub.damaged_segments()[0][1] == (second,)


# Starts


@pytest.mark.parametrize("field", [3, 7, 8, 10, 12, 16, 40])
@pytest.mark.parametrize("which", [0, -2, -1])
async def test_a_start_survives_any_damaged_header_of_a_closed_segment(tmp_path: Path, which: int, field: int) -> None:
    """The start reads the last batches of closed segments: one flipped bit there must not keep the partition from being served."""
    async with opened(tmp_path) as logs:
        log = await filled(logs)
        infos = log.segments()
    path = Path(infos[1].log_path)
    body = bytearray(path.read_bytes())
    position, header = list(walk(body))[which]
    body[position + field] ^= 0x10
    path.write_bytes(body)
    async with opened(tmp_path) as logs:
        assert logs.failures == {}
        again = logs.get(TP)
        assert again is not None
        want = again.scrub.scrub_ranges()[1]
        again.scrub.note_damage(want.base_offset, scrub(want).damages, is_all=True)
        ((info, damages),) = again.scrub.damaged_segments()
        assert [(damage.offset, damage.end_offset) for damage in damages] == [(header.base_offset, header.next_offset)]
        assert info.max_timestamp == infos[1].max_timestamp
        for offset in range(infos[0].end_offset, infos[1].end_offset):
            if offset == header.base_offset:
                with pytest.raises(DamagedRecords):
                    await again.read_blocking(offset, 1000, min_one=True)
            else:
                assert header_at((await again.read_blocking(offset, 1000, min_one=True)).data).base_offset == offset
        append(again, batch(b"it goes on"))


async def test_a_start_survives_a_damaged_header_among_records_without_timestamps(tmp_path: Path) -> None:
    async with opened(tmp_path) as logs:
        log = await new_log(logs)
        for _ in range(5):
            append(log, batch(b"x" * 100, timestamp=-1))
        log.roll(T0)
    path = Path(log.segments()[0].log_path)
    body = bytearray(path.read_bytes())
    body[2 * len(body) // 5 + 3] ^= 1  # a base offset far away
    path.write_bytes(body)
    async with opened(tmp_path) as logs:
        again = logs.get(TP)
        assert again is not None
        assert [(one.offset, one.end_offset) for _, damages in again.scrub.damaged_segments() for one in damages] == [(2, 3)]
        assert header_at((await again.read_blocking(3, 1000, min_one=True)).data).base_offset == 3
