"""What of a manifest may be deleted now, and when a deleted topic's manifest itself may go.

The executor (compaction.reaper) does, in this order: `doomed_before`, `names_of`, delete those objects, commit `clear_garbage`; once
`is_finished`, it removes the manifest object, last of all.

Invariants: only what a committed root lists as garbage, and whose time has come, is ever returned; nothing a live row needs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from hotlog.kernel.errors import NotReady
from tiering.manifest.edits import NeedPage, Pages, clear_garbage, mark_deleted, mark_garbage
from tiering.manifest.root import Garbage, GarbageObject, Manifest, parts_in_use
from tiering.objects.address import Address

__all__ = ["addresses_of", "clear_garbage", "doomed_before", "is_finished", "mark_deleted", "mark_garbage", "names_of"]

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
        NotReady: an object is shared, so that only its register may let go of it: it stays listed.
    """
    addresses = addresses_of(manifest, items, pages)
    shared = [address for address in addresses if address.is_shared]
    if shared:
        raise NotReady(
            f"{len(shared)} parts of objects that partitions share wait for their register, the first of {shared[0].object}"
        )
    return tuple(address.object for address in addresses)


def addresses_of(manifest: Manifest, items: Sequence[Garbage], pages: Pages) -> tuple[Address, ...]:
    """Where the bytes lie that `items` doom.  Raises NeedPage."""
    addresses: list[Address] = []
    for item in items:
        if isinstance(item, GarbageObject):
            addresses.append(item.address)
            continue
        page = pages.get(item.page.name)
        if page is None:
            raise NeedPage(item.page)
        addresses += page.addresses_between(item.start_offset, item.end_offset)
    assert parts_in_use(manifest).isdisjoint((address.object, address.start) for address in addresses), "garbage is in use"
    return tuple(dict.fromkeys(addresses))


def is_finished(manifest: Manifest, deleted: Collection[Garbage] = ()) -> bool:
    """Whether a deleted topic's objects are all gone but for `deleted`, so that the manifest object is the last thing to remove."""
    if not manifest.is_deleted or manifest.entries or manifest.archive:
        return False
    return all(item in deleted for item in (*manifest.garbage, *manifest.garbage_ranges))
