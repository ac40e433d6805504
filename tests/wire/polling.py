"""Fetches that wait: made, counted, looked for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hotlog.apis.fetch import waits
from hotlog.apis.fetch.short_way import ShortWay
from hotlog.partitions.partition import Partition
from hotlog.wire.batch import TRANSACTIONAL_MASK, header_at
from tests.tools.patience import PATIENCE_S
from tests.wire.serving import POLL_MS, Client, Serving, batch_of, fetch


class Ways:
    """How many fetches went the short way."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.short = 0
        answer = ShortWay.answer

        def counted(way: ShortWay, *arguments: Any) -> Any:
            found = answer(way, *arguments)
            self.short += found is not None
            return found

        monkeypatch.setattr(ShortWay, "answer", counted)


def append(partition: Partition, size: int, *, producer: int = -1) -> None:
    data = batch_of(b"x" * size, **({"producer_id": producer, "producer_epoch": 0, "base_sequence": 0} if producer >= 0 else {}))
    if producer >= 0:
        data[22] |= TRANSACTIONAL_MASK
    partition.append(memoryview(data), [header_at(data)], now_ms=0)


def partition_of(served: Serving, index: int = 0) -> Partition:
    found = served.broker.partition("t", index)
    assert found is not None
    return found


def waiting(served: Serving) -> int:
    return len(served.broker.kept[waits.Waits])


async def until_waiting(served: Serving, count: int = 1) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while waiting(served) < count:
            await asyncio.sleep(0)


def is_left_alone(served: Serving) -> bool:
    """Whether nothing that waited left anything behind."""
    kept = served.broker.kept[waits.Waits]
    return not (len(kept) or kept._woken or served.connections.working or partition_of(served).marks._ears)


async def sent_poll(served: Serving, client: Client, **options: Any) -> tuple[Any, int]:
    """A poll that waits: the request and its correlation id."""
    options.setdefault("wait_ms", POLL_MS)
    request = fetch("t", {0: 0}, **options)
    correlation, before = client.send(request), waiting(served)
    await until_waiting(served, before + 1)
    return request, correlation
