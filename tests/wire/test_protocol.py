"""The protocol on a socket: versions, order of replies, and what malformed input costs."""

from __future__ import annotations

import asyncio
import resource
import struct
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kio.schema.errors import ErrorCode

from hotlog.front import connections as accounts
from hotlog.front.dispatch import load_apis
from hotlog.front.outlet import PIECE_BYTES
from hotlog.log.segment_reader import PART_BYTES_MIN
from hotlog.wire import apis
from hotlog.wire.frame import SCRATCH_BYTES
from hotlog.world.posix import PosixFile
from tests.support.clocks import HandClock
from tests.tools.narrow import TAKEN_BYTES_MAX
from tests.tools.patience import PATIENCE_S
from tests.wire.serving import POLL_MS, Client, Serving, batch_of, fetch, frame_of, parsed, produce, produced, serving
from tests.wire.strategies import entities

MALFORMED = "hotlog_connections_malformed_total"
REFUSED = "hotlog_connections_refused_total"


def api_versions(version: int) -> Any:
    shapes = apis.requests(18, version)
    return shapes.ApiVersionsRequest(client_software_name="test", client_software_version="1")


@pytest.fixture(params=["asyncio", "uvloop"], scope="module")
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    """Both loops that `hotlog serve` may run on: their transports differ."""
    return uvloop.EventLoopPolicy() if request.param == "uvloop" else asyncio.DefaultEventLoopPolicy()


