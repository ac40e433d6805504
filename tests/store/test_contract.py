"""The contract of ObjectStore, held against every real form: a directory, MinIO, SeaweedFS.  (The simulator holds its own to it too.)"""

from __future__ import annotations

import asyncio
import os
import tracemalloc

import pytest

from hotlog.kernel.errors import Corrupt, Invalid, NotFound, OutcomeUnknown, PreconditionFailed
from hotlog.kernel.limits import MiB
from hotlog.world.ports import ObjectStore
from tests.conftest import OpenStore
from tests.fixtures.s3_servers import S3Server
from tiering.store.check import check_store
from tiering.store.resilient import ResilientStore, UploadLimits
from tiering.store.sources import BytesSource

SMALL_PARTS = UploadLimits(single_put_bytes_max=5 * MiB, part_bytes=5 * MiB, parts_in_flight=3)
ONE_BY_ONE = SMALL_PARTS._replace(
    parts_in_flight=1
)  # no part is on its way when the upload is aborted: where it would land is a race


class RereadableSource(BytesSource):
    rereadable = True


async def keys_of(store: ObjectStore, prefix: str = "", after: str = "") -> list[str]:
    return [info.key async for info in store.list(prefix, after=after)]


async def test_every_promise_of_the_check_is_kept(store: ObjectStore) -> None:
    report = await check_store(store)
    assert [result for result in report.results if not result.ok] == []
    assert len(report.results) == 11
    assert report.ok
    assert await keys_of(store) == [], "the check cleans up behind itself"


async def test_what_is_put_is_got(store: ObjectStore) -> None:
    etag = await store.put("a/b", b"hello")
    blob = await store.get("a/b")
    assert (bytes(blob.data), blob.etag, blob.size) == (b"hello", etag, 5)
    info = await store.head("a/b")
    assert (info.key, info.size, info.etag) == ("a/b", 5, etag)
    assert info.modified_ms > 1_600_000_000_000


async def test_views_of_memory_can_be_put(store: ObjectStore) -> None:
    await store.put("view", memoryview(bytearray(b"xhellox"))[1:6])
    assert bytes((await store.get("view")).data) == b"hello"


async def test_an_empty_object_is_an_object(store: ObjectStore) -> None:
    await store.put("empty", b"")
    assert bytes((await store.get("empty")).data) == b""
    assert bytes((await store.get_tail("empty", 8)).data) == b""
    assert (await store.head("empty")).size == 0
    await store.put_source("empty-too", BytesSource(b""))
    assert (await store.head("empty-too")).size == 0


async def test_missing_objects_are_not_found(store: ObjectStore) -> None:
    for call in (store.get("no"), store.get_tail("no", 3), store.head("no"), store.get("no/thing", 1, 2)):
        with pytest.raises(NotFound, match="no"):
            await call


async def test_ranges(store: ObjectStore) -> None:
    await store.put("digits", b"0123456789")
    for start, end, expected in (
        (0, 5, b"01234"),
        (3, 4, b"3"),
        (7, None, b"789"),
        (0, None, b"0123456789"),
        (0, 10, b"0123456789"),
    ):
        blob = await store.get("digits", start, end)
        assert (bytes(blob.data), blob.size) == (expected, 10), (start, end)


async def test_a_range_beyond_the_end_is_corruption(store: ObjectStore) -> None:
    await store.put("digits", b"0123456789")
    for start, end in ((0, 11), (5, 100), (10, 11), (10, None), (50, 60)):
        with pytest.raises(Corrupt, match="digits"):
            await store.get("digits", start, end)


async def test_a_range_without_bytes_is_refused(store: ObjectStore) -> None:
    for start, end in ((3, 3), (4, 3), (-1, 3)):
        with pytest.raises(Invalid, match="range"):
            await store.get("digits", start, end)
    with pytest.raises(Invalid, match="length"):
        await store.get_tail("digits", 0)


async def test_tails(store: ObjectStore) -> None:
    await store.put("digits", b"0123456789")
    assert [bytes((await store.get_tail("digits", length)).data) for length in (1, 10, 99)] == [
        b"9",
        b"0123456789",
        b"0123456789",
    ]


async def test_conditional_create(store: ObjectStore) -> None:
    etag = await store.put("root", b"one", if_absent=True)
    with pytest.raises(PreconditionFailed):
        await store.put("root", b"two", if_absent=True)
    assert (await store.get("root")).etag == etag


async def test_conditional_replace(store: ObjectStore) -> None:
    first = await store.put("root", b"one")
    second = await store.put("root", b"two", if_match=first)
    with pytest.raises(PreconditionFailed):
        await store.put("root", b"three", if_match=first)
    assert bytes((await store.get("root")).data) == b"two"
    await store.put("root", b"four", if_match=second)
    await store.delete(["root"])
    with pytest.raises((NotFound, PreconditionFailed)):
        await store.put("root", b"five", if_match=second)
    with pytest.raises(NotFound):
        await store.get("root")


