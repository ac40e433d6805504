"""The client side of our wire, for calls between brokers: against a real broker, and against peers that misbehave."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kio.schema.errors import ErrorCode

from hotlog.front.dispatch import load_apis
from hotlog.kernel.errors import Invalid, OutcomeUnknown, PeerUnavailable
from hotlog.wire import apis, peer
from hotlog.wire.peer import Peer, connect
from hotlog.world.network import TcpNetwork
from tests.tools.patience import PATIENCE_S
from tests.wire.serving import Serving, batch_of, fetch, produce, serving
from tests.wire.strategies import entities

SERVED = [(api.key, version) for api in load_apis() for version in api.versions]
NO_TOPICS = apis.requests(3, 12).MetadataRequest(topics=(), include_topic_authorized_operations=False)
SOON_S = 0.05


@pytest.mark.parametrize(("key", "version"), SERVED)
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_what_is_asked_is_read_as_it_was_meant_and_so_is_the_reply(key: int, version: int, data: st.DataObject) -> None:
    request, response = (
        data.draw(entities(apis.request_type(key, version))),
        data.draw(entities(apis.response_type(key, version))),
    )
    frame = apis.encode_request(7, "node 3", request)
    assert struct.unpack_from(">i", frame) == (len(frame) - 4,)
    body = memoryview(bytearray(frame[4:]))
    header, position = apis.parse_header(body)
    assert header == (key, version, 7, "node 3")
    if apis.is_flexible(key, version):
        position = apis.skip_tags(body, position)
    assert apis.decode_request(key, version, body, position) == request
    reply = apis.encode_response(key, version, 7, response)
    assert apis.decode_response(key, version, memoryview(bytearray(reply[4:]))) == response


@pytest.mark.parametrize(("key", "version"), SERVED)
@settings(max_examples=8, deadline=None)
@given(junk=st.binary(max_size=80))
def test_junk_is_a_reply_or_invalid_and_nothing_else(key: int, version: int, junk: bytes) -> None:
    try:
        apis.decode_response(key, version, memoryview(bytearray(b"\0\0\0\7" + junk)))
    except Invalid as refusal:
        assert "malformed" in str(refusal)


@asynccontextmanager
async def connected(served: Serving) -> AsyncIterator[Peer]:
    made = await connect(TcpNetwork(), *served.address, client_id="node 2")
    try:
        yield made
    finally:
        made.close()


async def test_a_connection_knows_what_is_served_and_takes_the_highest_version_of_both(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, connected(served) as node:
        assert node.versions == {
            api.key: api.versions if api.key else range(api.versions.stop) for api in load_apis() if api.is_told
        }
        metadata = node.versions[3]
        assert node.version(3, range(100)) == metadata[-1]
        assert node.version(3, range(6)) == 5
        with pytest.raises(Invalid, match="none of API 4711"):
            node.version(4711, range(3))
        with pytest.raises(Invalid, match="speaks 100 to 101"):
            node.version(3, range(100, 102))


async def test_calls_go_and_come_and_many_are_under_way(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, connected(served) as node:
        await served.broker.create_topic("t", 1)
        done = await node.call(produce("t", {0: batch_of(b"one")}), within_s=PATIENCE_S)
        assert done.responses[0].partition_responses[0].error_code is ErrorCode.none
        calls = [node.call(fetch("t", {0: number % 2}), within_s=PATIENCE_S) for number in range(peer.CALLS_MAX)]
        answers = await asyncio.gather(*calls)
        sizes = {len(answer.responses[0].partitions[0].records or b"") > 0 for answer in answers[::2]}
        assert sizes == {True}, "each call has its own reply"
        assert not any(answer.responses[0].partitions[0].records for answer in answers[1::2])
        assert node.calls == 0


async def test_a_reply_may_be_read_where_it_lies(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, connected(served) as node:

        def read(version: int, frame: memoryview, position: int) -> tuple[int, bytes]:
            return version, bytes(frame[position : position + 4])

        assert await node.call_and_read(NO_TOPICS, read, within_s=PATIENCE_S) == (12, bytes(4))  # throttle time


async def test_a_late_reply_is_dropped_and_the_next_call_gets_its_own(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, connected(served) as node:
        await served.broker.create_topic("t", 1)
        with pytest.raises(OutcomeUnknown, match="within"):
            await node.call(fetch("t", {0: 0}, wait_ms=1000), within_s=SOON_S)
        assert node.calls == 1
        answer = await node.call(NO_TOPICS, within_s=PATIENCE_S)
        assert answer.cluster_id == served.broker.cluster_id and node.calls == 0


async def test_calls_that_were_given_up_count_until_they_are_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer, "CALLS_MAX", 2)
    async with serving(tmp_path) as served, connected(served) as node:
        await served.broker.create_topic("t", 1)
        for _ in range(2):
            with pytest.raises(OutcomeUnknown):
                await node.call(fetch("t", {0: 0}, wait_ms=60_000), within_s=SOON_S)
        with pytest.raises(PeerUnavailable, match="2 calls wait"):
            await node.call(NO_TOPICS, within_s=PATIENCE_S)


async def test_a_broker_that_stops_leaves_nobody_waiting(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.broker.create_topic("t", 1)
        node = await connect(TcpNetwork(), *served.address, client_id="node 2")
        poll = asyncio.create_task(node.call(fetch("t", {0: 0}, wait_ms=60_000), within_s=PATIENCE_S))
        await served.working()
        node.close()
        with pytest.raises(OutcomeUnknown, match="closed here"):
            await poll
        assert not node.is_open
        with pytest.raises(PeerUnavailable, match="not connected"):
            await node.call(NO_TOPICS, within_s=PATIENCE_S)


async def test_nobody_there_is_told_at_once() -> None:
    network = TcpNetwork()
    listening = await network.listen(asyncio.Protocol, "127.0.0.1", 0)
    address = listening.address
    listening.close()
    await listening.wait_closed()
    with pytest.raises(PeerUnavailable, match="cannot be reached"):
        await connect(network, *address, client_id="node 2")


# Peers that misbehave

Answer = Callable[[int, int, int], bytes]  # (API key, version, correlation id) -> bytes to send


class Odd(asyncio.Protocol):
    """Answers each request with whatever it was told to."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._came = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._came += data
        while len(self._came) >= 4 and len(self._came) >= 4 + (size := struct.unpack_from(">i", self._came)[0]):
            key, version, correlation_id = struct.unpack_from(">hhi", self._came, 4)
            self._came = self._came[4 + size :]
            self._transport.write(self._answer(key, version, correlation_id))


