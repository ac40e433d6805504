"""What a broker's memory is while history is replayed again and again with little cache, by clients that take their answers, that go away
before they do, and that never take them.  The bound is the one that docs/operations.md states."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from hotlog.kernel.limits import RANGE_BYTES_MAX, MiB
from hotlog.world.memory import HEAP_KEPT_BYTES_MAX
from tests.bench.wire import Connection, fetch_frame, fetched
from tests.e2e.conftest import HURRY, alter, create, produce, running, wait_all_cold
from tests.tools.hotlog_server import HotlogServer

PARTITIONS, RECORD_BYTES, RECORDS = 16, 200_000, 60  # records of a partition
READERS, CACHE_BYTES, QUEUED_BYTES, INDEX_BYTES = 4, 32 * MiB, 80 * MiB, 8 * MiB
STALLED_MAX = 8
ROUNDS = 120

SETTINGS = {
    **HURRY,
    "hotlog.cache.memory.bytes": str(CACHE_BYTES),
    "hotlog.cache.disk.bytes": "0",
    "hotlog.queued.max.response.bytes": str(QUEUED_BYTES),
    "remote.log.index.file.cache.total.size.bytes": str(INDEX_BYTES),
    "remote.log.reader.threads": str(READERS),
}


@pytest.fixture
def server(tmp_path: Path, minio_url: str) -> Iterator[HotlogServer]:
    with running(HotlogServer(folder=tmp_path / "broker", settings=SETTINGS, store=minio_url)) as server:
        yield server


def bound_bytes() -> int:
    """The table of docs/operations.md, but for what the process takes by itself."""
    on_their_way = READERS * min(RANGE_BYTES_MAX, CACHE_BYTES // 4)
    held_by_answers = 64 * MiB + CACHE_BYTES
    return CACHE_BYTES + on_their_way + held_by_answers + 64 * MiB + 64 * MiB + QUEUED_BYTES + INDEX_BYTES + HEAP_KEPT_BYTES_MAX


def test_memory_under_replays_stays_within_what_is_stated(server: HotlogServer) -> None:
    create(server, "history", PARTITIONS, **{"segment.bytes": str(32 * MiB), "local.retention.ms": "1", "retention.ms": "-1"})
    chance = random.Random(9)
    value = chance.randbytes(RECORD_BYTES)
    produce(server, "history", [{"value": value, "partition": number % PARTITIONS} for number in range(RECORDS * PARTITIONS)])
    alter(server, "history", {"segment.ms": "300"})
    wait_all_cold(server, "history", PARTITIONS)
    server.stop()
    server.start()
    assert server.process is not None
    process = psutil.Process(server.process.pid)
    itself, seen = process.memory_info().rss, 0
    stalled: list[Connection] = []
    for number in range(ROUNDS):
        client = Connection(server.bootstrap)
        offsets = {index: chance.randrange(RECORDS) for index in range(PARTITIONS)}
        client.send(fetch_frame("history", offsets))
        if number % 3:
            fetched(client.receive())  # what came first; the rest is still read, and nobody will ask for it again
            client.close()
        else:
            stalled.append(client)
        if len(stalled) > STALLED_MAX:
            stalled.pop(0).close()
        seen = max(seen, process.memory_info().rss)
    for client in stalled:
        client.close()
    print(f"{itself / MiB:.0f} MiB at the start, {seen / MiB:.0f} at most, {bound_bytes() / MiB:.0f} stated")
    assert seen <= itself + bound_bytes()
