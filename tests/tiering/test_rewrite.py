"""Rows exchanged wherever they are: in the root, in a page, below index pages; and refused once somebody changed them."""

from __future__ import annotations

import pytest

from hotlog.kernel.errors import Fenced, PreconditionFailed
from hotlog.world.posix import SystemEntropy
from tests.log.support import T0
from tests.tiering.built import small
from tests.tiering.support import row
from tests.tiering.test_manifest_store import Room, room
from tiering.manifest.rewrite import Rewriter, live_rows
from tiering.manifest.root import Entry
from tiering.manifest.store import ManifestStore

__all__ = ["room"]  # a fixture


async def placed(manifests: ManifestStore) -> list[tuple[Entry, str]]:
    assert manifests.view is not None
    return [found async for found in live_rows(manifests, manifests.view)]


async def filled(room: Room, count: int) -> tuple[ManifestStore, Rewriter]:
    manifests = room.manifest()
    await room.fill(manifests, count)
    return manifests, Rewriter(manifests, room.store, SystemEntropy(), epoch=0)


@pytest.mark.parametrize("count", [3, 20, 120])
async def test_a_run_becomes_one_row_wherever_it_is(room: Room, count: int) -> None:
    with small():
        manifests, rewriter = await filled(room, count)
        rows = [found for found, _ in await placed(manifests)]
        assert len(rows) == count
        places = list(dict.fromkeys(page for _, page in await placed(manifests)))
        for number in range(len(places)):
            page = list(dict.fromkeys(page for _, page in await placed(manifests)))[number]
            run = [found for found, name in await placed(manifests) if name == page][:2]
            if len(run) < 2:
                continue
            merged = row(run[0].base_offset, run[1].end_offset, room.random)
            await rewriter.replace(tuple(run), (merged,), not_before_ms=T0)
            at = rows.index(run[0])
            rows[at : at + 2] = [merged]
            assert [found for found, _ in await placed(manifests)] == rows
            assert manifests.view is not None
            assert {one.name for one in run} <= {item.name for item in manifests.view.garbage}
        other = room.manifest()
        await other.load()
        assert [found for found, _ in await placed(other)] == rows, "the store has it"
        assert manifests.view is not None
        assert (count < 100) or any(ref.height for ref in manifests.view.archive)


@pytest.mark.parametrize("count", [3, 20])
async def test_rows_that_are_others_by_now_are_left_alone(room: Room, count: int) -> None:
    with small():
        manifests, rewriter = await filled(room, count)
        run = tuple(found for found, _ in (await placed(manifests))[:2])
        merged = row(run[0].base_offset, run[1].end_offset, room.random)
        await rewriter.replace(run, (merged,), not_before_ms=T0)
        with pytest.raises(PreconditionFailed):
            await rewriter.replace(run, (merged,), not_before_ms=T0)
        with pytest.raises(Fenced):
            await Rewriter(manifests, room.store, SystemEntropy(), epoch=7).replace((merged,), (merged,), not_before_ms=T0)
