"""What of a manifest may be deleted now, and when a deleted topic's manifest itself may go.

The executor (compaction.reaper) does, in this order: `doomed_before`, `names_of`, delete those objects, commit `clear_garbage`; once
`is_finished`, it removes the manifest object, last of all.

Invariants: only what a committed root lists as garbage, and whose time has come, is ever returned; nothing a live row needs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from tiering.manifest.edits import NeedPage, Pages, clear_garbage, mark_deleted, mark_garbage, names_in_use
from tiering.manifest.root import Garbage, GarbageObject, Manifest

__all__ = ["clear_garbage", "doomed_before", "is_finished", "mark_deleted", "mark_garbage", "names_of"]

ITEMS_MAX = 256  # of one step


def doomed_before(manifest: Manifest, now_ms: int) -> tuple[Garbage, ...]:
    """Garbage whose time has come, oldest first, at most ITEMS_MAX of it."""
    due: list[Garbage] = [item for item in manifest.garbage if item.not_before_ms <= now_ms]
    due += [part for part in manifest.garbage_ranges if part.not_before_ms <= now_ms]
    return tuple(sorted(due, key=lambda item: item.not_before_ms)[:ITEMS_MAX])


def names_of(manifest: Manifest, items: Sequence[Garbage], pages: Pages) -> tuple[str, ...]:
    """Object names (relative to the partition) to delete for `items`.

    Raises:
        NeedPage: the page of a doomed range is not in `pages`.
    """
    used, names = names_in_use(manifest), []
    for item in items:
        if isinstance(item, GarbageObject):
            names.append(item.name)
            continue
        page = pages.get(item.page.name)
        if page is None:
            raise NeedPage(item.page)
        names += page.names_between(item.start_offset, item.end_offset)
    assert used.isdisjoint(names), "garbage is in use"
    return tuple(dict.fromkeys(names))


def is_finished(manifest: Manifest, deleted: Collection[Garbage] = ()) -> bool:
    """Whether a deleted topic's objects are all gone but for `deleted`, so that the manifest object is the last thing to remove."""
    if not manifest.is_deleted or manifest.entries or manifest.archive:
        return False
    return all(item in deleted for item in (*manifest.garbage, *manifest.garbage_ranges))
