"""Retention from the bucket alone, as `hotlog worker retention` runs it, and against racing writers."""

from __future__ import annotations

import asyncio

import pytest

from compaction.retention import Plan
from compaction.trusted_clock import TrustedClock
from compaction.worker import retain_cold, run_retention
from hotlog.kernel.errors import Invalid
from hotlog.kernel.ids import PartitionId
from hotlog.kernel.topic_config import TopicConfig
from hotlog.world.ports import Blob
from tests.compaction.bench import GRACE_MS, PID, Bench, with_bench
from tests.sim.clock import DAY_MS, YEAR_MS
from tests.tiering.built import small
from tiering.manifest.edits import mark_deleted


def config(**values: object) -> TopicConfig:
    return TopicConfig.resolve({name.replace("_", "."): str(value) for name, value in values.items()})


async def run_all(
    bench: Bench, topic: TopicConfig, *pids: PartitionId, trusted: TrustedClock | None = None
) -> tuple[int, list[Plan]]:
    told: list[Plan] = []
    failed = await run_retention(
        bench.means(), bench.cluster_id, [(pid, "t", topic) for pid in pids or (PID,)], trusted=trusted or TrustedClock(bench.clock),
        told=lambda pid, plan: told.append(plan),
    )  # fmt: skip
    return failed, told


