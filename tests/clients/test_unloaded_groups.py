"""Clients whose group's shard is unloaded and loaded again go on as if nothing had been: same member, same generation, no record twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from confluent_kafka import Consumer

from hotlog.broker.broker import Broker
from hotlog.coordinators.group_types import Group, State
from tests.tools.patience import PATIENCE_S
from tests.wire.serving import Serving, batch_of, produce, produced, serving

GROUP, TOPIC = "g", "clicks"
SESSION_MS, HEARTBEAT_MS = 6_000, 100


class Aio:
    """aiokafka's consumer."""

    def __init__(self, bootstrap: str) -> None:
        self._consumer = AIOKafkaConsumer(
            TOPIC, bootstrap_servers=bootstrap, group_id=GROUP, enable_auto_commit=False, auto_offset_reset="earliest",
            session_timeout_ms=SESSION_MS, heartbeat_interval_ms=HEARTBEAT_MS, retry_backoff_ms=50,
        )  # fmt: skip

    async def start(self) -> None:
        await self._consumer.start()

    async def take(self, count: int) -> list[bytes]:
        return [(await self._consumer.getone()).value for _ in range(count)]

    async def commit(self) -> None:
        await self._consumer.commit()

    async def stop(self) -> None:
        await self._consumer.stop()


class Librdkafka:
    """librdkafka's, in a thread."""

    def __init__(self, bootstrap: str) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap, "group.id": GROUP, "enable.auto.commit": False, "auto.offset.reset": "earliest",
                "session.timeout.ms": SESSION_MS, "heartbeat.interval.ms": HEARTBEAT_MS, "log_level": 0,
            }
        )  # fmt: skip

    async def start(self) -> None:
        self._consumer.subscribe([TOPIC])

    async def take(self, count: int) -> list[bytes]:
        return await asyncio.to_thread(self._take, count)

    def _take(self, count: int) -> list[bytes]:
        found: list[bytes] = []
        give_up = time.monotonic() + PATIENCE_S
        while len(found) < count:
            assert time.monotonic() < give_up, f"only {found} came"
            message = self._consumer.poll(0.1)
            if message is not None and message.error() is None:
                value = message.value()
                assert value is not None
                found.append(value)
        return found

    async def commit(self) -> None:
        await asyncio.to_thread(self._consumer.commit, asynchronous=False)

    async def stop(self) -> None:
        await asyncio.to_thread(self._consumer.close)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving(tmp_path) as served:
        await served.broker.create_topic(TOPIC, 1)
        yield served


def group_of(broker: Broker) -> Group:
    return broker.groups.describe(GROUP).group


async def patiently(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not done():
            await asyncio.sleep(0.02)


async def in_time(work: Awaitable[Any]) -> Any:
    async with asyncio.timeout(PATIENCE_S):
        return await work


@pytest.mark.parametrize("kind", [Aio, Librdkafka])
async def test_a_clients_group_survives_that_its_shard_is_unloaded(
    kind: type[Aio | Librdkafka], served: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = served.broker
    sender = await served.connect()
    consumer = kind("{}:{}".format(*served.address))

    async def send(*values: bytes) -> None:
        assert produced(await sender.call(produce(TOPIC, {0: batch_of(*values)})))[0][1] == 0

    await send(b"1", b"2")
    await in_time(consumer.start())
    assert await in_time(consumer.take(2)) == [b"1", b"2"]
    await in_time(consumer.commit())
    await patiently(lambda: group_of(broker).state is State.STABLE)
    before = group_of(broker)

    for index in range(2):
        broker.groups.resign(index)
    await send(b"3")
    assert await in_time(consumer.take(1)) == [b"3"]
    await in_time(consumer.commit())  # has it loaded

    partition_of = broker.groups._partition_of
    monkeypatch.setattr(broker.groups, "_partition_of", lambda index: None)  # as if another node led it
    await broker.groups.tick()
    assert list(broker.groups._shards) == []
    await send(b"4")
    asked = served.counted("kafka_network_requests_total", api="FindCoordinator")
    # It was told NOT_COORDINATOR, and looks for who is.
    await patiently(lambda: served.counted("kafka_network_requests_total", api="FindCoordinator") > asked + 1)
    monkeypatch.setattr(broker.groups, "_partition_of", partition_of)
    await broker.groups.tick()
    assert await in_time(consumer.take(1)) == [b"4"]
    await in_time(consumer.commit())
    await asyncio.sleep(SESSION_MS / 1000 + 0.5)  # it found the coordinator again, and its session goes on
    after = group_of(broker)
    assert (after.state, after.generation, list(after.members)) == (State.STABLE, before.generation, list(before.members))
    assert broker.groups.offsets(GROUP)[TOPIC, 0].offset == 4
    await in_time(consumer.stop())
