"""The closed hot segments of a data directory, read as they are, beside a running broker or without one.

All segments of a partition but the newest are closed.  A broker may drop a segment while it is read here (it is tiered then): the reader
says so with SegmentGone, and its caller goes on in the cold tier.

Invariants: nothing is written; every batch is proven by its CRC-32C before it is handed out; a directory of another topic (same name,
deleted and made again) is not read.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from itertools import pairwise
from typing import NamedTuple
from uuid import UUID

from hotlog.kernel.errors import Corrupt, NotFound
from hotlog.kernel.ids import TopicPartition
from hotlog.kernel.limits import BATCH_HEADER_BYTES, CHUNK_BYTES
from hotlog.log import checkpoints, files
from hotlog.log.index import parse_txn
from hotlog.log.segment_reader import walk_file
from hotlog.wire.batch import crc_ok, header_at, walk
from hotlog.wire.records import decode_batch
from hotlog.world.ports import Disk, File
from tiering.replay.direct import Run


class SegmentGone(NotFound):
    """A local segment was dropped while it was wanted; `offset` is the next one that was not delivered."""

    def __init__(self, path: str, offset: int) -> None:
        super().__init__(f"local segment {path} is gone")
        self.offset = offset


class _Segment(NamedTuple):
    base_offset: int
    end_offset: int
    path: str
    size: int


class LocalSegments:
    """The closed segments of one partition in one data directory."""

    def __init__(self, disk: Disk, directory: str, segments: tuple[_Segment, ...], log_start: int) -> None:
        self._disk = disk
        self._directory = directory
        self._segments = segments
        self._log_start = log_start

    @classmethod
    async def open(cls, disk: Disk, data_dir: str, tp: TopicPartition, topic_id: UUID) -> LocalSegments | None:
        """What is there now; None if the directory has no closed segment of this topic."""
        return await disk.run(cls._open, disk, data_dir, tp, topic_id)

    @classmethod
    async def end_on_disk(cls, disk: Disk, data_dir: str, tp: TopicPartition, topic_id: UUID) -> int:
        """Where the partition ends in its directory, the active segment included; 0 if there is none of this topic.

        Only headers are read: what an active segment holds may be cut off, or not acknowledged, so it is told and not exported.
        """
        return await disk.run(cls._end_on_disk, disk, data_dir, tp, topic_id)

    @classmethod
    def _end_on_disk(cls, disk: Disk, data_dir: str, tp: TopicPartition, topic_id: UUID) -> int:
        directory = f"{data_dir}/{files.partition_directory(tp)}"
        bases = cls._bases(disk, directory, topic_id)
        if not bases:
            return 0
        path = files.segment_path(directory, bases[-1], files.LOG)
        try:
            file = disk.open(path, read_only=True)
        except FileNotFoundError:
            return bases[-1]
        end = bases[-1]
        try:
            for _, header in walk_file(file, 0, disk.size(path)):
                end = header.next_offset
        except Corrupt:  # a torn tail, which recovery will cut
            pass
        finally:
            file.close()
        return end

    @staticmethod
    def _bases(disk: Disk, directory: str, topic_id: UUID) -> list[int]:
        """Base offsets of the segments of this topic in a directory."""
        try:
            if checkpoints.parse_metadata(disk.read(f"{directory}/{files.METADATA_FILE}")) != topic_id:
                return []
            names = [files.parse_segment_name(name) for name in disk.listdir(directory)]
        except FileNotFoundError:
            return []
        return sorted(name[0] for name in names if name is not None and name[1] == files.LOG)

    @classmethod
    def _open(cls, disk: Disk, data_dir: str, tp: TopicPartition, topic_id: UUID) -> LocalSegments | None:
        directory = f"{data_dir}/{files.partition_directory(tp)}"
        bases = cls._bases(disk, directory, topic_id)
        segments = []
        for base, end in pairwise(bases):
            path = files.segment_path(directory, base, files.LOG)
            size = disk.size(path) if disk.exists(path) else 0
            if size:
                segments.append(_Segment(base, end, path, size))
        if not segments:
            return None
        return cls(disk, directory, tuple(segments), cls._log_start_of(disk, data_dir, tp))

    @staticmethod
    def _log_start_of(disk: Disk, data_dir: str, tp: TopicPartition) -> int:
        path = f"{data_dir}/{files.LOG_STARTS}"
        try:
            return checkpoints.parse_offsets(disk.read(path)).get(tp, 0)
        except FileNotFoundError:
            return 0

    @property
    def start_offset(self) -> int:
        return max(self._segments[0].base_offset, self._log_start)

    @property
    def end_offset(self) -> int:
        return self._segments[-1].end_offset

    async def runs(self, start: int, end: int) -> AsyncGenerator[Run, None]:
        """Batches of [start, end) in order, the first one holding `start`.

        Raises:
            SegmentGone: a file is not there any more.
            Corrupt: a batch fails its CRC-32C.
        """
        following = start
        for segment in self._segments:
            if segment.end_offset <= start or segment.base_offset >= end:
                continue
            try:
                file = await self._disk.run(self._disk.open, segment.path, read_only=True)
            except FileNotFoundError:
                raise SegmentGone(segment.path, following) from None
            try:
                position = 0
                while position < segment.size:
                    run, position = await self._disk.run(_read_run, file, position, segment.size, start, end)
                    if run is not None:
                        following = run.end_offset
                        yield run
            finally:
                file.close()

    async def offset_at_time(self, timestamp_ms: int) -> int:
        """The first offset with a timestamp >= `timestamp_ms`, or the end."""
        return await self._disk.run(self._offset_at_time, timestamp_ms)

    def _offset_at_time(self, timestamp_ms: int) -> int:
        for segment in self._segments:
            try:
                file = self._disk.open(segment.path, read_only=True)
            except FileNotFoundError:
                continue
            try:
                for position, header in walk_file(file, 0, segment.size):
                    if header.max_timestamp < timestamp_ms or header.last_offset < self.start_offset:
                        continue
                    for record in decode_batch(file.read_at(position, header.size)):
                        if record.timestamp >= timestamp_ms and record.offset >= self.start_offset:
                            return record.offset
            finally:
                file.close()
        return self.end_offset

    async def aborted(self, start: int, end: int) -> list[tuple[int, int, int]]:
        """(producer id, first offset, last offset) of aborted transactions with data in [start, end)."""
        return await self._disk.run(self._aborted, start, end)

    def _aborted(self, start: int, end: int) -> list[tuple[int, int, int]]:
        result = []
        for segment in self._segments:
            try:
                raw = self._disk.read(files.segment_path(self._directory, segment.base_offset, files.TXN_INDEX))
            except FileNotFoundError:
                continue
            result += [
                (row.producer_id, row.first_offset, row.last_offset)
                for row in parse_txn(raw)
                if row.last_offset >= start and row.first_offset < end
            ]
        return result


def _read_run(file: File, position: int, size: int, start: int, end: int) -> tuple[Run | None, int]:
    """The wanted whole batches of the next CHUNK_BYTES (or the one larger batch there), and the position after them."""
    data = memoryview(file.read_at(position, min(CHUNK_BYTES, size - position)))
    if len(data) < BATCH_HEADER_BYTES:
        raise Corrupt(f"{file.path}: {len(data)} bytes at byte {position} of {size} are no batch")
    first = header_at(data)
    if first.size > len(data):
        data = memoryview(file.read_at(position, min(first.size, size - position)))
    first_wanted, base, last, stop = -1, 0, 0, 0
    for at, header in walk(data):
        if header.base_offset >= end:
            return _run(data, first_wanted, stop, base, last), size
        stop = at + header.size
        if header.last_offset < start:
            continue
        if not crc_ok(data[at:stop]):
            raise Corrupt(f"{file.path}: the batch at byte {position + at} (offset {header.base_offset}) fails its CRC-32C")
        if first_wanted < 0:
            first_wanted, base = at, header.base_offset
        last = header.next_offset
    if not stop:
        raise Corrupt(f"{file.path}: the batch at byte {position} says {first.size} bytes; the segment has {size}")
    return _run(data, first_wanted, stop, base, last), position + stop


def _run(data: memoryview, start: int, stop: int, base: int, last: int) -> Run | None:
    return None if start < 0 else Run(data[start:stop], base, last)
