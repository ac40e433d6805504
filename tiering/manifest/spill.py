"""Which rows leave the root for an archive page, and which pages merge: planned and applied as pure steps.

A plan says what page objects must be put before the root is committed: `made` builds them one after the other (from the root, or from the
pages that merge), the executor (tiering.manifest.store) puts them, then commits `apply_spill` with the last.  A page put without its commit
is an orphan.

Rows merge into pages of PAGE_ROWS_MAX; from there on pages stay as they are and only references merge, into index pages of INDEX_REFS_MAX,
and those into index pages above them.  A larger page of rows, as an earlier release wrote it, is cut into such pages with an index page.

Invariants: `apply_spill` changes nothing of what is found, only where; it refuses (PreconditionFailed) when the rows or pages of the plan are
no longer exactly in the root; replaced pages become garbage unless doomed ranges still need them; a page with doomed rows stays in the root
until they are gone, since its root alone knows that it is in use.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

from hotlog.kernel.errors import PreconditionFailed
from hotlog.kernel.ids import PartitionId
from tiering.manifest.archive import build_page, page_ref
from tiering.manifest.edits import check_cover, mark_garbage, require_epoch
from tiering.manifest.index import build_index, index_ref
from tiering.manifest.root import (
    ENTRIES_MAX,
    GARBAGE_OBJECTS_MAX,
    INDEX_LEVELS,
    PAGE_FANOUT,
    PAGE_LEVEL_MAX,
    PAGE_ROWS_MAX,
    PAGES_PER_LEVEL_MAX,
    SPILL_ENTRIES,
    Entry,
    GarbageObject,
    Manifest,
    PageRef,
    doomed,
    sealed,
)
from tiering.manifest.tree import Nodes, index_in, page_in


class SpillPlan(NamedTuple):
    """Inline `rows` become a page, or `refs` (neighbours of one level) become one page of `level`, of rows or of references."""

    rows: tuple[Entry, ...]
    refs: tuple[PageRef, ...]
    level: int

    @property
    def is_split(self) -> bool:
        """Whether a page of rows is too large and becomes several below an index page."""
        return self.level > PAGE_LEVEL_MAX and self.refs[0].height == 0 and self.refs[0].level == self.level

    @property
    def keeps_pages(self) -> bool:
        """Whether the pages stay as they are, below an index page that is new."""
        return self.level > PAGE_LEVEL_MAX and not self.is_split and (self.level - PAGE_LEVEL_MAX - 1) % INDEX_LEVELS == 0

    @property
    def nonces(self) -> int:
        """At most so many pages are put."""
        return 2 + self.refs[0].totals.rows // PAGE_ROWS_MAX if self.is_split else 1


def plan_spill(manifest: Manifest) -> SpillPlan | None:
    """The next step that keeps the root small; None if there is none."""
    if len(manifest.entries) >= ENTRIES_MAX:
        return SpillPlan(manifest.entries[:SPILL_ENTRIES], (), 0)
    if len(manifest.garbage) > GARBAGE_OBJECTS_MAX:
        return None  # merging dooms pages: wait for room
    for ref in manifest.archive:
        if not ref.height and ref.level > PAGE_LEVEL_MAX:
            return SpillPlan((), (ref,), ref.level)
    pinned = {part.page.name for part in manifest.garbage_ranges}
    runs = [list(run) for _, run in groupby(manifest.archive, key=lambda ref: (ref.level, ref.name in pinned))]
    for run in reversed(runs):
        if len(run) >= PAGES_PER_LEVEL_MAX and run[0].name not in pinned:
            return SpillPlan((), tuple(run[:PAGE_FANOUT]), run[0].level + 1)
    return None


def made(plan: SpillPlan, pid: PartitionId, nodes: Nodes, nonces: Sequence[str]) -> Iterator[tuple[PageRef, bytes]]:
    """The pages to put, each with its reference; the last is for the root.

    Args:
        nodes: the pages of the plan, unless it keeps them.
        nonces: `plan.nonces` fresh ones.
    Raises:
        NeedPage: a page is not in `nodes`.
    """
    if plan.level > PAGE_LEVEL_MAX and not plan.is_split:
        refs = plan.refs if plan.keeps_pages else _children_of(plan, nodes)
    else:
        rows, refs = rows_of(plan, nodes), ()
        level = PAGE_LEVEL_MAX if plan.is_split else plan.level
        step = PAGE_ROWS_MAX if plan.is_split else len(rows)
        for number, first in enumerate(range(0, len(rows), step)):
            part = rows[first : first + step]
            body = build_page(pid, part)
            refs += (page_ref(part, body, nonce=nonces[number], level=level),)
            yield refs[-1], body
    if plan.level > PAGE_LEVEL_MAX:
        body = build_index(pid, refs)
        yield index_ref(refs, body, nonce=nonces[-1], level=plan.level), body


def rows_of(plan: SpillPlan, nodes: Nodes) -> tuple[Entry, ...]:
    """The rows of the pages to be put.  Raises NeedPage for a page that is not in `nodes`."""
    rows = list(plan.rows)
    for ref in plan.refs:
        rows.extend(page_in(nodes, ref).rows_between(ref.start_offset, ref.end_offset))
    return tuple(rows)


def _children_of(plan: SpillPlan, nodes: Nodes) -> tuple[PageRef, ...]:
    refs: list[PageRef] = []
    for ref in plan.refs:
        refs.extend(index_in(nodes, ref).refs_between(ref.start_offset, ref.end_offset))
    return tuple(refs)


def apply_spill(manifest: Manifest, plan: SpillPlan, ref: PageRef, *, not_before_ms: int) -> Manifest:
    """The root with the page `ref` (already in the store) in place of the plan's rows or pages."""
    if any(have.nonce == ref.nonce for have in manifest.archive):
        return manifest
    if plan.rows:
        count = len(plan.rows)
        if manifest.entries[:count] != plan.rows:
            raise PreconditionFailed(f"manifest of {manifest.pid}: the rows to archive have changed")
        return sealed(replace(manifest, entries=manifest.entries[count:], archive=(*manifest.archive, ref)))
    return swap_pages(manifest, plan.refs, ref, keeps=plan.keeps_pages, not_before_ms=not_before_ms)


