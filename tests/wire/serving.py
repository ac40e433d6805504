"""A broker with its real listener on a free port, and a client that speaks bare frames.

Invariants: what is sent are bytes; answers are read with kio, in the order in which they come.
"""

from __future__ import annotations

import asyncio
import itertools
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from kio.schema.errors import ErrorCode

from hotlog.broker.broker import Broker
from hotlog.front.connections import Connections
from hotlog.front.dispatch import Dispatch
from hotlog.front.listeners import Listeners
from hotlog.kernel.addresses import PLAINTEXT, Endpoint
from hotlog.wire import apis
from hotlog.wire.records import NewRecord, encode_batch
from hotlog.world.network import TcpListening, TcpNetwork
from hotlog.world.ports import Clock
from tests.admin.node import open_broker, open_directory_store
from tests.tools.narrow import narrow, open_narrow
from tests.tools.patience import PATIENCE_S
from tests.wire.strategies import read, written


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._correlations = itertools.count(1)

    def send(self, request: Any, *, client_id: str | None = "test") -> int:
        """Put a request on the wire; return its correlation id."""
        correlation = next(self._correlations)
        self.writer.write(frame_of(request, correlation, client_id))
        return correlation

    async def frame(self) -> bytes:
        """The next answer without its size."""
        async with asyncio.timeout(PATIENCE_S):
            size = struct.unpack(">i", await self.reader.readexactly(4))[0]
            return await self.reader.readexactly(size)

    async def answer(self, request: Any, correlation: int) -> Any:
        """The answer to `request`, which must be the next one."""
        return parsed(type(request).__api_key__, type(request).__version__, await self.frame(), correlation)

    async def call(self, request: Any) -> Any:
        return await self.answer(request, self.send(request))

    async def is_closed(self) -> bool:
        """Whether the broker closes the connection without another answer."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await self.reader.read(1) == b""
        except ConnectionError:
            return True

    async def close(self) -> None:
        self.writer.close()


def frame_of(request: Any, correlation: int, client_id: str | None = "test") -> bytes:
    """A whole request frame."""
    key, version = type(request).__api_key__, type(request).__version__
    name = b"\xff\xff" if client_id is None else struct.pack(">h", len(client_id.encode())) + client_id.encode()
    tags = b"\0" if type(request).__flexible__ else b""
    body = struct.pack(">hhi", key, version, correlation) + name + tags + written(request)
    return struct.pack(">i", len(body)) + body


def parsed(key: int, version: int, frame: bytes, correlation: int) -> Any:
    """A response frame as kio reads it, all of it."""
    assert struct.unpack_from(">i", frame)[0] == correlation
    head = 5 if apis.has_flexible_response_header(key, version) else 4
    return read(apis.response_type(key, version), frame, head)


class Serving:
    """A broker and its door."""

    def __init__(self, broker: Broker, listeners: Listeners, address: tuple[str, int]) -> None:
        self.broker = broker
        self.listeners = listeners
        self.connections = listeners.connections
        self.address = address
        self._clients: list[Client] = []

    async def connect(self) -> Client:
        return self._made(*await asyncio.open_connection(*self.address))

    async def connect_lazy(self) -> Client:
        """A client that reads no answers; kernel buffers take next to nothing off the broker's hands."""
        (listening,) = self.listeners._open
        assert isinstance(listening, TcpListening)
        narrow(listening._server.sockets)
        client = self._made(*await open_narrow(*self.address))
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        return client

    def _made(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Client:
        self._clients.append(Client(reader, writer))
        return self._clients[-1]

    async def close(self) -> None:
        for client in self._clients:
            await client.close()

    @property
    def connection_count(self) -> int:
        return len(self.connections._members)

    async def working(self) -> None:
        """Until a request is in work."""
        async with asyncio.timeout(PATIENCE_S):
            while not self.connections.working:
                await asyncio.sleep(0.01)

    def counted(self, name: str, **labels: str) -> float:
        return self.broker.metrics.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def serving(
    tmp_path: Path, settings: dict[str, str] | None = None, *, store: Any = None, clock: Clock | None = None
) -> AsyncIterator[Serving]:
    """A broker on tmp_path that listens on a free port of the loopback; `clock` tells which connections are idle."""
    own = await open_directory_store(tmp_path / "store")
    broker = await open_broker(tmp_path / "data", own if store is None else store(own), settings)
    connections = Connections(broker, Dispatch(broker.metrics), broker.settings, broker.metrics, clock or broker.clock)
    listeners = Listeners(connections, TcpNetwork())
    (bound,) = await listeners.listen([Endpoint(PLAINTEXT, "127.0.0.1", 0)])
    address = bound.host, bound.port
    broker.advertised = {PLAINTEXT: address}
    served = Serving(broker, listeners, address)
    try:
        yield served
    finally:
        await served.close()
        await listeners.close()
        await broker.close()
        await own.close()


# Requests

POLL_MS = 60_000  # the longest poll that a broker grants: for those that something else is to end


def batch_of(*values: bytes, codec: str = "none", timestamp: int | None = None, **producer: int) -> bytearray:
    start = 1_600_000_000_000 if timestamp is None else timestamp
    return encode_batch([NewRecord(start + i, None, value) for i, value in enumerate(values)], codec, **producer)


def produce(
    topic: str,
    records: dict[int, Any],
    *,
    version: int = 9,
    acks: int = -1,
    topic_id: Any = None,
    transactional_id: str | None = None,
) -> Any:
    shapes = apis.requests(0, version)
    parts = tuple(shapes.PartitionProduceData(index=index, records=bytes(each)) for index, each in records.items())
    data = shapes.TopicProduceData(name=topic, topic_id=topic_id, partition_data=parts)
    return shapes.ProduceRequest(
        transactional_id=transactional_id, acks=acks, timeout=timedelta(seconds=PATIENCE_S), topic_data=(data,)
    )


def fetch(
    topic: str,
    offsets: dict[int, int],
    *,
    version: int = 12,
    topic_id: Any = None,
    bytes_max: int = 2**31 - 1,
    partition_bytes_max: int = 1024 * 1024,
    bytes_min: int = 1,
    wait_ms: int = 0,
    isolation: int = 0,
    session: tuple[int, int] = (0, -1),
    leader_epoch: int = -1,
    forgotten: tuple[int, ...] = (),
) -> Any:
    shapes = apis.requests(1, version)
    parts = tuple(
        shapes.FetchPartition(
            partition=number, fetch_offset=offset, partition_max_bytes=partition_bytes_max, current_leader_epoch=leader_epoch
        )
        for number, offset in offsets.items()
    )
    gone = (shapes.ForgottenTopic(topic=topic, topic_id=topic_id, partitions=forgotten),) if forgotten else ()
    return shapes.FetchRequest(
        max_wait=timedelta(milliseconds=wait_ms),
        min_bytes=bytes_min,
        max_bytes=bytes_max,
        isolation_level=isolation,
        session_id=session[0],
        session_epoch=session[1],
        topics=(shapes.FetchTopic(topic=topic, topic_id=topic_id, partitions=parts),) if parts else (),
        forgotten_topics_data=gone,
    )


def produced(response: Any) -> list[tuple[int, ErrorCode, int]]:
    """(partition, code, base offset) of each partition of a Produce answer."""
    return [(p.index, p.error_code, p.base_offset) for topic in response.responses for p in topic.partition_responses]


def fetched(response: Any) -> dict[int, tuple[ErrorCode, bytes]]:
    """Partition -> (code, records) of a Fetch answer of one topic."""
    return {p.partition_index: (p.error_code, p.records or b"") for topic in response.responses for p in topic.partitions}


def api_versions(version: int) -> Any:
    shapes = apis.requests(18, version)
    return shapes.ApiVersionsRequest(client_software_name="test", client_software_version="1")


async def gone(served: Serving, left: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while served.connection_count > left:
            await asyncio.sleep(0.01)
