"""What is listed and not expected is left over, whatever the order of things at one offset; memory holds one offset's names."""

from __future__ import annotations

from random import Random

from tests.support.scripted_store import ScriptedStore
from tests.tiering.support import KEYS, row
from tiering.manifest.leftovers import Leftovers, merged
from tiering.manifest.root import Entry
from tiering.objects.keys import page_name, segment_name


async def test_orphans_are_found_before_between_at_and_after_what_is_expected() -> None:
    store, known = ScriptedStore(), {"manifest"}
    rows = [row(base, base + 10, Random(base)) for base in range(100, 2100, 10)]
    orphans = [segment_name(base, 3, f"{base:032x}") for base in (0, 100, 105, 1000, 2090, 5000)]
    page, lost_page = (page_name(start, start + 10, "ab" * 16) for start in (0, 10))
    foreign = "zz-not-ours"
    for name in [*(one.name for one in rows), *orphans, page, lost_page, foreign, "manifest"]:
        store.objects[KEYS.object(name)] = b""
    leftovers = Leftovers(store, KEYS, known)  # type: ignore[arg-type]
    largest = 0
    for one in rows:
        await leftovers.expect(one.base_offset, one.name)
        largest = max(largest, len(leftovers._expected))
    known.add(page)  # known only once the walk has come by it
    assert await leftovers.end() == [KEYS.object(name) for name in [*orphans, lost_page, foreign]]
    assert largest == 1


async def test_streams_join_in_order() -> None:
    async def stream(bases: list[int]):  # type: ignore[no-untyped-def]
        for base in bases:
            yield row(base, base + 1, Random(base))

    found: list[Entry] = [one async for one in merged([stream([1, 5, 9]), stream([]), stream([0, 5, 7])])]
    assert [one.base_offset for one in found] == [0, 1, 5, 5, 7, 9]
