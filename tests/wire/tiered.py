"""A topic whose older half is only in the store, and a store whose reads can be held, failed or damaged.

Invariants: everything but the gate is real: segments are copied by the uploader and dropped by the log.
"""

from __future__ import annotations

import asyncio

from hotlog.broker.broker import Broker
from hotlog.kernel.errors import StoreUnavailable
from hotlog.partitions.partition import Partition
from tests.tools.patience import PATIENCE_S
from tests.wire.serving import Client, batch_of, produce, produced

SMALL_SEGMENTS = {"retention.ms": "-1", "segment.bytes": "4096", "segment.ms": "3600000", "file.delete.delay.ms": "0"}


def no_store() -> StoreUnavailable:
    return StoreUnavailable("the store is away (test)")


async def fill(
    client: Client, topic: str, batches: int, *, partition: int = 0, size: int = 900, codec: str = "none"
) -> list[bytes]:
    """Produce `batches` batches of one record; timestamps ascend by one second from 1,600,000,000,000 on."""
    values = []
    for number in range(batches):
        value = b"%06d" % number + b"." * size
        records = batch_of(value, timestamp=1_600_000_000_000 + number * 1000, codec=codec)
        ((_, code, _),) = produced(await client.call(produce(topic, {partition: records})))
        assert not code
        values.append(value)
    return values


async def tier_out(broker: Broker, partition: Partition) -> None:
    """Copy every closed segment, then drop the local copies."""
    assert broker.tier is not None
    log = partition.log
    log.roll(broker.clock.now_ms())
    async with asyncio.timeout(PATIENCE_S):
        while log.tiered_end_offset < log.log_end_offset:
            await broker.tier.tick_copy()
            await asyncio.sleep(0.01)
    await log.drop_local_before(log.tiered_end_offset)
