"""Judges each object of a listing against the newest manifest of its partition: the pure half of the reconciler.

An orphan is an object that no committed root refers to: an upload that was never committed, a page of a lost spill, an object whose
delete was acknowledged and did not happen.  A listing may be late or wrong, so nothing follows from an absence in it, and an object
must be seen in two passes and be older than the grace before it is condemned.

Invariants: truth is the manifest; an object of a newer epoch than the committed one is somebody's work in progress; what cannot be
attributed (no manifest) is reported, never condemned.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum

from hotlog.world.ports import ObjectInfo
from tiering.manifest.index import Index
from tiering.manifest.root import Manifest, PageRef, parts_in_use
from tiering.manifest.tree import Nodes
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


class Judge:
    """What one root says about the objects of its partition.

    What the root refers to is gathered once: a listing has as many objects as the root has rows, and each is looked up.

    Args:
        root: the newest root, read after the listing; None if the partition has none.
    """

    def __init__(self, root: Manifest | None) -> None:
        self._root = root
        self._used = parts_in_use(root) if root is not None else set()
        self._doomed = {item.name for item in root.garbage} if root is not None else set()

    def page_needed(self, key: ParsedKey, pages: Nodes) -> PageRef | None:
        """The archive page that has to be read before `verdict` can speak about a listed object; None if none."""
        if self._root is None or key.kind == "manifest" or (key.name, 0) in self._used:
            return None
        ways = (_way(top, key, pages) for top in self._live_pages(key) + self._doomed_pages(key))
        return next((ref for way in ways for ref in way if ref.name not in pages), None)

    def verdict(
        self,
        key: ParsedKey,
        info: ObjectInfo,
        pages: Nodes,
        *,
        now_ms: int,
        grace_ms: int,
        seen_before: bool,
    ) -> Verdict:
        """What to think of one listed object.

        Args:
            pages: what `page_needed` asked for.
            seen_before: an earlier pass saw the same object unreferenced.
        """
        if self._root is None:
            return Verdict.UNCLAIMED
        if key.kind == "manifest" or (key.name, 0) in self._used or _has(self._live_pages(key), key, pages):
            return Verdict.LIVE
        if key.name in self._doomed or _has(self._doomed_pages(key), key, pages):
            return Verdict.DOOMED
        if key.epoch > self._root.epoch:
            return Verdict.NEWER
        if not seen_before or now_ms - info.modified_ms < grace_ms:
            return Verdict.YOUNG
        return Verdict.ORPHAN

    def missing_names(self, listed: Sequence[str]) -> list[str]:
        """Names the root itself refers to that a complete listing of the partition does not show."""
        return sorted({name for name, _ in self._used if not name.startswith(SHARED)}.difference(listed))

    def _live_pages(self, key: ParsedKey) -> list[PageRef]:
        """The pages in the root that the object may be in or below."""
        assert self._root is not None
        return [ref for ref in self._root.archive if ref.start_offset <= _probe(key) < ref.end_offset]

    def _doomed_pages(self, key: ParsedKey) -> list[PageRef]:
        """The pages of doomed ranges that may have it."""
        assert self._root is not None
        parts = self._root.garbage_ranges
        return [part.page for part in parts if part.start_offset <= _probe(key) < part.end_offset]


def _probe(key: ParsedKey) -> int:
    """An offset that every reference to the object covers.  Of a page that is its last one: the start of its live rows may move up, the end may not."""
    return key.start_offset if key.kind == "segment" else key.end_offset - 1


def _way(ref: PageRef, key: ParsedKey, pages: Nodes) -> Iterator[PageRef]:
    """Pages whose contents tell whether the object is in or below `ref`, down to the first that is not in `pages`."""
    while ref.height or key.kind == "segment":
        yield ref
        node = pages.get(ref.name)
        if not isinstance(node, Index):
            return
        ref = node.ref_covering(_probe(key))
        if ref.name == key.name:
            return


def _has(tops: Sequence[PageRef], key: ParsedKey, pages: Nodes) -> bool:
    """Whether one of these pages or of those below them refers to the object; `page_needed` has asked for what that takes."""
    return any(_is_in(ref, key, pages) for top in tops for ref in _way(top, key, pages))


def _is_in(ref: PageRef, key: ParsedKey, pages: Nodes) -> bool:
    node = pages[ref.name]
    if isinstance(node, Index):
        return node.ref_covering(_probe(key)).name == key.name
    if not node.start_offset <= key.start_offset < node.end_offset:
        return False
    row = node.row_covering(key.start_offset)
    return not row.is_hole and row.name == key.name
