"""Whatever the door takes, everything behind it reads: one broker on real parts, and its bucket without it.

Invariants: batches go in over a socket; what they hold is compared in each reader with what was sent, hot and when only the store has it.
"""

from __future__ import annotations

import asyncio
import base64
import json
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from kio.schema.errors import ErrorCode

from hotlog.partitions.partition import Partition
from hotlog.wire import apis
from hotlog.wire.batch import walk
from hotlog.wire.records import decode_batch, name_bytes
from hotlog.world.posix import PosixDisk, SystemClock, SystemEntropy
from tests.admin.node import open_directory_store
from tests.fixtures.raw_batch import CODEC_NUMBERS, RawRecord, raw_batch, zstd
from tests.tools.patience import PATIENCE_S
from tests.wire.serving import Client, fetch, fetched, produce, produced, serving
from tests.wire.tiered import SMALL_SEGMENTS, tier_out
from tiering.export.job import ExportRequest, export_topic
from tiering.replay.local_segments import LocalSegments
from tiering.replay.places import AtTime
from tiering.replay.sinks import JsonLinesSink
from tiering.replay.topic import ReplayRequest, direct_replay

NOW = SystemClock().now_ms()
LATEST, MAX_TIMESTAMP = -1, -3
NONE = ErrorCode.none

_NAMES = st.sampled_from([b"", b"h", "é".encode(), b"caf\xe9", b"\xff\x00", b"\xed\xa0\x80"]) | st.binary(max_size=6)
_TIMES = st.sampled_from([-1, 0, 1, NOW, NOW - 1, NOW + 1000]) | st.integers(-10, 10) | st.integers(0, NOW)
_BYTES = st.none() | st.sampled_from([b"", b"{}", b"\xff", b"x" * 5000]) | st.binary(max_size=30)
_RECORDS = st.builds(
    RawRecord,
    timestamp=_TIMES,
    key=_BYTES,
    value=_BYTES,
    headers=st.lists(st.tuples(_NAMES, _BYTES), max_size=3),
    delta=st.none(),
    attributes=st.integers(0, 127),
)


class Sent(NamedTuple):
    records: list[RawRecord]
    batch: bytes


@st.composite
def batches(draw: st.DrawFn) -> Sent:
    """A batch that Kafka takes, whatever its header claims of time."""
    records = draw(st.lists(_RECORDS, min_size=1, max_size=5))
    codec = draw(st.sampled_from(list(CODEC_NUMBERS)))
    window = draw(st.sampled_from([0, 10, 24, 27]))
    batch = raw_batch(
        records,
        codec,
        max_timestamp=draw(st.none() | st.sampled_from([-1, 0, NOW + 1, 2**62]) | st.integers(-(2**63), 2**63 - 1)),
        base_timestamp=draw(st.none() | st.sampled_from([-1, 0, 2**61, -(2**61)])),
        attributes=draw(st.sampled_from([0, 8])),
        compress=(lambda data: zstd(data, window)) if codec == "zstd" and window else None,
    )
    return Sent(records, bytes(batch))


Row = tuple[int, int, bytes | None, bytes | None, list[tuple[bytes, bytes | None]]]  # offset, timestamp, key, value, headers


@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(sent=st.lists(batches(), min_size=1, max_size=12), times=st.lists(_TIMES.filter(lambda time: time >= 0), max_size=4))
async def test_whatever_is_taken_is_read_by_all(sent: list[Sent], times: list[int]) -> None:
    raw = [record for each in sent for record in each.records]
    rows: list[Row] = [(at, r.timestamp, r.key, r.value, list(r.headers)) for at, r in enumerate(raw)]
    times = [*times, *(r.timestamp for r in raw if r.timestamp >= 0)][:12]
    with TemporaryDirectory() as folder:
        async with serving(Path(folder)) as served:
            topic = await served.broker.create_topic("t", 1, {**SMALL_SEGMENTS, "segment.bytes": "60000"})
            partition = served.broker.partition("t", 0)
            assert partition is not None
            client = await served.connect()
            for each in sent:
                assert [code for _, code, _ in produced(await client.call(produce("t", {0: each.batch})))] == [NONE]
            hot = await everything(client)
            for is_cold in (False, True):
                if is_cold:
                    await local_segments_read(Path(folder), topic.topic_id, partition, rows)
                    await tier_out(served.broker, partition)
                assert await everything(client) == hot
                assert decoded(hot) == rows
                assert [await offset_for(client, time) for time in times] == [first_at(rows, time) for time in times]
                assert await offset_for(client, MAX_TIMESTAMP) == largest_of(rows)
            cluster_id = served.broker.cluster_id
        await without_the_broker(Path(folder), cluster_id, topic.topic_id, rows, times)


