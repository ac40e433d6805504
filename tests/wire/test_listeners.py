"""Several listeners of one node: one set of limits, and each client is told the address of the listener that it came by."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from hotlog.broker.broker import Broker
from hotlog.front.connections import Connections
from hotlog.front.dispatch import Dispatch
from hotlog.front.listeners import Listeners
from hotlog.kernel.addresses import Endpoint
from hotlog.wire import apis
from hotlog.world.network import TcpNetwork
from tests.admin.node import running
from tests.tools.patience import PATIENCE_S
from tests.wire.serving import Client

METADATA = 3
NO_TOPICS = apis.requests(METADATA, 12).MetadataRequest(topics=(), include_topic_authorized_operations=False)


def listeners_of(broker: Broker) -> Listeners:
    connections = Connections(broker, Dispatch(broker.metrics), broker.settings, broker.metrics, broker.clock)
    return Listeners(connections, TcpNetwork())


async def test_each_listener_tells_its_own_address_and_all_share_one_bound(tmp_path: Path) -> None:
    async with running(tmp_path, {"max.connections": "2"}) as broker:
        listeners = listeners_of(broker)
        bound = await listeners.listen([Endpoint("INSIDE", "127.0.0.1", 0), Endpoint("OUTSIDE", "127.0.0.1", 0)])
        broker.advertised = {"INSIDE": ("inside.example", 1), "OUTSIDE": ("outside.example", 2)}
        clients = [Client(*await asyncio.open_connection(one.host, one.port)) for one in bound]
        try:
            told = [await client.call(NO_TOPICS) for client in clients]
            assert [(node.host, node.port) for answer in told for node in answer.brokers] == [
                ("inside.example", 1),
                ("outside.example", 2),
            ]
            assert len(listeners.connections._members) == 2
            reader, writer = await asyncio.open_connection(bound[0].host, bound[0].port)
            async with asyncio.timeout(PATIENCE_S):
                with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                    await reader.readexactly(1)  # one more than all listeners may have together
            writer.close()
        finally:
            for client in clients:
                await client.close()
            await listeners.close()


async def test_a_listener_that_cannot_be_bound_leaves_none_open(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        first = listeners_of(broker)
        (taken,) = await first.listen([Endpoint("ONE", "127.0.0.1", 0)])
        second, network = listeners_of(broker), TcpNetwork()
        free = await network.listen(asyncio.Protocol, "127.0.0.1", 0)
        address = free.address
        free.close()
        await free.wait_closed()
        with pytest.raises(OSError, match="ddress"):
            await second.listen([Endpoint("FREE", *address), Endpoint("TAKEN", taken.host, taken.port)])
        again = await network.listen(asyncio.Protocol, *address)
        again.close()
        await first.close()
