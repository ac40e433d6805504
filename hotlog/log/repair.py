"""After an unclean stop: walk what may be torn, cut it or quarantine it, make indexes and producers anew.  Blocks: disk threads.

Invariants: nothing below the recovery point is ever cut; bytes that may have been acked are reported, not dropped (recovery.py); what is
accepted is on the device when `recover` returns.
"""

from __future__ import annotations

from hotlog.kernel.errors import Corrupt
from hotlog.log import files
from hotlog.log.loaded import Loaded, Loader, note_producer
from hotlog.log.producers import Producers
from hotlog.log.recovery import Verdict, plan_tail
from hotlog.log.scan import Stop, Tail, look_behind, scan
from hotlog.log.segment import IndexPart, Segment
from hotlog.log.segment_reader import SegmentReader
from hotlog.wire.batch import BatchHeader
from hotlog.world.ports import Disk, File


def recover(ctx: Loader, result: Loaded, directory: str, first: int, snapshot: int) -> None:
    """Walk segments from `first` on; cut, or note the problem, where the log stops being one."""
    walked, was_cut = len(result.segments), False
    for index in range(first, len(result.segments)):
        segment = result.segments[index]
        file = ctx.disk.open(segment.log_path)
        try:
            stop = _rescan(ctx, result, segment, file, snapshot)
            following = result.segments[index + 1 :]
            if not stop.reason and following and stop.offset < following[0].base_offset and not _may_gap(ctx, following[0]):
                stop = stop._replace(reason=f"the log goes on only at offset {following[0].base_offset}")
                tail = Tail(-1, one_bit=False, unwritten=True)
            elif not stop.reason:
                if stop.offset > ctx.recovery_point:
                    file.sync()
                continue
            else:
                tail = look_behind(file, stop, result.epochs.latest)
            later = any(after.size for after in following)
            verdict = plan_tail(
                below_recovery_point=stop.offset < ctx.recovery_point,
                one_bit=tail.one_bit,
                valid_follows=tail.next_valid >= 0 or later,
                unwritten=tail.unwritten,
            )
            if verdict is Verdict.DAMAGED:
                _note_damage(ctx, result, segment, stop)
                walked = index + 1
                break
            _cut(ctx, result, index, file, stop, tail)
            walked, was_cut = index + 1, True
            break
        finally:
            file.close()
    made, last = _write_indexes(ctx, result.segments[first:walked]), result.segments[-1]
    # The last process may have died in the very roll that made the last segment: the recovery point vouches for names below it only.
    if made or was_cut or last.end_offset > ctx.recovery_point or last.base_offset >= ctx.recovery_point:
        ctx.disk.sync_dir(directory)
    if result.problem is None:
        result.log_end = result.readable_end = result.segments[-1].end_offset


def _may_gap(ctx: Loader, following: Segment) -> bool:
    """Whether records may be missing before a segment: only what lies below the recovery point on the device is compacted."""
    return ctx.gaps_allowed and (following.base_offset <= ctx.recovery_point or not ctx.is_point_known)


def _rescan(ctx: Loader, result: Loaded, segment: Segment, file: File, snapshot: int) -> Stop:
    segment.forget_indexes()
    segment.size, segment.end_offset = 0, segment.base_offset
    epochs, producers = result.epochs, result.producers

    def visit(position: int, header: BatchHeader) -> None:
        segment.note((header,), ctx.interval_bytes)
        if epochs.assign(header.leader_epoch, header.base_offset):
            result.epochs_dirty = True
        if header.base_offset >= snapshot:
            aborted = note_producer(producers, header, ctx.now_ms, lambda: file.read_at(position, header.size))
            if aborted is not None:
                segment.note_aborted(aborted)

    return scan(file, segment.base_offset, ctx.recovery_point, visit)


def _note_damage(ctx: Loader, result: Loaded, segment: Segment, stop: Stop) -> None:
    """Quarantine: serve what lies before, take no appends, keep every byte."""
    message = f"{segment.log_path}: at byte {stop.position}, offset {stop.offset}: {stop.reason}"
    ctx.report("log", message + "; bytes that were acked may follow: the partition is served up to there and takes no appends")
    result.problem = Corrupt(message)
    result.readable_end = stop.offset
    result.log_end = max([stop.offset, ctx.recovery_point, *(after.base_offset for after in result.segments)])
    segment.end_offset = stop.offset


def _cut(ctx: Loader, result: Loaded, index: int, file: File, stop: Stop, tail: Tail) -> None:
    """Truncate a torn tail; segments behind it hold nothing that was acked."""
    lost = file.size - stop.position
    if lost or any(segment.size for segment in result.segments[index + 1 :]):
        ctx.report("log-tail", f"{file.path}: {stop.reason} at byte {stop.position}, offset {stop.offset}: {lost} torn bytes cut")
    file.truncate(stop.position)
    file.sync()
    for segment in result.segments[index + 1 :]:
        for suffix in (files.LOG, files.INDEX, files.TIME_INDEX, files.TXN_INDEX):
            ctx.disk.remove(segment.path(suffix))
    del result.segments[index + 1 :]
    result.segments[index].closed_ms = -1


