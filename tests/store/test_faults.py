"""A store in trouble (faults.md 22, 24 to 29): real HTTP, a real MinIO behind a proxy that fails on request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hotlog.kernel.errors import (
    Corrupt,
    ForeignStore,
    NotFound,
    OutcomeUnknown,
    PreconditionFailed,
    StoreRefused,
    StoreUnavailable,
)
from hotlog.kernel.limits import MiB
from hotlog.kernel.settings import Settings
from hotlog.world.ports import ObjectStore
from hotlog.world.register import Register
from tests.conftest import OpenStore
from tests.fixtures import faulty_s3 as faults
from tests.fixtures.faulty_s3 import Rule, answer
from tests.fixtures.s3_servers import S3Server, rclone
from tests.store.trouble import TOTAL_S, Trouble
from tests.tools.patience import SOON_S
from tiering.store.check import check_store
from tiering.store.resilient import UploadLimits
from tiering.store.sources import BytesSource

SMALL_PARTS = UploadLimits(single_put_bytes_max=5 * MiB, part_bytes=5 * MiB, parts_in_flight=2)
ONE_BY_ONE = SMALL_PARTS._replace(parts_in_flight=1)  # no part is on its way when the upload is aborted


@pytest.fixture(autouse=True)
def _patient_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tiering.store.check.QUICK_SECONDS_MAX", SOON_S)


class Page(NamedTuple):
    """A register's value: a counter and who wrote it."""

    count: int
    nonces: tuple[str, ...]


class PageCodec:
    def encode(self, value: Page) -> bytes:
        return json.dumps(value).encode()

    def decode(self, raw: bytes) -> Page:
        count, nonces = json.loads(raw)
        return Page(count, tuple(nonces))

    def nonces_of(self, value: Page) -> tuple[str, ...]:
        return value.nonces


def counter(store: ObjectStore, writer: str) -> tuple[Register[Page], Callable[[Page | None], Page]]:
    """A register and an edit that counts up, signing each try."""
    tries = iter(range(1000))

    def edit(now: Page | None) -> Page:
        nonce = f"{writer}-{next(tries)}"
        return Page(1, (nonce,)) if now is None else Page(now.count + 1, (nonce, *now.nonces)[:16])

    return Register(store, "manifest", PageCodec()), edit


@pytest.mark.parametrize("kind", ["cut", "hangs"])
async def test_a_conditional_write_whose_answer_is_lost_is_recognised_as_ones_own(trouble: Trouble, kind: str) -> None:
    fault: faults.Act = faults.lose_response if kind == "cut" else trouble.do_and_hang
    register, edit = counter(trouble.impatient, "a")
    trouble.proxy.rules.append(Rule("PUT", "manifest", fault, times=1))
    assert (await register.commit(edit)).count == 1
    trouble.proxy.rules.append(Rule("PUT", "manifest", fault, times=1))
    assert (await register.commit(edit)).count == 2, "counted once, though its answer was lost"
    assert (await register.load()).value == Page(2, ("a-1", "a-0"))
    assert trouble.proxy.count("PUT") == 2, "the lost write was read back, not repeated"


async def test_a_conditional_write_that_was_not_done_is_done_by_the_next_try(trouble: Trouble) -> None:
    register, edit = counter(trouble.store, "a")
    trouble.proxy.rules.append(Rule("PUT", "manifest", faults.cut_before, times=2))
    assert (await register.commit(edit)).count == 1
    value = (await register.load()).value
    assert value is not None
    assert (value.count, len(value.nonces)) == (1, 1), "done once, by whichever try got through"


@pytest.mark.parametrize(
    "fault", [answer(409, "ConditionalRequestConflict"), answer(500, "InternalError"), answer(502, ""), answer(503, "")]
)
async def test_a_doubtful_answer_to_a_conditional_write_is_not_believed(trouble: Trouble, fault: faults.Act) -> None:
    trouble.proxy.rules.append(Rule("PUT", "manifest", fault, times=1))
    with pytest.raises(OutcomeUnknown, match="manifest"):
        await trouble.store.put("manifest", b"x", if_absent=True)
    assert trouble.proxy.count("PUT") == 1, "never repeated blindly"
    trouble.proxy.rules.append(Rule("PUT", "manifest", fault, times=1))
    register, edit = counter(trouble.store, "a")
    assert (await register.commit(edit)).count == 1


