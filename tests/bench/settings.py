"""What one bench run does: sizes, rounds, durability, and the two settings `quick` and `full`.

Invariants:
- Both brokers get the same settings; a value that only one of them gets stands in targets.py, with its reason.
- Sizes are bytes, rates messages a second, times seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

MiB = 1024 * 1024
MESSAGE_BYTES = 1024
BATCH_BYTES = 1_000_000
PARTITIONS = 4
CONNECTIONS = 2
INFLIGHT_REQUESTS = 5
FETCH_PARTITION_BYTES = 1 * MiB
FETCH_BYTES = 50 * MiB
SEGMENT_BYTES = 256 * MiB
COLD_SEGMENT_BYTES = 32 * MiB


class Durability(StrEnum):
    """When an ack may be sent: once the bytes are in the page cache, or once they are on the device."""

    PAGE_CACHE = "page-cache"
    FSYNC = "fsync"


class Workload(StrEnum):
    """What is measured. `wire` sends ready-made frames, so that the broker is the bound and not the client."""

    PRODUCE_WIRE = "produce-wire"
    PRODUCE_NONE = "produce-none"
    PRODUCE_LZ4 = "produce-lz4"
    FETCH_WIRE = "fetch-wire"
    FETCH_HOT = "fetch-hot"
    LATENCY = "latency"
    COLD_REPLAY = "cold-replay"
    TAIL_REPLAY = "tail-replay"
    INSPECT = "inspect"
    STARTUP = "startup"


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """How much of everything.

    `total_bytes` is uncompressed payload for each throughput workload, `warm_bytes` what is sent unmeasured before
    (a JVM compiles meanwhile), `touch_bytes` how much page cache is filled and freed before each broker starts,
    `replay_bytes` the topic that is read over and over beside the tail: well above the broker's memory cache, so that a
    second pass comes from the store too.
    """

    total_bytes: int = 1024 * MiB
    warm_bytes: int = 1024 * MiB
    touch_bytes: int = 6144 * MiB
    rounds: int = 5
    latency_rate: int = 5_000
    latency_seconds: int = 20
    latency_warm_seconds: int = 5
    startup_partitions: int = 4_000
    startup_rounds: int = 3
    cold_bytes: int = 1024 * MiB
    replay_bytes: int = 1536 * MiB

    def __post_init__(self) -> None:
        assert self.rounds >= 1, f"a bench has at least one round, not {self.rounds}"
        assert self.total_bytes % (PARTITIONS * MESSAGE_BYTES) == 0, "every partition gets the same share"

    @property
    def messages(self) -> int:
        return self.total_bytes // MESSAGE_BYTES


FULL = BenchSettings()
QUICK = BenchSettings(
    total_bytes=512 * MiB,
    warm_bytes=512 * MiB,
    touch_bytes=3072 * MiB,
    rounds=1,
    latency_seconds=6,
    latency_warm_seconds=3,
    startup_partitions=1_000,
    startup_rounds=1,
    cold_bytes=256 * MiB,
    replay_bytes=768 * MiB,
)
