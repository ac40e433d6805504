"""What of a manifest may be deleted now, and when a deleted topic's manifest itself may go.

The executor (compaction.reaper) does, in this order: commit `unfolded` if anything is `folded_before`, `doomed_before`, `names_of`, delete
those objects, commit `clear_garbage`; once `is_finished`, it removes the manifest object, last of all.

Invariants: only what a committed root lists as garbage, and whose time has come, is ever returned; nothing a live row needs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from hotlog.kernel.errors import NotReady
from tiering.manifest.edits import clear_garbage, mark_deleted, mark_garbage
from tiering.manifest.root import GARBAGE_RANGES_MAX, Garbage, GarbageObject, GarbageRange, Manifest, Totals, parts_in_use
from tiering.manifest.tree import Nodes, index_in, page_in
from tiering.objects.address import Address

__all__ = [
    "addresses_of", "clear_garbage", "doomed_before", "folded_before", "is_due", "is_finished", "mark_deleted", "mark_garbage", "names_of",
    "unfolded",
]  # fmt: skip

ITEMS_MAX = 256  # of one step
RANGES_MAX = 16  # among them: each has the rows of a page
UNFOLDED_MIN = 16  # pages that an index page's range becomes in one step, also without room for more


def doomed_before(manifest: Manifest, now_ms: int) -> tuple[Garbage, ...]:
    """Garbage whose time has come and whose names its page has, oldest first, at most ITEMS_MAX of it and RANGES_MAX ranges."""
    ranges = [part for part in manifest.garbage_ranges if part.not_before_ms <= now_ms and not part.page.height]
    ranges.sort(key=_time)
    due: list[Garbage] = [item for item in manifest.garbage if item.not_before_ms <= now_ms]
    due += ranges[:RANGES_MAX]
    return tuple(sorted(due, key=_time)[:ITEMS_MAX])


def folded_before(manifest: Manifest, now_ms: int) -> tuple[GarbageRange, ...]:
    """Doomed ranges of index pages whose time has come, oldest first."""
    due = [part for part in manifest.garbage_ranges if part.not_before_ms <= now_ms and part.page.height]
    return tuple(sorted(due, key=_time))


def _time(item: Garbage) -> int:
    return item.not_before_ms


def is_due(manifest: Manifest, now_ms: int) -> bool:
    """Whether the executor has something to do."""
    garbage: list[Garbage] = [*manifest.garbage, *manifest.garbage_ranges]
    return any(_time(item) <= now_ms for item in garbage)


def unfolded(manifest: Manifest, pages: Nodes, *, now_ms: int, not_before_ms: int) -> Manifest:
    """The oldest range that is `folded_before` in pages below it, as many as there is room for; the rest of it stays as it is.

    An index page whose range is gone and that serves nothing else becomes garbage.
    """
    part = next(iter(folded_before(manifest, now_ms)), None)
    if part is None:
        return manifest
    room = max(GARBAGE_RANGES_MAX - len(manifest.garbage_ranges), UNFOLDED_MIN)
    below = index_in(pages, part.page).refs_between(part.start_offset, part.end_offset)
    taken = [
        GarbageRange(ref._replace(totals=Totals()), ref.start_offset, ref.end_offset, part.not_before_ms) for ref in below[:room]
    ]
    if len(below) > room:
        taken.append(part._replace(start_offset=taken[-1].end_offset))
    at = manifest.garbage_ranges.index(part)
    now = replace(manifest, garbage_ranges=(*manifest.garbage_ranges[:at], *taken, *manifest.garbage_ranges[at + 1 :]))
    return mark_garbage(now, [GarbageObject(part.page.name, part.page.size, not_before_ms)])


def names_of(manifest: Manifest, items: Sequence[Garbage], pages: Nodes) -> tuple[str, ...]:
    """Object names (relative to the partition) to delete for `items`.

    Raises:
        NeedPage: the page of a doomed range is not in `pages`.
        NotReady: an object is shared, so that only its register may let go of it: it stays listed.
    """
    addresses = addresses_of(manifest, items, pages)
    shared = [address for address in addresses if address.is_shared]
    if shared:
        raise NotReady(
            f"{len(shared)} parts of objects that partitions share wait for their register, the first of {shared[0].object}"
        )
    return tuple(address.object for address in addresses)


def addresses_of(manifest: Manifest, items: Sequence[Garbage], pages: Nodes) -> tuple[Address, ...]:
    """Where the bytes lie that `items` doom.  Raises NeedPage."""
    addresses: list[Address] = []
    for item in items:
        if isinstance(item, GarbageObject):
            addresses.append(item.address)
            continue
        addresses += page_in(pages, item.page).addresses_between(item.start_offset, item.end_offset)
    assert parts_in_use(manifest).isdisjoint((address.object, address.start) for address in addresses), "garbage is in use"
    return tuple(dict.fromkeys(addresses))


def is_finished(manifest: Manifest, deleted: Collection[Garbage] = ()) -> bool:
    """Whether a deleted topic's objects are all gone but for `deleted`, so that the manifest object is the last thing to remove."""
    if not manifest.is_deleted or manifest.entries or manifest.archive:
        return False
    return all(item in deleted for item in (*manifest.garbage, *manifest.garbage_ranges))
