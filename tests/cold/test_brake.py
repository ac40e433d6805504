"""Reads of history give way to the tail: by how late the loop is, only while somebody produces, and never to a standstill."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from hotlog.apis import k00_produce
from hotlog.kernel.configdef import LONG_MAX
from hotlog.kernel.limits import MiB
from hotlog.kernel.metrics import Metrics
from hotlog.kernel.settings import Settings
from hotlog.wire.produce import ProduceRequest
from tests.sim.clock import SimClock
from tests.sim.loop import SimLoop, run
from tests.sim.world import SimWorld, simulate
from tiering.store.brake import FLOOR_BYTES_PER_SECOND, Brake, ReadRate

GOOD_S = 0.005
LATE_S = 0.020
HALF_S = 0.5


class Felt(NamedTuple):
    """One look."""

    late_s: float
    has_produced: bool
    read_bytes: int


looks = st.builds(Felt, st.floats(0, 1), st.booleans(), st.integers(0, 4 << 30))


def step(brake: Brake, felt: Felt, *, late_s_max: float = GOOD_S) -> int:
    return brake.step(
        late_s=felt.late_s, late_s_max=late_s_max, has_produced=felt.has_produced, read_bytes=felt.read_bytes, seconds=HALF_S
    )


@given(st.lists(looks, max_size=200))
def test_reads_never_stand_still_and_are_free_again_once_nobody_produces(felt: list[Felt]) -> None:
    brake = Brake()
    for each in felt:
        assert FLOOR_BYTES_PER_SECOND <= step(brake, each) <= LONG_MAX
    for _ in range(10):
        step(brake, Felt(1.0, False, 1 << 30))
    assert brake.rate == LONG_MAX


@given(st.lists(looks, max_size=50))
def test_a_brake_that_is_off_slows_nothing(felt: list[Felt]) -> None:
    brake = Brake()
    assert all(step(brake, each, late_s_max=-0.001) == LONG_MAX for each in felt)


@given(st.integers(100 * MiB, 8 << 30), st.sampled_from([0.0, 0.6 * GOOD_S, 4 * GOOD_S]))
def test_what_is_read_settles_below_what_makes_the_loop_late(harmless: int, own_s: float) -> None:
    """A machine on which the loop is later when more than `harmless` bytes a second are read, and a replay that takes all it gets.

    The loop may be late anyhow (`own_s`), more than is good even: then it is not the reads' doing, and they are not starved for it.
    """
    brake, read = Brake(), []
    for _ in range(400):
        read.append(min(brake.rate, 16 << 30))
        step(brake, Felt(own_s * 3 + LATE_S if read[-1] > harmless else own_s, True, int(read[-1] * HALF_S)))
    settled = read[100:]
    assert sum(pace > harmless for pace in settled) <= len(settled) / 3
    assert sum(settled) / len(settled) > 0.6 * harmless, "and it does not give up what hurts nobody"


def test_lateness_that_is_not_the_reads_doing_slows_nothing() -> None:
    brake = Brake()
    for _ in range(50):
        assert step(brake, Felt(1.0, True, int(FLOOR_BYTES_PER_SECOND * HALF_S))) == LONG_MAX


def test_no_brake_while_nobody_produces() -> None:
    brake = Brake()
    for _ in range(50):
        assert step(brake, Felt(1.0, False, 1 << 30)) == LONG_MAX


def test_the_slower_of_brake_and_setting_counts_and_reads_wait_for_it() -> None:
    async def body(loop: SimLoop) -> None:
        clock, metrics = SimClock(loop), Metrics()
        limited = {"remote.log.manager.fetch.max.bytes.per.second": str(200 * MiB)}
        rate = ReadRate(clock, Settings.resolve({}), metrics)

        async def seconds_for(size: int) -> float:
            began = clock.monotonic()
            for _ in range(size // (16 * MiB)):
                await rate.pace(16 * MiB)
            return clock.monotonic() - began

        def told() -> float | None:
            return metrics.registry.get_sample_value("hotlog_cold_read_limit_bytes_per_second")

        assert await seconds_for(1 << 30) == 0
        await asyncio.sleep(1)
        rate.feel(LATE_S, has_produced=True)
        assert rate.bytes_per_second == 768 * MiB, "three quarters of the GiB that was read in this second"
        assert told() == 768 * MiB
        assert 2 <= await seconds_for(3 << 30) <= 4
        rate.reconfigure(Settings.resolve(limited))
        assert (rate.bytes_per_second, told()) == (200 * MiB, 200 * MiB)
        rate.reconfigure(Settings.resolve({"hotlog.replay.yield.lag.ms": "-1"}))
        rate.feel(LATE_S, has_produced=True)
        assert (rate.bytes_per_second, told()) == (LONG_MAX, 0)

    run(body)


def test_a_node_holds_its_replays_back_only_while_somebody_produces() -> None:
    async def main(world: SimWorld) -> None:
        node = (await world.boot()).node
        assert node.broker.tier is not None
        rate = node.broker.tier.reader.chunks.rate

        async def replay_and_feel() -> int:
            await rate.pace(1 << 30)
            await asyncio.sleep(1)
            node.feel_lag(LATE_S)
            return rate.bytes_per_second

        assert await replay_and_feel() == LONG_MAX
        context: Any = SimpleNamespace(has_failed=False, version=9)
        k00_produce.handle(node.broker, context, ProduceRequest(None, 0, 1000, []))
        assert await replay_and_feel() < 1 << 30
        for _ in range(5):
            await replay_and_feel()
        assert rate.bytes_per_second == LONG_MAX

    simulate(1, main)
