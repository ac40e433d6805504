"""Requests that come together on one connection: what is known already waits within bounds, and leaves as soon as it may."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from hotlog.front import connection, sending
from hotlog.front.connection import Connection
from hotlog.log.waiters import Told
from tests.tools.patience import PATIENCE_S
from tests.wire.serving import Serving, batch_of, produce, produced, serving
from tests.wire.test_calls import metadata
from tests.wire.test_produce_short import held_syncs


def connection_of(served: Serving) -> Connection:
    (member,) = served.connections._members
    assert isinstance(member, Connection)
    return member


async def test_requests_without_a_reply_leave_nothing_behind(tmp_path: Path) -> None:
    async with serving(tmp_path, {"hotlog.durability": "page-cache"}) as served:
        await served.broker.create_topic("t", 1)
        client = await served.connect()
        for times in range(1, 4):
            for _ in range(50):
                client.send(produce("t", {0: batch_of(b"x")}, acks=0))
            async with asyncio.timeout(PATIENCE_S):
                while served.broker.produce_requests < 50 * times:
                    await asyncio.sleep(0.001)
            assert not connection_of(served)._ready


async def test_replies_behind_one_that_is_waited_for_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few bytes of requests would have the broker hold any number of bytes of replies."""
    for module in (connection, sending):
        monkeypatch.setattr(module, "ANSWERS_BYTES_MAX", 1000)
    async with serving(tmp_path) as served:
        await served.broker.create_topic("t", 20)
        client = await served.connect()
        client.send(metadata())
        reply = len(await client.frame())
        await client.call(produce("t", {0: batch_of(b"x")}))
        with held_syncs(served):
            waiting = produce("t", {0: batch_of(b"y")})
            first = client.send(waiting)
            rest = [client.send(metadata()) for _ in range(60)]
            async with asyncio.timeout(PATIENCE_S):
                while not connection_of(served)._frames:
                    await asyncio.sleep(0.001)
            held = sum(len(b) for slot in connection_of(served)._slots for b in (slot.buffers or ()))
            assert 0 < held <= 1000 + reply
        assert produced(await client.answer(waiting, first))[0][2] == 1
        for correlation in rest:
            await client.answer(metadata(), correlation)
        assert connection_of(served)._behind_bytes == 0


async def test_a_reply_that_is_known_at_once_leaves_without_another_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path) as served:
        await served.broker.create_topic("t", 1)
        client = await served.connect()
        for _ in range(2):  # the first ones of a leader go the general way
            await client.call(produce("t", {0: batch_of(b"x")}, version=9))
        (partition,) = [each for each in served.broker.hosted() if each.tp.topic == "t"]

        def refused(end_offset: int, told: Told, timeout_s: float | None = None) -> None:
            told(TimeoutError())

        monkeypatch.setattr(partition, "when_committed", refused)
        assert produced(await client.call(produce("t", {0: batch_of(b"y")}, version=9)))[0][1].name == "request_timed_out"