async def test_both_conditions_at_once_are_refused(store: ObjectStore) -> None:
    with pytest.raises(Invalid, match="exclude"):
        await store.put("root", b"x", if_absent=True, if_match="x")


@pytest.mark.parametrize("exists", [False, True])
async def test_one_of_many_racing_writers_wins(store: ObjectStore, exists: bool) -> None:
    etag = await store.put("root", b"start") if exists else None
    bodies = [f"writer {number}".encode() for number in range(12 if not exists else 8)]
    outcomes = await asyncio.gather(
        *(store.put("root", body, if_match=etag, if_absent=not exists) for body in bodies), return_exceptions=True
    )
    winners = [body for body, outcome in zip(bodies, outcomes, strict=True) if isinstance(outcome, str)]
    assert len(winners) == 1
    assert bytes((await store.get("root")).data) == winners[0]
    assert {type(outcome) for outcome in outcomes} <= {str, PreconditionFailed, OutcomeUnknown}


async def test_two_openings_of_one_store_see_each_other(store_url: str, open_test_store: OpenStore) -> None:
    one, two = await open_test_store(store_url), await open_test_store(store_url)
    etag = await one.put("root", b"one", if_absent=True)
    with pytest.raises(PreconditionFailed):
        await two.put("root", b"two", if_absent=True)
    await two.put("root", b"two", if_match=etag)
    with pytest.raises(PreconditionFailed):
        await one.put("root", b"three", if_match=etag)
    assert bytes((await one.get("root")).data) == b"two"


async def test_listings_are_in_order_and_by_prefix(store: ObjectStore) -> None:
    keys = ["a", "b/1", "b/10", "b/2", "b/2x/3", "ba", "c/d/e/f", "é"]
    for key in reversed(keys):
        await store.put(key, key.encode())
    assert await keys_of(store) == keys
    assert await keys_of(store, "b") == ["b/1", "b/10", "b/2", "b/2x/3", "ba"]
    assert await keys_of(store, "b/") == ["b/1", "b/10", "b/2", "b/2x/3"]
    assert await keys_of(store, "b/1") == ["b/1", "b/10"]
    assert await keys_of(store, "b/", after="b/10") == ["b/2", "b/2x/3"]
    assert await keys_of(store, "", after="b/2x/3") == ["ba", "c/d/e/f", "é"]
    assert await keys_of(store, "x") == []
    sizes = {info.key: (info.size, info.etag) async for info in store.list("b/")}
    assert sizes["b/2x/3"] == (6, (await store.head("b/2x/3")).etag)


async def test_a_listing_sorts_whole_keys_not_folders(store: ObjectStore, store_url: str, seaweed: S3Server) -> None:
    """ "b.txt" comes before "b/1", as "." comes before "/".  SeaweedFS sorts folder by folder; no key of Hotlog's depends on it."""
    for key in ("b/1", "b.txt", "b-1"):
        await store.put(key, b"")
    expected = ["b-1", "b.txt", "b/1"]
    found = await keys_of(store)
    assert (sorted(found) if seaweed.endpoint in store_url else found) == expected


async def test_a_listing_runs_over_pages(store_url: str, open_test_store: OpenStore) -> None:
    store = await open_test_store(store_url)
    keys = [f"many/{number:05}" for number in range(1_003)]
    for first in range(0, len(keys), 100):
        await asyncio.gather(*(store.put(key, b"") for key in keys[first : first + 100]))
    assert await keys_of(store, "many/") == keys
    await store.delete(keys)
    assert await keys_of(store) == []


async def test_deleting_is_idempotent(store: ObjectStore) -> None:
    await store.put("x/y/z", b"1")
    await store.delete(["x/y/z", "x/y/never"])
    await store.delete(["x/y/z"])
    await store.delete([])
    assert await keys_of(store) == []
    await store.put("x/y", b"a folder of that name is not in the way")