async def test_two_writers_and_lost_answers_count_every_commit_once(trouble: Trouble) -> None:
    trouble.proxy.rules.append(Rule("PUT", "manifest", faults.lose_response, times=2, skip=1))
    trouble.proxy.rules.append(Rule("PUT", "manifest", answer(409, "ConditionalRequestConflict"), times=2, skip=3))

    async def write(name: str) -> None:
        register, edit = counter(trouble.store, name)
        for _ in range(4):
            await register.commit(edit)

    await asyncio.gather(write("a"), write("b"))
    register, _ = counter(trouble.store, "c")
    value = (await register.load()).value
    assert value is not None
    assert value.count == 8
    assert len(set(value.nonces)) == 8


async def test_slow_down_is_waited_out_even_by_conditional_writes(trouble: Trouble) -> None:
    """The store says that it did nothing: repeating is safe."""
    trouble.proxy.rules.append(Rule("PUT", "manifest", answer(503, "SlowDown"), times=2))
    etag = await trouble.store.put("manifest", b"x", if_absent=True)
    assert (await trouble.store.get("manifest")).etag == etag
    assert (trouble.metered("error", "put"), trouble.metered("ok", "put")) == (2, 1), "every attempt is counted"


async def test_a_precondition_lost_after_a_refused_attempt_is_in_doubt(trouble: Trouble) -> None:
    """The attempt that was answered 503 may have been done all the same (a proxy answered): 412 must not mean that another won."""

    async def do_and_say_slow_down(request: object, forward: faults.Forward) -> object:
        await forward()
        return await answer(503, "SlowDown")(request, forward)  # type: ignore[arg-type]

    trouble.proxy.rules.append(Rule("PUT", "manifest", do_and_say_slow_down, times=1))  # type: ignore[arg-type]
    with pytest.raises(OutcomeUnknown):
        await trouble.store.put("manifest", b"x", if_absent=True)
    register, edit = counter(trouble.store, "a")
    trouble.proxy.rules.append(Rule("PUT", "other", do_and_say_slow_down, times=1))  # type: ignore[arg-type]
    other = Register(trouble.store, "other", PageCodec())
    assert (await other.commit(edit)).count == 1
    assert register.current is None


async def test_half_of_all_requests_refused_is_survived(trouble: Trouble) -> None:
    await trouble.store.put("x", b"0123456789")
    for method in ("GET", "PUT", "HEAD"):
        for number in range(8):
            trouble.proxy.rules.append(Rule(method, "", answer(503, "SlowDown"), times=1, skip=number))
    for number in range(4):
        await trouble.store.put(f"y/{number}", b"y")
        assert bytes((await trouble.store.get("x", 2, 5)).data) == b"234"
        assert (await trouble.store.head("x")).size == 10
    assert [info.key async for info in trouble.store.list("y/")] == [f"y/{number}" for number in range(4)]


async def test_a_store_that_is_away_says_so_within_the_total_deadline(trouble: Trouble) -> None:
    trouble.proxy.rules.append(Rule("GET", "", trouble.late(answer(503, "SlowDown"), TOTAL_S / 4)))
    with pytest.raises(StoreUnavailable, match="SlowDown"):
        await trouble.impatient.get("x")
    assert 2 <= trouble.proxy.count("GET") <= 4, "tried again, and not beyond the deadline"


async def test_a_get_that_hangs_is_tried_again(trouble: Trouble) -> None:
    await trouble.store.put("x", b"hello")
    trouble.proxy.rules.append(Rule("GET", "x", trouble.late(faults.hang), times=1))
    assert bytes((await trouble.impatient.get("x")).data) == b"hello"
    trouble.proxy.rules.append(Rule("GET", "x", trouble.late(faults.hang)))
    with pytest.raises(StoreUnavailable, match=r"no answer from the store in 60"):
        await trouble.impatient.get("x")
    assert trouble.metered("deadline", "get") >= 2


async def test_a_body_that_trickles_is_given_up_and_asked_for_again(trouble: Trouble) -> None:
    """Fault 24: a byte now and then is no progress; a reader has its answer, or an error it may retry, within the deadlines."""
    body = bytes(range(256)) * 100
    await trouble.store.put("x", body)
    trouble.proxy.rules.append(Rule("GET", "x", trouble.trickle, times=1))
    assert bytes((await trouble.impatient.get("x", 0, len(body))).data) == body
    trouble.proxy.rules.append(Rule("GET", "x", trouble.trickle))
    with pytest.raises(StoreUnavailable, match=r"no answer from the store in 60"):
        await trouble.impatient.get("x", 0, len(body))
    assert trouble.metered("deadline", "get") >= 2


