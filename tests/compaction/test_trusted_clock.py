"""The clock that deletion goes by: never ahead of the wall, never faster than twice the time that really passes."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from compaction.trusted_clock import RESTART_GAP_MS_MAX, SPEED_MAX, KeptClock, TrustedClock, store_time_ms
from tests.sim.bucket import Bucket
from tests.sim.clock import HOUR_MS, YEAR_MS, SimClock
from tests.sim.disk import Machine, SimDisk
from tests.sim.entropy import SimEntropy, stream
from tests.sim.fuse import Fuse
from tests.sim.loop import SimLoop, run
from tests.sim.store import SimStore
from tests.sim.trace import Trace

moves = st.lists(st.tuples(st.integers(0, 7200), st.integers(-YEAR_MS, YEAR_MS)), max_size=20)


@given(moves)
def test_it_never_outruns_the_wall_clock_nor_twice_the_monotonic_one(steps: list[tuple[int, int]]) -> None:
    async def main(loop: SimLoop) -> None:
        clock = SimClock(loop)
        trusted = TrustedClock(clock)
        last, at = trusted.now_ms(), loop.time()
        for seconds, step_ms in steps:
            await asyncio.sleep(seconds)
            clock.step(step_ms)
            now = trusted.now_ms()
            assert now <= clock.now_ms()
            assert now - last <= (loop.time() - at) * 1000 * SPEED_MAX + 1
            last, at = now, loop.time()

    run(main)


def test_a_small_step_is_absorbed_and_a_step_back_is_followed_at_once() -> None:
    async def main(loop: SimLoop) -> None:
        clock = SimClock(loop)
        trusted = TrustedClock(clock)
        clock.step(HOUR_MS)
        assert trusted.behind_ms == HOUR_MS
        await asyncio.sleep(1800)
        assert 0 < trusted.behind_ms <= HOUR_MS // 2
        await asyncio.sleep(1801)
        assert trusted.behind_ms == 0
        clock.step(-5 * HOUR_MS)
        assert trusted.now_ms() == clock.now_ms()

    run(main)


def test_a_restart_does_not_launder_a_jump() -> None:
    async def main(loop: SimLoop) -> None:
        clock = SimClock(loop)
        disk = SimDisk(Machine(stream(0, "disk")), clock, Trace(loop), Fuse())
        first = KeptClock(clock, disk, "/clock")
        before = first.trusted.now_ms()
        await first.save()
        clock.step(YEAR_MS)
        second = KeptClock(clock, disk, "/clock")
        assert second.trusted.now_ms() <= before + RESTART_GAP_MS_MAX
        disk.open("/clock").write_at(0, b"garbage")
        assert KeptClock(clock, disk, "/clock").trusted.now_ms() == clock.now_ms()

    run(main)


def test_after_a_long_downtime_the_store_is_asked_and_only_an_agreeing_one_is_believed() -> None:
    async def main(loop: SimLoop) -> None:
        clock, theirs = SimClock(loop), SimClock(loop)
        bucket = Bucket(theirs, stream(0, "store"))
        store = SimStore(bucket, Trace(loop), Fuse())
        disk = SimDisk(Machine(stream(0, "disk")), clock, Trace(loop), Fuse())
        await KeptClock(clock, disk, "/clock").save()
        clock.step(YEAR_MS)  # wrong, or the time the machine was off: only another clock can tell
        asked = 0

        async def witness() -> int:
            nonlocal asked
            asked += 1
            return await store_time_ms(store, "c1", SimEntropy(asked))

        alone, kept = KeptClock(clock, disk, "/clock"), KeptClock(clock, disk, "/clock", witness)
        bucket.fail("put", "unavailable")
        for _ in range(3):  # the store is away, then disagrees, and again
            await kept.confirm()
            assert kept.trusted.behind_ms > YEAR_MS // 2
        theirs.step(YEAR_MS)
        await alone.confirm()
        assert alone.trusted.behind_ms > YEAR_MS // 2, "without a witness the wall is not believed"
        await kept.confirm()
        assert (kept.trusted.behind_ms, asked) == (0, 4)
        await kept.confirm()
        assert asked == 4, "nobody is asked while the clocks agree"
        await kept.save()
        assert KeptClock(clock, disk, "/clock").trusted.behind_ms == 0, "what was confirmed survives a restart"

    run(main)


def test_the_stores_clock_can_vouch_for_the_wall() -> None:
    async def main(loop: SimLoop) -> None:
        clock, theirs = SimClock(loop), SimClock(loop)
        bucket = Bucket(theirs, stream(0, "store"))
        store = SimStore(bucket, Trace(loop), Fuse())
        trusted = TrustedClock(clock, clock.now_ms() - YEAR_MS)  # the machine was off for a year
        assert trusted.behind_ms > YEAR_MS // 2
        assert trusted.vouch(await store_time_ms(store, "c1", SimEntropy(1)))
        assert trusted.behind_ms == 0
        assert not bucket.objects
        clock.step(YEAR_MS)
        assert not trusted.vouch(await store_time_ms(store, "c1", SimEntropy(1)))
        assert trusted.behind_ms > YEAR_MS // 2

    run(main)