@pytest.mark.parametrize("source_type", [BytesSource, RereadableSource])
@pytest.mark.parametrize("size", [1, 3 * MiB + 17, 5 * MiB, 12 * MiB + 5])
async def test_large_objects_come_out_as_they_went_in(store: ObjectStore, size: int, source_type: type[BytesSource]) -> None:
    assert isinstance(store, ResilientStore)
    body = os.urandom(size)
    etag = await store.limited(SMALL_PARTS).put_source("large.seg", source_type(body))
    blob = await store.get("large.seg")
    assert bytes(blob.data) == body
    assert blob.etag == etag
    assert bytes((await store.get("large.seg", size // 2)).data) == body[size // 2 :]


async def test_large_ranges_stay_as_they_are_while_others_are_read(store: ObjectStore) -> None:
    """Receive buffers are used again, but not under a view that somebody still has."""
    body = os.urandom(1 * MiB) * 9
    await store.put_source("large.seg", BytesSource(body))
    kept = []
    for number in range(10):
        start, end = number * 1000, number * 1000 + (1 + number % 4) * 2 * MiB
        blob = await store.get("large.seg", start, end)
        assert blob.size == len(body)
        assert memoryview(blob.data).readonly
        if number % 3 == 0:
            kept.append((memoryview(blob.data)[100:], start + 100, end))
        del blob
    blobs = await asyncio.gather(*(store.get("large.seg", start, start + 2 * MiB) for start in range(6)))
    assert all(blob.data == body[start : start + 2 * MiB] for start, blob in enumerate(blobs))
    assert all(view == body[start:end] for view, start, end in kept)


async def test_a_large_range_beyond_the_end_is_corruption(store: ObjectStore) -> None:
    await store.put("digits", b"0123456789")
    for end in (2 * MiB, 1 << 50):
        with pytest.raises(Corrupt, match="digits"):
            await store.get("digits", 5, end)


class FailingSource:
    """Gives its first bytes, then what a bad disk gives."""

    size = 12 * MiB

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def read(self, start: int, end: int) -> bytes:
        if end > 9 * MiB:
            raise self._error
        return bytes(end - start)


@pytest.mark.parametrize("error", [Corrupt("a bad CRC"), OSError(5, "Input/output error")])
async def test_a_failed_upload_leaves_nothing(store: ObjectStore, error: Exception) -> None:
    assert isinstance(store, ResilientStore)
    with pytest.raises(Exception, match=r"bad CRC|Input/output error"):
        await store.limited(ONE_BY_ONE).put_source("large.seg", FailingSource(error))
    with pytest.raises(NotFound):
        await store.head("large.seg")
    assert [upload async for upload in store.list_uploads("large.seg")] == []


class StuckSource:
    """Gives its first bytes, then never ends."""

    size = 12 * MiB

    def __init__(self) -> None:
        self.reached = asyncio.Event()

    async def read(self, start: int, end: int) -> bytes:
        if end > 9 * MiB:
            self.reached.set()
            await asyncio.Event().wait()
        return bytes(end - start)


async def test_a_cancelled_upload_leaves_nothing(store: ObjectStore) -> None:
    assert isinstance(store, ResilientStore)
    source = StuckSource()
    task = asyncio.ensure_future(store.limited(ONE_BY_ONE).put_source("large.seg", source))
    await source.reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(NotFound):
        await store.head("large.seg")
    assert [upload async for upload in store.list_uploads("large.seg")] == []


async def test_an_upload_left_by_a_killed_process_is_found_and_aborted(store_url: str, open_test_store: OpenStore) -> None:
    store = await open_test_store(store_url)
    assert isinstance(store, ResilientStore)
    source = StuckSource()
    task = asyncio.ensure_future(store.limited(ONE_BY_ONE).put_source("data/large.seg", source))
    await source.reached.wait()  # from here on the task stands for a process that hangs
    other = await open_test_store(store_url)
    uploads = [upload async for upload in other.list_uploads("data/large.seg")]
    assert [upload.key for upload in uploads] == ["data/large.seg"]
    assert uploads[0].started_ms > 1_600_000_000_000
    await other.abort_upload(uploads[0])
    await other.abort_upload(uploads[0])
    assert [upload async for upload in other.list_uploads("data/large.seg")] == []
    task.cancel()
    await asyncio.wait([task])


LEAVING_KEYS = (
    "", "/etc/passwd", "../x", "a/../b", "a//b", "a/", "./a", "a/.", "a\0b", "a\\b", "a\nb", ".hotlog-store/lock", "x" * 901, "a/" + "x" * 256,
)  # fmt: skip


async def test_keys_that_could_leave_the_store_are_refused(store: ObjectStore) -> None:
    for key in LEAVING_KEYS:
        for call in (
            store.put(key, b"x"),
            store.get(key),
            store.head(key),
            store.delete([key]),
            store.put_source(key, BytesSource(b"x")),
        ):
            with pytest.raises(Invalid, match="object key"):
                await call


async def test_unconditional_writes_race_without_harm(store: ObjectStore) -> None:
    bodies = [bytes([number]) * 100_000 for number in range(8)]
    await asyncio.gather(*(store.put("same", body) for body in bodies))
    assert bytes((await store.get("same")).data) in bodies


class ZeroSource:
    """Many bytes that are nowhere until they are asked for."""

    size = 60 * MiB

    async def read(self, start: int, end: int) -> bytes:
        return bytes(end - start)


@pytest.mark.parametrize("limits", [UploadLimits(), UploadLimits(5 * MiB, 20 * MiB, 2)], ids=["one PUT", "parts"])
async def test_a_large_object_is_streamed_never_held(minio_url: str, open_test_store: OpenStore, limits: UploadLimits) -> None:
    store = await open_test_store(minio_url)
    assert isinstance(store, ResilientStore)
    await store.put("warm", b"x")  # what the client loads once is not this upload's
    tracemalloc.start()
    try:
        await store.limited(limits).put_source("large.seg", ZeroSource())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (await store.head("large.seg")).size == ZeroSource.size
    assert peak < 32 * MiB
