"""Large GETs in threads answer as all others do, in every kind of weather, and leave nothing behind."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import trustme
from aiohttp import web

from hotlog.kernel.errors import HotlogError, StoreRefused, StoreUnavailable
from hotlog.kernel.limits import MiB
from hotlog.world.posix import SystemClock
from tests.conftest import OpenStore
from tests.fixtures import faulty_s3 as faults
from tests.fixtures.faulty_s3 import Rule, answer
from tests.fixtures.s3_servers import S3Server
from tests.store.trouble import PATIENT, READERS, TOTAL_S, Trouble
from tests.tools.patience import SOON_S
from tiering.cost.meter import Meter
from tiering.store import s3_get

BODY = bytes(range(256)) * 40


@pytest.fixture(params=["threads", "loop"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every range in a thread, or none."""
    monkeypatch.setattr(s3_get, "THREADED_BYTES_MIN", 1 if request.param == "threads" else 1 << 60)
    return str(request.param)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_get, "THREADED_BYTES_MIN", 1)


@pytest_asyncio.fixture
async def trouble(trouble: Trouble) -> Trouble:
    """With BODY at x, and the route to it learned."""
    await trouble.store.put("x", BODY)
    await trouble.store.get("x")
    return trouble


def wires(trouble: Trouble) -> s3_get._Wires:
    made = trouble.reader._wires
    assert made is not None
    return made


def thread_count() -> int:
    return sum(1 for each in threading.enumerate() if each.name.startswith("s3-get"))


# -- the same answers and errors ----------------------------------------------------------------------------------------


async def test_ranges(trouble: Trouble, way: str) -> None:
    names = ("plain", "with space", "plus+and&=?#", "ünï/cödé", "per%20cent", "tilde~", "(x)")
    for name in names:
        etag = await trouble.store.put(f"a/{name}", name.encode() * 50)
        for start, end in ((0, 1), (3, 9), (0, len(name.encode()) * 50)):
            blob = await trouble.store.get(f"a/{name}", start, end)
            assert bytes(blob.data) == (name.encode() * 50)[start:end]
            assert (blob.etag, blob.size) == (etag, len(name.encode()) * 50)
    assert (thread_count() > 0) is (way == "threads")
    assert trouble.metered("ok") == 1 + 3 * len(names)


