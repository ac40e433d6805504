"""What the door's look into a produced batch costs: CPU of the check alone, no broker and no network around it.

Invariants:
- Every level is timed over the same batches, in turn, so that a slow second of the machine hits all; the median counts.
- A figure is CPU seconds for a gigabyte of records as they are before compression.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

from hotlog.kernel.limits import BATCH_HEADER_BYTES, DECOMPRESSED_BATCH_BYTES_MAX
from hotlog.kernel.topic_config import TopicConfig
from hotlog.wire.batch import check_produced, header_at
from hotlog.wire.inspect import alone, inspect
from hotlog.wire.records import decompressed_steps
from hotlog.world.memory import keep_heap
from tests.bench.settings import BATCH_BYTES
from tests.bench.wire import record_batch
from tests.bench.workloads import payloads

CODECS = ("none", "lz4", "zstd")
RECORD_SIZES = (100, 1024)
LEVELS = ("header", "decompressed", "records")
REPEATS = 15
TOPIC = TopicConfig.resolve({})
NOW_MS = 1_700_000_000_000


def measure_inspect() -> dict[str, float]:
    """`{CODEC_SIZE_LEVEL_s_per_gb: CPU seconds}` and `..._over_header` for the two levels above it."""
    keep_heap()  # as the broker does
    metrics: dict[str, float] = {}
    for codec in CODECS:
        for size in RECORD_SIZES:
            values = payloads(BATCH_BYTES // size, size)
            batch = memoryview(bytearray(record_batch(values, codec)))
            costs = {level: cost / (size * len(values)) * 1e9 for level, cost in _costs(batch).items()}
            for level, cost in costs.items():
                metrics[f"{codec}_{size}_{level}_s_per_gb"] = cost
            for level in LEVELS[1:]:
                metrics[f"{codec}_{size}_{level}_over_header"] = costs[level] / costs["header"]
    return metrics


def _costs(batch: memoryview) -> dict[str, float]:
    """CPU seconds of one batch at each level; each contains what the level below it does."""

    def header() -> None:
        check_produced(batch, batch_bytes_max=2 * BATCH_BYTES)

    def decompressed() -> None:
        header()
        codec = header_at(batch).codec
        for _ in decompressed_steps(codec, batch[BATCH_HEADER_BYTES:]) if codec else ():
            pass

    def records() -> None:
        header()
        inspect(batch, header_at(batch), TOPIC, NOW_MS, alone(DECOMPRESSED_BATCH_BYTES_MAX))

    checks: dict[str, Callable[[], None]] = dict(zip(LEVELS, (header, decompressed, records), strict=True))
    taken: dict[str, list[float]] = {level: [] for level in LEVELS}
    for _ in range(REPEATS):
        for level, check in checks.items():
            began = time.process_time()
            check()
            taken[level].append(time.process_time() - began)
    return {level: median(each) for level, each in taken.items()}
