"""The simulated store: the port's promises, every way it can go wrong, and that a dead process's request may still arrive."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from hotlog.kernel.errors import Corrupt, Invalid, NotFound, OutcomeUnknown, PreconditionFailed, StoreUnavailable
from tests.sim.bucket import Bucket, Violation
from tests.sim.clock import SimClock
from tests.sim.entropy import stream
from tests.sim.fuse import Crashed, Fuse
from tests.sim.loop import SimLoop, run
from tests.sim.store import SimStore
from tests.sim.trace import Trace
from tiering.store.sources import BytesSource


def with_store(body: Callable[[SimStore], Coroutine[Any, Any, None]], seed: int = 0, at: int | None = None) -> None:
    async def main(loop: SimLoop) -> None:
        bucket = Bucket(SimClock(loop), stream(seed, "store"))
        await body(SimStore(bucket, Trace(loop), Fuse(at), part_bytes=100))

    run(main)


async def keys_of(store: SimStore, prefix: str = "", after: str = "") -> list[str]:
    return [info.key async for info in store.list(prefix, after=after)]


def test_what_is_written_is_read_listed_and_deleted() -> None:
    async def body(store: SimStore) -> None:
        etag = await store.put("a/b", b"0123456789")
        blob = await store.get("a/b", 2, 5)
        assert (bytes(blob.data), blob.etag, blob.size) == (b"234", etag, 10)
        assert bytes((await store.get_tail("a/b", 3)).data) == b"789"
        assert bytes((await store.get_tail("a/b", 30)).data) == b"0123456789"
        for number in range(120):
            await store.put(f"l/{number:03}", b"")
        assert await keys_of(store, "l/", after="l/100") == [f"l/{number:03}" for number in range(101, 120)]
        assert len(await keys_of(store, "l/")) == 120
        await store.delete(["a/b", "a/none"])
        with pytest.raises(NotFound):
            await store.head("a/b")
        with pytest.raises(Corrupt):
            await store.get("l/001", 0, 1)
        with pytest.raises(Invalid):
            await store.put("../x", b"")

    with_store(body)


def test_one_conditional_writer_wins() -> None:
    async def body(store: SimStore) -> None:
        wins = await asyncio.gather(*(store.put("k", bytes([n]), if_absent=True) for n in range(8)), return_exceptions=True)
        assert sum(isinstance(win, str) for win in wins) == 1
        etag = next(win for win in wins if isinstance(win, str))
        wins = await asyncio.gather(*(store.put("k", bytes([n + 9]), if_match=etag) for n in range(8)), return_exceptions=True)
        assert sum(isinstance(win, str) for win in wins) == 1
        assert sum(isinstance(win, PreconditionFailed) for win in wins) == 7
        with pytest.raises(NotFound):
            await store.put("none", b"", if_match=etag)

    for seed in range(5):
        with_store(body, seed)


def test_a_large_object_goes_in_parts_and_is_visible_only_when_whole() -> None:
    async def body(store: SimStore) -> None:
        store.bucket.fail("part", "unavailable", skip=2)
        if seed % 2:
            store.bucket.fail("abort", "unavailable")
        with pytest.raises(StoreUnavailable):
            await store.put_source("big", BytesSource(bytes(450)))
        assert await keys_of(store) == []
        pending = [upload async for upload in store.list_uploads("")]
        for upload in pending:
            await store.abort_upload(upload)
        assert not store.bucket.uploads
        left.append(len(pending))
        await store.put_source("big", BytesSource(b"x" * 450))
        assert (await store.head("big")).size == 450

    left: list[int] = []
    for seed in range(4):
        with_store(body, seed)
    assert left == [0, 1, 0, 1]  # the client's own abort is best effort


def test_an_answer_can_be_lost_after_the_deed() -> None:
    async def body(store: SimStore) -> None:
        store.bucket.fail("put", "lost", times=2)
        with pytest.raises(OutcomeUnknown):
            await store.put("k", b"1", if_absent=True)
        with pytest.raises(StoreUnavailable):
            await store.put("j", b"2")
        assert await keys_of(store) == ["j", "k"]
        store.bucket.fail("put", "conflict")
        with pytest.raises(OutcomeUnknown):
            await store.put("l", b"1", if_absent=True)
        assert await keys_of(store) == ["j", "k"]
        store.bucket.weather.down = True
        with pytest.raises(StoreUnavailable):
            await store.get("k")

    with_store(body)


def test_reads_can_lie() -> None:
    async def body(store: SimStore) -> None:
        await store.put("k", b"old data")
        await store.put("k", b"abcdefgh")
        await store.put("a", b"zzzzzzzzzz")
        expected = {"wrong-range": b"bcd", "other-object": b"zzz", "stale": b"d d"}
        for fate, lie in expected.items():
            store.bucket.fail("get", fate)
            assert bytes((await store.get("k", 2, 5)).data) == lie
        store.bucket.fail("get", "flipped")
        lie = bytes((await store.get("k", 2, 5)).data)
        assert len(lie) == 3
        assert lie != b"cde"
        store.bucket.fail("get", "short")
        with pytest.raises(Corrupt):
            await store.get("k", 2, 5)
        assert bytes((await store.get("k", 2, 5)).data) == b"cde"

    with_store(body)


def test_lists_can_be_late_and_deletes_can_be_lies() -> None:
    async def body(store: SimStore) -> None:
        await store.put("old", b"")
        await asyncio.sleep(100)
        store.bucket.weather.list_stale_seconds = 50
        await store.put("new", b"")
        seen = {tuple(await keys_of(store)) for _ in range(20)}
        assert seen == {("new", "old"), ("old",)}
        await asyncio.sleep(100)
        assert {tuple(await keys_of(store)) for _ in range(20)} == {("new", "old")}
        store.bucket.fail("delete", "kept")
        await store.delete(["old"])
        assert (await store.head("old")).size == 0

    with_store(body)


def test_a_call_can_hang_for_ever() -> None:
    async def body(store: SimStore) -> None:
        store.bucket.fail("get", "hang")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(store.get("k"), 86_400)

    with_store(body)


def test_deleting_a_live_key_is_a_violation_that_stays_on_record() -> None:
    async def body(store: SimStore) -> None:
        await store.put("live", b"")
        store.bucket.guard = lambda key: "is live" if key == "live" else None
        with pytest.raises(Violation):
            await store.delete(["live"])
        assert store.bucket.violations == ["delete of live: is live"]
        assert await keys_of(store) == ["live"]

    with_store(body)


def test_a_request_outlives_the_caller_that_left() -> None:
    async def body(store: SimStore) -> None:
        task = asyncio.create_task(store.put("late", b"x"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(1)
        assert task.cancelled()
        assert await keys_of(store) == ["late"]

    with_store(body)


def test_a_process_dies_before_or_after_its_deed() -> None:
    outcomes: set[tuple[int, bool]] = set()

    async def body(store: SimStore) -> None:
        at = store._fuse.at or 0
        with pytest.raises(Crashed):
            await store.put("k", b"x")
        with pytest.raises(Crashed):
            await store.head("k")
        await asyncio.sleep(1)
        outcomes.add((at, "k" in store.bucket.objects))

    for seed in range(12):
        with_store(body, seed, at=1)
        with_store(body, seed, at=2)
    assert outcomes == {(1, False), (1, True), (2, True)}  # 1: may have gone out all the same; 2: done, not answered
