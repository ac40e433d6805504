"""Which rows leave the root for an archive page, and which pages merge: planned and applied as pure steps.

A plan says what page object must be put before the root is committed: `rows_of` gives its rows (from the root, or from the pages that
merge), the executor (tiering.manifest.store) puts the page, then commits `apply`.  A page put without its commit is an orphan.

Invariants: `apply` changes nothing of what is found, only where; it refuses (PreconditionFailed) when the rows or pages of the plan are
no longer exactly in the root; replaced pages become garbage unless doomed ranges still need them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from hotlog.kernel.errors import PreconditionFailed
from tiering.manifest.archive import Page
from tiering.manifest.edits import NeedPage, Pages, check_cover, mark_garbage, require_epoch
from tiering.manifest.root import (
    ENTRIES_MAX,
    GARBAGE_OBJECTS_MAX,
    PAGE_FANOUT,
    PAGES_PER_LEVEL_MAX,
    SPILL_ENTRIES,
    Entry,
    GarbageObject,
    Manifest,
    PageRef,
    doomed,
    sealed,
)


class SpillPlan(NamedTuple):
    """Either inline `rows` become a page, or `refs` (neighbours of one level) become one page of `level`."""

    rows: tuple[Entry, ...]
    refs: tuple[PageRef, ...]
    level: int


def plan_spill(manifest: Manifest) -> SpillPlan | None:
    """The next step that keeps the root small; None if there is none."""
    if len(manifest.entries) >= ENTRIES_MAX:
        return SpillPlan(manifest.entries[:SPILL_ENTRIES], (), 0)
    if len(manifest.garbage) > GARBAGE_OBJECTS_MAX:
        return None  # merging dooms pages: wait for room
    for level in sorted({ref.level for ref in manifest.archive}):
        same = [ref for ref in manifest.archive if ref.level == level]
        if len(same) >= PAGES_PER_LEVEL_MAX:
            return SpillPlan((), tuple(same[:PAGE_FANOUT]), level + 1)
    return None


def rows_of(plan: SpillPlan, pages: Pages) -> tuple[Entry, ...]:
    """The rows of the page to be put.  Raises NeedPage for a page that is not in `pages`."""
    rows = list(plan.rows)
    for ref in plan.refs:
        page: Page | None = pages.get(ref.name)
        if page is None:
            raise NeedPage(ref)
        rows.extend(page.rows_between(ref.start_offset, ref.end_offset))
    return tuple(rows)


def apply_spill(manifest: Manifest, plan: SpillPlan, ref: PageRef, *, not_before_ms: int) -> Manifest:
    """The root with the page `ref` (already in the store) in place of the plan's rows or pages."""
    if any(have.nonce == ref.nonce for have in manifest.archive):
        return manifest
    if plan.rows:
        count = len(plan.rows)
        if manifest.entries[:count] != plan.rows:
            raise PreconditionFailed(f"manifest of {manifest.pid}: the rows to archive have changed")
        return sealed(replace(manifest, entries=manifest.entries[count:], archive=(*manifest.archive, ref)))
    return swap_pages(manifest, plan.refs, ref, not_before_ms=not_before_ms)


def swap_pages(manifest: Manifest, refs: tuple[PageRef, ...], by: PageRef, *, not_before_ms: int) -> Manifest:
    """One page in place of a run of neighbouring pages that covers the same offsets."""
    first = next((i for i, have in enumerate(manifest.archive) if have == refs[0]), None)
    if first is None or manifest.archive[first : first + len(refs)] != refs:
        raise PreconditionFailed(f"manifest of {manifest.pid}: the pages to replace have changed")
    if (by.start_offset, by.end_offset) != (refs[0].start_offset, refs[-1].end_offset):
        raise PreconditionFailed(f"page [{by.start_offset}, {by.end_offset}) does not cover what it replaces")
    archive = (*manifest.archive[:first], by, *manifest.archive[first + len(refs) :])
    now = sealed(replace(manifest, archive=archive))
    return mark_garbage(now, [GarbageObject(ref.name, ref.size, not_before_ms) for ref in refs])


def rewrite_rows(page_rows: tuple[Entry, ...], start: int, end: int, rows: tuple[Entry, ...]) -> tuple[Entry, ...]:
    """Rows of an archive page with those that cover exactly [start, end) swapped for `rows` (merging, re-encoding, class moves)."""
    before = tuple(row for row in page_rows if row.end_offset <= start)
    after = tuple(row for row in page_rows if row.base_offset >= end)
    old = tuple(row for row in page_rows if row.base_offset >= start and row.end_offset <= end)
    if len(before) + len(old) + len(after) != len(page_rows):
        raise PreconditionFailed(f"[{start}, {end}) is not a run of whole rows of the page")
    check_cover(old, start, end)
    check_cover(rows, start, end)
    return before + rows + after


def apply_rewrite(
    manifest: Manifest, old: PageRef, new: PageRef, dropped: tuple[Entry, ...], *, epoch: int, not_before_ms: int
) -> Manifest:
    """The root with page `old` swapped for `new`, and the objects of the rows that are not in it any more doomed."""
    require_epoch(manifest, epoch)
    now = swap_pages(manifest, (old,), new, not_before_ms=not_before_ms)
    return mark_garbage(now, [doomed(row, not_before_ms) for row in dropped if not row.hole])
