"""The tail beside cold reads that come to nothing (faults.md 24): real HTTP to a real store through a proxy that holds or trickles GETs.

Nothing here looks at a clock: each step waits for the answer to one new record, while every cold fetch is still unanswered.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
from aiohttp import web
from kio.schema.errors import ErrorCode

from hotlog.partitions.partition import Partition
from hotlog.wire import batch as batches
from hotlog.wire.records import decode_batch
from tests.conftest import OpenStore
from tests.fixtures import faulty_s3 as faults
from tests.fixtures.faulty_s3 import FaultyProxy, Forward, Rule
from tests.fixtures.s3_servers import S3Server
from tests.tools.patience import PATIENCE_S
from tests.wire.serving import Client, Serving, batch_of, fetch, produce, produced, serving
from tests.wire.tiered import SMALL_SEGMENTS, fill, tier_out

COLD_PARTITIONS = 4
COLD_BATCHES = 12
READERS = 12  # connections that want history, each from other offsets: far more reads than the broker has GETs in flight
READER_THREADS = 3
ANSWERS = 25
PATIENT_MS = int(PATIENCE_S * 1000)


class Torn(NamedTuple):
    """A broker whose topic `cold` is only in the store, and cold fetches of many connections that the store does not answer."""

    served: Serving
    proxy: FaultyProxy
    readers: list[tuple[Client, Any, int]]  # (connection, its request, correlation)
    values: list[bytes]
    released: asyncio.Event

    async def writer(self) -> Client:
        return await self.served.connect()

    def is_stuck(self) -> bool:
        """Whether all cold fetches are still at work."""
        return self.served.connections.working >= READERS


def values_of(records: bytes | None) -> list[bytes]:
    view = memoryview(records or b"")
    return [
        record.value or b""
        for position, header in batches.walk(view)
        for record in decode_batch(view[position : position + header.size])
    ]


def records_of(response: Any) -> dict[str, list[bytes]]:
    """`{topic-partition: values}` of a Fetch answer without errors."""
    parts = [(topic.topic, part) for topic in response.responses for part in topic.partitions]
    assert {part.error_code for _, part in parts} == {ErrorCode.none}
    return {f"{name}-{part.partition_index}": values_of(part.records) for name, part in parts}


def partition_of(served: Serving, topic: str, index: int) -> Partition:
    found = served.broker.partition(topic, index)
    assert found is not None
    return found


@pytest_asyncio.fixture(params=["hangs", "trickles"])
async def torn(
    request: pytest.FixtureRequest, tmp_path: Path, minio: S3Server, s3_url: Callable[[S3Server], str], open_test_store: OpenStore,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Torn]:  # fmt: skip
    monkeypatch.setattr("hotlog.apis.fetch.cold_reads.READ_WAIT_MS", PATIENT_MS)  # else cold fetches come to an end of their own
    monkeypatch.setattr("hotlog.apis.fetch.general_way.WAIT_MS_MAX", PATIENT_MS)
    released, began = asyncio.Event(), asyncio.Event()

    async def troubled(request_: web.Request, forward: Forward) -> web.StreamResponse:
        began.set()
        whole = await forward()
        if request.param == "hangs":
            await released.wait()
            return whole
        response = await faults.begin(request_, whole)
        for at in range(len(whole.body) - 1):  # type: ignore[arg-type]
            await response.write(whole.body[at : at + 1])  # type: ignore[index]
            await asyncio.sleep(0.02)
        await released.wait()  # however long the test takes, the last byte does not come
        await response.write(whole.body[-1:])  # type: ignore[index]
        return response

    url = s3_url(minio)
    settings = {
        "remote.fetch.max.wait.ms": str(PATIENT_MS), "remote.log.reader.threads": str(READER_THREADS), "hotlog.cache.memory.bytes": "0",
        "hotlog.cache.disk.bytes": "0", "hotlog.readahead.bytes": "0",
    }  # fmt: skip
    async with faults.faulty_proxy(minio.endpoint) as proxy:
        store = await open_test_store(url.replace(minio.endpoint, proxy.endpoint))
        async with serving(tmp_path, settings, store=lambda own: store) as served:
            await served.broker.create_topic("cold", COLD_PARTITIONS, SMALL_SEGMENTS)
            await served.broker.create_topic("hot", 1)
            client = await served.connect()
            values: list[bytes] = []
            for index in range(COLD_PARTITIONS):
                values = await fill(client, "cold", COLD_BATCHES, partition=index)
                await tier_out(served.broker, partition_of(served, "cold", index))
            rule = Rule("GET", "/data/", troubled)
            proxy.rules.append(rule)
            readers = []
            for number in range(READERS):
                reader = await served.connect()
                wish = fetch("cold", dict.fromkeys(range(COLD_PARTITIONS), number), wait_ms=PATIENT_MS)
                readers.append((reader, wish, reader.send(wish)))
            await began.wait()
            state = Torn(served, proxy, readers, values, released)
            async with asyncio.timeout(PATIENCE_S):
                while not state.is_stuck():
                    await asyncio.sleep(0.005)
            yield state
            proxy.rules.clear()
            released.set()


@pytest.mark.parametrize("bytes_min", [1, 500])
async def test_each_new_record_is_answered_while_cold_fetches_come_to_nothing(torn: Torn, bytes_min: int) -> None:
    tail, writer = await torn.served.connect(), await torn.writer()
    for number in range(ANSWERS):
        wish = fetch("hot", {0: number}, wait_ms=PATIENT_MS, bytes_min=bytes_min)
        correlation = tail.send(wish)
        async with asyncio.timeout(PATIENCE_S):
            while number % 2 and torn.served.connections.working <= READERS:  # every second fetch is there before the record
                await asyncio.sleep(0.001)
        value = b"%d" % number + b"." * 500
        assert produced(await writer.call(produce("hot", {0: batch_of(value)}))) == [(0, ErrorCode.none, number)]
        assert records_of(await tail.answer(wish, correlation)) == {"hot-0": [value]}
    assert torn.is_stuck(), "the cold fetches were answered meanwhile: nothing was shown"
    assert torn.proxy.count("GET", "/data/") >= READER_THREADS


async def test_a_fetch_of_both_tiers_is_answered_with_its_hot_data_at_once(torn: Torn) -> None:
    mixed, writer = await torn.served.connect(), await torn.writer()
    cold = fetch("cold", dict.fromkeys(range(COLD_PARTITIONS), 0), wait_ms=PATIENT_MS)
    nothing: dict[str, list[bytes]] = {f"cold-{index}": [] for index in range(COLD_PARTITIONS)}
    for number in range(ANSWERS):
        await writer.call(produce("hot", {0: batch_of(b"%d" % number)}))
        wish = dataclasses.replace(cold, topics=(*cold.topics, *fetch("hot", {0: number}).topics))
        assert records_of(await mixed.call(wish)) == {**nothing, "hot-0": [b"%d" % number]}
    assert torn.is_stuck()


@pytest.mark.parametrize("torn", ["hangs"], indirect=True)
async def test_when_the_store_answers_again_every_reader_gets_its_history(torn: Torn) -> None:
    torn.released.set()
    for number, (reader, wish, correlation) in enumerate(torn.readers):
        found = records_of(await reader.answer(wish, correlation))
        for index, values in found.items():
            assert values == torn.values[number : number + len(values)], index
        assert any(found.values())