async def test_a_body_that_is_cut_is_read_again(trouble: Trouble) -> None:
    body = bytes(range(256)) * 1000
    await trouble.store.put("x", body)
    trouble.proxy.rules.append(Rule("GET", "x", faults.cut_body, times=1))
    assert bytes((await trouble.store.get("x")).data) == body
    trouble.proxy.rules.append(Rule("GET", "x", trouble.late(faults.cut_body, TOTAL_S / 4)))
    with pytest.raises(StoreUnavailable):
        await trouble.impatient.get("x", 5, 5000)


@pytest.mark.parametrize("fault", [faults.short_body, faults.wrong_range, faults.ignore_range])
async def test_other_bytes_than_asked_for_are_never_believed(trouble: Trouble, fault: faults.Act) -> None:
    await trouble.store.put("x", bytes(range(256)) * 10)
    trouble.proxy.rules.append(Rule("GET", "x", fault))
    with pytest.raises(Corrupt, match="x in s3://"):
        await trouble.store.get("x", 100, 200)
    with pytest.raises(Corrupt, match="x in s3://"):
        await trouble.store.get_tail("x", 50)


@pytest.mark.parametrize(
    ("status", "code"), [(403, "AccessDenied"), (403, "InvalidAccessKeyId"), (400, "ExpiredToken"), (404, "NoSuchBucket")]
)
async def test_revoked_credentials_and_missing_buckets_are_told_at_once(trouble: Trouble, status: int, code: str) -> None:
    trouble.proxy.rules.append(Rule("GET", "", answer(status, code)))
    with pytest.raises(StoreRefused, match=code):
        await trouble.store.get("x")
    with pytest.raises(StoreRefused, match=code):
        [info async for info in trouble.store.list("")]
    assert trouble.proxy.count("GET") == 2, "no use in asking again"


