"""A disk that takes segments more slowly than they are filled holds up who fills them, and says so in time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kio.schema.errors import ErrorCode
from kio.serial import entity_reader

from hotlog.answers.api import Later
from hotlog.apis import k00_produce
from hotlog.broker.broker import Broker
from hotlog.kernel.ids import TopicPartition
from hotlog.log.open_writers import ROLLED_MAX
from hotlog.wire import apis
from hotlog.wire.produce import PartitionData, ProduceRequest, TopicData
from hotlog.wire.records import NewRecord, encode_batch
from tests.admin.node import running
from tests.tools.patience import SOON_S

VERSION = 9


async def produce(broker: Broker, topic: str, *, timeout_ms: int = int(SOON_S * 1000)) -> ErrorCode:
    """One batch, as the door takes it."""
    data = encode_batch([NewRecord(broker.clock.now_ms(), None, b"v" * 800)])
    request = ProduceRequest(None, -1, timeout_ms, [TopicData(topic, None, [PartitionData(0, memoryview(bytearray(data)))])])
    context: Any = SimpleNamespace(has_failed=False, version=VERSION)
    answer = k00_produce.handle(broker, context, request)
    if asyncio.iscoroutine(answer):
        answer = await answer
    if isinstance(answer, Later):
        answer = await answer.reply
    response, _ = entity_reader(apis.response_type(0, VERSION))(b"".join(answer.buffers), 0)
    return response.responses[0].partition_responses[0].error_code


async def test_produce_waits_for_segments_that_are_still_to_be_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path, tiered=False) as broker:
        for name in ("tiny", "other"):
            await broker.create_topic(name, 1, {"segment.bytes": "1024"})
        log, other = broker.logs.get(TopicPartition("tiny", 0)), broker.logs.get(TopicPartition("other", 0))
        gate, run = asyncio.Event(), broker.disk.run

        async def held(function: Any, *args: Any, **kwargs: Any) -> Any:
            if function.__name__ == "run_job" and "tiny" in str(args):
                await gate.wait()
            return await run(function, *args, **kwargs)

        monkeypatch.setattr(broker.disk, "run", held)
        producing = [asyncio.create_task(produce(broker, "tiny")) for _ in range(2 * ROLLED_MAX)]
        async with asyncio.timeout(SOON_S):
            while log.log_end_offset < ROLLED_MAX + 1:
                await asyncio.sleep(0.001)
            assert await produce(broker, "tiny", timeout_ms=1) is ErrorCode.request_timed_out
            assert await produce(broker, "other") is ErrorCode.none, "others are served"
            assert log.log_end_offset == ROLLED_MAX + 1, "nothing was appended of what was refused or waits"
            gate.set()
            assert set(await asyncio.gather(*producing)) == {ErrorCode.none}
        assert (log.log_end_offset, other.log_end_offset) == (2 * ROLLED_MAX, 1)
