"""DescribeLogDirs (35): sizes of partitions, locally and in the store (KIP-113, KIP-827).

Versions 1 to 5.  The data directory is one log dir; the cold tier is told as a second one, `remote:` and the cluster id, with the committed
bytes of each partition.

Invariants: the remote dir lists committed bytes only; a null topic list means every partition.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from hotlog.apis.api import Api, RequestContext
from hotlog.apis.replies import NO_THROTTLE, refusal
from hotlog.wire.apis import responses

if TYPE_CHECKING:
    from hotlog.apis.broker import Broker
    from hotlog.apis.hosting import Partition

KEY = 35
UNKNOWN = -1
Sizes = dict[str, list[tuple[int, int]]]  # topic -> (partition, bytes)


async def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Describe both tiers."""
    wanted = None if request.topics is None else {(t.topic, index) for t in request.topics for index in t.partitions}
    partitions = [partition for partition in broker.hosted() if wanted is None or tuple(partition.tp) in wanted]
    results = [await _local(broker, context, partitions)]
    cold = [partition for partition in partitions if partition.cold is not None]
    if cold:
        sizes = _sizes([(partition, partition.cold.size_bytes) for partition in cold if partition.cold is not None])
        results.append(_result(context, f"remote:{broker.cluster_id}", sizes, UNKNOWN, UNKNOWN))
    return responses(KEY, context.version).DescribeLogDirsResponse(
        throttle_time=NO_THROTTLE, error_code=ErrorCode.none, results=tuple(results)
    )


async def _local(broker: Broker, context: RequestContext, partitions: list[Partition]) -> Any:
    directory = broker.logs.directory
    try:
        free = await broker.disk.run(broker.disk.free_bytes, directory)
    except OSError as problem:
        refusal(context, problem)
        free = UNKNOWN
    return _result(context, directory, _sizes([(partition, partition.log.size) for partition in partitions]), UNKNOWN, free)


def _sizes(rows: list[tuple[Partition, int]]) -> Sizes:
    sizes: Sizes = defaultdict(list)
    for partition, size in rows:
        sizes[partition.tp.topic].append((partition.tp.partition, size))
    return sizes


def _result(context: RequestContext, name: str, sizes: Sizes, total: int, usable: int) -> Any:
    shapes = responses(KEY, context.version)
    return shapes.DescribeLogDirsResult(
        error_code=ErrorCode.none,
        log_dir=name,
        topics=tuple(
            shapes.DescribeLogDirsTopic(
                name=topic,
                partitions=tuple(
                    shapes.DescribeLogDirsPartition(partition_index=index, partition_size=size, offset_lag=0, is_future_key=False)
                    for index, size in sorted(rows)
                ),
            )
            for topic, rows in sorted(sizes.items())
        ),
        total_bytes=total,
        usable_bytes=usable,
        is_cordoned=False,
    )


API = Api(key=KEY, name="DescribeLogDirs", versions=range(1, 6), handle=handle, omits=("size of the volume",))
