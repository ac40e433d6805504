"""Deletion: exactly the doomed, after their grace, never what is live; a deleted topic's manifest last."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import pytest

from compaction.reaper import AT_ONCE, KEYS_PER_DELETE, PARTITIONS_MAX, Reaper, reap
from compaction.trusted_clock import TrustedClock
from hotlog.kernel.errors import StoreUnavailable
from hotlog.kernel.ids import PartitionId
from hotlog.partitions import hosting
from hotlog.partitions.hosting import Hosting
from tests.compaction.bench import GRACE_MS, PID, Bench, with_bench
from tests.sim.clock import YEAR_MS
from tests.sim.store import SimStore
from tiering.manifest.edits import advance_start, mark_deleted, mark_garbage
from tiering.manifest.root import GarbageObject
from tiering.manifest.store import ManifestStore
from tiering.objects.keys import segment_name


class Tier:
    """The manifests a broker knows."""

    def __init__(self, manifests: list[ManifestStore]) -> None:
        self.known = manifests
        self.forgotten: list[PartitionId] = []

    def manifests(self) -> list[ManifestStore]:
        return self.known

    def forget(self, pid: PartitionId) -> None:
        self.forgotten.append(pid)
        self.known = [manifest for manifest in self.known if manifest.keys.pid != pid]


def reaper_of(bench: Bench, *manifests: ManifestStore) -> tuple[Reaper, Tier]:
    tier = Tier(list(manifests))
    trusted = TrustedClock(bench.clock)
    return Reaper(tier, bench.store, metrics=bench.metrics, trusted=trusted, grace_ms=lambda: GRACE_MS), tier


async def until_idle(reaper: Reaper) -> None:
    for _ in range(1000):
        if not await reaper.tick():
            return
    raise AssertionError("the reaper never rests")


async def doom(bench: Bench, manifest: ManifestStore, start: int) -> None:
    not_before = bench.clock.now_ms() + GRACE_MS
    await manifest.commit(lambda root, pages: advance_start(root, start, pages, not_before_ms=not_before))


def segments(bench: Bench) -> list[str]:
    return sorted(key for key in bench.bucket.objects if key.endswith(".seg"))


def test_the_doomed_go_after_their_grace_and_only_they() -> None:
    async def body(bench: Bench) -> None:
        manifest = await bench.fill(5)
        before = segments(bench)
        await doom(bench, manifest, 20)
        reaper, _ = reaper_of(bench, manifest)
        await asyncio.sleep(GRACE_MS / 1000 - 60)
        await until_idle(reaper)
        assert segments(bench) == before
        await asyncio.sleep(120)
        await until_idle(reaper)
        assert segments(bench) == before[2:]
        assert (await bench.root()).garbage == ()

    with_bench(body)


def test_a_clock_that_jumps_does_not_shorten_the_grace() -> None:
    async def body(bench: Bench) -> None:
        manifest = await bench.fill(3)
        await doom(bench, manifest, 20)
        reaper, _ = reaper_of(bench, manifest)
        bench.clock.step(YEAR_MS)
        await asyncio.sleep(GRACE_MS / 4000)
        await until_idle(reaper)
        assert len(segments(bench)) == 3

    with_bench(body)


def test_rows_of_archive_pages_go_too_and_then_the_page() -> None:
    async def body(bench: Bench) -> None:
        manifest = await bench.fill(330)
        assert manifest.view is not None
        assert manifest.view.archive, "the bench must reach the archive"
        await doom(bench, manifest, 3290)
        reaper, _ = reaper_of(bench, manifest)
        for _ in range(4):
            await asyncio.sleep(GRACE_MS / 1000 + 60)
            await until_idle(reaper)
            await doom(bench, manifest, 3290)
        left = [key for key in sorted(bench.bucket.objects) if key.endswith((".seg", ".parquet"))]
        assert left == [bench.keys().object(row.name) for row in (await bench.root()).entries]
        assert len(left) == 1

    with_bench(body)


def test_a_store_that_refuses_keeps_the_list() -> None:
    async def body(bench: Bench) -> None:
        manifest = await bench.fill(3)
        await doom(bench, manifest, 20)
        await asyncio.sleep(GRACE_MS / 1000 + 60)
        bench.bucket.fail("delete", "unavailable", skip=1)
        with pytest.raises(StoreUnavailable):
            await reap(bench.store, manifest, now_ms=bench.clock.now_ms(), grace_ms=GRACE_MS)
        assert len((await bench.root()).garbage) == 2
        assert await reap(bench.store, manifest, now_ms=bench.clock.now_ms(), grace_ms=GRACE_MS) == 2
        assert len(segments(bench)) == 1

    with_bench(body)


def test_a_failing_partition_does_not_hold_up_the_others_nor_the_tick() -> None:
    async def body(bench: Bench) -> None:
        other = PartitionId(PID.topic_id, 1)
        manifests = [await bench.fill(3), await bench.fill(3, pid=other)]
        for manifest in manifests:
            await doom(bench, manifest, 20)
        await asyncio.sleep(GRACE_MS / 1000 + 60)
        bench.bucket.fail("delete", "unavailable", pattern=bench.keys().prefix + "*", times=3)
        reaper, _ = reaper_of(bench, *manifests)
        await until_idle(reaper)
        assert (await bench.root(other)).garbage == ()
        assert len((await bench.root()).garbage) == 2
        for _ in range(3):
            await until_idle(reaper)
        assert (await bench.root()).garbage == ()

    with_bench(body)


def test_a_deleted_topics_manifest_goes_last() -> None:
    async def body(bench: Bench) -> None:
        manifest = await bench.fill(4)
        not_before = bench.clock.now_ms() + GRACE_MS
        await manifest.commit(lambda root, _: mark_deleted(root, now_ms=0, not_before_ms=not_before))
        reaper, tier = reaper_of(bench, manifest)
        await until_idle(reaper)
        assert len(segments(bench)) == 4
        await asyncio.sleep(GRACE_MS / 1000 + 60)
        await until_idle(reaper)
        await until_idle(reaper)
        assert [key for key in bench.bucket.objects if "/data/" in key] == []
        assert tier.forgotten == [PID]

    with_bench(body)


def test_the_delete_lag_is_told_and_goes_back_to_nothing() -> None:
    async def body(bench: Bench) -> None:
        manifest = await bench.fill(5)
        await doom(bench, manifest, 30)
        reaper, _ = reaper_of(bench, manifest)
        await until_idle(reaper)
        size, count = bench.metrics.remote_delete_lag_bytes.labels("t"), bench.metrics.remote_delete_lag_segments.labels("t")
        assert (size._value.get(), count._value.get()) == (3300, 3)
        await asyncio.sleep(GRACE_MS / 1000 + 60)
        await until_idle(reaper)
        await until_idle(reaper)
        assert (size._value.get(), count._value.get()) == (0, 0)

    with_bench(body)


def test_a_deleted_topic_of_many_partitions_costs_few_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """For each partition one look at its newest root before that goes; deletes by the thousand; nothing is written."""
    partitions, rows = 300, 4
    deletes: list[int] = []  # keys of each
    delete = SimStore.delete

    async def counted(store: SimStore, keys: Sequence[str]) -> None:
        deletes.append(len(keys))
        await delete(store, keys)

    monkeypatch.setattr(SimStore, "delete", counted)

    async def body(bench: Bench) -> None:
        manifests = [await bench.fill(rows, pid=PartitionId(PID.topic_id, number)) for number in range(partitions)]
        not_before = bench.clock.now_ms() + GRACE_MS
        for manifest in manifests:
            await manifest.commit(lambda root, _: mark_deleted(root, now_ms=0, not_before_ms=not_before))
        reaper, tier = reaper_of(bench, *manifests)
        bench.bucket.counts.clear()
        await until_idle(reaper)
        assert not bench.bucket.counts, "before its time nothing goes"
        await asyncio.sleep(GRACE_MS / 1000 + 60)
        await until_idle(reaper)
        assert [key for key in bench.bucket.objects if "/data/" in key] == []
        assert sorted(tier.forgotten) == [manifest.keys.pid for manifest in manifests]
        asked = Counter[str]()
        for (kind, _), count in bench.bucket.counts.items():
            asked[kind] += count
        assert asked == {"get": partitions, "delete": partitions * (rows + 1)}  # the simulated store counts keys
        ticks = -(-partitions // PARTITIONS_MAX)
        assert len(deletes) <= -(-partitions * rows // KEYS_PER_DELETE) + 2 * ticks

    with_bench(body)


def test_a_deleted_topics_manifest_stays_while_its_newest_root_lists_more() -> None:
    """Condemned by another writer after this broker's view: judged by the newest root, not by what was believed."""

    async def body(bench: Bench) -> None:
        manifest = await bench.fill(3)
        due, later = bench.clock.now_ms() + GRACE_MS, bench.clock.now_ms() + 3 * GRACE_MS
        await manifest.commit(lambda root, _: mark_deleted(root, now_ms=0, not_before_ms=due))
        late = GarbageObject(segment_name(30, 3, "f" * 32), 6, later)
        await bench.store.put(bench.keys().object(late.name), b"orphan")
        other = bench.manifest()
        await other.load()
        await other.commit(lambda root, _: mark_garbage(root, [late]))
        reaper, tier = reaper_of(bench, manifest)
        await asyncio.sleep(GRACE_MS / 1000 + 60)
        await until_idle(reaper)
        assert segments(bench) == [bench.keys().object(late.name)]
        assert [item.name for item in (await bench.root()).garbage] == [late.name]
        assert tier.forgotten == []
        await asyncio.sleep(3 * GRACE_MS / 1000)
        await until_idle(reaper)
        assert [key for key in bench.bucket.objects if "/data/" in key] == []
        assert tier.forgotten == [PID]

    with_bench(body)