async def everything(client: Client) -> bytes:
    """All records by fetches; a cold one may come back empty and is asked for again."""
    data, offset = b"", 0
    end = (await offset_for(client, LATEST))[0]
    async with asyncio.timeout(PATIENCE_S):
        while offset < end:
            ((code, part),) = fetched(await client.call(fetch("t", {0: offset}, wait_ms=500))).values()
            assert code is NONE
            for position, header in walk(part):
                data += part[position : position + header.size]
                offset = header.next_offset
    return data


def decoded(data: bytes) -> list[Row]:
    found: list[Row] = []
    for position, header in walk(data):
        for record in decode_batch(data[position : position + header.size]):
            headers = [(name_bytes(name), value) for name, value in record.headers]
            found.append((record.offset, record.timestamp, record.key, record.value, headers))
    return found


async def offset_for(client: Client, time: int) -> tuple[int, int]:
    """(offset, timestamp) that ListOffsets answers."""
    shapes = apis.requests(2, 10)
    part = shapes.ListOffsetsPartition(partition_index=0, current_leader_epoch=-1, timestamp=time)
    request = shapes.ListOffsetsRequest(
        replica_id=-1,
        isolation_level=0,
        topics=(shapes.ListOffsetsTopic(name="t", partitions=(part,)),),
        timeout=timedelta(seconds=PATIENCE_S),
    )
    found = (await client.call(request)).topics[0].partitions[0]
    assert found.error_code is NONE
    return found.offset, found.timestamp


def first_at(rows: list[Row], time: int) -> tuple[int, int]:
    return next(((row[0], row[1]) for row in rows if row[1] >= time), (-1, -1))


def largest_of(rows: list[Row]) -> tuple[int, int]:
    largest = max(row[1] for row in rows)
    return first_at(rows, largest) if largest >= 0 else (-1, -1)


async def local_segments_read(folder: Path, topic_id: UUID, partition: Partition, rows: list[Row]) -> None:
    """What an export reads beside the store; and what retention makes of it."""
    partition.log.roll(NOW)
    await partition.log.flush()
    local = await LocalSegments.open(PosixDisk(), str(folder / "data" / "log"), partition.tp, topic_id)
    assert local is not None
    assert [row for run in [run async for run in local.runs(0, len(rows))] for row in decoded(bytes(run.data))] == rows
    infos = partition.log.segments()
    assert max(info.max_timestamp for info in infos) == max(-1, *(row[1] for row in rows))


async def without_the_broker(folder: Path, cluster_id: str, topic_id: UUID, rows: list[Row], times: list[int]) -> None:
    """Export and replay from the bucket."""
    store, target = await open_directory_store(folder / "store"), await open_directory_store(folder / "out")
    outside = {"clock": SystemClock(), "entropy": SystemEntropy()}
    names: dict[str, Any] = {"topic": "t", "topic_id": topic_id, "cluster_id": cluster_id, "partitions": range(1)}
    try:
        request = ExportRequest(**names, partition_by="day")
        await export_topic(source=store, target=target, request=request, disk=PosixDisk(), **outside)  # type: ignore[arg-type]
        tables = [pq.read_table(path, partitioning=None) for path in (folder / "out").rglob("*.parquet")]
        cells = sorted(
            (row["offset"], row["key"], row["value"], [(pair["key"], pair["value"]) for pair in row["headers"]])
            for table in tables
            for row in table.select(["offset", "key", "value", "headers"]).to_pylist()
        )
        assert cells == [(at, key, value, [(text_of(n), v) for n, v in headers]) for at, _, key, value, headers in rows]
        exported = {
            at: time
            for table in tables
            for at, time in zip(
                table.column("offset").to_pylist(), table.column("timestamp").cast(pa.int64()).to_pylist(), strict=True
            )
        }
        assert exported == {row[0]: None if row[1] == -1 else row[1] for row in rows}
        for start in (None, *times[:3]):
            lines: list[Any] = []

            async def write(data: bytes, lines: list[Any] = lines) -> None:
                lines.extend(json.loads(line) for line in data.splitlines())

            place = None if start is None else AtTime(start)
            await direct_replay(store, ReplayRequest(**names, start=place), JsonLinesSink(write), **outside)  # type: ignore[arg-type]
            begin = 0 if start is None else first_at(rows, start)[0]
            assert [row_of(line) for line in lines] == (rows[begin:] if begin >= 0 else [])
    finally:
        await store.close()
        await target.close()


def text_of(name: bytes) -> str:
    """A header's name in an export."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        return f"base64:{base64.b64encode(name).decode()}"


def row_of(line: dict[str, Any]) -> Row:
    """A JSON line of a replay."""
    headers = [(bytes_of(name) or b"", bytes_of(value)) for name, value in line.get("headers", [])]
    return line["offset"], line["timestamp"], bytes_of(line["key"]), bytes_of(line["value"]), headers


def bytes_of(cell: Any) -> bytes | None:
    if isinstance(cell, dict):
        return base64.b64decode(cell["base64"])
    return None if cell is None else str(cell).encode()
