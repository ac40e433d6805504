"""What retention needs of a committed manifest: the oldest live entries, and the bytes of all of them.

Invariants: one manifest value is looked at; at most one way down its archive is read, and only where something may have expired; dead rows
(below the log start) count for nothing, so that no byte is counted twice or after its death.
"""

from __future__ import annotations

from compaction.retention import Cold, Piece
from hotlog.kernel.topic_config import TopicConfig
from tiering.manifest.root import PAGE_ROWS_MAX, Entry, Manifest, PageRef
from tiering.manifest.store import ManifestStore
from tiering.manifest.tree import index_of

ENTRIES_MAX = PAGE_ROWS_MAX  # looked at in one step


def piece_of(row: Entry) -> Piece:
    """A manifest row as retention sees it."""
    return Piece(row.base_offset, row.end_offset, row.log_bytes, row.max_timestamp, row.closed_ms, row.is_hole)


async def cold_of(store: ManifestStore, view: Manifest | None, config: TopicConfig, now_ms: int) -> Cold:
    """`view` (None: there is no manifest yet) with its oldest ENTRIES_MAX live rows.

    Raises:
        Corrupt, StoreUnavailable: an archive page that is needed cannot be read.
    """
    if view is None or view.end_offset < 0:
        start = 0 if view is None else view.log_start_offset
        return Cold(start, start, 0, ())
    alive = [ref for ref in view.archive if ref.end_offset > view.log_start_offset]
    inline = view.rows_after(view.log_start_offset)
    size = sum(ref.totals.log_bytes for ref in alive) + sum(row.log_bytes for row in inline)
    rows: tuple[Entry, ...] = inline[:ENTRIES_MAX]
    if alive:
        rows = ()
        start, ref = max(view.log_start_offset, alive[0].start_offset), alive[0]
        while ref.height and _may_expire(ref, size, config, now_ms):
            index = await index_of(store.node, ref)
            below = index.ref_covering(start)
            size -= index.totals(ref.start_offset, below.start_offset).log_bytes
            ref = below
        if _may_expire(ref, size, config, now_ms):
            page = await store.page(ref)
            rows = page.rows_from(start, ENTRIES_MAX)
            size -= page.totals(ref.start_offset, rows[0].base_offset).log_bytes
    return Cold(view.readable_start_offset, view.end_offset, size, [piece_of(row) for row in rows])


def _may_expire(oldest: PageRef, size: int, config: TopicConfig, now_ms: int) -> bool:
    """Whether it is worth reading the page: something in it may be too old, or the whole is too large."""
    if not config.is_deleted:
        return False
    if 0 <= config.retention_bytes < size:
        return True
    low = oldest.totals.min_timestamp
    certain = config.retention_clock == "record" and 0 <= low <= now_ms and now_ms - low <= config.retention_ms
    return config.retention_ms >= 0 and not certain