@asynccontextmanager
async def odd(answer: Answer) -> AsyncIterator[tuple[str, int]]:
    listening = await TcpNetwork().listen(lambda: Odd(answer), "127.0.0.1", 0)
    try:
        yield listening.address
    finally:
        listening.close()


def greeting(version: int, correlation_id: int, code: ErrorCode = ErrorCode.none) -> bytes:
    shapes = apis.responses(18, version)
    keys = (
        shapes.ApiVersion(api_key=3, min_version=0, max_version=12),
        shapes.ApiVersion(api_key=18, min_version=0, max_version=version),
    )
    response = shapes.ApiVersionsResponse(
        error_code=code, api_keys=keys, **({"throttle_time": apis.timedelta(0)} if version else {})
    )
    return apis.encode_response(18, version, correlation_id, response)


async def test_a_broker_that_is_older_is_asked_in_its_own_version() -> None:
    asked = []

    def answer(key: int, version: int, correlation_id: int) -> bytes:
        asked.append(version)
        return greeting(0, correlation_id, ErrorCode.unsupported_version if version else ErrorCode.none)

    async with odd(answer) as address:
        node = await connect(TcpNetwork(), *address, client_id="node 2")
        assert node.versions[3] == range(13) and asked == [apis.versions_known(18)[-1], 0]
        node.close()


@pytest.mark.parametrize(
    ("junk", "says"),
    [
        (struct.pack(">ii", 4, 2), "reply size 4"),
        (struct.pack(">ii", 2**31 - 1, 2), "reply size"),
        (struct.pack(">iih", 6, 4711, 0), "4711"),
        (struct.pack(">iiq", 12, 2, -1), "malformed"),
    ],
)
async def test_what_no_broker_says_ends_the_connection(junk: bytes, says: str) -> None:
    def answer(key: int, version: int, correlation_id: int) -> bytes:
        return greeting(version, correlation_id) if key == 18 else junk

    async with odd(answer) as address:
        node = await connect(TcpNetwork(), *address, client_id="node 2")
        with pytest.raises(OutcomeUnknown, match=says):
            await node.call(NO_TOPICS, within_s=PATIENCE_S)
        assert not node.is_open


async def test_a_reply_that_nobody_asked_for_ends_the_connection() -> None:
    def answer(key: int, version: int, correlation_id: int) -> bytes:
        return greeting(version, correlation_id) * 2

    async with odd(answer) as address:
        node = await connect(TcpNetwork(), *address, client_id="node 2")
        async with asyncio.timeout(PATIENCE_S):
            while node.is_open:
                await asyncio.sleep(0.001)


async def test_silence_ends_at_the_deadline() -> None:
    async with odd(lambda *_: b"") as address:
        with pytest.raises(PeerUnavailable, match=r"within 0\.05 s"):
            await connect(TcpNetwork(), *address, client_id="node 2", within_s=SOON_S)