async def test_without_credentials_the_message_says_what_to_set(
    trouble: Trouble, monkeypatch: pytest.MonkeyPatch, open_test_store: OpenStore
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    store = await open_test_store(f"s3://bucket/x?endpoint={trouble.proxy.endpoint}&region=us-east-1")
    with pytest.raises(StoreRefused, match="AWS_ACCESS_KEY_ID"):
        await store.get("x")


async def test_nobody_listening_means_nothing_happened(open_test_store: OpenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "whatever")
    settings = Settings.resolve({"hotlog.store.attempt.timeout.ms": "2000", "hotlog.store.total.timeout.ms": "2000"})
    store: Any = await open_test_store("s3://bucket/x?endpoint=http://127.0.0.1:1&region=us-east-1", settings=settings)
    with pytest.raises(StoreUnavailable):  # of one attempt: one that a deadline ends is in doubt
        await store._store.put("manifest", b"x", if_absent=True)
    report = await check_store(store)
    assert (report.reachable, report.ok) == (False, False)
    with pytest.raises(StoreUnavailable, match="could not be checked"):
        report.require()


async def test_only_the_part_that_failed_is_sent_again(trouble: Trouble) -> None:
    body = bytes(range(251)) * (12 * MiB // 251)
    trouble.proxy.rules.append(Rule("PUT", "partNumber=2", answer(503, "SlowDown"), times=1))
    trouble.proxy.rules.append(Rule("PUT", "partNumber=3", faults.cut_before, times=1))
    await trouble.store.limited(SMALL_PARTS).put_source("large", BytesSource(body))
    assert bytes((await trouble.store.get("large")).data) == body
    assert [trouble.proxy.count("PUT", f"partNumber={number}") for number in (1, 2, 3)] == [1, 2, 2]


async def test_a_lost_answer_to_the_end_of_an_upload_is_resolved(trouble: Trouble) -> None:
    body = bytes(6 * MiB)
    trouble.proxy.rules.append(Rule("POST", "uploadId=", faults.lose_response, times=1))
    etag = await trouble.store.limited(SMALL_PARTS).put_source("large", BytesSource(body))
    info = await trouble.store.head("large")
    assert (info.etag, info.size) == (etag, 6 * MiB)


async def test_an_upload_that_cannot_end_leaves_no_parts(trouble: Trouble) -> None:
    trouble.proxy.rules.append(Rule("PUT", "partNumber=2", answer(403, "AccessDenied")))
    with pytest.raises(StoreRefused, match="part 2"):
        await trouble.store.limited(ONE_BY_ONE).put_source("large", BytesSource(bytes(12 * MiB)))
    with pytest.raises(NotFound):
        await trouble.store.head("large")
    assert [upload async for upload in trouble.store.list_uploads("large")] == []
    assert trouble.proxy.count("DELETE", "uploadId=") >= 1


async def test_a_damaged_upload_is_refused_by_the_store(trouble: Trouble) -> None:
    """The CRC-32C that goes ahead of small objects is checked at the other end."""
    from tiering.store import s3

    honest = s3.crc32c
    try:
        s3.crc32c = lambda body: honest(body) ^ 1  # type: ignore[attr-defined]
        with pytest.raises(StoreUnavailable, match="Checksum"):
            await trouble.one_try.put("x", b"hello")
    finally:
        s3.crc32c = honest  # type: ignore[attr-defined]
    with pytest.raises(NotFound):
        await trouble.store.head("x")


@pytest.mark.parametrize("quick", [True, False])
async def test_a_store_that_ignores_conditions_is_refused_with_the_reason(
    quick: bool, minio: S3Server, monkeypatch: pytest.MonkeyPatch, open_test_store: OpenStore
) -> None:
    for name, value in minio.environment().items():
        monkeypatch.setenv(name, value)
    async with faults.careless_s3() as endpoint:
        store = await open_test_store(f"s3://bucket/x?endpoint={endpoint}&region=us-east-1")
        report = await check_store(store, quick=quick)
    assert report.reachable
    broken = {result.name: result.seen for result in report.results if not result.ok}
    assert "overwritten by a write with If-None-Match" in broken["create only if absent"]
    assert "stale If-Match was accepted" in broken["replace only if unchanged"]
    assert "8 of 8 writers were told that they won" in broken["one winner among racing creators"]
    with pytest.raises(ForeignStore, match="create only if absent"):
        report.require()


async def test_rclone_is_refused(
    tmp_path: Path, s3_url: Callable[[S3Server], str], open_test_store: OpenStore, rclone_binary: str
) -> None:
    with rclone(rclone_binary, tmp_path / "rclone") as server:
        store = await open_test_store(s3_url(server))
        report = await check_store(store, quick=True)
        assert report.reachable
        assert not report.ok
        assert any(
            "won" in result.seen or "accepted" in result.seen or "overwritten" in result.seen
            for result in report.results
            if not result.ok
        )
        with pytest.raises(ForeignStore, match="refused"):
            report.require()


async def test_a_lost_race_is_told_plainly(trouble: Trouble) -> None:
    await trouble.store.put("root", b"one")
    with pytest.raises(PreconditionFailed, match="root in s3://"):
        await trouble.store.put("root", b"two", if_absent=True)
    assert trouble.metered("precondition-failed", "put") == 1


async def test_direct_gets_answer_as_ordinary_ones_do(trouble: Trouble) -> None:
    """From the second GET on, requests are signed and sent without botocore: same bytes, same errors, odd keys included."""
    names = ("plain", "with space", "plus+and&=?#", "ünï/cödé", "per%20cent", "tilde~", "(x)")
    bodies = {f"a/{name}": name.encode() * 50 for name in names}
    for key, body in bodies.items():
        await trouble.store.put(key, body)
    seen = []
    for _ in range(2):
        for key, body in bodies.items():
            blob = await trouble.store.get(key)
            assert (bytes(blob.data), blob.etag) == (body, (await trouble.store.head(key)).etag)
            assert bytes((await trouble.store.get(key, 3, 9)).data) == body[3:9]
            assert bytes((await trouble.store.get_tail(key, 4)).data) == body[-4:]
        for call in (trouble.store.get("missing"), trouble.store.get("a/plain", 5, 99_999), trouble.store.get("a/plain", 9_999)):
            with pytest.raises((NotFound, Corrupt)) as error:
                await call
            seen.append((type(error.value), str(error.value)))
    assert trouble.reader._route is not None, "the route was learned"
    assert seen[:3] == seen[3:]
    assert seen[0][0] is NotFound
    assert "NoSuchKey" in seen[0][1]


async def test_the_first_gets_may_race_to_learn_the_route(trouble: Trouble) -> None:
    keys = ["b", "a/b", "x/a/b", "a/b/c"]
    await asyncio.gather(*(trouble.store.put(key, key.encode()) for key in keys))
    for _ in range(2):
        blobs = await asyncio.gather(*(trouble.store.get(key) for key in keys))
        assert [bytes(blob.data) for blob in blobs] == [key.encode() for key in keys]


async def test_a_direct_get_that_is_refused_goes_the_ordinary_way_next(trouble: Trouble) -> None:
    await trouble.store.put("x", b"hello")
    await trouble.store.get("x")
    reader = trouble.reader
    assert reader._route is not None
    trouble.proxy.rules.append(Rule("GET", "x", answer(403, "SignatureDoesNotMatch"), times=1))
    with pytest.raises(StoreRefused, match="SignatureDoesNotMatch"):
        await trouble.store.get("x")
    assert reader._route is None
    assert bytes((await trouble.store.get("x")).data) == b"hello"
    assert reader._route is not None
