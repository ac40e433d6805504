"""The files of a log that is cut: what goes, what is kept of the segment that is cut into, in an order that a crash may stop anywhere.

Before the first step the recovery point on the device is at or below the new end, so that a start after a crash walks all that may have been
touched.  The leader epochs are cut first: a start finds again those whose batches are still there.  Then the segments behind the cut go, the newest
first, and that is made durable before the kept one is cut, so that what is left is always a beginning of the old log.  Then the kept segment is
cut and synced, and then its indexes are written.

Blocks: disk threads.  Invariants: after a crash at any point the log is the old one up to some offset at or above the new end; no producer
snapshot from beyond the new end outlives the cut.
"""

from __future__ import annotations

from collections.abc import Iterable

from hotlog.log import files
from hotlog.log.index import parse_txn
from hotlog.log.pool import FilePool
from hotlog.log.segment import IndexPart, Segment
from hotlog.log.segment_reader import SegmentReader
from hotlog.world.ports import Disk


def kept_part(reader: SegmentReader, segment: Segment, offset: int, interval_bytes: int) -> Segment:
    """The segment as it is without the batch that holds `offset` and what follows it; its index entries are all pending."""
    kept = Segment(segment.directory, segment.base_offset, created_ms=segment.created_ms)
    kept.first_append_ms = segment.first_append_ms
    for _, header in reader.walk(segment, 0, segment.size):
        if header.last_offset >= offset:
            break
        kept.note((header,), interval_bytes)
    if segment.has_txn:
        for entry in parse_txn(reader.transactions(segment, wait=True)):
            if entry.last_offset < kept.end_offset:
                kept.note_aborted(entry)
    kept.damage = tuple(damage for damage in segment.damage if damage.end <= kept.size)
    return kept


def cut_files(disk: Disk, pool: FilePool, victims: Iterable[Segment], kept: Segment, epochs: bytes) -> None:
    """Remove the segments that lie behind the cut, given newest first, and bring the files of the last one to what is kept of it.

    `epochs` is what the leader epoch checkpoint says then.
    """
    directory, end = kept.directory, kept.end_offset
    disk.write_atomic(f"{directory}/{files.EPOCHS_FILE}", epochs)
    for segment in victims:
        for suffix in (files.LOG, files.INDEX, files.TIME_INDEX, files.TXN_INDEX):
            path = segment.path(suffix)
            pool.forget(path)
            disk.remove(path)
    for name in disk.listdir(directory):
        parsed = files.parse_segment_name(name)
        if parsed is not None and parsed[1] == files.SNAPSHOT and parsed[0] > end:
            disk.remove(f"{directory}/{name}")
    disk.sync_dir(directory)
    for suffix in (files.LOG, files.INDEX, files.TIME_INDEX):
        pool.forget(kept.path(suffix))
    log = disk.open(kept.log_path)
    try:
        if log.size > kept.size:
            log.truncate(kept.size)
        log.sync()
    finally:
        log.close()
    disk.write_atomic(kept.path(files.INDEX), kept.offsets.pending)
    disk.write_atomic(kept.path(files.TIME_INDEX), kept.times.pending)
    kept.offsets, kept.times = IndexPart(kept.offsets.total, bytearray()), IndexPart(kept.times.total, bytearray())
    if kept.has_txn:
        disk.write_atomic(kept.path(files.TXN_INDEX), kept.transactions.pending)
        kept.transactions = IndexPart(kept.transactions.total, bytearray())
    elif disk.exists(kept.path(files.TXN_INDEX)):
        disk.remove(kept.path(files.TXN_INDEX))