def test_a_topic_of_1000_partitions_goes_within_seconds_of_a_store_that_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store with up to 50 ms each way; docs/operations.md says the bound.  In virtual time: the same on any machine."""
    partitions, way_s = 1_000, 0.05

    async def delete(store: SimStore, keys: Sequence[str]) -> None:  # one request for all of them, as S3 takes it
        await asyncio.sleep(2 * way_s)
        for key in keys:
            store.bucket.delete(key)

    monkeypatch.setattr(SimStore, "delete", delete)

    async def body(bench: Bench) -> None:
        manifests = {}
        for number in range(partitions):
            pid = PartitionId(PID.topic_id, number)
            manifests[pid] = await bench.fill(1, pid=pid)
        bench.bucket.weather = replace(bench.bucket.weather, latency_seconds=way_s)

        class Marking:
            async def delete_topic_partition(self, pid: PartitionId) -> None:
                not_before = bench.clock.now_ms() + GRACE_MS
                await manifests[pid].commit(lambda root, _: mark_deleted(root, now_ms=0, not_before_ms=not_before))

        topic = SimpleNamespace(topic_id=PID.topic_id, partitions=range(partitions))
        began = bench.clock.monotonic()
        await Hosting.delete_cold(SimpleNamespace(_tier=Marking()), topic)  # type: ignore[arg-type]
        assert bench.clock.monotonic() - began <= 2 * 2 * way_s * partitions / hosting.AT_ONCE
        reaper, _ = reaper_of(bench, *manifests.values())
        await asyncio.sleep(GRACE_MS / 1000 + 60)
        began = bench.clock.monotonic()
        await until_idle(reaper)
        assert [key for key in bench.bucket.objects if "/data/" in key] == []
        assert bench.clock.monotonic() - began <= 2 * 2 * way_s * partitions / AT_ONCE

    with_bench(body)


def test_a_part_of_a_shared_object_stays_until_its_register_lets_go() -> None:
    async def body(bench: Bench) -> None:
        manifest = await bench.fill(2)
        shared = GarbageObject("/packs/aa.pack", 600, bench.clock.now_ms(), 4096)
        key = bench.keys().object(shared.name)
        assert key == f"{bench.cluster_id}/packs/aa.pack"
        await bench.store.put(key, bytes(9000))
        await manifest.commit(lambda root, _: mark_garbage(root, [shared]))
        reaper, _ = reaper_of(bench, manifest)
        await asyncio.sleep(GRACE_MS / 1000 + 60)
        await until_idle(reaper)
        assert key in bench.bucket.objects
        assert (await bench.root()).garbage == (shared,)

    with_bench(body)
