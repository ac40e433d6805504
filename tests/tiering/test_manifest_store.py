"""The manifest in a store: races, lost answers, old stories, pages before roots, and removal last."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest
import pytest_asyncio

from compaction.reaper import reap
from hotlog.kernel.errors import Corrupt, Fenced, NotFound, OutcomeUnknown, PreconditionFailed, StoreUnavailable
from hotlog.kernel.ids import PartitionId
from hotlog.kernel.metrics import Metrics
from hotlog.world.ports import ObjectStore
from hotlog.world.posix import PosixDisk, SystemEntropy
from tests.log.support import T0
from tests.support.clocks import HandClock
from tests.support.faulty_store import Faults, FaultyStore, Killed
from tests.tiering.built import small
from tests.tiering.support import CLUSTER, KEYS, PID, TOPIC_ID, row, settings
from tiering.manifest.edits import Edit, advance_start, append, blank, claim, mark_deleted
from tiering.manifest.garbage import clear_garbage, doomed_before, is_finished, names_of
from tiering.manifest.root import ENTRIES_MAX, Entry, Manifest, find_offset
from tiering.manifest.store import ManifestMeans, ManifestStore
from tiering.manifest.tree import Nodes, leaves
from tiering.objects.keys import PartitionKeys
from tiering.store import open_store


class Room:
    """One directory store; manifests over it, each with faults of its own."""

    def __init__(self, store: ObjectStore, disk: PosixDisk) -> None:
        self.store, self.disk, self.clock, self.random = store, disk, HandClock(), Random(1)

    def manifest(self, faults: Faults | None = None) -> ManifestStore:
        store = FaultyStore(self.store, faults or Faults())
        return ManifestStore(self.means(store), KEYS, topic="clicks")

    def means(self, store: ObjectStore) -> ManifestMeans:
        return ManifestMeans(store=store, clock=self.clock, entropy=SystemEntropy(), disk=self.disk, grace_ms=1000)

    def adding(self, records: int = 10, *, epoch: int = 0, rows: int = 1) -> Edit:
        """An edit that appends rows at whatever the end is; the same rows if it is called again."""
        made = {}

        def edit(manifest: Manifest, _: Nodes) -> Manifest:
            for _ in range(rows):
                base = max(manifest.end_offset, 0)
                if base not in made:
                    made[base] = row(base, base + records, self.random, epoch=epoch)
                manifest = append(manifest, made[base], epoch=epoch)
            return manifest

        return edit

    async def fill(self, manifest: ManifestStore, rows: int, *, at_once: int = 1) -> None:
        """So many rows more, `at_once` in a commit."""
        for _ in range(0, rows, at_once):
            await manifest.commit(self.adding(rows=at_once), create=first)
            await manifest.settle()


def first() -> Manifest:
    return blank(PID, "clicks", epoch=0, created_ms=T0)


@pytest_asyncio.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    disk = PosixDisk(2)
    store = await open_store(
        f"file://{tmp_path}", settings=settings(), metrics=Metrics(), clock=HandClock(), entropy=SystemEntropy(), disk=disk
    )
    yield Room(store, disk)
    await store.close()
    disk.close()


async def test_there_is_nothing_until_something_is_committed(room: Room) -> None:
    manifest = room.manifest()
    assert await manifest.load() is None
    with pytest.raises(NotFound, match="does not exist"):
        await manifest.commit(room.adding())
    view = await manifest.commit(room.adding(), create=first)
    assert (view.end_offset, view.generation, len(view.nonces)) == (10, 1, 1)
    assert await room.manifest().load() == view


async def test_racing_writers_lose_nothing(room: Room) -> None:
    one, two = room.manifest(), room.manifest()
    await one.commit(room.adding(), create=first)
    await asyncio.gather(*(writer.commit(room.adding()) for _ in range(4) for writer in (one, two)))
    view = await room.manifest().load()
    assert view is not None
    assert len(view.entries) == 9
    assert view.end_offset == 90
    assert view.generation == 9


async def test_of_two_first_writers_neither_overwrites_the_other(room: Room) -> None:
    one, two = room.manifest(), room.manifest()
    assert (await one.load(), await two.load()) == (None, None), "both have seen that there is nothing"
    await one.commit(room.adding(), create=first)
    view = await two.commit(room.adding(), create=first)
    assert (len(view.entries), view.generation) == (2, 2)


async def test_the_older_epoch_loses_the_race(room: Room) -> None:
    old, new = room.manifest(), room.manifest()
    await old.commit(room.adding(), create=first)
    await new.load()
    await new.commit(lambda manifest, _: claim(manifest, 1, "clicks"))
    with pytest.raises(Fenced, match="leader epoch 1"):
        await old.commit(room.adding(epoch=0))
    assert (await new.commit(room.adding(epoch=1))).end_offset == 20


async def test_lost_answer_is_recognised_by_the_nonce(room: Room) -> None:
    faults = Faults(lose_reply_of=lambda op, key: op == "put")
    manifest = room.manifest(faults)
    for _ in range(5):
        await manifest.commit(room.adding(), create=first)
    view = await room.manifest().load()
    assert view is not None
    assert (len(view.entries), view.generation) == (5, 5)


async def test_lost_answer_with_another_writer_in_between(room: Room) -> None:
    other = room.manifest()

    class Between(FaultyStore):
        async def put(self, key: str, body: bytes, **condition: object) -> str:  # type: ignore[override]
            await super().put(key, body, **condition)  # type: ignore[arg-type]
            await other.load()
            await other.commit(room.adding())
            raise OutcomeUnknown("the answer was lost")

        def bind(self, **names: object) -> ObjectStore:  # type: ignore[override]
            return self  # type: ignore[return-value]

    await other.commit(room.adding(), create=first)
    mine = ManifestStore(room.means(Between(room.store, Faults())), KEYS)  # type: ignore[arg-type]
    view = await mine.commit(room.adding())
    assert [(one.base_offset, one.end_offset) for one in view.entries] == [(0, 10), (10, 20), (20, 30)], "once, not twice"


async def test_store_away_leaves_the_view_and_tells(room: Room) -> None:
    faults = Faults()
    manifest = room.manifest(faults)
    before = await manifest.commit(room.adding(), create=first)
    faults.is_down = True
    with pytest.raises(StoreUnavailable):
        await manifest.commit(room.adding())
    with pytest.raises(StoreUnavailable):
        await manifest.load()
    assert manifest.view == before
    faults.is_down = False
    assert (await manifest.commit(room.adding())).end_offset == 20


async def test_an_old_story_does_not_turn_the_view_back(room: Room) -> None:
    """Fault 28: a read that is served an old version, or overtaken by our own commit."""
    manifest = room.manifest()
    await manifest.commit(room.adding(), create=first)
    old = bytes((await room.store.get(KEYS.manifest)).data)
    newest = await manifest.commit(room.adding())
    raw = bytes((await room.store.get(KEYS.manifest)).data)
    await room.store.put(KEYS.manifest, old)
    assert await manifest.load() == newest
    await room.store.put(KEYS.manifest, raw)
    assert await manifest.load() == newest


async def test_an_edit_without_effect_writes_nothing(room: Room) -> None:
    faults = Faults()
    manifest = room.manifest(faults)
    view = await manifest.commit(room.adding(), create=first)
    puts = faults.count("put")
    assert await manifest.commit(lambda root, _: root) == view
    assert faults.count("put") == puts


async def test_another_partitions_manifest_is_refused(room: Room) -> None:
    manifest = room.manifest()
    await manifest.commit(room.adding(), create=first)
    other = PartitionKeys(CLUSTER, PartitionId(TOPIC_ID, 1))
    await room.store.put(other.manifest, (await room.store.get(KEYS.manifest)).data)
    stranger = ManifestStore(room.means(room.store), other)
    with pytest.raises(Corrupt, match="holds the manifest of"):
        await stranger.load()
    with pytest.raises(Corrupt, match="holds the manifest of"):
        await stranger.commit(room.adding())


async def test_garbled_manifest_is_corrupt_and_never_overwritten(room: Room) -> None:
    await room.store.put(KEYS.manifest, b"HOTLMAN\nnot really")
    manifest = room.manifest()
    with pytest.raises(Corrupt):
        await manifest.load()
    with pytest.raises(Corrupt):
        await manifest.commit(room.adding(), create=first)
    assert bytes((await room.store.get(KEYS.manifest)).data) == b"HOTLMAN\nnot really"


async def test_spill_puts_the_page_before_the_root(room: Room) -> None:
    faults = Faults()
    manifest = room.manifest(faults)
    await room.fill(manifest, ENTRIES_MAX)
    view = manifest.view
    assert view is not None
    (ref,) = view.archive
    order = [key for op, key in faults.log if op == "put"]
    assert order.index(KEYS.object(ref.name)) < len(order) - 1
    assert order[-1] == KEYS.manifest
    page = await manifest.page(ref)
    assert len(page) == ref.totals.rows == 128
    found = find_offset(view, 5)
    assert found == ref
    assert page.row_covering(5).base_offset == 0


@pytest.mark.parametrize("is_done_first", [False, True])
async def test_killed_at_every_call_of_a_spill(room: Room, is_done_first: bool) -> None:
    await room.fill(room.manifest(), ENTRIES_MAX - 1)
    full = room.manifest()
    await full.load()
    before = await full.commit(room.adding())
    assert len(before.entries) == ENTRIES_MAX
    for kill_at in (1, 2, 3):
        faults = Faults(is_done_first=is_done_first)
        dying = room.manifest(faults)
        await dying.load()
        faults.calls, faults.kill_at = 0, kill_at
        try:
            await dying.settle()
        except Killed:
            pass
        else:
            assert faults.calls < kill_at
        view = await room.manifest().load()
        assert view is not None
        assert view.totals == before.totals
        assert (view.start_offset, view.end_offset) == (before.start_offset, before.end_offset)
    survivor = room.manifest()
    await survivor.load()
    view = await survivor.settle()
    assert view is not None
    assert len(view.archive) == 1
    assert view.totals == before.totals


async def test_a_spill_that_was_overtaken_begins_anew(room: Room) -> None:
    one, two = room.manifest(), room.manifest()
    await room.fill(one, ENTRIES_MAX - 1)
    await one.commit(room.adding())
    await two.load()
    await two.commit(lambda root, pages: advance_start(root, 25, pages, not_before_ms=0))
    view = await one.settle()
    assert view is not None
    assert view.start_offset == 20
    assert view.totals.rows == ENTRIES_MAX - 2


async def test_edits_get_the_pages_they_ask_for(room: Room) -> None:
    manifest = room.manifest()
    await room.fill(manifest, ENTRIES_MAX + 130)
    assert manifest.view is not None
    assert len(manifest.view.archive) == 2
    await manifest.commit(lambda root, pages: advance_start(root, 1305, pages, not_before_ms=5))
    view = manifest.view
    assert view.start_offset == 1300
    assert view.archive[0].file_start == 1280
    items = doomed_before(view, 5)
    names = names_of(view, items, {item.page.name: await manifest.page(item.page) for item in items})  # type: ignore[union-attr]
    assert len(names) == 130


async def test_lost_or_damaged_pages_are_corrupt(room: Room) -> None:
    manifest = room.manifest()
    await room.fill(manifest, ENTRIES_MAX)
    assert manifest.view is not None
    (ref,) = manifest.view.archive
    key = KEYS.object(ref.name)
    body = bytearray(bytes((await room.store.get(key)).data))
    body[100] ^= 1
    await room.store.put(key, bytes(body))
    with pytest.raises(Corrupt, match="CRC-32C"):
        await manifest.page(ref)
    await room.store.delete([key])
    with pytest.raises(Corrupt, match="missing though the manifest refers to it"):
        await manifest.page(ref)
    with pytest.raises(Corrupt):
        await manifest.commit(lambda root, pages: advance_start(root, 15, pages, not_before_ms=5))


async def test_the_manifest_goes_last(room: Room) -> None:
    manifest = room.manifest()
    await room.fill(manifest, 5)
    with pytest.raises(PreconditionFailed, match="still lists"):
        await manifest.remove()
    await manifest.commit(lambda root, _: mark_deleted(root, now_ms=1, not_before_ms=2))
    with pytest.raises(PreconditionFailed, match="still lists"):
        await manifest.remove()
    view = manifest.view
    assert view is not None
    view = await manifest.commit(lambda root, _: clear_garbage(root, doomed_before(root, 2), not_before_ms=3))
    assert is_finished(view)
    await manifest.remove()
    await manifest.remove()
    assert await room.manifest().load() is None


async def test_pages_that_a_merge_replaces_stay_for_the_readers_of_older_roots(room: Room) -> None:
    manifest = room.manifest()
    await room.fill(manifest, ENTRIES_MAX, at_once=32)
    before = room.manifest()
    while manifest.view is not None and not manifest.view.garbage:
        await before.load()
        await room.fill(manifest, 32, at_once=32)
    assert manifest.view is not None
    assert before.view is not None
    replaced = {ref.name for ref in before.view.archive} - {ref.name for ref in manifest.view.archive}
    assert replaced
    assert {item.name for item in manifest.view.garbage} == replaced
    assert {item.not_before_ms for item in manifest.view.garbage} == {room.clock.now_ms() + 1000}, (
        "not before their grace is over"
    )
    assert doomed_before(manifest.view, room.clock.now_ms() + 999) == ()
    for ref in before.view.archive:
        assert (await before.page(ref)).rows_between(ref.start_offset, ref.end_offset), "who holds the older root reads on"


@pytest.mark.parametrize("is_done_first", [False, True])
async def test_killed_at_every_call_while_the_tree_grows_and_shrinks(room: Room, is_done_first: bool) -> None:
    """Spills, merges of rows, index pages above them, a start that moves down, ranges that are unfolded: each step whole or not at all."""
    with small():
        await room.fill(room.manifest(), 70, at_once=2)
        heights, deaths, rows = set(), 0, 70
        for number in range(8):
            for kill_at in range(1, 6):
                faults = Faults(is_done_first=is_done_first)
                dying = room.manifest(faults)
                await dying.load()
                faults.calls, faults.kill_at = 0, kill_at
                try:
                    await dying.settle()
                    await dying.commit(_moving(35 + number * 15 if number % 2 else 0))
                    await reap(FaultyStore(room.store, faults), dying, now_ms=2**60, grace_ms=0)
                except Killed:
                    deaths += 1
            survivor = room.manifest()
            root = await survivor.load()
            assert root is not None
            found = await _rows_of(survivor, root)
            assert [one.base_offset for one in found] == list(range(root.start_offset, rows * 10, 10)), "no gap, none twice"
            heights |= {ref.height for ref in root.archive}
            await room.fill(survivor, 14, at_once=2)
            rows += 14
        assert heights >= {0, 1}
        assert deaths > 20


def _moving(by: int) -> Edit:
    return lambda root, pages: advance_start(root, root.start_offset + by, pages, not_before_ms=0)


async def _rows_of(manifest: ManifestStore, root: Manifest) -> list[Entry]:
    rows: list[Entry] = []
    async for ref in leaves(manifest.node, root.archive, 0, root.end_offset):
        rows += (await manifest.page(ref)).rows_between(ref.start_offset, ref.end_offset)
    return rows + list(root.entries)
