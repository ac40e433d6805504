"""Every change of a manifest as a pure function manifest -> manifest, with its preconditions.

The committer (tiering.manifest.store) applies an edit to the newest root, again after each lost race.  An edit that has to know the rows
of an archive page gets them in `pages`; if the page is not there it raises NeedPage, and the committer loads that page and tries again.

The log start moves down the tree: of an index page it has moved into, pages wholly below are doomed, and the one it lies in comes up
into the root, so that a root knows every page that has dead rows beside live ones.

Invariants: an edit returns the same object when there is nothing to do; edits by a leader carry its epoch and raise Fenced when the
manifest was claimed by a newer one; a row that leaves becomes garbage in the same step; totals follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from hotlog.kernel.errors import Fenced, Invalid, PreconditionFailed, Retry
from hotlog.kernel.ids import PartitionId
from hotlog.world.register import NONCES_KEPT
from tiering.manifest.invariants import span_problem
from tiering.manifest.root import (
    ENTRIES_HARD_MAX,
    GARBAGE_BUCKET_MS,
    GARBAGE_OBJECTS_MAX,
    GARBAGE_RANGES_MAX,
    Entry,
    Garbage,
    GarbageObject,
    GarbageRange,
    Manifest,
    PageRef,
    Totals,
    doomed,
    hole,
    parts_in_use,
    sealed,
)
from tiering.manifest.tree import Nodes, index_in, page_in

Edit = Callable[[Manifest, Nodes], Manifest]


def blank(pid: PartitionId, topic: str, *, epoch: int, created_ms: int) -> Manifest:
    """The first manifest of a partition."""
    return Manifest(topic_id=pid.topic_id, partition=pid.partition, topic=topic, epoch=epoch, created_ms=created_ms)


def stamped(manifest: Manifest, nonce: str) -> Manifest:
    """What the committer writes: one generation further, under a nonce of its own."""
    return replace(manifest, generation=manifest.generation + 1, nonces=(nonce, *manifest.nonces)[:NONCES_KEPT])


def require_epoch(manifest: Manifest, epoch: int) -> None:
    """Raise Fenced unless a writer with `epoch` holds the manifest."""
    if manifest.is_deleted:
        raise Fenced(f"manifest of {manifest.pid} is marked deleted")
    if manifest.epoch != epoch:
        raise Fenced(f"manifest of {manifest.pid} is claimed by leader epoch {manifest.epoch}; this writer has {epoch}")


def claim(manifest: Manifest, epoch: int, topic: str, *, revive: bool = False) -> Manifest:
    """Take the manifest for `epoch` (before the first upload).  Raises Fenced if a newer leader has it.

    `revive`: the partition was attached knowing that its manifest is marked deleted (tiering was switched off and on again, KIP-950): its
    tiered history begins anew, the garbage of the old one stays listed.
    """
    if manifest.is_deleted and revive and manifest.epoch <= epoch:
        return replace(manifest, epoch=epoch, topic=topic, deleted_ms=-1, end_offset=-1, cleaned_end=0)
    if manifest.is_deleted or manifest.epoch > epoch:
        require_epoch(manifest, epoch)
    if manifest.epoch == epoch and manifest.topic == topic:
        return manifest
    return replace(manifest, epoch=epoch, topic=topic)


def append(manifest: Manifest, entry: Entry, *, epoch: int) -> Manifest:
    """Add the next row.

    Its base must be the end; offsets in between are tolerated only below the log start (they were deleted).  Raises PreconditionFailed
    on overlap, gap, or an object that was condemned meanwhile, Retry when inline rows must be spilled first.
    """
    require_epoch(manifest, epoch)
    end, base = manifest.end_offset, entry.base_offset
    if any(row.nonce == entry.nonce for row in manifest.entries[-1:] if not row.hole):
        return manifest  # this very row is in already
    if not entry.hole and any((item.name, item.object_start) == (entry.name, entry.object_start) for item in manifest.garbage):
        raise PreconditionFailed(f"manifest of {manifest.pid}: object {entry.name} was condemned as an orphan; upload it anew")
    if end >= 0 and base < end:
        raise PreconditionFailed(f"manifest of {manifest.pid}: row at offset {base} overlaps what ends at {end}")
    if 0 <= end < base and base > manifest.log_start_offset:
        raise PreconditionFailed(
            f"manifest of {manifest.pid}: row at offset {base} leaves a gap after {end}; record a hole first"
        )
    rows = manifest.entries
    if 0 <= end < base and (rows or manifest.archive):
        rows = (*rows, hole(end, base, "deleted before it was copied", epoch=epoch, created_ms=entry.created_ms))
    if len(rows) >= ENTRIES_HARD_MAX:
        raise Retry(f"manifest of {manifest.pid} has {len(rows)} inline rows; older ones must be spilled first")
    start = max(manifest.log_start_offset, base) if end < 0 else manifest.log_start_offset
    return sealed(replace(manifest, entries=(*rows, entry), end_offset=entry.end_offset, log_start_offset=start))


def record_hole(manifest: Manifest, end_offset: int, reason: str, *, epoch: int, now_ms: int) -> Manifest:
    """Record that [manifest end, end_offset) is in no tier and never will be, with the reason (never silent)."""
    if manifest.end_offset >= end_offset:
        return manifest
    if manifest.end_offset < 0:
        raise PreconditionFailed(f"manifest of {manifest.pid} is empty: there is nothing before a hole")
    return append(manifest, hole(manifest.end_offset, end_offset, reason, epoch=epoch, created_ms=now_ms), epoch=epoch)


def advance_start(manifest: Manifest, offset: int, pages: Nodes, *, not_before_ms: int) -> Manifest:
    """Raise the log start to `offset` (never lower it) and doom what lies wholly below, as far as the root has room for it.

    Call it again (same offset) when `has_dead_rows` and room has come back.
    """
    if manifest.is_deleted:
        return manifest
    now = replace(manifest, log_start_offset=max(manifest.log_start_offset, offset))
    while now.archive and now.archive[0].end_offset <= now.log_start_offset:
        room = _doom_range(now, now.archive[0], now.archive[0].end_offset, not_before_ms)
        if room is None:
            break
        now = replace(room, archive=now.archive[1:])
    while now.archive and now.archive[0].height and _is_cut(now):
        opened = _open_first(now, pages, not_before_ms)
        if opened is None:
            break
        now = opened
    now = _trim_first_page(now, pages, not_before_ms) if now.archive else _doom_inline(now, not_before_ms)
    return manifest if now == manifest else sealed(now)


def _is_cut(m: Manifest) -> bool:
    """Whether the log start lies inside the first page."""
    return m.archive[0].start_offset < m.log_start_offset < m.archive[0].end_offset


def _open_first(m: Manifest, pages: Nodes, not_before_ms: int) -> Manifest | None:
    """Replace the index page at the head, in which the log start lies; None if the root has no room for that.

    What lies wholly below the log start becomes garbage.  The page that holds the log start comes up into the root, before the rest of the
    index page.
    """
    ref, start = m.archive[0], m.log_start_offset
    index = index_in(pages, ref)
    child = index.ref_covering(start)
    now: Manifest | None = m
    if child.start_offset > ref.start_offset:
        now = _doom_range(m, ref, child.start_offset, not_before_ms)
    if now is None:
        return None
    if child.start_offset == start:  # a page begins at the start: nothing has to come up
        rest = ref._replace(start_offset=start, totals=index.totals(start, ref.end_offset))
        return replace(now, archive=(rest, *m.archive[1:]))
    if child.end_offset < ref.end_offset:
        rest = ref._replace(start_offset=child.end_offset, totals=index.totals(child.end_offset, ref.end_offset))
        return replace(now, archive=(child, rest, *m.archive[1:]))
    now = replace(now, archive=(child, *m.archive[1:]))
    return mark_garbage(now, [GarbageObject(ref.name, ref.size, not_before_ms)])


def _trim_first_page(m: Manifest, pages: Nodes, not_before_ms: int) -> Manifest:
    ref = m.archive[0]
    if ref.height or not _is_cut(m):
        return m
    page = page_in(pages, ref)
    cut = page.row_covering(m.log_start_offset).base_offset
    if cut <= ref.start_offset:
        return m
    room = _doom_range(m, ref, cut, not_before_ms)
    if room is None:
        return m
    rest = ref._replace(start_offset=cut, totals=page.totals(cut, ref.end_offset))
    return replace(room, archive=(rest, *m.archive[1:]))


def _doom_range(m: Manifest, ref: PageRef, end: int, not_before_ms: int) -> Manifest | None:
    """The live rows of `ref` below `end` as garbage; None if there is no room for another range."""
    ranges = m.garbage_ranges
    last = ranges[-1] if ranges else None
    if (
        last is not None
        and last.page.name == ref.name
        and last.end_offset == ref.start_offset
        and last.not_before_ms // GARBAGE_BUCKET_MS == not_before_ms // GARBAGE_BUCKET_MS
    ):
        joined = last._replace(end_offset=end, not_before_ms=max(last.not_before_ms, not_before_ms))
        return replace(m, garbage_ranges=(*ranges[:-1], joined))
    if len(ranges) >= GARBAGE_RANGES_MAX:
        return None
    bare = ref._replace(totals=Totals())
    return replace(m, garbage_ranges=(*ranges, GarbageRange(bare, ref.start_offset, end, not_before_ms)))


def _doom_inline(m: Manifest, not_before_ms: int) -> Manifest:
    dead = sum(1 for row in m.entries if row.end_offset <= m.log_start_offset)
    objects = [row for row in m.entries[:dead] if not row.hole][: max(GARBAGE_OBJECTS_MAX - len(m.garbage), 0)]
    if dead and len(objects) < sum(1 for row in m.entries[:dead] if not row.hole):
        dead = m.entries.index(objects[-1]) + 1 if objects else 0
    garbage = tuple(doomed(row, not_before_ms) for row in m.entries[:dead] if not row.hole)
    return replace(m, entries=m.entries[dead:], garbage=m.garbage + garbage)


def replace_range(
    manifest: Manifest, start: int, end: int, rows: tuple[Entry, ...], *, epoch: int, not_before_ms: int
) -> Manifest:
    """Swap the inline rows that cover exactly [start, end) for `rows` that cover the same; the old objects become garbage.

    Rows in archive pages are swapped by rewriting the page (tiering.manifest.spill.rewrite_plan).

    Raises:
        PreconditionFailed: the range is not exactly covered by inline rows (someone changed it).
        Invalid: `rows` do not cover exactly the range.
    """
    require_epoch(manifest, epoch)
    first = next((i for i, row in enumerate(manifest.entries) if row.base_offset == start), None)
    last = next((i for i, row in enumerate(manifest.entries) if row.end_offset == end), None)
    if first is None or last is None or last < first:
        raise PreconditionFailed(f"manifest of {manifest.pid}: [{start}, {end}) is not a run of inline rows")
    check_cover(rows, start, end)
    kept = {row.address for row in rows if not row.hole}
    garbage = tuple(
        doomed(row, not_before_ms) for row in manifest.entries[first : last + 1] if not row.hole and row.address not in kept
    )
    entries = manifest.entries[:first] + rows + manifest.entries[last + 1 :]
    if len(entries) > ENTRIES_HARD_MAX:
        raise Retry(f"manifest of {manifest.pid} would have {len(entries)} inline rows; older ones must be spilled first")
    return sealed(replace(manifest, entries=entries, garbage=manifest.garbage + garbage))


def note_cleaned(manifest: Manifest, offset: int, *, epoch: int) -> Manifest:
    """Log compaction has been at everything below `offset`."""
    require_epoch(manifest, epoch)
    end = min(max(manifest.cleaned_end, offset), manifest.end_offset)
    return manifest if end == manifest.cleaned_end else replace(manifest, cleaned_end=end)


def check_cover(rows: tuple[Entry, ...], start: int, end: int) -> None:
    """Raise Invalid unless `rows` cover exactly [start, end)."""
    spans = [(row.base_offset, row.end_offset) for row in rows]
    if not spans or spans[0][0] != start or spans[-1][1] != end or span_problem(spans):
        raise Invalid(f"rows {spans[:3]}... do not cover exactly [{start}, {end})")


def mark_deleted(manifest: Manifest, *, now_ms: int, not_before_ms: int) -> Manifest:
    """The topic is gone: no rows any more, every object is garbage.  The manifest itself is removed last (tiering.manifest.garbage)."""
    if manifest.is_deleted:
        return manifest
    pages = tuple(
        GarbageRange(ref._replace(totals=Totals()), ref.start_offset, ref.end_offset, not_before_ms) for ref in manifest.archive
    )
    objects = tuple(doomed(row, not_before_ms) for row in manifest.entries if not row.hole)
    return sealed(
        replace(
            manifest, deleted_ms=now_ms, log_start_offset=max(manifest.log_start_offset, manifest.end_offset), entries=(), archive=(),
            garbage=manifest.garbage + objects, garbage_ranges=manifest.garbage_ranges + pages,
        )
    )  # fmt: skip


def mark_garbage(manifest: Manifest, objects: Iterable[GarbageObject]) -> Manifest:
    """Doom what no row refers to (replaced pages).  What is in use or listed already is left alone."""
    used = parts_in_use(manifest) | {(item.name, item.object_start) for item in manifest.garbage}
    fresh = tuple(item for item in objects if (item.name, item.object_start) not in used)
    return replace(manifest, garbage=manifest.garbage + fresh) if fresh else manifest


def clear_garbage(manifest: Manifest, items: Iterable[Garbage], *, not_before_ms: int) -> Manifest:
    """Forget garbage whose objects are deleted.  A page that no longer serves anything becomes garbage itself."""
    gone = set(items)
    assert not any(item.page.height for item in gone if isinstance(item, GarbageRange)), "an index page's range is unfolded first"
    ranges = tuple(part for part in manifest.garbage_ranges if part not in gone)
    objects = tuple(item for item in manifest.garbage if item not in gone)
    if len(ranges) == len(manifest.garbage_ranges) and len(objects) == len(manifest.garbage):
        return manifest
    now = replace(manifest, garbage_ranges=ranges, garbage=objects)
    # Only of ranges that go here: whoever removed one before saw whether its page is still needed, which may lie below an index page by now.
    freed = {part.page.name: part.page for part in manifest.garbage_ranges if part in gone}
    return mark_garbage(now, [GarbageObject(page.name, page.size, not_before_ms) for page in freed.values()])
