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
    SMALL = "small"
    PARTITIONS = "partitions"
    SESSIONS = "sessions"
    LONG_POLL = "long-poll"
    COMPACTION = "compaction"


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """How much of everything.

    `total_bytes` is uncompressed payload for each throughput workload, `warm_bytes` what is sent unmeasured before
    (a JVM compiles meanwhile), `touch_bytes` how much page cache is filled and freed before each broker starts,
    `replay_bytes` the topic that is read over and over beside the tail: well above the broker's memory cache, so that a
    second pass comes from the store too.  `small_...` are of each case of the table of small requests; `growth_...` of the tables that
    ask what grows with what is there; `session_records` are fetched one by one, `poll_rate` records a second go to all consumers.
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
    small_rounds: int = 3
    small_pass_seconds: float = 2.0
    small_warm_seconds: float = 2.0
    small_seconds: float = 3.0
    small_touch_bytes: int = 3072 * MiB
    growth_rounds: int = 1
    growth_partitions: tuple[int, ...] = (10, 1_000, 4_000, 10_000)
    growth_idle_seconds: float = 10.0
    growth_warm_seconds: float = 5.0
    growth_produce_seconds: float = 5.0
    session_partitions: tuple[int, ...] = (1, 100, 1_000, 4_000)
    session_records: int = 500
    session_warm_records: int = 2_000
    poll_consumers: int = 5_000
    poll_rate: int = 10
    poll_seconds: float = 15.0
    compaction_bytes: int = 1024 * MiB
    compaction_rounds: int = 3

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
    small_rounds=1,
    small_pass_seconds=0.5,
    small_warm_seconds=0.5,
    small_seconds=1.0,
    small_touch_bytes=512 * MiB,
    compaction_bytes=256 * MiB,
    compaction_rounds=1,
    growth_partitions=(10, 1_000),
    growth_idle_seconds=3.0,
    growth_warm_seconds=1.0,
    growth_produce_seconds=1.0,
    session_partitions=(1, 100, 1_000),
    session_records=100,
    session_warm_records=100,
    poll_consumers=1_000,
    poll_seconds=5.0,
)