def test_old_rows_leave_and_become_garbage() -> None:
    async def body(bench: Bench) -> None:
        start = bench.clock.now_ms()
        await bench.fill(10, timestamps=lambda base: start - (100 - base) * DAY_MS // 10)  # 10, 9, ... 1 days old
        failed, (plan,) = await run_all(bench, config(retention_ms=6 * DAY_MS + DAY_MS // 2))
        root = await bench.root()
        assert (failed, root.log_start_offset, plan.cold_entries, plan.cold_bytes) == (0, 40, 4, 4000)
        assert len(root.garbage) == 4
        assert sum(key.endswith(".seg") for key in bench.bucket.objects) == 10, "objects stay for the grace"

    with_bench(body)


def test_size_counts_what_is_live_across_archive_pages() -> None:
    async def body(bench: Bench) -> None:
        await bench.fill(600)
        root = await bench.root()
        assert len(root.archive) >= 3
        failed, (plan,) = await run_all(bench, config(retention_ms=-1, retention_bytes=100_500))
        root = await bench.root()
        assert (failed, root.log_start_offset, plan.cold_entries) == (0, 6000 - 1010, 600 - 101)
        assert sum(row.log_bytes for row in root.entries) + sum(ref.totals.log_bytes for ref in root.archive) >= 101_000

    with_bench(body)


def test_a_start_inside_a_row_does_not_upset_the_count() -> None:
    """DeleteRecords in the middle of a row of a page: the dead half is stored still, but never counted against the rest."""

    async def body(bench: Bench) -> None:
        from tiering.manifest.edits import advance_start

        manifest = await bench.fill(330)
        await manifest.commit(lambda root, pages: advance_start(root, 1005, pages, not_before_ms=0))
        await run_all(bench, config(retention_ms=-1, retention_bytes=50_000))
        assert (await bench.root()).log_start_offset == 3300 - 500
        await run_all(bench, config(retention_ms=-1, retention_bytes=50_000))
        assert (await bench.root()).log_start_offset == 3300 - 500

    with_bench(body)


def test_a_wrong_clock_deletes_nothing_and_a_compacted_or_deleted_topic_is_left_alone() -> None:
    async def body(bench: Bench) -> None:
        trusted = TrustedClock(bench.clock)
        manifest = await bench.fill(5)
        bench.clock.step(YEAR_MS)
        with pytest.raises(Invalid, match="nothing is deleted until they agree"):
            await run_all(bench, config(retention_ms=DAY_MS))
        bench.store_clock.step(YEAR_MS)  # a directory store: the same clock
        await run_all(bench, config(retention_ms=DAY_MS), trusted=trusted)
        assert (await bench.root()).log_start_offset == 0
        await asyncio.sleep(3 * 86_400)
        await run_all(bench, config(cleanup_policy="compact", retention_ms=DAY_MS), trusted=trusted)
        assert (await bench.root()).log_start_offset == 0
        await manifest.load()
        await manifest.commit(lambda root, _: mark_deleted(root, now_ms=0, not_before_ms=0))
        assert await run_all(bench, config(retention_ms=1), trusted=trusted) == (0, [])
        assert await run_all(bench, config(), PartitionId(PID.topic_id, 99)) == (0, [])

    with_bench(body)


def test_two_workers_and_an_uploader_at_once_harm_nothing() -> None:
    async def body(bench: Bench) -> None:
        start = bench.clock.now_ms()
        await bench.fill(40, timestamps=lambda base: start - (400 - base) * DAY_MS // 10)
        topic = config(retention_ms=10 * DAY_MS + DAY_MS // 2)
        outcomes = await asyncio.gather(run_all(bench, topic), run_all(bench, topic), bench.fill(5))
        assert [outcome[0] for outcome in outcomes[:2]] == [0, 0]
        root = await bench.root()
        assert (root.log_start_offset, root.end_offset) == (300, 450)
        assert len(root.garbage) == 30

    with_bench(body)


def test_one_damaged_partition_does_not_stop_the_round() -> None:
    async def body(bench: Bench) -> None:
        other = PartitionId(PID.topic_id, 1)
        start = bench.clock.now_ms()
        for pid in (PID, other):
            await bench.fill(4, pid=pid, timestamps=lambda base: start - 9 * DAY_MS)
        await bench.store.put(bench.keys().manifest, b"rubbish")
        failed, told = await run_all(bench, config(retention_ms=DAY_MS), PID, other)
        assert (failed, len(told)) == (1, 1)
        assert (await bench.root(other)).log_start_offset == 40

    with_bench(body)


def test_a_whole_plan_is_the_same_from_the_root_and_from_pages() -> None:
    """One call retains everything that is due, however many pages it takes."""

    async def body(bench: Bench) -> None:
        start = bench.clock.now_ms()
        manifest = await bench.fill(500, timestamps=lambda base: start - (5000 - base) * 60_000)
        plan = await retain_cold(manifest, config(retention_ms=1000 * 60_000), now_ms=start, grace_ms=GRACE_MS)
        assert plan is not None
        root = await bench.root()
        assert root.log_start_offset >= 3990
        assert not root.has_dead_rows or len(root.garbage) >= 192

    with_bench(body)


@pytest.mark.parametrize("rows", [100, 400])
def test_retention_reads_what_goes_and_not_what_stays(rows: int) -> None:
    """The same 24 rows go out of a hundred and out of four hundred: the same pages of rows are read, each once."""

    async def body(bench: Bench) -> None:
        with small():
            day = bench.clock.now_ms() - 30 * DAY_MS
            await bench.fill(rows, timestamps=lambda base: day - DAY_MS if base < 240 else day + DAY_MS)
            read: list[str] = []
            real = bench.store.get

            async def get(key: str, start: int = 0, end: int | None = None) -> Blob:
                if "/archive/" in key:
                    read.append(key)
                return await real(key, start, end)

            bench.store.get = get  # type: ignore[method-assign]
            bench.store.bind = lambda **names: bench.store  # type: ignore[method-assign, assignment]
            failed, (plan,) = await run_all(bench, config(retention_ms=30 * DAY_MS))
            assert (failed, plan.cold_entries) == (0, 24)
            pages = [key for key in read if key.endswith(".parquet")]
            assert len(pages) == len(set(pages)) <= 4, "three pages of eight rows go, and the first that stays is looked into"
            indexes = [key for key in read if key.endswith(".index")]
            assert len(indexes) == len(set(indexes)) <= 3

    with_bench(body)
