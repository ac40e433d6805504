"""Other segments in the place of a run of closed ones, by Kafka's suffixes and Kafka's rules for what a crash leaves of them.

    <base>.log.cleaned, ...    being written; worth nothing
    <base>.log.swap, ...       whole, and stands in the place of what it covers

All of the new segments are made durable as `.cleaned`.  Then they become `.swap`, from the highest base offset down: the run is replaced at the
instant at which no `.cleaned` is left.  Then the old segments become `.deleted`, and the new ones lose their suffix, from the lowest up.

A start finishes what it finds (`finish_replacement`): a `.swap` at or above a `.cleaned` is not whole and goes, before the `.cleaned` do; what is
left of `.swap` covers every segment that begins between the first of them and the end of the last.

Blocks: disk threads.  Invariants: a crash at any point leaves the old run or the new one; a `.log` loses its suffix after its indexes, so a
`.log.swap` says that its segment is not finished.  For that the new run begins where the old one does, and holds a record at or behind the
beginning of the last old segment.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hotlog.kernel.errors import Corrupt, Invalid
from hotlog.kernel.limits import MiB
from hotlog.log import files
from hotlog.log.pool import FilePool
from hotlog.log.segment import IndexPart, Segment
from hotlog.log.segment_reader import walk_file
from hotlog.wire.batch import crc_ok, header_at, walk
from hotlog.world.ports import Disk

_INDEXES = (files.INDEX, files.TIME_INDEX)
PIECE_BYTES = MiB


def prepared(
    disk: Disk, old: Sequence[Segment], bases: Sequence[int], interval_bytes: int, *, gaps_allowed: bool
) -> list[Segment]:
    """The new segments, whose batches stand in `<base>.log.cleaned`, and their aborted transactions, if any, in `<base>.txnindex.cleaned`; the
    other indexes are made, and all of it is on the device.

    Raises:
        Invalid: they do not cover the run `old` as they must.
    """
    directory, closed_ms = old[0].directory, max(segment.closed_ms for segment in old)
    if not bases or bases[0] != old[0].base_offset or list(bases) != sorted(set(bases)):
        raise Invalid(f"{directory}: segments {list(bases)} cannot stand for those from {old[0].base_offset} on")
    made = []
    end = old[0].base_offset
    for base in bases:
        segment = Segment(directory, base, created_ms=old[0].created_ms)
        segment.first_append_ms, segment.closed_ms = old[0].first_append_ms, closed_ms
        end = _read(disk, segment, end, interval_bytes, gaps_allowed=gaps_allowed)
        for suffix, part in ((files.INDEX, segment.offsets), (files.TIME_INDEX, segment.times)):
            _write(disk, segment.path(suffix) + files.CLEANED, part.pending)
        _take_transactions(disk, segment, is_needed=any(before.has_txn for before in old))
        segment.offsets = IndexPart(segment.offsets.total, bytearray())
        segment.times = IndexPart(segment.times.total, bytearray())
        made.append(segment)
    is_short = end <= old[-1].base_offset or (end < old[-1].end_offset and not gaps_allowed)
    if is_short or end > old[-1].end_offset:
        raise Invalid(f"{directory}: the new segments end at {end}; the run ends at {old[-1].end_offset}")
    for segment, following in zip(made, [*bases[1:], old[-1].end_offset], strict=True):
        segment.end_offset = following
    disk.sync_dir(directory)
    return made


def _read(disk: Disk, segment: Segment, end: int, interval_bytes: int, *, gaps_allowed: bool) -> int:
    """Fill in what the batches of a new segment say; the offset behind the last of them."""
    path = segment.log_path + files.CLEANED
    file = disk.open(path)
    try:
        piece = PIECE_BYTES
        while segment.size < file.size:
            data = memoryview(file.read_at(segment.size, piece))
            before = segment.size
            for position, header in walk(data):
                follows = header.base_offset >= max(end, segment.base_offset) if gaps_allowed else header.base_offset == end
                if not follows or not crc_ok(data[position : position + header.size]):
                    raise Invalid(f"{path}: the batch at byte {segment.size}, offset {header.base_offset}, cannot follow {end}")
                segment.note((header,), interval_bytes)
                end = header.next_offset
            if segment.size == before:  # one that is larger than a piece, or none
                piece = header_at(data).size
                if not len(data) < piece <= file.size - before:
                    raise Invalid(f"{path} has {file.size} bytes; {segment.size} of them are batches")
        if not segment.size:
            raise Invalid(f"{path} has no batch")
        file.sync()
    except Corrupt as error:
        raise Invalid(f"{path} is no segment: {error}") from error
    finally:
        file.close()
    segment.note_time()
    return end


def _take_transactions(disk: Disk, segment: Segment, *, is_needed: bool) -> None:
    path = segment.path(files.TXN_INDEX) + files.CLEANED
    if not disk.exists(path):
        if is_needed:
            raise Invalid(f"{path} is missing: aborted transactions are not to be forgotten")
        return
    file = disk.open(path)
    try:
        segment.transactions = IndexPart(file.size, bytearray())
        file.sync()
    finally:
        file.close()


def _write(disk: Disk, path: str, data: bytearray) -> None:
    file = disk.open(path, create=True)
    try:
        file.truncate(0)
        if data:
            file.append([data])
        file.sync()
    finally:
        file.close()


def commit(disk: Disk, new: Sequence[Segment]) -> None:
    """The instant: when this returns the run is replaced, whatever happens.

    What an attempt that was refused left behind goes first: a start would take it for a part of this one.
    """
    directory = new[0].directory
    whole = (*_INDEXES, files.TXN_INDEX, files.LOG)
    mine = {segment.path(suffix) + files.CLEANED for segment in new for suffix in whole}
    for name in disk.listdir(directory):
        if name.endswith((files.CLEANED, files.SWAP)) and f"{directory}/{name}" not in mine:
            disk.remove(f"{directory}/{name}")
    disk.sync_dir(directory)
    for segment in reversed(new):
        for suffix in whole:
            if suffix != files.TXN_INDEX or disk.exists(segment.path(suffix) + files.CLEANED):
                disk.rename(segment.path(suffix) + files.CLEANED, segment.path(suffix) + files.SWAP)
    disk.sync_dir(directory)


def settle(disk: Disk, pool: FilePool, old: Sequence[Segment], new: Sequence[Segment]) -> tuple[str, ...]:
    """Give the old segments' files other names and the new ones theirs; the paths that are to be removed later.

    Who still reads an old segment goes on: its name changes with its file's.
    """
    kept = {segment.base_offset for segment in new}
    condemned = []
    for segment in old:
        segment.index_broken = True  # what stands under its name soon is another segment's
        suffixes = (*_INDEXES, files.TXN_INDEX, *(() if segment.base_offset in kept else (files.SNAPSHOT,)))
        for path in map(segment.path, suffixes):
            if disk.exists(path):
                disk.rename(path, path + files.DELETED)
                condemned.append(path + files.DELETED)
            pool.forget(path)
        pool.move(segment, segment.log_path + files.DELETED)
        condemned.append(segment.log_path)
    directory = new[0].directory
    disk.sync_dir(directory)
    _take_names(disk, directory, [segment.base_offset for segment in new], (*_INDEXES, files.TXN_INDEX))
    return tuple(condemned)


def _take_names(disk: Disk, directory: str, bases: Iterable[int], indexes: Sequence[str]) -> None:
    for base in bases:
        for suffix in (*indexes, files.LOG):
            path = files.segment_path(directory, base, suffix)
            if disk.exists(path + files.SWAP):
                disk.rename(path + files.SWAP, path)
    disk.sync_dir(directory)


def finish_replacement(disk: Disk, directory: str, names: Sequence[str]) -> bool:
    """Bring a replacement that a crash stopped to one of its ends; whether there was anything to do."""
    cleaned = [name for name in names if name.endswith(files.CLEANED)]
    swaps = [name for name in names if name.endswith(files.SWAP)]
    if not cleaned and not swaps:
        return False
    limit = min((_base_of(name) for name in cleaned), default=1 << 63)
    whole = sorted({_base_of(name) for name in swaps if name.endswith(files.LOG + files.SWAP) and _base_of(name) < limit})
    for name in swaps:
        if _base_of(name) not in whole:
            disk.remove(f"{directory}/{name}")
    disk.sync_dir(directory)
    for name in cleaned:
        disk.remove(f"{directory}/{name}")
    if whole:
        end = _end_of(disk, files.segment_path(directory, whole[-1], files.LOG) + files.SWAP)
        for name in names:
            parsed = files.parse_segment_name(name)
            if parsed is not None and whole[0] <= parsed[0] < end and not _is_of_new(*parsed, whole, swaps):
                disk.remove(f"{directory}/{name}")
        disk.sync_dir(directory)
        _take_names(disk, directory, whole, (*_INDEXES, files.TXN_INDEX))
    disk.sync_dir(directory)
    return True


def _is_of_new(base: int, suffix: str, whole: Sequence[int], swaps: Sequence[str]) -> bool:
    """Whether a file in the place of the run is the new one's: the state of the producers there is the same; a transaction index has taken its
    name if it does not wait for it any more, since each of the new segments has one if any of the old ones had."""
    if base not in whole:
        return False
    name = files.segment_path("", base, files.TXN_INDEX)[1:] + files.SWAP
    return suffix == files.SNAPSHOT or (suffix == files.TXN_INDEX and name not in swaps)


def _base_of(name: str) -> int:
    """The base offset of a segment's file by a name with one suffix more; -1: none of ours."""
    parsed = files.parse_segment_name(name.rsplit(".", 1)[0])
    return parsed[0] if parsed is not None else -1


def _end_of(disk: Disk, path: str) -> int:
    """The offset behind the last batch of a file."""
    file = disk.open(path, read_only=True)
    try:
        end = 0
        for _, header in walk_file(file, 0, file.size):
            end = header.next_offset
        return end
    finally:
        file.close()
