"""The examination of a store in bad weather: only a wrong answer breaks a promise; what got no answer is asked again."""

from __future__ import annotations

import pytest

from hotlog.kernel.errors import ForeignStore, StoreUnavailable
from tests.sim.bucket import Bucket
from tests.sim.clock import SimClock
from tests.sim.entropy import SimEntropy, stream
from tests.sim.fuse import Fuse
from tests.sim.loop import SimLoop, run
from tests.sim.store import SimStore
from tests.sim.trace import Trace
from tiering.store.check import CHECK_PREFIX, Examination, check_store
from tiering.store.resilient import Policy, ResilientStore, Retrier

HOPELESS = 40  # examinations: a share of lost answers of 0.5 needs about two


def bucket_and_store(loop: SimLoop, seed: int) -> tuple[Bucket, ResilientStore]:
    clock = SimClock(loop)
    bucket = Bucket(clock, stream(seed, "store"))
    raw = SimStore(bucket, Trace(loop), Fuse())
    return bucket, ResilientStore(raw, Retrier(Policy(), clock, SimEntropy(seed)))


def careless(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Bucket.put

    def put(self: Bucket, key: str, body: bytes, if_match: str | None, if_absent: bool, parts: int = 0) -> str:
        return honest(self, key, body, None, False, parts)

    monkeypatch.setattr(Bucket, "put", put)


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_a_store_that_loses_every_second_answer_is_never_accused_and_passes_at_last(seed: int, quick: bool) -> None:
    async def main(loop: SimLoop) -> None:
        bucket, store = bucket_and_store(loop, seed)
        bucket.weather.lost, bucket.weather.unavailable, bucket.weather.hang = 0.5, 0.05, 0.01
        examination = Examination(store, quick=quick, entropy=SimEntropy(seed))
        for _ in range(HOPELESS):
            report = await examination.report()
            assert report.broken == ()
            if report.ok:
                report.require()
                return
            with pytest.raises(StoreUnavailable, match="could not be checked"):
                report.require()
        raise AssertionError(f"not examined in {HOPELESS} tries: {report}")

    run(main)


def test_a_store_whose_answers_to_writes_are_all_lost_is_not_accused() -> None:
    async def main(loop: SimLoop) -> None:
        bucket, store = bucket_and_store(loop, 1)
        bucket.fail("put", "lost", times=1_000_000)
        report = await check_store(store, quick=True, entropy=SimEntropy(1))
        assert (report.ok, report.broken, report.reachable) == (False, (), False)
        with pytest.raises(StoreUnavailable, match="could not be checked"):
            report.require()

    run(main)


def test_requests_that_arrive_after_their_sender_gave_up_accuse_nobody() -> None:
    async def main(loop: SimLoop) -> None:
        for seed in range(20):
            bucket, store = bucket_and_store(loop, seed)
            bucket.weather.slow, bucket.weather.slow_seconds = 0.3, 40.0  # beyond the deadline of an attempt
            assert (await check_store(store, quick=True, entropy=SimEntropy(seed))).broken == ()

    run(main)


def test_a_promise_that_was_kept_is_not_asked_again() -> None:
    async def main(loop: SimLoop) -> None:
        bucket, store = bucket_and_store(loop, 1)
        examination = Examination(store, quick=True, entropy=SimEntropy(1))
        bucket.fail("put", "unavailable", pattern="*/match", times=1_000_000)
        report = await examination.report()
        assert [result.name for result in report.results if not result.ok] == ["replace only if unchanged"]
        assert not report.reachable
        bucket.faults.clear()
        before = bucket.counts["put", "check"]
        assert (await examination.report()).ok
        assert bucket.counts["put", "check"] - before == 4, "of the promise that was left"
        assert [key for key in bucket.objects if key.startswith(CHECK_PREFIX)] == []

    run(main)


@pytest.mark.parametrize("lost", [0.0, 0.5])
def test_a_store_that_ignores_conditions_is_refused_also_where_it_loses_answers(
    lost: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    careless(monkeypatch)

    async def main(loop: SimLoop) -> None:
        bucket, store = bucket_and_store(loop, 3)
        bucket.weather.lost = lost
        with pytest.raises(ForeignStore, match="stale If-Match was accepted"):
            (await check_store(store, quick=True, entropy=SimEntropy(3))).require()

    run(main)


def test_a_late_store_is_examined_in_a_few_of_its_round_trips() -> None:
    """Promises are tried beside each other: 2 s for each request made a start wait for 40 s."""

    async def main(loop: SimLoop) -> None:
        bucket, store = bucket_and_store(loop, 1)
        bucket.weather.latency_seconds = 2.0  # there and back: 1 to 4 s
        began = loop.time()
        assert (await check_store(store, quick=True, entropy=SimEntropy(1))).ok
        assert loop.time() - began < 6 * 4.0

    run(main)
