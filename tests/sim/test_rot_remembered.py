"""Fault 12 over deaths: what a scrub has found is refused by every later life, from its start on, until the store has made it good.

By default the process dies at each of the first calls after a find, and at every STRIDE-th after them, another set for each seed.  A seed that is
not whole (tests.sim.seeds) draws one call among the first, one among the rest, and how the process ends.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from hotlog.kernel.errors import DamagedRecords
from hotlog.kernel.limits import KiB
from hotlog.log.scrub_view import ScrubView
from hotlog.partitions.partition import Partition
from tests.compaction.test_scrub import rot
from tests.sim.bucket import Violation
from tests.sim.checker import Ledger, batches_of, check_partition
from tests.sim.clock import HOUR_MS, MINUTE_MS
from tests.sim.entropy import stream
from tests.sim.fuse import Fuse
from tests.sim.seeds import SEEDS, is_whole
from tests.sim.test_faults import Scene
from tests.sim.traffic import TopicPlan
from tests.sim.world import Life, SimWorld, simulate

STRIDE = 6
FIRST_CALLS = 7  # the file is written in them
CALLS_MAX = 300
SMALL_CALLS_MAX = 60  # calls that a small seed draws from: some stories end before
TURNS, SMALL_TURNS = 18, 6  # of gathering rot: the store is back in every sixth
SETTINGS = {"hotlog.scrub.interval.ms": str(HOUR_MS // 2), "log.retention.check.interval.ms": str(10 * MINUTE_MS)}
UNCACHED = {**SETTINGS, "hotlog.cache.disk.bytes": "0", "hotlog.cache.memory.bytes": "0"}  # only the store can prove what it has
FILE = "/data/log/damaged-segments"


def plan(name: str, partitions: int, segment_bytes: int, **more: str) -> TopicPlan:
    configs = {"segment.bytes": str(segment_bytes), "retention.ms": "-1", "index.interval.bytes": "600", **more}
    return TopicPlan(name, partitions, configs)


@dataclass
class Finds:
    """What logs were told to save, and for which of them that came to its end."""

    fuse: Fuse | None = None
    at: int = 0  # the fuse blows in this call, counted from the first find on
    begun: int = 0
    ended: int = 0


@pytest.fixture
def finds(monkeypatch: pytest.MonkeyPatch) -> Finds:
    seen, wait = Finds(), ScrubView.wait_damage_saved

    async def noted(self: ScrubView) -> None:
        seen.begun += 1
        if seen.fuse is not None and seen.begun == 1:
            seen.fuse.at = seen.fuse.calls + seen.at
        await wait(self)
        seen.ended += 1

    monkeypatch.setattr(ScrubView, "wait_damage_saved", noted)
    return seen


async def refused(partition: Partition, ledger: Ledger) -> set[int]:
    """Base offsets of the acknowledged local batches that are refused; each is read for itself.

    Raises:
        Violation: one is served with other bytes than were acknowledged.
    """
    found, log = set(), partition.log
    for one in ledger.acked:
        if one.base_offset < log.local_log_start_offset:
            continue
        try:
            got = batches_of((await log.read_blocking(one.base_offset, 1, min_one=True)).data, one.base_offset)
        except DamagedRecords:
            found.add(one.base_offset)
            continue
        if got[0].body != one.body:
            raise Violation(f"offset {one.base_offset} is served with other bytes")
    return found


class Story:
    """A segment rots, a scrub finds it; the process dies in the `at`-th call after that, and the next one soon after its start."""

    def __init__(self, scene: Scene, finds: Finds, how: str) -> None:
        self.scene = scene
        self.finds = finds
        self.how = how
        self.bad = -1
        self.was_refused = False

    async def tell(self, at: int) -> bool:
        """Whether the process died of it."""
        scene, world, finds = self.scene, self.scene.world, self.finds
        info = scene.first[0].log.segments()[2]
        self.bad, _ = rot(scene, info, 1)
        world.bucket.weather.down = at % 2 == 0  # nothing can be made good then
        await asyncio.sleep(3600)
        finds.fuse, finds.at, finds.begun, finds.ended = scene.life.fuse, at, 0, 0
        died = not await scene.life.run(self.find)
        assert finds.begun == 1
        is_saved = finds.ended == 1
        assert is_saved or at <= FIRST_CALLS
        await scene.life.end(self.how)
        world.bucket.weather.down = False
        scene.life = world.begin(at=world.random.randint(1, 120))
        await scene.life.run(self.start)
        await scene.life.end(self.how)
        for _ in range(2):
            scene.life = await world.boot()
            await self.check(is_saved)
            await scene.life.end(self.how)
        scene.life = await world.boot()
        await scene.hours(3)
        await scene.traffic.check(scene.life)
        assert scene.first[0].log.scrub.damaged_segments() == []
        assert not scene.life.disk.exists(FILE), "what was made good is forgotten"
        return died

    @staticmethod
    async def find(life: Life) -> None:
        await life.beat("scrub")
        await life.beat("log", "scrub")  # a checkpoint; repairs
        await asyncio.sleep(300)
        await life.beat("log")

    @staticmethod
    async def start(life: Life) -> None:
        await life.open()

    async def check(self, is_saved: bool) -> None:
        """No scrub has run in this life: what was saved is refused, all else is served."""
        partition, ledger = self.scene.first
        try:
            missing = await refused(partition, ledger)
        except Violation:
            assert not is_saved, "what was found is served again"
            return
        assert missing <= {self.bad}
        assert missing or self.bad < partition.log.local_log_start_offset
        self.was_refused |= bool(missing)


async def open_and_tell(world: SimWorld, finds: Finds, how: str, at: int) -> tuple[bool, bool]:
    """Whether the process died of it, and whether a later life refused what was found."""
    scene = await Scene.open(world, plan("rot", 1, 2048), hours=14)
    story = Story(scene, finds, how)
    return await story.tell(at), story.was_refused


def tell_whole(seed: int, how: str, finds: Finds) -> None:
    told = times = 0
    for at in range(1, CALLS_MAX):
        if at > FIRST_CALLS and at % STRIDE != seed % STRIDE:
            continue
        died, was_refused = simulate(seed, lambda world, at=at: open_and_tell(world, finds, how, at), settings=SETTINGS)  # type: ignore[misc]
        told, times = told + was_refused, times + 1
        if not died:
            break
    else:
        raise AssertionError("the story never ends")
    assert FIRST_CALLS + 2 < times < 3 * told


def tell_small(seed: int, how: str, finds: Finds) -> None:
    random = stream(seed, "deaths after a find")
    for at in (random.randint(1, FIRST_CALLS), random.randint(FIRST_CALLS + 1, SMALL_CALLS_MAX)):
        simulate(seed, lambda world, at=at: open_and_tell(world, finds, how, at), settings=SETTINGS)  # type: ignore[misc]


HOWS = ("kill", "power")


@pytest.mark.parametrize(
    ("seed", "how"), [(seed, how) for seed in SEEDS for how in (HOWS if is_whole(seed) else (HOWS[seed % 2],))]
)
def test_a_death_at_any_call_after_a_find_serves_nothing_of_it_again(seed: int, how: str, finds: Finds) -> None:
    if is_whole(seed):
        tell_whole(seed, how, finds)
    else:
        tell_small(seed, how, finds)


@pytest.mark.parametrize("seed", SEEDS)
def test_rot_that_gathers_over_many_lives_stays_refused_until_the_store_is_back(seed: int, finds: Finds) -> None:
    """The store is away by turns; between the lives no scrub runs before everything was read."""

    async def main(world: SimWorld) -> None:
        scene, most = await Scene.open(world, plan("pair", 2, 4096), hours=30), 0
        stored: dict[int, int] = {}  # by partition; a life that began without the store does not know
        for turn in range(TURNS if is_whole(seed) else SMALL_TURNS):
            for _, partition, _ in scene.traffic.partitions(scene.life):
                log = partition.log
                end = stored[log.tp.partition] = max(stored.get(log.tp.partition, 0), log.tiered_end_offset)
                infos = [info for info in log.segments()[:-1] if info.end_offset <= end]
                rot(scene, world.random.choice(infos), world.random.randrange(7))
            world.bucket.weather.down = turn % 6 != 5
            await asyncio.sleep(3600)
            await scene.life.beat("scrub")
            known = {
                partition.tp: await refused(partition, ledger) for _, partition, ledger in scene.traffic.partitions(scene.life)
            }
            most = max(most, sum(len(offsets) for offsets in known.values()))
            await scene.restart(world.random.choice(("kill", "power", "stop")))
            for _, partition, ledger in scene.traffic.partitions(scene.life):
                assert await refused(partition, ledger) == known[partition.tp]
            if not world.bucket.weather.down:
                await scene.hours(24)
                await scene.traffic.check(scene.life)
                assert not scene.life.disk.exists(FILE)
        assert most >= (TURNS if is_whole(seed) else SMALL_TURNS) // 3, "too little rotted at a time to tell anything"

    simulate(seed, main, settings=UNCACHED)


def test_what_an_earlier_life_found_is_made_good_before_the_round_comes_to_it() -> None:
    big = TopicPlan("big", 1, {"segment.bytes": str(64 * KiB), "retention.ms": "-1"}, value_bytes=5000)

    async def main(world: SimWorld) -> None:
        scene = await Scene.open(world, big)
        for _ in range(150):
            await scene.traffic.produce(scene.life)
        await scene.hours(3)
        partition, _ = scene.first
        info = partition.log.segments()[-2]
        assert info.end_offset <= partition.log.tiered_end_offset
        rot(scene, info, 1)
        world.bucket.weather.down = True
        await asyncio.sleep(3600)
        await scene.life.beat("scrub")
        assert len(partition.log.scrub.damaged_segments()) == 1
        world.bucket.weather.down = False
        await scene.restart("kill")
        (tick,) = (beat.tick for beat in scene.life.node.beats if beat.name == "scrub")
        partition, ledger = scene.first
        assert len(partition.log.scrub.damaged_segments()) == 1
        start = world.clock.monotonic()
        while partition.log.scrub.damaged_segments():
            assert world.clock.monotonic() < start + 10
            await tick()
        assert scene.life.metrics.scrub_bytes._value.get() < info.base_offset / 4 * 20_000, "the round is not there yet"
        assert partition.log.local_log_start_offset == info.end_offset
        await check_partition(partition, ledger)

    simulate(1, main, settings={**UNCACHED, "hotlog.scrub.bytes.per.second": str(64 * KiB)})