def swap_pages(
    manifest: Manifest, refs: tuple[PageRef, ...], by: PageRef, *, keeps: bool = False, not_before_ms: int
) -> Manifest:
    """One page in place of a run of neighbouring pages that covers the same offsets; `keeps`: they are below it, no garbage."""
    first = next((i for i, have in enumerate(manifest.archive) if have == refs[0]), None)
    if first is None or manifest.archive[first : first + len(refs)] != refs:
        raise PreconditionFailed(f"manifest of {manifest.pid}: the pages to replace have changed")
    if (by.start_offset, by.end_offset) != (refs[0].start_offset, refs[-1].end_offset):
        raise PreconditionFailed(f"page [{by.start_offset}, {by.end_offset}) does not cover what it replaces")
    archive = (*manifest.archive[:first], by, *manifest.archive[first + len(refs) :])
    now = sealed(replace(manifest, archive=archive))
    if keeps:
        if not {ref.name for ref in refs}.isdisjoint(part.page.name for part in manifest.garbage_ranges):
            raise PreconditionFailed(f"manifest of {manifest.pid}: a page has doomed rows, so it stays in the root")
        return now
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


def rewrite_refs(refs: tuple[PageRef, ...], old: PageRef, new: PageRef) -> tuple[PageRef, ...]:
    """References of an index page with `old` swapped for `new`, which covers the same."""
    if old not in refs or (old.start_offset, old.end_offset) != (new.start_offset, new.end_offset):
        raise PreconditionFailed(f"page [{new.start_offset}, {new.end_offset}) stands for none of the index page's")
    return tuple(new if ref == old else ref for ref in refs)


def apply_rewrite(
    manifest: Manifest,
    old: PageRef,
    new: PageRef,
    dropped: tuple[Entry, ...],
    *,
    pages: tuple[PageRef, ...] = (),
    epoch: int,
    not_before_ms: int,
) -> Manifest:
    """The root with page `old` swapped for `new`, and what is not referred to any more doomed: objects of rows, `pages` below `old`."""
    require_epoch(manifest, epoch)
    now = swap_pages(manifest, (old,), new, not_before_ms=not_before_ms)
    replaced = [GarbageObject(ref.name, ref.size, not_before_ms) for ref in pages]
    return mark_garbage(now, [*replaced, *(doomed(row, not_before_ms) for row in dropped if not row.hole)])
