"""The protocol on a socket: versions, order of replies, and what malformed input costs."""

from __future__ import annotations

import asyncio
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kio.schema.errors import ErrorCode

from hotlog.front.dispatch import load_apis
from hotlog.wire import apis
from tests.tools.patience import PATIENCE_S
from tests.wire.serving import (
    Serving,
    api_versions,
    batch_of,
    fetch,
    frame_of,
    parsed,
    produce,
    produced,
    serving,
)
from tests.wire.strategies import entities

MALFORMED = "hotlog_connections_malformed_total"


REFUSED = "hotlog_connections_refused_total"


@pytest.mark.parametrize("version", range(5))
async def test_api_versions_answers_the_table_of_dispatch(served: Serving, version: int) -> None:
    client = await served.connect()
    response = await client.call(api_versions(version))
    assert response.error_code is ErrorCode.none
    assert {k.api_key: range(k.min_version, k.max_version + 1) for k in response.api_keys} == {
        api.key: api.versions if api.key else range(api.versions.stop)
        for api in load_apis()
        if api.is_told  # Produce from 0, as Kafka says it
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
            assert served.connection_count >= 1

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
