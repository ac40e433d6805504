"""Judges each object of a listing against the newest manifest of its partition: the pure half of the reconciler.

An orphan is an object that no committed root refers to: an upload that was never committed, a page of a lost spill, an object whose
delete was acknowledged and did not happen.  A listing may be late or wrong, so nothing follows from an absence in it, and an object
must be seen in two passes and be older than the grace before it is condemned.

Invariants: truth is the manifest; an object of a newer epoch than the committed one is somebody's work in progress; what cannot be
attributed (no manifest) is reported, never condemned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum

from hotlog.world.ports import ObjectInfo
from tiering.manifest.archive import Page
from tiering.manifest.root import Manifest, PageRef, parts_in_use
from tiering.objects.address import SHARED
from tiering.objects.keys import ParsedKey


class Verdict(Enum):
    """Why an object stays, or that it may go."""

    LIVE = "live"
    DOOMED = "doomed"  # listed as garbage already
    YOUNG = "young"  # unreferenced, but not for long enough
    NEWER = "newer"  # of a writer that has not claimed the manifest yet, as far as we saw
    UNCLAIMED = "unclaimed"  # its partition has no manifest
    ORPHAN = "orphan"


def page_needed(root: Manifest, key: ParsedKey, pages: Mapping[str, Page]) -> PageRef | None:
    """The archive page that has to be read before `judge` can speak about a segment object; None if none."""
    if key.kind != "segment" or (key.name, 0) in parts_in_use(root):
        return None
    refs = [ref for ref in root.archive if ref.start_offset <= key.start_offset < ref.end_offset]
    refs += [part.page for part in root.garbage_ranges if part.start_offset <= key.start_offset < part.end_offset]
    return next((ref for ref in refs if ref.name not in pages), None)


def judge(
    root: Manifest | None,
    key: ParsedKey,
    info: ObjectInfo,
    pages: Mapping[str, Page],
    *,
    now_ms: int,
    grace_ms: int,
    seen_before: bool,
) -> Verdict:
    """What to think of one listed object.

    Args:
        root: the newest root, read after the listing; None if the partition has none.
        pages: what `page_needed` asked for.
        seen_before: an earlier pass saw the same object unreferenced.
    """
    if root is None:
        return Verdict.UNCLAIMED
    if key.kind == "manifest" or (key.name, 0) in parts_in_use(root) or _in_pages(root, key, pages):
        return Verdict.LIVE
    if any(item.name == key.name for item in root.garbage) or _in_doomed_ranges(root, key, pages):
        return Verdict.DOOMED
    if key.epoch > root.epoch:
        return Verdict.NEWER
    if not seen_before or now_ms - info.modified_ms < grace_ms:
        return Verdict.YOUNG
    return Verdict.ORPHAN


def _has(page: Page, name: str, offset: int) -> bool:
    if not page.start_offset <= offset < page.end_offset:
        return False
    row = page.row_covering(offset)
    return not row.is_hole and row.name == name


def _in_pages(root: Manifest, key: ParsedKey, pages: Mapping[str, Page]) -> bool:
    if key.kind != "segment":
        return False
    refs = [ref for ref in root.archive if ref.start_offset <= key.start_offset < ref.end_offset]
    return any(_has(pages[ref.name], key.name, key.start_offset) for ref in refs)


def _in_doomed_ranges(root: Manifest, key: ParsedKey, pages: Mapping[str, Page]) -> bool:
    parts = [part for part in root.garbage_ranges if part.start_offset <= key.start_offset < part.end_offset]
    return key.kind == "segment" and any(_has(pages[part.page.name], key.name, key.start_offset) for part in parts)


def missing_names(root: Manifest, listed: Sequence[str]) -> list[str]:
    """Names the root itself refers to that a complete listing of the partition does not show."""
    return sorted({name for name, start in parts_in_use(root) if not name.startswith(SHARED)}.difference(listed))
