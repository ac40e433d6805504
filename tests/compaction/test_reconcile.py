"""Orphans: seen twice, older than the grace, condemned by a commit, deleted by the reaper; everything else stays."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest

from compaction import orphans
from compaction.orphans import Verdict
from compaction.reaper import reap
from compaction.reconcile import Reconciler
from compaction.sights import Sights
from hotlog.kernel.errors import ForeignStore, PreconditionFailed
from hotlog.kernel.ids import PartitionId
from tests.compaction.bench import GRACE_MS, INTERVAL_S, PID, Bench, with_bench
from tests.sim.clock import HOUR_MS
from tests.sim.disk import Machine, SimDisk
from tests.sim.entropy import stream
from tests.sim.fuse import Fuse
from tests.sim.trace import Trace
from tests.tiering.built import small
from tiering.manifest.edits import advance_start, append, mark_deleted
from tiering.manifest.root import Manifest, parts_in_use
from tiering.manifest.verify import verify_partition
from tiering.objects.keys import parse_key, segment_name

DAY_S = 86_400


async def one_pass(reconciler: Reconciler) -> None:
    await asyncio.sleep(3600)
    for _ in range(1000):
        if not await reconciler.tick():
            return
    raise AssertionError("a pass never ends")


def test_an_orphan_goes_after_two_sights_and_two_graces() -> None:
    async def body(bench: Bench) -> None:
        await bench.fill(3)
        orphan = await bench.orphan(30)
        live = sorted(key for key in bench.bucket.objects if key != orphan)
        reconciler = bench.reconciler()
        await asyncio.sleep(2 * DAY_S)
        await one_pass(reconciler)
        assert (await bench.root()).garbage == (), "condemned at first sight"
        await one_pass(reconciler)
        (item,) = (await bench.root()).garbage
        assert bench.keys().object(item.name) == orphan
        assert orphan in bench.bucket.objects, "the reconciler deletes nothing itself"
        manifest = bench.manifest()
        await manifest.load()
        assert await reap(bench.store, manifest, now_ms=bench.clock.now_ms(), grace_ms=GRACE_MS) == 0
        await asyncio.sleep(GRACE_MS / 1000 + 1)
        assert await reap(bench.store, manifest, now_ms=bench.clock.now_ms(), grace_ms=GRACE_MS) == 1
        assert sorted(bench.bucket.objects) == live

    with_bench(body)


def test_a_broker_that_restarts_more_often_than_a_pass_is_due_condemns_all_the_same() -> None:
    async def body(bench: Bench) -> None:
        await bench.fill(3)
        orphan = await bench.orphan(30)
        disk = SimDisk(Machine(stream(0, "disk")), bench.clock, Trace(bench.loop), Fuse())

        async def life(seconds: float) -> int:
            """One pass of a new process after `seconds`; how many objects are condemned then."""
            await asyncio.sleep(seconds)
            reconciler = bench.reconciler(sights=Sights(disk, "/sights"))
            while await reconciler.tick():
                pass
            return len((await bench.root()).garbage)

        quarter = INTERVAL_S / 4
        assert [await life(quarter) for _ in range(4)] == [0, 0, 0, 0], "it is younger than the grace"
        disk.remove("/sights")
        await asyncio.sleep(2 * DAY_S)
        assert await life(0) == 0, "condemned at first sight"
        assert await life(quarter) == 0, "two looks within half an interval are one"
        disk.open("/sights").write_at(0, b"garbage")
        assert await life(quarter) == 0, "a damaged file is no memory"
        assert await life(quarter) == 0
        assert await life(quarter) == 1
        (item,) = (await bench.root()).garbage
        assert bench.keys().object(item.name) == orphan

    with_bench(body)


def test_what_was_written_anew_was_not_seen_and_too_much_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(bench: Bench) -> None:
        disk = SimDisk(Machine(stream(0, "disk")), bench.clock, Trace(bench.loop), Fuse())
        monkeypatch.setattr("compaction.sights.SIGHTS_MAX", 2)
        sights = Sights(disk, "/sights")
        for name in ("a", "b", "c"):
            sights.note(name, "e1", 1000)
        await sights.end()
        for kept in (sights, Sights(disk, "/sights")):
            assert [kept.is_old(name, "e1", now_ms=1500, apart_ms=500) for name in ("a", "b", "c")] == [True, True, False]
            assert not kept.is_old("a", "e2", now_ms=9000, apart_ms=500)
            assert not kept.is_old("a", "e1", now_ms=1499, apart_ms=500)
        sights.note("a", "e1", 900)  # the clock went back: the later first sight would hold for too long
        await sights.end()
        assert sights.is_old("a", "e1", now_ms=1400, apart_ms=500)
        disk.write_atomic("/sights", b'{"version": 2, "sights": {"a": ["e1", 0]}}')
        assert not Sights(disk, "/sights").is_old("a", "e1", now_ms=9000, apart_ms=500)

    with_bench(body)


def test_what_a_root_refers_to_is_gathered_once_for_all_its_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing has as many objects as the root has rows: gathered for each object, a pass would cost the square of them."""

    async def body(bench: Bench) -> None:
        await bench.fill(60)
        gathered: list[int] = []

        def count(root: Manifest) -> set[tuple[str, int]]:
            gathered.append(len(root.entries))
            return parts_in_use(root)

        monkeypatch.setattr(orphans, "parts_in_use", count)
        await one_pass(bench.reconciler())
        assert gathered == [60]

    with_bench(body)