@pytest_asyncio.fixture
async def served(tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving(tmp_path) as each:
        yield each


@pytest.mark.parametrize("version", range(5))
async def test_api_versions_answers_the_table_of_dispatch(served: Serving, version: int) -> None:
    client = await served.connect()
    response = await client.call(api_versions(version))
    assert response.error_code is ErrorCode.none
    assert {k.api_key: range(k.min_version, k.max_version + 1) for k in response.api_keys} == {
        api.key: api.versions for api in load_apis()
    }


async def test_an_api_versions_from_the_future_is_answered_in_version_0(served: Serving) -> None:
    client = await served.connect()
    client.writer.write(struct.pack(">ihhih", 12, 18, 99, 7, 0) + b"\x00\x00")
    response = parsed(18, 0, await client.frame(), 7)
    assert response.error_code is ErrorCode.unsupported_version
    assert [(k.api_key, k.min_version, k.max_version) for k in response.api_keys] == [(18, 0, 4)]
    assert (await client.call(api_versions(0))).error_code is ErrorCode.none  # the connection lives


@pytest.mark.parametrize(("key", "version"), [(0, 2), (0, 99), (999, 0), (-1, 0), (1, 3), (18, -1)])
async def test_an_unknown_api_or_version_closes_the_connection(served: Serving, key: int, version: int) -> None:
    client, other = await served.connect(), await served.connect()
    client.writer.write(struct.pack(">ihhih", 10, key, version, 1, -1))
    if key == 18:
        assert parsed(18, 0, await client.frame(), 1).error_code is ErrorCode.unsupported_version
        return
    assert await client.is_closed()
    assert (await other.call(api_versions(0))).error_code is ErrorCode.none
    assert served.counted(MALFORMED, reason="api") == 1


@pytest.mark.parametrize("client_id", [None, "", "ünï", "x" * 30_000])
async def test_client_ids_are_what_clients_send(served: Serving, client_id: str | None) -> None:
    client = await served.connect()
    request = api_versions(3)
    assert (await client.answer(request, client.send(request, client_id=client_id))).error_code is ErrorCode.none


async def test_replies_keep_the_order_of_requests(served: Serving) -> None:
    await served.broker.create_topic("t", 1)
    client = await served.connect()
    poll = fetch("t", {0: 0}, wait_ms=300)
    first = client.send(poll)  # waits
    rest = [(request, client.send(request)) for request in [api_versions(v) for v in (0, 1, 2)]]
    assert parsed(1, 12, await client.frame(), first).error_code is ErrorCode.none
    for request, correlation in rest:
        await client.answer(request, correlation)


async def test_pipelined_produce_keeps_order_with_and_without_inspection(served: Serving) -> None:
    """Large compressed batches are looked into off the loop; small ones before and behind them must not overtake."""
    await served.broker.create_topic("t", 1)
    client = await served.connect()
    large = batch_of(*[bytes([i % 251]) * 1000 + b"%d" % (i * i) for i in range(900)], codec="lz4")
    requests = [produce("t", {0: large if i % 2 else batch_of(b"%d" % i)}, acks=-1) for i in range(10)]
    correlations = [client.send(request) for request in requests]
    offsets = []
    for request, correlation in zip(requests, correlations, strict=True):
        ((_, code, offset),) = produced(await client.answer(request, correlation))
        assert code is ErrorCode.none
        offsets.append(offset)
    expected, at = [], 0
    for i in range(10):
        expected.append(at)
        at += 900 if i % 2 else 1
    assert offsets == expected


async def test_many_pipelined_requests_are_all_answered(served: Serving) -> None:
    client = await served.connect()
    request = api_versions(0)
    correlations = [client.send(request) for _ in range(1000)]
    for correlation in correlations:
        await client.answer(request, correlation)


async def test_a_large_request_in_small_pieces(served: Serving) -> None:
    await served.broker.create_topic("t", 1, {"max.message.bytes": str(8 * 1024 * 1024)})
    client = await served.connect()
    request = produce("t", {0: batch_of(*[b"x" * 100_000] * 50)})
    frame = frame_of(request, 5)
    for start in range(0, len(frame), 300_001):
        client.writer.write(frame[start : start + 300_001])
        await client.writer.drain()
    assert produced(parsed(0, 9, await client.frame(), 5)) == [(0, ErrorCode.none, 0)]


BAD_FRAMES = {
    "negative size": struct.pack(">i", -1),
    "2^31-1": struct.pack(">i", 2**31 - 1) + b"x" * 100,
    "above the limit": struct.pack(">i", 200 * 1024 * 1024),
    "zero": struct.pack(">i", 0),
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "tls": bytes.fromhex("16030100c8010000c40303") + b"\x00" * 60,
    "metadata of 2^31-1 topics": struct.pack(">ihhihi", 14, 3, 1, 1, -1, 2**31 - 1),
    "client id beyond the end": struct.pack(">ihhih", 10, 18, 0, 1, 30_000),
    "client id of negative length": struct.pack(">ihhih", 10, 18, 0, 1, -2),
    "client id not UTF-8": struct.pack(">ihhih", 12, 18, 0, 1, 2) + b"\xff\xfe",
    "produce cut off": struct.pack(">ihhih", 12, 0, 9, 1, -1) + b"\x00\x00",
    "varint without an end": struct.pack(">ihhih", 18, 18, 3, 1, -1) + b"\xff" * 8,
}


@pytest.mark.parametrize("name", BAD_FRAMES)
async def test_a_malformed_request_costs_its_connection_and_nothing_else(served: Serving, name: str) -> None:
    bad, good = await served.connect(), await served.connect()
    request = api_versions(3)
    assert (await good.call(request)).error_code is ErrorCode.none
    bad.writer.write(BAD_FRAMES[name])
    assert await bad.is_closed()
    assert (await good.call(request)).error_code is ErrorCode.none
    failed = sum(served.counted(MALFORMED, reason=reason) for reason in ("size", "request", "api"))
    assert failed == 1


async def test_replies_before_a_malformed_request_still_arrive(served: Serving) -> None:
    client = await served.connect()
    request = api_versions(0)
    correlation = client.send(request)
    client.writer.write(BAD_FRAMES["negative size"])
    await client.answer(request, correlation)
    assert await client.is_closed()


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    frames=st.lists(
        st.tuples(st.sampled_from([api.key for api in load_apis()]), st.integers(0, 13), st.binary(max_size=60)),
        min_size=1,
        max_size=30,
    )
)
def test_random_frames_never_harm_a_second_connection(
    frames: list[tuple[int, int, bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    async def story() -> None:
        async with serving(tmp_path_factory.mktemp("fuzz"), {"auto.create.topics.enable": "false"}) as served:
            good = await served.connect()
            for key, version, body in frames:
                bad = await served.connect()
                bad.writer.write(struct.pack(">ihhih", 10 + len(body), key, version, 1, -1) + body)
                bad.writer.write_eof()
                assert (await good.call(api_versions(0))).error_code is ErrorCode.none
            assert served.connections.connection_count >= 1

    asyncio.run(story())


@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_random_requests_of_every_api_are_answered_or_closed(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Well-formed nonsense: whatever the fields say, no handler hangs a connection or fails in a way nobody foresaw."""

    async def story() -> None:
        async with serving(tmp_path_factory.mktemp("nonsense"), {"auto.create.topics.enable": "false"}) as served:
            await served.broker.create_topic("t", 2)
            for api in load_apis():
                version = data.draw(st.sampled_from(api.versions))
                request = data.draw(entities(apis.request_type(api.key, version)))
                if api.key == 0 and request.acks == 0:
                    continue
                client = await served.connect()
                client.send(request)
                async with asyncio.timeout(PATIENCE_S):
                    await client.reader.read(1)  # an answer, or the end
            good = await served.connect()
            assert (await good.call(api_versions(3))).error_code is ErrorCode.none

    asyncio.run(story())


async def test_bytes_that_never_become_a_request_end_with_the_idle_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "TICK_SECONDS", 0.05)
    clock = HandClock(seconds=time.monotonic())
    async with serving(tmp_path, {"connections.max.idle.ms": "20000"}, clock=clock) as served:
        await served.broker.create_topic("t", 1)
        half, silent, lively = await served.connect(), await served.connect(), await served.connect()
        half.writer.write(struct.pack(">ihh", 100, 18, 0))
        poll = fetch("t", {0: 0}, wait_ms=POLL_MS)
        correlation = lively.send(poll)  # a long poll is not idleness
        await served.working()
        async with asyncio.timeout(PATIENCE_S):
            while served.connections.connection_count < 3:
                await asyncio.sleep(0.01)
        clock.seconds += 20.1
        assert await half.is_closed()
        assert await silent.is_closed()
        assert served.counted(REFUSED, reason="idle") == 2
        writer = await served.connect()
        await writer.call(produce("t", {0: batch_of(b"news")}))
        assert (await lively.answer(poll, correlation)).error_code is ErrorCode.none


async def test_a_client_that_never_reads_its_replies_ends_with_the_idle_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that wait behind an unread reply are no sign of life: the bytes held for it must come free."""
    monkeypatch.setattr(accounts, "TICK_SECONDS", 0.05)
    clock = HandClock(seconds=time.monotonic())
    async with serving(tmp_path, {"connections.max.idle.ms": "20000"}, clock=clock) as served:
        await served.broker.create_topic("t", 1)
        writer = await served.connect()
        for _ in range(10):
            await writer.call(produce("t", {0: batch_of(b"x" * 900_000)}))
        lazy = await served.connect_lazy()
        for _ in range(20):
            lazy.send(fetch("t", {0: 0}, partition_bytes_max=20_000_000))
        async with asyncio.timeout(PATIENCE_S):
            while not served.broker.reply_backlog_bytes:
                await asyncio.sleep(0.01)
            while served.connections.connection_count:
                clock.seconds += 20.1
                await asyncio.sleep(0.1)
        assert served.broker.reply_backlog_bytes == 0
        assert served.counted(REFUSED, reason="idle") == 2


async def test_connections_have_bounds(tmp_path: Path) -> None:
    async with serving(tmp_path, {"max.connections": "3"}) as served:
        clients = [await served.connect() for _ in range(3)]
        for client in clients:
            await client.call(api_versions(0))
        await refuses_the_next(served)
        assert served.counted(REFUSED, reason="max.connections") == 1
        await clients[0].close()
        await gone(served, 2)
        assert (await (await served.connect()).call(api_versions(0))).error_code is ErrorCode.none


async def test_connections_of_one_address_have_bounds(tmp_path: Path) -> None:
    async with serving(tmp_path, {"max.connections.per.ip": "1"}) as served:
        await (await served.connect()).call(api_versions(0))
        await refuses_the_next(served)
        assert served.counted(REFUSED, reason="max.connections.per.ip") == 1


async def test_the_place_of_an_address_is_given_back(tmp_path: Path) -> None:
    async with serving(tmp_path, {"max.connections.per.ip": "2"}) as served:
        for _ in range(3):
            first, second = await served.connect(), await served.connect()
            await first.call(api_versions(0))
            await second.call(api_versions(0))
            await refuses_the_next(served)
            await first.close()
            second.writer.transport.abort()  # type: ignore[attr-defined]
            await gone(served, 0)


@pytest.mark.parametrize("came", [2, 12, 200_000, 3_000_000])
async def test_bytes_of_a_request_that_breaks_off_are_given_back(served: Serving, came: int) -> None:
    for number in range(3):
        client = await served.connect()
        await client.call(api_versions(0))
        client.writer.write((struct.pack(">i", 10_000_000) + b"x" * came)[: came + 4 if came > 2 else came])
        async with asyncio.timeout(PATIENCE_S):
            while served.connections.held_bytes < came:
                await asyncio.sleep(0.01)
        if number % 2:
            client.writer.transport.abort()  # type: ignore[attr-defined]
        else:
            await client.close()
        await gone(served, 0)
        assert served.connections.held_bytes == 0


async def test_bytes_of_requests_in_work_are_held_until_they_are_done(served: Serving) -> None:
    """Also when their client is gone meanwhile; a request that waits behind another one goes with its client."""
    await served.broker.create_topic("t", 1)
    client = await served.connect()
    request = produce("t", {0: batch_of(b"x" * 500_000)})
    disk, gate = served.broker.disk, asyncio.Event()
    run = disk.run

    async def held(*args: Any, **kwargs: Any) -> Any:
        await gate.wait()
        return await run(*args, **kwargs)

    disk.run = held  # type: ignore[method-assign]
    try:
        client.send(request)
        await served.working()
        size = served.connections.held_bytes
        assert size > 500_000
        client.writer.transport.abort()  # type: ignore[attr-defined]
        await gone(served, 0)
        assert served.connections.held_bytes == size
    finally:
        gate.set()
        del disk.run
    async with asyncio.timeout(PATIENCE_S):
        while served.connections.working:
            await asyncio.sleep(0.01)
    assert served.connections.held_bytes == 0


async def test_half_requests_cannot_hold_more_than_the_budget_and_one_request(tmp_path: Path) -> None:
    """Who is longest in the middle of a request makes room; who sends whole ones is served."""
    limits = {"queued.max.request.bytes": "1000000", "socket.request.max.bytes": "2000000"}
    async with serving(tmp_path, limits) as served:
        client = await served.connect()
        for _ in range(10):
            lazy = await served.connect()
            lazy.writer.write(struct.pack(">i", 1_900_000) + b"x" * 1_000_000)
            async with asyncio.timeout(PATIENCE_S):
                while lazy.writer.transport.get_write_buffer_size() and not lazy.writer.transport.is_closing():
                    await asyncio.sleep(0.01)
            assert (await client.call(api_versions(0))).error_code is ErrorCode.none
            assert served.connections.held_bytes <= 3_000_000 + 8 * SCRATCH_BYTES
        assert served.counted(REFUSED, reason="queued.max.request.bytes") >= 5


async def refuses_the_next(served: Serving) -> None:
    """One connection more is closed without an answer, though it asks at once."""
    extra = await served.connect()
    extra.send(api_versions(0))
    assert await extra.is_closed()


async def gone(served: Serving, left: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while served.connections.connection_count > left:
            await asyncio.sleep(0.01)


async def test_requests_above_the_byte_budget_wait_and_are_all_served(tmp_path: Path) -> None:
    """Every client's request alone is above the budget: they pass one after another, none is lost, none hangs."""
    async with serving(tmp_path, {"queued.max.request.bytes": "100000"}) as served:
        await served.broker.create_topic("t", 4)
        clients = [await served.connect() for _ in range(4)]

        async def work(number: int, client: Client) -> None:
            for _ in range(5):
                response = await client.call(produce("t", {number: batch_of(b"x" * 600_000)}))
                assert produced(response)[0][1] is ErrorCode.none

        await asyncio.gather(*(work(number, client) for number, client in enumerate(clients)))
        assert [served.broker.partition("t", n).log.log_end_offset for n in range(4)] == [5, 5, 5, 5]  # type: ignore[union-attr]


async def test_half_requests_that_fill_the_budget_do_not_stop_others(tmp_path: Path) -> None:
    async with serving(tmp_path, {"queued.max.request.bytes": "100000"}) as served:
        for _ in range(5):
            lazy = await served.connect()
            lazy.writer.write(struct.pack(">i", 10_000_000) + b"x" * 900_000)
            await lazy.writer.drain()
        client = await served.connect()
        for _ in range(5):
            assert (await client.call(api_versions(0))).error_code is ErrorCode.none


async def test_a_client_that_does_not_read_holds_back_only_itself(served: Serving) -> None:
    await served.broker.create_topic("t", 1)
    writer = await served.connect()
    for _ in range(20):
        await writer.call(produce("t", {0: batch_of(b"x" * 900_000)}))
    lazy = await served.connect()
    for _ in range(40):
        lazy.send(fetch("t", {0: 0}, partition_bytes_max=20_000_000))
    assert (await writer.call(api_versions(0))).error_code is ErrorCode.none
    for _ in range(40):  # and when it reads, everything is there
        frame = await lazy.frame()
        assert len(frame) > 17_000_000


OPENER = """
import resource, socket, sys
host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
held = [socket.create_connection((host, port)) for _ in range(count)]
for each in held[::2]:
    each.sendall(b"\\0\\0\\0\\x20half")
print("open", flush=True)
sys.stdin.read()
"""


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def test_10_000_connections_opened_and_left_cost_next_to_nothing(served: Serving) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    count = min(10_000, hard - 1_000)  # both ends need descriptors, hence the other process
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        OPENER,
        *map(str, served.address),
        str(count),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    before = resident_bytes()
    try:
        assert await process.stdout.readline() == b"open\n"
        client = await served.connect()
        assert (await client.call(api_versions(3))).error_code is ErrorCode.none
        async with asyncio.timeout(PATIENCE_S):  # the kernel lets clients believe that they are connected before it hands them on
            while served.counted("hotlog_connections") < count + 1:
                await asyncio.sleep(0.01)
        assert (resident_bytes() - before) / count < 16 * 1024, "bytes of one idle connection"
    finally:
        process.stdin.close()
        await process.wait()
    await gone(served, 1)
    assert served.counted("hotlog_connections") == 1


async def test_fetches_shrink_while_slow_clients_hold_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pieces are read at once, so a client that does not take them holds memory."""
    monkeypatch.setattr(PosixFile, "read_at_nowait", PosixFile.read_at)  # whatever the machine's page cache has let go
    count, size = 40, 100_000
    async with serving(tmp_path, {"hotlog.queued.max.response.bytes": "8000000"}) as served:
        await served.broker.create_topic("t", count)
        client = await served.connect()
        await client.call(produce("t", {number: batch_of(b"x" * size) for number in range(count)}))
        whole = fetch("t", dict.fromkeys(range(count), 0), partition_bytes_max=PART_BYTES_MIN)
        assert answer_bytes(await client.call(whole)) > 1_800_000
        lazy = [await served.connect_lazy() for _ in range(16)]
        for each in lazy:
            for _ in range(8):
                each.send(whole)
        async with asyncio.timeout(PATIENCE_S):
            while answer_bytes(await client.call(whole)) > 1_000_000:
                pass
        for each in lazy:
            each.writer.transport.abort()  # type: ignore[attr-defined]
        async with asyncio.timeout(PATIENCE_S):
            while served.broker.reply_backlog_bytes:
                await asyncio.sleep(0.01)
        assert answer_bytes(await client.call(whole)) > 1_800_000


async def test_slow_clients_of_large_answers_hold_a_piece_each(tmp_path: Path) -> None:
    """What is read while it is sent takes no memory of an answer's size, and the others' answers stay whole."""
    count = 16
    limit = 40_000_000 + count * PIECE_BYTES  # an answer gets a quarter of what is left of it
    async with serving(tmp_path, {"hotlog.queued.max.response.bytes": str(limit)}) as served:
        await served.broker.create_topic("t", 1)
        client = await served.connect()
        for _ in range(10):
            await client.call(produce("t", {0: batch_of(b"x" * 900_000)}))
        whole = fetch("t", {0: 0}, partition_bytes_max=50_000_000)
        lazy = [await served.connect_lazy() for _ in range(count)]
        for each in lazy:
            each.send(whole)
        async with asyncio.timeout(PATIENCE_S):
            while served.counted("kafka_network_requests_total", api="Fetch") < len(lazy):
                await asyncio.sleep(0.01)
        assert count * (PIECE_BYTES - TAKEN_BYTES_MAX) <= served.broker.reply_backlog_bytes <= count * PIECE_BYTES
        assert answer_bytes(await client.call(whole)) > 8_900_000


def answer_bytes(response: Any) -> int:
    """Bytes of records in a fetch's answer."""
    return sum(len(part.records or b"") for topic in response.responses for part in topic.partitions)


async def test_stopping_answers_what_is_in_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "DRAIN_SECONDS_MAX", PATIENCE_S)
    async with serving(tmp_path) as served:
        await served.broker.create_topic("t", 1)
        client = await served.connect()
        poll = fetch("t", {0: 0}, wait_ms=POLL_MS)
        correlation = client.send(poll)
        await served.working()
        closing = asyncio.create_task(served.listeners.close())
        assert (await client.answer(poll, correlation)).error_code is ErrorCode.none
        await closing
        assert await client.is_closed()
