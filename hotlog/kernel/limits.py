"""Every bound that is not a setting, and how bounds relate.

Invariants: the asserts at the end hold on import; a buffer, loop or queue without a bound here or in settings is a bug.
"""

from __future__ import annotations

KiB = 1024
MiB = 1024 * KiB
GiB = 1024 * MiB

# Batches: magic 2 header, https://kafka.apache.org/documentation/#recordbatch
BATCH_HEADER_BYTES = 61
BATCH_OVERHEAD_BYTES = 12  # base offset (8) + batch length (4): what precedes the counted length

# Cold tier
MANIFEST_ROOT_BYTES_MAX = 64 * KiB
CHUNK_BYTES = 4 * MiB  # aligned unit of the chunk cache
RANGE_BYTES_MAX = 16 * MiB  # one GET reads at most this much (a request costs 0.85 ms of CPU, whatever its size)

# Metadata: a request cannot make a broker open more than it can hold
PARTITIONS_PER_TOPIC_MAX = 10_000
PARTITIONS_PER_BROKER_MAX = 50_000

NAMED_CONFIGS_MAX = (
    10_000  # groups and subscriptions of client metrics that have configurations: they need not be there otherwise
)

# Fetch sessions (KIP-227): about 400 bytes each
FETCH_SESSION_PARTITIONS_MAX = 250_000

# Decompression (docs/faults.md, row 37)
DECOMPRESSED_BATCH_BYTES_MAX = 128 * MiB  # default of hotlog.batch.decompressed.bytes.max
DECOMPRESSED_READ_BYTES_MAX = 1024 * MiB  # the most it may be set to: readers take whatever a door ever took
ZSTD_WINDOW_BYTES_MAX = 128 * MiB  # Java's levels 20 to 22; Java's own decoder refuses more

assert CHUNK_BYTES <= RANGE_BYTES_MAX
assert DECOMPRESSED_BATCH_BYTES_MAX <= DECOMPRESSED_READ_BYTES_MAX, "what the door takes can be read"
assert RANGE_BYTES_MAX % CHUNK_BYTES == 0, "a range is whole chunks"
assert PARTITIONS_PER_TOPIC_MAX <= PARTITIONS_PER_BROKER_MAX <= FETCH_SESSION_PARTITIONS_MAX