def test_young_newer_and_unclaimed_objects_stay() -> None:
    async def body(bench: Bench) -> None:
        await bench.fill(2, epoch=3)
        newer = await bench.orphan(20, epoch=4)
        unclaimed = await bench.orphan(0, pid=PartitionId(UUID(int=9), 4))
        reconciler = bench.reconciler()
        await asyncio.sleep(3 * DAY_S)
        young = await bench.orphan(20)
        await bench.store.put(f"{bench.cluster_id}/data/notes.txt", b"not ours")
        for _ in range(4):
            await one_pass(reconciler)
        assert (await bench.root()).garbage == ()
        assert {newer, unclaimed, young} <= set(bench.bucket.objects)
        counts = {
            verdict: bench.metrics.orphans.labels(verdict.value)._value.get() for verdict in Verdict if verdict.name != "LIVE"
        }
        assert (counts[Verdict.NEWER], counts[Verdict.UNCLAIMED], counts[Verdict.YOUNG]) == (1, 1, 1)

    with_bench(body)


def test_what_lies_below_index_pages_live_or_doomed_is_no_orphan() -> None:
    """Pages below an index page, their rows, and a row in none of them: each pass judges every object by its way down the tree."""

    async def body(bench: Bench) -> None:
        with small():
            manifest = await bench.fill(140)
            view = manifest.view
            assert view is not None
            orphan = await bench.orphan(600)
            not_before = bench.clock.now_ms() + 10**12
            await manifest.commit(lambda root, pages: advance_start(root, 455, pages, not_before_ms=not_before))
            root = await bench.root()
            assert any(ref.height for ref in root.archive)
            assert any(part.page.height for part in root.garbage_ranges)
            before = sorted(bench.bucket.objects)
            reconciler = bench.reconciler()
            for _ in range(3):
                await asyncio.sleep(2 * DAY_S)
                await one_pass(reconciler)
            known = {item.name for item in root.garbage}
            assert [item.name for item in (await bench.root()).garbage if item.name not in known] == [orphan.rpartition("/")[2]]
            assert sorted(bench.bucket.objects) == before
            for _ in range(200):  # what was doomed goes, pages too, and nothing else
                await manifest.load()
                await reap(bench.store, manifest, now_ms=2 * not_before, grace_ms=0)
            kept = sorted(parse_key(key).name for key in bench.bucket.objects if parse_key(key) is not None)  # type: ignore[union-attr]
            rows = [name for name in kept if name.endswith(".seg")]
            assert len(rows) == 95
            assert {ref.name for ref in (await bench.root()).archive} <= set(kept)
            report = await verify_partition(bench.store, bench.cluster_id, PID)
            assert report.unreferenced == []
            assert {problem.kind for problem in report.problems} == {"damaged"}, "the rows' objects are made up; no page is"
            assert len(report.problems) == 95

    with_bench(body)


