"""Opening one partition's directory: what is there, what an unclean stop left of it, what must be rebuilt.  Blocks: disk threads.

After a clean stop only names, sizes and the last few batches are read.  After an unclean one every segment from the recovery point on
is walked: headers from its start (indexes, epochs, producers), CRCs from the recovery point; what is accepted is fsynced before it is
served.  Files that are missing or wrong (indexes, leader epochs, producer snapshots) are rebuilt from the log.  Segments in which the last
process knew damage (`suspects`) are read whole, whatever the stop was.

Invariants: nothing below the recovery point is ever cut; bytes that may have been acked are reported, not dropped (recovery.py); when
`load` returns without a problem, log, indexes and directory are on the device.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace
from functools import partial
from itertools import pairwise
from uuid import UUID

from hotlog.kernel.errors import Corrupt
from hotlog.kernel.ids import ZERO_UUID, TopicPartition
from hotlog.log import checkpoints, files
from hotlog.log.damage import Damage
from hotlog.log.epochs import LeaderEpochs
from hotlog.log.index import OFFSET_BYTES, OFFSET_ENTRY, TIME_BYTES, TIME_ENTRY
from hotlog.log.loaded import Loaded, Loader, note_producer
from hotlog.log.producers import Producers
from hotlog.log.repair import rebuild_indexes, recover, start_over
from hotlog.log.replacement import finish_replacement
from hotlog.log.scrub import ScrubRange, SegmentScrub
from hotlog.log.segment import IndexPart, Segment
from hotlog.world.ports import File


def load(ctx: Loader, directory: str, tp: TopicPartition) -> Loaded:
    """Open the directory of `tp`.

    Raises:
        OSError: as the disk does.
        Corrupt: the directory has no segment, or no readable partition.metadata.
    """
    names = ctx.disk.listdir(directory)
    if finish_replacement(ctx.disk, directory, names):
        names = ctx.disk.listdir(directory)
    topic_id = _topic_id(ctx, directory, names)
    result = Loaded(topic_id, Producers(ctx.producer_expiry_ms))
    result.segments = _segments(ctx, directory, names)
    if not result.segments:
        raise Corrupt(
            f"{directory} has no segment; offsets from {max(ctx.recovery_point, ctx.log_start or 0)} on may have been used"
        )
    first = _first_to_recover(ctx, result.segments)
    untouched = result.segments[: first if first is not None else -1]
    _read_epochs(ctx, result, untouched, directory, names)
    snapshots = _snapshots(names)
    start = _read_snapshot(ctx, result, directory, snapshots, result.segments[first].base_offset if first is not None else None)
    for segment in untouched:
        if segment.size:
            _load_closed(ctx, result, segment)
    if first is None:
        try:
            _open_tail(ctx, result)
        except Corrupt as error:
            ctx.report("log-tail", f"{error}, though the stop was clean: the log is recovered")
            return load(
                replace(ctx, clean=False, recovery_point=max(ctx.recovery_point, result.segments[-1].base_offset)), directory, tp
            )
    else:
        _replay(ctx, result, start, first)
        recover(ctx, result, directory, first, start)
    result.snapshot_offset = start
    _settle(ctx, result, directory, snapshots, start, replayed=first is not None)
    for segment in result.segments:
        if segment.base_offset in ctx.suspects and segment.size and not segment.damage:
            segment.damage = _damages(ctx, result, segment)
    return result


def _topic_id(ctx: Loader, directory: str, names: list[str]) -> UUID:
    if files.METADATA_FILE not in names:
        return ZERO_UUID
    return checkpoints.parse_metadata(ctx.disk.read(f"{directory}/{files.METADATA_FILE}"))


def _segments(ctx: Loader, directory: str, names: list[str]) -> list[Segment]:
    """Segments by base offset with their index files' lengths; left-overs are removed."""
    found: dict[int, set[str]] = {}
    for name in names:
        if name.endswith((files.DELETED, ".tmp")):
            ctx.disk.remove(f"{directory}/{name}")
        elif (parsed := files.parse_segment_name(name)) is not None:
            found.setdefault(parsed[0], set()).add(parsed[1])
    segments: list[Segment] = []
    for base, suffixes in sorted(found.items()):
        if files.LOG not in suffixes:
            for suffix in sorted(suffixes - {files.SNAPSHOT}):  # the same seed tells the same story
                ctx.disk.remove(files.segment_path(directory, base, suffix))
            continue
        segment = Segment(directory, base, created_ms=ctx.now_ms)
        segment.size = ctx.disk.size(segment.log_path)
        if files.TXN_INDEX in suffixes:
            segment.transactions = IndexPart(ctx.disk.size(segment.path(files.TXN_INDEX)), bytearray())
        offsets = ctx.disk.size(segment.path(files.INDEX)) if files.INDEX in suffixes else -1
        times = ctx.disk.size(segment.path(files.TIME_INDEX)) if files.TIME_INDEX in suffixes else -1
        segment.index_broken = offsets % OFFSET_BYTES != 0 or times % TIME_BYTES != 0 or offsets < 0 or times < 0
        segment.offsets = IndexPart(max(offsets, 0), bytearray())
        segment.times = IndexPart(max(times, 0), bytearray())
        segments.append(segment)
    for segment, after in pairwise(segments):
        segment.end_offset = after.base_offset
        segment.first_append_ms = segment.closed_ms = ctx.disk.modified_ms(segment.log_path)
    if segments and segments[-1].size:
        segments[-1].first_append_ms = ctx.disk.modified_ms(segments[-1].log_path)
    return segments


