"""DescribeLogDirs (35): sizes of partitions, locally and in the store (KIP-113, KIP-827).

Versions 1 to 5.  The data directory is one log dir; the cold tier is told as a second one, `remote:` and the cluster id, with the committed
bytes of each partition.  Usable are the bytes that logs may still grow by: what is free above hotlog.disk.reserve.bytes.  A store has no size.

Invariants: the remote dir lists committed bytes only; a null topic list means every partition.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from hotlog.answers.api import Api, RequestContext
from hotlog.answers.replies import NO_THROTTLE, refusal
from hotlog.answers.slices import sliced, slices
from hotlog.wire.apis import responses

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker
    from hotlog.partitions.partition import Partition

KEY = 35
NO_SIZE = (-1, -1)  # bytes of a volume, and those that may still be written
Sizes = dict[str, list[tuple[int, int]]]  # topic -> (partition, bytes)


async def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Describe both tiers."""
    wanted = None if request.topics is None else {(t.topic, index) for t in request.topics for index in t.partitions}
    partitions = [partition for partition in broker.hosted() if wanted is None or tuple(partition.tp) in wanted]
    results = [await _local(broker, context, partitions)]
    tiered = [partition for partition in partitions if partition.stored_bytes is not None]
    if tiered:
        sizes = await _sizes(tiered, lambda partition: partition.stored_bytes or 0)
        results.append(await _result(context, f"remote:{broker.cluster_id}", sizes, NO_SIZE))
    return responses(KEY, context.version).DescribeLogDirsResponse(
        throttle_time=NO_THROTTLE, error_code=ErrorCode.none, results=tuple(results)
    )


async def _local(broker: Broker, context: RequestContext, partitions: list[Partition]) -> Any:
    directory = broker.logs.directory
    volume: tuple[int, int]
    try:
        volume = await broker.disk.run(broker.logs.space.volume)
    except OSError as problem:
        refusal(context, problem)
        volume = NO_SIZE
    return await _result(context, directory, await _sizes(partitions, lambda each: each.local_bytes), volume)


async def _sizes(partitions: list[Partition], size_of: Callable[[Partition], int]) -> Sizes:
    sizes: Sizes = defaultdict(list)
    async for some in slices(partitions):
        for partition in some:
            sizes[partition.tp.topic].append((partition.tp.partition, size_of(partition)))
    return sizes


async def _result(context: RequestContext, name: str, sizes: Sizes, volume: tuple[int, int]) -> Any:
    shapes = responses(KEY, context.version)

    def row(each: tuple[int, int]) -> Any:
        index, size = each
        return shapes.DescribeLogDirsPartition(partition_index=index, partition_size=size, offset_lag=0, is_future_key=False)

    topics = []
    for topic, rows in sorted(sizes.items()):
        topics.append(shapes.DescribeLogDirsTopic(name=topic, partitions=tuple(await sliced(sorted(rows), row))))
    return shapes.DescribeLogDirsResult(
        error_code=ErrorCode.none,
        log_dir=name,
        topics=tuple(topics),
        total_bytes=volume[0],
        usable_bytes=volume[1],
        is_cordoned=False,
    )


API = Api(key=KEY, name="DescribeLogDirs", versions=range(1, 6), handle=handle)