def test_what_pages_and_garbage_name_is_no_orphan() -> None:
    async def body(bench: Bench) -> None:
        manifest = await bench.fill(330)
        not_before = bench.clock.now_ms() + 30 * DAY_S * 1000
        await manifest.commit(lambda root, pages: advance_start(root, 500, pages, not_before_ms=not_before))
        view = manifest.view
        assert view is not None
        assert view.archive
        assert view.garbage_ranges
        before = set(bench.bucket.objects)
        orphan = await bench.orphan(1000)
        reconciler = bench.reconciler()
        await asyncio.sleep(3 * DAY_S)
        await one_pass(reconciler)
        await one_pass(reconciler)
        garbage = (await bench.root()).garbage
        assert [bench.keys().object(item.name) for item in garbage] == [orphan]
        assert before <= set(bench.bucket.objects)

    with_bench(body)


def test_a_late_or_lying_listing_condemns_nothing_live() -> None:
    async def body(bench: Bench) -> None:
        await bench.fill(20)
        bench.bucket.weather.list_stale_seconds = 30 * DAY_S
        reconciler = bench.reconciler()
        await asyncio.sleep(3 * DAY_S)
        for _ in range(5):
            await one_pass(reconciler)
            await bench.fill(2)
        assert (await bench.root()).garbage == ()
        assert bench.metrics.corruption.labels("missing-object")._value.get() == 0

    with_bench(body)


def test_a_commit_between_listing_and_judgement_saves_its_object() -> None:
    """The very late writer: its object is old and was seen twice, and it commits while the pass runs."""

    async def body(bench: Bench) -> None:
        manifest = await bench.fill(2)
        root = await bench.root()
        row = root.entries[-1]._replace(base_offset=20, end_offset=30, nonce="ab" * 16, epochs=((3, 20),))
        key = bench.keys().object(row.name)
        await bench.store.put(key, b"late")
        reconciler = bench.reconciler()
        await asyncio.sleep(3 * DAY_S)
        await one_pass(reconciler)
        await asyncio.sleep(3600)
        task = asyncio.create_task(one_pass(reconciler))
        await manifest.commit(lambda old, _: append(old, row, epoch=3))
        await task
        view = await bench.root()
        assert row in view.entries
        assert view.garbage == ()

    with_bench(body)


def test_a_verdict_counts_only_for_the_root_that_it_was_judged_by() -> None:
    """What was committed since may need the object, in a page that the verdict knew nothing of."""

    async def body(bench: Bench) -> None:
        manifest = await bench.fill(2)
        orphan = await bench.orphan(30)
        reconciler = bench.reconciler()
        await asyncio.sleep(3 * DAY_S)
        await one_pass(reconciler)
        bench.bucket.fail("put", "slow", pattern=bench.keys().manifest)
        (slow,) = bench.bucket.faults
        second_pass = asyncio.create_task(one_pass(reconciler))
        await asyncio.sleep(3600)  # it begins then
        while slow.times:
            await asyncio.sleep(0.001)
        await manifest.commit(lambda old, _: advance_start(old, 1, {}, not_before_ms=0))
        await second_pass
        view = await bench.root()
        assert (view.log_start_offset, view.garbage) == (1, ())
        await one_pass(reconciler)
        assert [bench.keys().object(item.name) for item in (await bench.root()).garbage] == [orphan]  # type: ignore[union-attr]

    with_bench(body)


def test_a_row_whose_object_was_condemned_is_refused() -> None:
    async def body(bench: Bench) -> None:
        manifest = await bench.fill(2)
        row = (await bench.root()).entries[-1]._replace(base_offset=20, end_offset=30, nonce="ab" * 16, epochs=((3, 20),))
        await bench.store.put(bench.keys().object(row.name), b"late")
        reconciler = bench.reconciler()
        await asyncio.sleep(3 * DAY_S)
        await one_pass(reconciler)
        await one_pass(reconciler)
        with pytest.raises(PreconditionFailed, match="condemned"):
            await manifest.commit(lambda old, _: append(old, row, epoch=3))

    with_bench(body)