def _first_to_recover(ctx: Loader, segments: list[Segment]) -> int | None:
    """Index of the first segment that must be walked; None after a clean stop with whole indexes."""
    broken = next((index for index, segment in enumerate(segments) if segment.index_broken), None)
    if ctx.clean:
        return broken
    first = max((index for index, segment in enumerate(segments) if segment.base_offset <= ctx.recovery_point), default=0)
    return first if broken is None else min(first, broken)


def _read_epochs(ctx: Loader, result: Loaded, untouched: list[Segment], directory: str, names: list[str]) -> None:
    """leader-epoch-checkpoint; rebuilt if it is missing or cannot be: here from segments that are not walked anyway."""
    if files.EPOCHS_FILE in names:
        try:
            result.epochs = LeaderEpochs(checkpoints.parse_epochs(ctx.disk.read(f"{directory}/{files.EPOCHS_FILE}")))
            return
        except Corrupt as error:
            ctx.report("leader-epochs", f"{directory}: {error}; rebuilt from the batches")
    result.epochs_dirty = True
    for segment in untouched:
        for _, header in ctx.reader.walk(segment, 0, segment.size):
            result.epochs.assign(header.leader_epoch, header.base_offset)


def _snapshots(names: list[str]) -> list[int]:
    parsed = (files.parse_segment_name(name) for name in names)
    return sorted((entry[0] for entry in parsed if entry is not None and entry[1] == files.SNAPSHOT), reverse=True)


def _read_snapshot(ctx: Loader, result: Loaded, directory: str, snapshots: list[int], before: int | None) -> int:
    """Take over the newest good producer snapshot (at most `before`); return the offset it stands for, -1 if there is none."""
    for offset in list(snapshots):
        if before is not None and offset > before:
            continue
        path = files.segment_path(directory, offset, files.SNAPSHOT)
        try:
            result.producers.load(ctx.disk.read(path), ctx.now_ms)
            return offset
        except Corrupt as error:
            ctx.report("producer-snapshot", f"{path}: {error}; rebuilt from the batches")
            result.producers = Producers(ctx.producer_expiry_ms)
            ctx.disk.remove(path)
            snapshots.remove(offset)
    return -1


def _replay(ctx: Loader, result: Loaded, start: int, until: int) -> None:
    """Bring producers from offset `start` up to the base of segment `until` by headers."""
    for segment in result.segments[:until]:
        if segment.end_offset > start:
            for position, header in ctx.reader.walk(segment, 0, segment.size):
                if header.base_offset >= start:
                    note_producer(result.producers, header, ctx.now_ms, ctx.reader.whole(segment, position, header))


def _open_tail(ctx: Loader, result: Loaded) -> None:
    """Clean stop: find the log's end from the last index entry.

    Raises:
        Corrupt: the active segment does not end as a clean stop leaves it.
    """
    active = result.segments[-1]
    _load_times(ctx, active)
    if active.times.length and not _time_is_true(ctx, active):
        raise Corrupt(f"{active.path(files.TIME_INDEX)} does not agree with the log")
    start, last_offset = _last_entry(ctx, active)
    end, latest, next_start = active.base_offset, -1, start
    for position, header in ctx.reader.walk(active, start, active.size):
        if (position == start and last_offset not in (-1, header.last_offset)) or header.base_offset < end:
            raise Corrupt(f"{active.log_path}: unexpected batch at byte {position}")
        end, latest, next_start = header.next_offset, header.leader_epoch, position + header.size
        active.since_index = next_start - start
        if header.max_timestamp > active.max_timestamp:
            active.max_timestamp, active.max_timestamp_offset = header.max_timestamp, header.last_offset
    if next_start != active.size or end < ctx.recovery_point:
        raise Corrupt(f"{active.log_path} ends at byte {next_start} of {active.size}, offset {end}")
    active.end_offset = result.log_end = result.readable_end = end
    if latest > result.epochs.latest or (result.epochs_dirty and active.size):
        result.epochs_dirty = True
        for _, header in ctx.reader.walk(active, 0, active.size):
            result.epochs.assign(header.leader_epoch, header.base_offset)
    if active.size:
        active.first_timestamp = _first_timestamp(ctx, active)


def _first_timestamp(ctx: Loader, segment: Segment) -> int:
    return next((header.max_timestamp for _, header in ctx.reader.walk(segment, 0, segment.size)), -1)