def _write_indexes(ctx: Loader, segments: list[Segment]) -> bool:
    """Bring the index files of walked segments to what the walk found; whether any had to be made."""
    made = False
    for segment in segments:
        if segment.is_closed:
            segment.note_time()
        for suffix, part in ((files.INDEX, segment.offsets), (files.TIME_INDEX, segment.times)):
            made |= _write_index(ctx, segment.path(suffix), part.pending, sync=segment.is_closed)
        if segment.has_txn or ctx.disk.exists(segment.path(files.TXN_INDEX)):
            made |= _write_index(ctx, segment.path(files.TXN_INDEX), segment.transactions.pending, sync=True)
        segment.offsets = IndexPart(segment.offsets.total, bytearray())
        segment.times = IndexPart(segment.times.total, bytearray())
        segment.transactions = IndexPart(segment.transactions.total, bytearray())
        segment.index_broken = False
    return made


def _write_index(ctx: Loader, path: str, entries: bytearray, *, sync: bool) -> bool:
    existed = ctx.disk.exists(path)
    file = ctx.disk.open(path, create=True)
    try:
        if file.size == len(entries) and file.read_at(0, file.size) == entries:
            if sync:  # it may have outlived the process in the page cache only
                file.sync()
            return not existed
        file.truncate(0)
        if entries:
            file.append([entries])
        if sync:
            file.sync()
        return not existed
    finally:
        file.close()


def start_over(ctx: Loader, result: Loaded, directory: str, offset: int) -> None:
    """Less is left than was deleted already: go on where the log start is, so that no offset is given out twice (as LogLoader)."""
    ctx.report("log-tail", f"{directory} ends at {result.log_end}, below its log start {offset}: it goes on from there")
    fresh = Segment(directory, offset, created_ms=ctx.now_ms)
    for suffix in (files.LOG, files.INDEX, files.TIME_INDEX):
        ctx.disk.open(fresh.path(suffix), create=True).close()
    ctx.disk.sync_dir(directory)  # before the old ones go: a directory without a segment says nothing about offsets
    for segment in result.segments:
        ctx.reader.forget_indexes(segment)
        for suffix in (files.LOG, files.INDEX, files.TIME_INDEX, files.TXN_INDEX, files.SNAPSHOT):
            ctx.disk.remove(segment.path(suffix))
    ctx.disk.sync_dir(directory)
    result.producers = Producers(ctx.producer_expiry_ms)
    result.segments = [fresh]
    result.log_end = result.readable_end = offset


def rebuild_indexes(reader: SegmentReader, segment: Segment, interval_bytes: int) -> tuple[bytes, bytes, int, int]:
    """(offset index, time index, largest timestamp, its offset) of a closed segment, from its headers.

    Raises:
        Corrupt: headers that cannot be.
    """
    copy = Segment(segment.directory, segment.base_offset, created_ms=0)
    for position, header in reader.walk(segment, 0, segment.size):
        if not copy.end_offset <= header.base_offset < header.next_offset <= segment.end_offset:
            raise Corrupt(
                f"{segment.log_path}: batch [{header.base_offset}, {header.next_offset}) at byte {position};"
                f" offsets [{copy.end_offset}, {segment.end_offset}) are expected"
            )
        copy.note((header,), interval_bytes)
    copy.note_time()
    return bytes(copy.offsets.pending), bytes(copy.times.pending), copy.max_timestamp, copy.max_timestamp_offset


def rebuild_producers(
    reader: SegmentReader,
    segments: tuple[Segment, ...],
    producers: Producers,
    end_offset: int,
    *,
    start: int = -1,
    now_ms: int = 0,
) -> None:
    """Replay the batches of [start, end_offset) into `producers`."""
    for segment in segments:
        if segment.base_offset < end_offset and segment.end_offset > start:
            for position, header in reader.walk(segment, 0, segment.size):
                if header.last_offset >= end_offset:
                    return
                if header.base_offset >= start:
                    note_producer(producers, header, now_ms, reader.whole(segment, position, header))


def producers_at(
    disk: Disk, reader: SegmentReader, segments: tuple[Segment, ...], producers: Producers, end_offset: int, now_ms: int
) -> None:
    """Bring `producers` to where they were when the log ended at `end_offset`: from the newest good snapshot up to there."""
    directory = segments[0].directory
    parsed = [files.parse_segment_name(name) for name in disk.listdir(directory)]
    offsets = [name[0] for name in parsed if name is not None and name[1] == files.SNAPSHOT and name[0] <= end_offset]
    start = -1
    for offset in sorted(offsets, reverse=True):
        try:
            producers.load(disk.read(files.segment_path(directory, offset, files.SNAPSHOT)), now_ms)
            start = offset
            break
        except Corrupt:
            continue  # an older one will do; the start reports it
    rebuild_producers(reader, segments, producers, end_offset, start=start, now_ms=now_ms)