def test_a_foreign_bucket_is_not_touched() -> None:
    async def body(bench: Bench) -> None:
        await bench.fill(1)
        with pytest.raises(ForeignStore, match="belongs to cluster"):
            await bench.reconciler(cluster_id="other").tick()
        del bench.bucket.objects["cluster"]
        await asyncio.sleep(3600)
        with pytest.raises(ForeignStore, match="no cluster marker"):
            await bench.reconciler().tick()

    with_bench(body)


def test_stale_uploads_are_aborted_at_second_sight() -> None:
    async def body(bench: Bench) -> None:
        await bench.fill(1)
        stale = bench.keys().object(segment_name(10, 3, "cd" * 16))
        bench.bucket.start_upload(stale)
        reconciler = bench.reconciler()
        await asyncio.sleep(3 * DAY_S)
        fresh = bench.keys().object(segment_name(10, 3, "ef" * 16))
        bench.bucket.start_upload(fresh)
        await one_pass(reconciler)
        assert len(bench.bucket.uploads) == 2
        await one_pass(reconciler)
        assert [key for key, _ in bench.bucket.uploads] == [fresh]

    with_bench(body)


def test_a_missing_object_is_reported_and_a_late_listing_is_not() -> None:
    async def body(bench: Bench) -> None:
        await bench.fill(3)
        reconciler = bench.reconciler()
        await one_pass(reconciler)
        assert bench.metrics.corruption.labels("missing-object")._value.get() == 0
        del bench.bucket.objects[bench.keys().object((await bench.root()).entries[1].name)]
        await one_pass(reconciler)
        assert bench.metrics.corruption.labels("missing-object")._value.get() == 1

    with_bench(body)


def test_a_deleted_topic_nobody_hosts_is_buried_with_its_late_objects() -> None:
    async def body(bench: Bench) -> None:
        manifest = await bench.fill(3)
        not_before = bench.clock.now_ms() + HOUR_MS
        await manifest.commit(lambda root, _: mark_deleted(root, now_ms=0, not_before_ms=not_before))
        await bench.orphan(30)
        reconciler = bench.reconciler(hosted=False)
        for _ in range(6):
            await asyncio.sleep(DAY_S)
            await one_pass(reconciler)
        assert [key for key in bench.bucket.objects if parse_key(key) is not None] == []

    with_bench(body)


def test_a_store_that_goes_away_ends_the_pass_and_the_next_one_works() -> None:
    async def body(bench: Bench) -> None:
        await bench.fill(3)
        orphan = await bench.orphan(30)
        reconciler = bench.reconciler()
        await asyncio.sleep(3 * DAY_S)
        for op in ("get", "list", "list-uploads"):
            bench.bucket.fail(op, "unavailable")
        for _ in range(6):
            try:
                await one_pass(reconciler)
            except Exception:
                continue
        (item,) = (await bench.root()).garbage
        assert bench.keys().object(item.name) == orphan

    with_bench(body)


def test_one_partition_id_is_not_anothers() -> None:
    async def body(bench: Bench) -> None:
        others = [PartitionId(PID.topic_id, index) for index in range(1, 4)]
        for pid in others:
            await bench.fill(3, pid=pid)
        orphan = await bench.orphan(100, pid=others[1])
        reconciler = bench.reconciler()
        await asyncio.sleep(3 * DAY_S)
        await one_pass(reconciler)
        await one_pass(reconciler)
        found = {pid: [item.name for item in (await bench.root(pid)).garbage] for pid in others}
        assert found == {others[0]: [], others[1]: [orphan.rsplit("/", 1)[1]], others[2]: []}

    with_bench(body)


def test_what_an_examination_of_the_store_left_is_collected() -> None:
    async def body(bench: Bench) -> None:
        await bench.fill(1)
        for number in range(3):
            await bench.store.put(f"check/{number}/absent", b"first")
        reconciler = bench.reconciler()
        await one_pass(reconciler)
        young = "check/later/absent"
        await asyncio.sleep(2 * DAY_S)
        await bench.store.put(young, b"of an examination under way")
        await one_pass(reconciler)
        assert [key for key in sorted(bench.bucket.objects) if key.startswith("check/")] == [young]

    with_bench(body)
