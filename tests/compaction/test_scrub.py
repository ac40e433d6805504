"""The scrub on a real node in a simulated world: bits rot on its disk, nobody reads wrong bytes, and what the store has comes back."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compaction.scrub import Hurt, Repair, Stored, plan_ranges, plan_repair
from hotlog.kernel.errors import DamagedRecords
from hotlog.log.scrub import ScrubRange
from hotlog.log.segment import SegmentInfo
from hotlog.partitions.partition import Partition
from hotlog.wire.batch import header_at
from tests.sim.bucket import Violation
from tests.sim.checker import batches_of, check_partition
from tests.sim.clock import HOUR_MS
from tests.sim.test_faults import Scene
from tests.sim.traffic import TopicPlan
from tests.sim.world import SimWorld, simulate

PLAN = TopicPlan("rot", 1, {"segment.bytes": "4096", "retention.ms": "-1", "index.interval.bytes": "600"})
SETTINGS = {"hotlog.scrub.interval.ms": str(HOUR_MS), "log.retention.check.interval.ms": str(HOUR_MS)}

# The planner


def test_a_damaged_segment_goes_when_the_store_has_it_whole() -> None:
    hurt = [Hurt(10, True, [(2, 3), (5, 6), (8, 10)]), Hurt(20, True, [(12, 13)]), Hurt(30, True, [(20, 30)])]
    assert plan_repair(hurt, Stored(0, 25), log_start_offset=0, local_start_offset=0) == Repair(20, (2, 8, 12))
    assert plan_repair(hurt, Stored(0, 9), log_start_offset=0, local_start_offset=0) is None
    assert plan_repair(hurt, None, log_start_offset=0, local_start_offset=0) is None
    assert plan_repair([], Stored(0, 25), log_start_offset=0, local_start_offset=0) is None


def test_nothing_is_asked_for_that_was_deleted() -> None:
    hurt = [Hurt(10, True, [(2, 4), (5, 8)])]
    assert plan_repair(hurt, Stored(6, 20), log_start_offset=6, local_start_offset=0) == Repair(10, (6,))
    assert plan_repair(hurt, Stored(9, 20), log_start_offset=9, local_start_offset=0) == Repair(10, ())


def test_nothing_goes_while_it_is_written_to_or_while_the_store_lacks_what_is_older() -> None:
    assert plan_repair([Hurt(10, False, [(2, 3)])], Stored(0, 10), log_start_offset=0, local_start_offset=0) is None
    hurt = [Hurt(20, True, [(12, 13)])]
    assert plan_repair(hurt, Stored(10, 30), log_start_offset=0, local_start_offset=0) is None
    assert plan_repair(hurt, Stored(10, 30), log_start_offset=0, local_start_offset=10) == Repair(20, (12,))


@given(
    ends=st.lists(st.integers(1, 100), unique=True).map(sorted), stored=st.tuples(st.integers(0, 100), st.integers(0, 100)),
    starts=st.tuples(st.integers(0, 100), st.integers(0, 100)),
)  # fmt: skip
def test_a_repair_never_drops_what_the_store_has_not(ends: list[int], stored: tuple[int, int], starts: tuple[int, int]) -> None:
    hurt = [Hurt(end, True, [(end - 1, end)]) for end in ends]
    plan = plan_repair(hurt, Stored(*stored), log_start_offset=starts[0], local_start_offset=starts[1])
    if plan is not None:
        assert plan.drop_offset <= stored[1]
        assert stored[0] <= max(starts)
        assert all(offset < plan.drop_offset for offset in plan.proofs)


def test_what_nobody_may_read_is_not_looked_at() -> None:
    ranges = [ScrubRange(base, base + 10, 100, "x", False, (), None) for base in (0, 10, 20)]
    assert plan_ranges(ranges, 10) == ranges[1:]
    assert plan_ranges(ranges, 11) == ranges[1:]
    assert plan_ranges(ranges, 30) == []


# The worker


def on_a_node(*, seed: int, hours: int) -> Callable[[Callable[[Scene], Awaitable[None]]], Callable[[], None]]:
    """A test of a simulated node whose topic has had so many hours of traffic."""

    def decorate(body: Callable[[Scene], Awaitable[None]]) -> Callable[[], None]:
        def test() -> None:
            async def main(world: SimWorld) -> None:
                await body(await Scene.open(world, PLAN, hours=hours))

            simulate(seed, main, settings=SETTINGS)

        test.__doc__ = body.__doc__
        return test

    return decorate


def counted(scene: Scene, where: str) -> float:
    return float(scene.life.metrics.corruption.labels(where)._value.get())


def rot(scene: Scene, info: SegmentInfo, batch: int) -> tuple[int, int]:
    """Flip a payload bit of the `batch`-th batch of a segment; its offsets."""
    data = scene.life.disk.read(info.log_path)
    position = 0
    for _ in range(batch):
        position += header_at(data, position).size
    header = header_at(data, position)
    scene.world.machine.flip(info.log_path, position + header.size - 20, bit=3)
    return header.base_offset, header.next_offset


async def scrub_round(scene: Scene) -> None:
    """The next whole round, and the tick after it, which repairs."""
    await asyncio.sleep(2 * 3600)
    await scene.life.beat("scrub")
    await scene.life.beat("scrub")


async def read_around(partition: Partition, bad: tuple[int, int]) -> None:
    """All that is local but `bad` is read, and `bad` is refused from every side."""
    log, offset = partition.log, partition.log.local_log_start_offset
    while offset < log.high_watermark:
        if bad[0] <= offset < bad[1]:
            with pytest.raises(DamagedRecords, match=str(bad[0])):
                await log.read_blocking(offset, 1 << 20, min_one=True)
            offset += 1
            continue
        batches = batches_of((await log.read_blocking(offset, 1 << 20, min_one=True)).data, offset)
        assert batches, offset
        assert all(not bad[0] <= batch.base_offset < bad[1] for batch in batches)
        offset = batches[-1].next_offset


def objects(world: SimWorld) -> Iterator[bytes]:
    return (one.body for key, one in sorted(world.bucket.objects.items()) if key.endswith(".seg"))


@on_a_node(seed=1, hours=30)
async def test_a_sound_node_is_read_whole_in_each_round_and_nothing_is_found(scene: Scene) -> None:
    partition, ledger = scene.first
    metrics, before = scene.life.metrics, scene.life.metrics.scrub_bytes._value.get()
    await scrub_round(scene)
    assert metrics.scrub_bytes._value.get() - before == partition.log.size
    assert metrics.scrub_ended._value.get() * 1000 == pytest.approx(scene.world.clock.now_ms(), abs=60_000)
    assert counted(scene, "scrub") == counted(scene, "index") == counted(scene, "leader-epochs") == 0
    await check_partition(partition, ledger)


@on_a_node(seed=2, hours=40)
async def test_rot_in_a_tiered_segment_is_found_and_the_store_takes_over(scene: Scene) -> None:
    partition, ledger = scene.first
    log = partition.log
    infos = log.segments()
    assert infos[2].end_offset <= log.tiered_end_offset
    rot(scene, infos[1], 1)
    rot(scene, infos[2], 0)
    with pytest.raises(Violation, match="nobody sent"):
        await check_partition(partition, ledger)  # so bad is it without a scrub
    await scrub_round(scene)
    assert counted(scene, "scrub") == 2
    assert scene.life.metrics.scrub_repairs.labels("rot")._value.get() == 1
    assert log.local_log_start_offset == infos[2].end_offset
    assert (log.log_start_offset, log.scrub.damaged_segments()) == (0, [])
    await check_partition(partition, ledger)
    await scene.restart("power")
    await scene.hours(2)
    await check_partition(*scene.first)


@on_a_node(seed=3, hours=40)
async def test_nothing_is_dropped_before_the_store_has_answered(scene: Scene) -> None:
    await scene.restart("stop")  # nothing in memory
    scene.life.disk.remove_tree("/data/cache")
    await scene.restart("stop")
    partition, ledger = scene.first
    bad = rot(scene, partition.log.segments()[1], 2)
    scene.world.bucket.weather.down = True
    await scrub_round(scene)
    assert partition.log.local_log_start_offset == 0
    assert len(partition.log.scrub.damaged_segments()) == 1
    await read_around(partition, bad)
    scene.world.bucket.weather.down = False
    await scrub_round(scene)
    assert partition.log.local_log_start_offset == partition.log.segments()[0].base_offset > bad[0]
    assert counted(scene, "scrub") == 1, "the same damage is told once"
    await check_partition(partition, ledger)


@on_a_node(seed=4, hours=20)
async def test_rot_in_a_segment_that_only_we_have_stays_here_and_is_told(scene: Scene) -> None:
    """It is refused, never uploaded, and does not go unseen; the rest is served; deleting it lets the uploads go on."""
    scene.world.bucket.weather.down = True
    await scene.hours(20)
    partition, ledger = scene.first
    log = partition.log
    info = next(info for info in log.segments() if info.base_offset >= log.tiered_end_offset)
    bad = rot(scene, info, 1)
    rotten = scene.life.disk.read(info.log_path)[-100:]
    await scrub_round(scene)
    assert counted(scene, "scrub") == 1
    await read_around(partition, bad)
    scene.world.bucket.weather.down = False
    await scene.hours(3)
    assert log.tiered_end_offset == info.base_offset, "what is damaged must not be uploaded"
    assert counted(scene, "copy") > 0
    assert scene.life.metrics.remote_copy_lag_segments.labels("rot")._value.get() > 1
    await scene.life.node.refresh_metrics()
    assert scene.life.metrics.damaged_segments.labels("rot")._value.get() == 1
    assert scene.life.node.health().refusing == ()
    await read_around(partition, bad)
    log.advance_log_start(info.end_offset)  # DeleteRecords
    await scene.hours(3)
    assert log.tiered_end_offset > info.end_offset
    assert not any(rotten in body for body in objects(scene.world))
    await check_partition(partition, ledger)


@on_a_node(seed=5, hours=11)
async def test_rot_in_the_active_segment_is_found_too(scene: Scene) -> None:
    partition, _ = scene.first
    bad = rot(scene, partition.log.segments()[-1], 0)
    await scrub_round(scene)
    assert counted(scene, "scrub") == 1
    await read_around(partition, bad)


@on_a_node(seed=6, hours=20)
async def test_a_rotten_index_is_made_anew(scene: Scene) -> None:
    partition, ledger = scene.first
    info = partition.log.segments()[1]
    good = scene.life.disk.read(info.log_path.removesuffix(".log") + ".index")
    scene.world.machine.flip(info.log_path.removesuffix(".log") + ".index", 5, bit=1)
    await scrub_round(scene)
    await scene.life.beat("log")
    assert (counted(scene, "index"), counted(scene, "scrub")) == (1, 0)
    assert scene.life.disk.read(info.log_path.removesuffix(".log") + ".index") == good
    await check_partition(partition, ledger)


@on_a_node(seed=6, hours=20)
async def test_a_leader_epoch_checkpoint_that_rotted_is_told_and_no_batch_is_blamed(scene: Scene) -> None:
    partition, ledger = scene.first
    assert partition.log.epochs.assign(9, 10)
    await scrub_round(scene)
    assert counted(scene, "leader-epochs") == sum(info.end_offset > 10 for info in partition.log.segments())
    assert counted(scene, "scrub") == 0
    await check_partition(partition, ledger)


@on_a_node(seed=7, hours=20)
async def test_a_disk_that_fails_now_and_then_does_not_end_the_round(scene: Scene) -> None:
    scene.world.machine.fail("open", errno.EMFILE, pattern="*.log", times=1)
    await scrub_round(scene)
    assert counted(scene, "scrub") == 0
    before = scene.life.metrics.scrub_bytes._value.get()
    await scrub_round(scene)
    assert scene.life.metrics.scrub_bytes._value.get() - before == scene.first[0].log.size


def test_the_rate_is_kept_and_minus_one_is_off() -> None:
    plan = TopicPlan(
        "rot", 1, {"segment.bytes": "65536", "retention.ms": "-1", "remote.storage.enable": "false"}, value_bytes=5000
    )

    async def main(world: SimWorld) -> None:
        scene = await Scene.open(world, plan)
        for _ in range(50):
            await scene.traffic.produce(scene.life)
        started = world.clock.monotonic()
        await scene.life.beat("scrub")
        assert scene.life.metrics.scrub_bytes._value.get() == scene.first[0].log.size > 1_000_000
        assert world.clock.monotonic() - started >= (scene.first[0].log.size - 65536 * 2) / 65536

    simulate(8, main, settings={**SETTINGS, "hotlog.scrub.bytes.per.second": "65536"})

    async def off(world: SimWorld) -> None:
        scene = await Scene.open(world, plan, hours=30)
        assert scene.life.metrics.scrub_bytes._value.get() == 0

    simulate(8, off, settings={**SETTINGS, "hotlog.scrub.interval.ms": "-1"})


def test_a_topic_that_is_deleted_meanwhile_does_not_stop_the_round() -> None:
    plans = [TopicPlan(name, 1, {"segment.bytes": "65536"}, value_bytes=5000) for name in ("gone", "other")]

    async def main(world: SimWorld) -> None:
        scene = await Scene.open(world, *plans)
        for _ in range(20):
            await scene.traffic.produce(scene.life)
        (tick,) = (beat.tick for beat in scene.life.node.beats if beat.name == "scrub")
        assert await tick(), "the round takes longer than a tick"
        (_, gone, _), (_, other, _) = scene.traffic.partitions(scene.life)
        assert await scene.life.broker.delete_topics([gone.topic_id]) == [None]
        await scene.life.beat("scrub")
        read = scene.life.metrics.scrub_bytes._value.get()
        assert other.log.size < read < other.log.size + gone.log.size
        assert counted(scene, "scrub") == 0

    simulate(9, main, settings={**SETTINGS, "hotlog.scrub.bytes.per.second": "65536"})
