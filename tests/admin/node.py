"""A broker in this process over a real directory, a real store in a directory and real logs; requests go through the wire's bytes."""

from __future__ import annotations

import asyncio
import io
import itertools
import struct
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from kio.schema.errors import ErrorCode
from kio.serial import entity_reader, entity_writer

from controller.peers import ALONE, Peers
from hotlog.answers.api import Caller, Later, Pending, RequestContext
from hotlog.broker.broker import Broker
from hotlog.compose import Instruments, open_node
from hotlog.front.dispatch import Dispatch, short_by_quick
from hotlog.kernel.metrics import Metrics
from hotlog.kernel.settings import Settings
from hotlog.wire import apis
from hotlog.wire.error_codes import Refused
from hotlog.world.network import TcpNetwork
from hotlog.world.ports import ObjectStore, World
from hotlog.world.posix import PosixDisk, SystemClock, SystemEntropy
from tests.tools.patience import PATIENCE_S, PATIENT_STORE
from tiering.cost.meter import Meter
from tiering.store import StoreHealth, open_store
from tiering.tier import ColdTier

QUICK = {"group.initial.rebalance.delay.ms": "0", "group.min.session.timeout.ms": "10", "offsets.topic.num.partitions": "2"}
_correlations = itertools.count(1)
COMMIT = 8


async def open_directory_store(path: Path, metrics: Metrics | None = None) -> ObjectStore:
    return await open_store(
        f"file://{path}", settings=Settings.resolve(PATIENT_STORE), metrics=metrics or Metrics(), clock=SystemClock(),
        entropy=SystemEntropy(), disk=PosixDisk(),
    )  # fmt: skip


async def open_broker(
    data: Path,
    store: ObjectStore,
    settings: dict[str, str] | None = None,
    *,
    tiered: bool = True,
    is_adopting: bool = True,
    peers: Peers = ALONE,
) -> Broker:
    """The broker of a node that has heard from the store about every partition; the caller closes it.  No worker runs."""
    given = {**QUICK, **(settings or {})} | ({} if tiered else {"remote.log.storage.system.enable": "false"})
    clock, disk = SystemClock(), PosixDisk()
    with patch("controller.metadata.OPEN_WAIT_S", PATIENCE_S), patch("controller.metadata.HOT_WAIT_S", PATIENCE_S):
        node = await open_node(
            Settings.resolve(given),
            World(clock, disk, TcpNetwork(), store, SystemEntropy()),
            Instruments(Metrics(), Meter(clock), StoreHealth(clock)),
            data_dir=str(data),
            is_adopting=is_adopting,
            peers=peers,
        )
    if node.broker.tier is not None:
        await heard_of(node.broker.tier)
    return node.broker


async def heard_of(tier: ColdTier) -> None:
    """Until every manifest was read or could not be: a start waits for that a moment only, then serves the hot tier alone."""
    async with asyncio.timeout(PATIENCE_S):
        while tier._loads or tier._to_load or tier.attention:
            await asyncio.wait([*tier._loads.values(), asyncio.create_task(asyncio.sleep(0))])


async def coordinator_made(broker: Broker) -> None:
    """Until every group can be served: one request waits a moment only for __consumer_offsets, clients ask again."""
    async with asyncio.timeout(PATIENCE_S):
        while len(list(broker.groups._shards)) < broker.settings.number("offsets.topic.num.partitions"):
            try:
                await broker.groups.ensure()
            except Refused as not_yet:
                if not_yet.code is not ErrorCode.request_timed_out:
                    raise
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running(tmp_path: Path, settings: dict[str, str] | None = None, **options: Any) -> AsyncIterator[Broker]:
    """A broker on tmp_path/data and tmp_path/store."""
    store = await open_directory_store(tmp_path / "store")
    broker = await open_broker(tmp_path / "data", store, settings, **options)
    try:
        yield broker
    finally:
        await broker.close()
        await store.close()


class Door:
    """Calls APIs of a broker as a client would: request bytes in, response bytes out, both of one version.

    Invariants: where an API has a short way that takes the request, its bytes are those of the long way; a commit is made only once, by
    the short way if that takes it.
    """

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.dispatch = Dispatch(broker.metrics)
        broker.served = self.dispatch.served

    async def call(self, key: int, version: int, request: Any) -> Any:
        with io.BytesIO() as buffer:
            entity_writer(type(request))(buffer, request)
            body = buffer.getvalue()
        door, caller = self.dispatch.door(key, version), Caller(("127.0.0.1", 1), 1)
        short = None
        if door.quick is not None:
            tag = b"\0" if apis.is_flexible(key, version) else b""
            asked = memoryview(b"".join((struct.pack(">hhih", key, version, 0, -1), tag, body)))
            short = short_by_quick(self.broker, door)(caller, asked, 0, len(asked))
        if isinstance(short, Pending):
            async with asyncio.timeout(PATIENCE_S):
                while short.buffers is None:
                    await asyncio.sleep(0.001)
            short = bytes(short.buffers[0])
        frame = await self._long(key, version, body, caller) if short is None or key != COMMIT else short
        assert short is None or short[8:] == frame[8:], "the short way says what the long way says"
        head = 9 if apis.has_flexible_response_header(key, version) else 8
        response, size = entity_reader(apis.response_type(key, version))(frame, head)
        assert head + size == len(frame), "the response is exactly its frame"
        return response

    async def _long(self, key: int, version: int, body: bytes, caller: Caller) -> bytes:
        door = self.dispatch.door(key, version)
        entity = apis.decode_request(key, version, memoryview(body), 0)
        context = RequestContext(
            api_key=key, version=version, correlation_id=next(_correlations), client_id="test", 
            caller=caller, arrived=0.0,
        )  # fmt: skip
        answer = door.handle(self.broker, context, entity)
        if isinstance(answer, Awaitable):
            answer = await answer
        if isinstance(answer, Later):
            answer = await answer.reply
        return b"".join(bytes(part) for part in door.encode(context.correlation_id, answer))


def request(key: int, version: int) -> apis.Shapes:
    return apis.requests(key, version)