def _load_times(ctx: Loader, segment: Segment) -> None:
    """The largest timestamp of a segment, from the last entry of its time index."""
    if segment.times.length == 0:
        return
    timestamp, relative = TIME_ENTRY.unpack(_tail_of(ctx, segment.path(files.TIME_INDEX), segment.times.length, TIME_BYTES))
    segment.last_time = segment.max_timestamp = timestamp
    segment.max_timestamp_offset = segment.base_offset + relative


def _load_closed(ctx: Loader, result: Loaded, segment: Segment) -> None:
    """Largest timestamp of a closed segment, which retention relies on: from the time index, believed only if the batch agrees or is damaged."""
    _load_times(ctx, segment)
    if segment.times.length and _time_is_true(ctx, segment):
        return
    if segment.times.length:  # which of the two is right?
        segment.damage = _damages(ctx, result, segment)
        if segment.damage:
            return
    try:
        rebuilt = rebuild_indexes(ctx.reader, segment, ctx.interval_bytes)
    except Corrupt:
        segment.damage = segment.damage or _damages(ctx, result, segment)
        if not segment.damage:
            raise
        return
    offsets, times, segment.max_timestamp, segment.max_timestamp_offset = rebuilt
    if not segment.times.length and not times:
        return  # records without timestamps
    ctx.report("index", f"{segment.path(files.TIME_INDEX)} does not agree with the log; both indexes are rebuilt")
    for suffix, entries in ((files.INDEX, offsets), (files.TIME_INDEX, times)):
        ctx.disk.write_atomic(segment.path(suffix), entries)
    segment.offsets, segment.times = IndexPart(len(offsets), bytearray()), IndexPart(len(times), bytearray())


def _damages(ctx: Loader, result: Loaded, segment: Segment) -> tuple[Damage, ...]:
    """What of a segment is damaged: the index is believed then, and all but the damage is served."""
    epochs = result.epochs.entries
    scrub = SegmentScrub(
        ctx.disk,
        ScrubRange(segment.base_offset, segment.end_offset, segment.size, segment.log_path, ctx.gaps_allowed, epochs, None),
    )
    while scrub.step():
        pass
    for damage in scrub.damages:
        ctx.report("log", str(damage.error(segment.log_path)))
    return tuple(scrub.damages)


def _time_is_true(ctx: Loader, segment: Segment) -> bool:
    """Whether the batch that the last time index entry names has that timestamp.  Reads a few entries, not the whole index."""
    wanted = segment.max_timestamp_offset - segment.base_offset
    file = ctx.disk.open(segment.path(files.INDEX), read_only=True)
    try:
        count = segment.offsets.length // OFFSET_BYTES
        read = partial(_offset_entry, file)
        at = bisect_right(range(count), wanted, key=lambda index: read(index)[0]) - 1
        start = read(at)[1] if at >= 0 else 0
    finally:
        file.close()
    try:
        for _, header in ctx.reader.walk(segment, start, segment.size):
            if header.last_offset >= segment.max_timestamp_offset:
                return header.last_offset == segment.max_timestamp_offset and header.max_timestamp == segment.max_timestamp
    except Corrupt:
        return False  # the offset index led astray
    return False


def _offset_entry(file: File, index: int) -> tuple[int, int]:
    return OFFSET_ENTRY.unpack(file.read_at(index * OFFSET_BYTES, OFFSET_BYTES))


def _last_entry(ctx: Loader, segment: Segment) -> tuple[int, int]:
    """(position, last offset of the batch there) of the last offset index entry; (0, -1) if there is none."""
    if segment.offsets.length == 0:
        return 0, -1
    relative, position = OFFSET_ENTRY.unpack(_tail_of(ctx, segment.path(files.INDEX), segment.offsets.length, OFFSET_BYTES))
    if not 0 < position < segment.size:
        raise Corrupt(f"{segment.path(files.INDEX)} points to byte {position} of {segment.size}")
    return position, segment.base_offset + relative


def _tail_of(ctx: Loader, path: str, length: int, count: int) -> bytes:
    file = ctx.disk.open(path, read_only=True)
    try:
        return file.read_at(length - count, count)
    finally:
        file.close()


def _settle(ctx: Loader, result: Loaded, directory: str, snapshots: list[int], start: int, *, replayed: bool) -> None:
    """Drop what lies beyond the end; bring producers up to it."""
    if result.epochs.truncate_end(result.log_end + 1):
        ctx.report("leader-epochs", f"{directory}: entries beyond the log's end {result.log_end} were dropped")
        result.epochs_dirty = True
    if not replayed and start < result.log_end:
        _replay(ctx, result, start, len(result.segments))
    for offset in snapshots:
        if offset > result.log_end:
            ctx.disk.remove(files.segment_path(directory, offset, files.SNAPSHOT))
    result.producers.expire(ctx.now_ms)
    if ctx.log_start is not None and result.log_end < ctx.log_start and result.problem is None:
        start_over(ctx, result, directory, ctx.log_start)