async def test_both_ways_say_the_same_errors(trouble: Trouble, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[int, list[tuple[str, str]]] = {}
    weather = [
        answer(403, "AccessDenied"), answer(404, "NoSuchBucket"), answer(412, "PreconditionFailed"), answer(416, "InvalidRange"),
        answer(503, "SlowDown"), answer(500, "InternalError"), answer(502, ""), answer(301, "PermanentRedirect"),
        answer(307, "TemporaryRedirect"), answer(400, "ExpiredToken"), faults.wrong_range, faults.ignore_range, faults.short_body,
    ]  # fmt: skip
    for bytes_min in (1, 1 << 60):
        monkeypatch.setattr(s3_get, "THREADED_BYTES_MIN", bytes_min)
        told[bytes_min] = []
        for key, end in (("missing", 10), ("x", 1 << 20)):
            told[bytes_min].append(await complaint(trouble, key, end))
        for fault in weather:
            await trouble.store.get("x")  # a refusal forgets the route: learn it again
            trouble.proxy.rules[:] = [Rule("GET", "x", fault)]
            told[bytes_min].append(await complaint(trouble, "x", 100))
            trouble.proxy.rules.clear()
    assert told[1] == told[1 << 60]
    kinds = [kind for kind, _ in told[1]]
    assert kinds[:4] == ["NotFound", "Corrupt", "StoreRefused", "StoreRefused"]
    assert kinds[-3:] == ["Corrupt"] * 3
    assert "PermanentRedirect" in told[1][9][1]


async def complaint(trouble: Trouble, key: str, end: int) -> tuple[str, str]:
    """What one attempt is told: below the retries, so that no deadline has a say in it."""
    with pytest.raises(HotlogError) as caught:
        await trouble.one_try.get(key, 5, end)
    return type(caught.value).__name__, str(caught.value)


async def test_a_body_that_is_cut_is_read_again(trouble: Trouble, way: str) -> None:
    trouble.proxy.rules.append(Rule("GET", "x", faults.cut_body, times=1))
    assert bytes((await trouble.store.get("x", 0, len(BODY))).data) == BODY
    trouble.proxy.rules.append(Rule("GET", "x", trouble.late(faults.cut_body, TOTAL_S / 4)))
    with pytest.raises(StoreUnavailable):
        await trouble.impatient.get("x", 5, 5000)
    assert trouble.metered("error") >= 2


@pytest.mark.parametrize("kind", ["hangs", "trickles"])
async def test_a_get_that_does_not_end_is_given_up_and_tried_again(trouble: Trouble, way: str, kind: str) -> None:
    fault = trouble.late(faults.hang) if kind == "hangs" else trouble.trickle
    trouble.proxy.rules.append(Rule("GET", "x", fault, times=1))
    assert bytes((await trouble.impatient.get("x", 0, len(BODY))).data) == BODY
    trouble.proxy.rules.append(Rule("GET", "x", fault))
    with pytest.raises(StoreUnavailable, match=r"no answer from the store in 60"):
        await trouble.impatient.get("x", 0, len(BODY))
    assert trouble.metered("deadline") >= 2
    trouble.proxy.rules.clear()
    assert bytes((await trouble.store.get("x", 0, len(BODY))).data) == BODY, "and no thread is lost"


async def test_a_connection_cut_before_an_answer_is_an_error_that_is_retried(trouble: Trouble, way: str) -> None:
    trouble.proxy.rules.append(Rule("GET", "x", faults.cut_before, times=2))
    assert bytes((await trouble.store.get("x", 0, 100)).data) == BODY[:100]


async def test_signs_of_a_wrong_route_forget_it(trouble: Trouble, threads: None) -> None:
    trouble.proxy.rules.append(Rule("GET", "x", answer(403, "SignatureDoesNotMatch"), times=1))
    with pytest.raises(StoreRefused, match="SignatureDoesNotMatch"):
        await trouble.store.get("x", 0, 10)
    assert trouble.reader._route is None
    assert bytes((await trouble.store.get("x", 0, 10)).data) == BODY[:10]
    assert trouble.reader._route is not None


async def test_a_store_that_gives_no_length_is_read_the_other_way(trouble: Trouble, threads: None) -> None:
    async def chunked(request: web.Request, forward: faults.Forward) -> web.StreamResponse:
        whole = await forward()
        assert isinstance(whole.body, bytes)
        response = web.StreamResponse(status=whole.status, headers=whole.headers)
        response.headers.popall("Content-Length", None)
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(whole.body)
        return response

    trouble.proxy.rules.append(Rule("GET", "x", chunked))
    for _ in range(3):
        assert bytes((await trouble.store.get("x", 0, 1000)).data) == BODY[:1000]
    assert not wires(trouble).is_free
    assert trouble.metered("error") == 1, "one try was needed to know"


# -- connections and threads --------------------------------------------------------------------------------------------


async def test_a_connection_is_kept_and_made_anew_when_the_store_has_closed_it(
    open_test_store: OpenStore, minio: S3Server, s3_url: Callable[[S3Server], str], threads: None
) -> None:
    url = s3_url(minio)
    async with faults.faulty_proxy(minio.endpoint) as proxy:
        meter = Meter(SystemClock())
        store: Any = await open_test_store(url.replace(minio.endpoint, proxy.endpoint), meter=meter, settings=PATIENT)
        await store.put("x", BODY)
        await store.get("x")
        for _ in range(3):
            await store.get("x", 0, 10)
        wires = store._store._bucket.reader._wires
        (connection,) = wires._made
        first = connection._http
        assert first is not None
        assert first.sock is not None
        peer = first.sock.getsockname()
        await store.get("x", 0, 10)
        assert connection._http is first
        # The store's end of it closes, as after a long silence.
        socket.socket.shutdown(first.sock, socket.SHUT_RD)
        assert bytes((await store.get("x", 0, 10)).data) == BODY[:10]
        assert connection._http.sock.getsockname() != peer
        assert sum(row.requests for row in meter.rows() if row.line.outcome != "ok") == 0
        await store.close()


async def test_a_kept_connection_that_dies_under_the_request_costs_no_attempt(threads: None) -> None:
    """The store closes an idle connection at the very moment at which it is used again."""
    from tiering.store.s3_wire import Connection, Place, Wanted

    listener = socket.create_server(("127.0.0.1", 0))
    served: list[int] = []

    def serve() -> None:
        for answers in (1, 0, 1):  # the second connection is closed on its request, and so is the first after one answer
            peer, _ = listener.accept()
            for _ in range(answers):
                read_request(peer)
                served.append(len(served))
                peer.sendall(b"HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\nContent-Range: bytes 0-4/5\r\n\r\nhello")
            if answers:
                read_request(peer)  # takes the next request, and says nothing
            peer.close()

    server = threading.Thread(target=serve)
    server.start()
    connection = Connection(Place("127.0.0.1", listener.getsockname()[1], None, SOON_S, SOON_S))

    def get() -> bytes:
        into = memoryview(bytearray(5))
        connection.begin()
        assert connection.exchange(Wanted("/x", {}, "bytes 0-4/", into)).is_received
        return bytes(into)

    assert get() == b"hello"
    with pytest.raises(OSError, match=r"(?i)closed|reset|broken"):
        get()  # repeated once, on a fresh connection, which fails too: that is an error
    assert get() == b"hello"
    connection.close()
    server.join()
    listener.close()
    assert served == [0, 1]


def read_request(peer: socket.socket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n") and (piece := peer.recv(4096)):
        head += piece
    return head


async def test_more_gets_than_threads_are_all_answered(trouble: Trouble, threads: None) -> None:
    before = thread_count()
    blobs = await asyncio.gather(*(trouble.store.get("x", at, at + 500) for at in range(20)))
    assert [bytes(blob.data) for blob in blobs] == [BODY[at : at + 500] for at in range(20)]
    assert thread_count() - before <= READERS
    assert len(wires(trouble)._made) == READERS


async def test_a_cancelled_get_frees_its_thread_at_once(trouble: Trouble, threads: None) -> None:
    reached = asyncio.Event()

    async def hang(request: web.Request, forward: faults.Forward) -> web.StreamResponse:
        reached.set()
        return await faults.hang(request, forward)

    await trouble.store.get("x", 0, 10)
    trouble.proxy.rules.append(Rule("GET", "x", hang, times=1))
    task = asyncio.create_task(trouble.store.get("x", 0, 10))
    await reached.wait()
    assert not wires(trouble)._idle
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    while not wires(trouble)._idle:  # the server hangs on: only the shut socket can end the wait
        await asyncio.sleep(0.001)
    assert bytes((await trouble.store.get("x", 0, 10)).data) == BODY[:10]


async def test_an_abort_of_an_earlier_exchange_harms_no_later_one(trouble: Trouble, threads: None) -> None:
    await trouble.store.get("x", 0, 10)
    (connection,) = wires(trouble)._made
    old = connection._number
    work = asyncio.create_task(trouble.store.get("x", 0, 10))
    while connection._number == old:
        await asyncio.sleep(0)
    connection.abort(old)
    assert bytes((await work).data) == BODY[:10]
    assert trouble.metered("error") == 0


async def test_closing_ends_every_thread_even_in_the_middle_of_a_get(trouble: Trouble, threads: None) -> None:
    before = thread_count()
    await asyncio.gather(*(trouble.store.get("x", 0, 10) for _ in range(READERS)))
    assert thread_count() > before
    reached = asyncio.Event()

    async def hang(request: web.Request, forward: faults.Forward) -> web.StreamResponse:
        reached.set()
        return await faults.hang(request, forward)

    trouble.proxy.rules.append(Rule("GET", "x", hang))
    task = asyncio.create_task(trouble.one_try.get("x", 0, 10))
    await reached.wait()
    await trouble.store.close()
    with pytest.raises(StoreUnavailable):
        await task
    assert thread_count() == before


async def test_received_memory_is_used_again(trouble: Trouble) -> None:
    """Round and round, 8 MiB at a time: no more memory than what is looked at."""
    body = bytes(range(251)) * (9 * MiB // 251)
    store = trouble.store
    await store.put("large", body)
    for number in range(12):
        blob = await store.get("large", number, number + 8 * MiB)
        assert blob.data == body[number : number + 8 * MiB]
        del blob
    buffers = wires(trouble)._buffers
    assert sum(map(len, buffers._kept)) == 8 * MiB


# -- TLS ------------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def tls_front(upstream: str, host: str, authority: trustme.CA) -> AsyncIterator[str]:
    """A TLS server for `host` that hands bytes on to `upstream`: its endpoint."""
    _, _, port = upstream.rpartition(":")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(host).configure_cert(context)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(1 << 16):
            writer.write(piece)
            await writer.drain()
        writer.close()

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", int(port))
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer), return_exceptions=True)

    server = await asyncio.start_server(join, "127.0.0.1", 0, ssl=context)
    yield f"https://localhost:{server.sockets[0].getsockname()[1]}"
    server.close()


@pytest.mark.parametrize("host", ["localhost", "elsewhere.example"])
async def test_over_tls(
    host: str, way: str, tmp_path: Path, minio: S3Server, s3_url: Callable[[S3Server], str], open_test_store: OpenStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """With botocore's own settings (AWS_CA_BUNDLE), and only for the host that the certificate names."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    body = bytes(range(256)) * 4096
    url = s3_url(minio)
    plain = await open_test_store(url)
    await plain.put("x", body)
    async with tls_front(minio.endpoint, host, authority) as endpoint:
        store: Any = await open_test_store(url.replace(minio.endpoint, endpoint), settings=PATIENT)
        if host != "localhost":
            with pytest.raises(StoreUnavailable, match=r"(?i)certificate"):
                await store._store.get("x", 0, 10)
            return
        await store.get("x", 0, 1)
        wires = store._store._bucket.reader._wires
        used = set()
        for start in (0, 3, 70_000):
            assert bytes((await store.get("x", start, len(body))).data) == body[start:]
            used |= {(each._http.sock.version(), each._http.sock.getsockname()) for each in wires._made}
        assert [version for version, _ in used] == (["TLSv1.3"] if way == "threads" else []), "one connection, kept"
        await store.close()
