"""What a keyed log needs of a partition.  Coordinators use a partition in no other way.

Invariants: what `committed` returned for is never taken back; `append` gives offsets in the order of its calls.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from hotlog.partitions.partition import Partition
from hotlog.wire.batch import header_at
from hotlog.wire.markers import Marker
from hotlog.world.ports import Buffer


class RecordLog(Protocol):
    """One partition, to append batches to and to read them from.  Offsets.  Equal if it is the same log, opened once."""

    @property
    def name(self) -> str:
        """For messages, such as `__consumer_offsets-7`."""

    @property
    def start_offset(self) -> int:
        """The first that can be read."""

    @property
    def committed_end(self) -> int:
        """Everything below is committed: as durable, and on as many replicas, as the topic demands."""

    @property
    def end_offset(self) -> int:
        """Where the next batch goes."""

    @property
    def leader_epoch(self) -> int:
        """Of this tenure: higher than that of whoever led before."""

    async def read(self, offset: int, bytes_max: int) -> Buffer:
        """Committed batches from the one that holds `offset`, one at least; empty if there are none though the log goes on."""

    @property
    def has_room(self) -> bool:
        """Whether an append may be made now."""

    async def room(self) -> None:
        """Until an append may be made."""

    def append(self, batch: bytearray, now_ms: int) -> int:
        """Append one batch (its offsets are stamped in place); the offset behind it.

        Raises:
            StorageFailed, DiskFull: nothing was appended.
        """

    def append_marker(self, marker: Marker, now_ms: int, version: int) -> int:
        """Append the end of a transaction; the offset behind it.

        Raises:
            StorageFailed, DiskFull, NotReady: nothing was appended.
            InvalidProducerEpoch, CoordinatorFenced: a newer one has spoken.
        """

    async def committed(self, end_offset: int) -> None:
        """Until everything below `end_offset` is committed.

        Raises:
            StorageFailed: that cannot be promised.
        """

    def when_committed(self, end_offset: int, told: Callable[[Exception | None], None]) -> None:
        """Call `told` with None once everything below `end_offset` is committed, or with what `committed` would raise."""

    @property
    def size(self) -> int:
        """Bytes of all of it."""

    @property
    def active_bytes(self) -> int:
        """Bytes of the segment that is appended to, which no cleaner looks at."""

    def roll(self, now_ms: int) -> None:
        """Close that segment.

        Raises:
            StorageFailed, DiskFull, NotReady: it goes on.
        """


@dataclass(frozen=True)
class PartitionRecords:
    """A hosted partition as a RecordLog."""

    partition: Partition

    @property
    def name(self) -> str:
        return str(self.partition.tp)

    @property
    def start_offset(self) -> int:
        return self.partition.log_start_offset

    @property
    def committed_end(self) -> int:
        return self.partition.committed_end

    @property
    def end_offset(self) -> int:
        return self.partition.log_end_offset

    @property
    def leader_epoch(self) -> int:
        return self.partition.leader_epoch

    async def read(self, offset: int, bytes_max: int) -> Buffer:
        return (await self.partition.read(offset, bytes_max)).data

    @property
    def has_room(self) -> bool:
        return not self.partition.is_busy

    async def room(self) -> None:
        await self.partition.wait_room()

    def append(self, batch: bytearray, now_ms: int) -> int:
        return self.partition.append(memoryview(batch), [header_at(batch)], now_ms=now_ms).end_offset

    def append_marker(self, marker: Marker, now_ms: int, version: int) -> int:
        return self.partition.append_marker(marker, now_ms=now_ms, version=version)

    async def committed(self, end_offset: int) -> None:
        await self.partition.committed(end_offset)

    def when_committed(self, end_offset: int, told: Callable[[Exception | None], None]) -> None:
        self.partition.when_committed(end_offset, told)

    @property
    def size(self) -> int:
        return self.partition.local_bytes

    @property
    def active_bytes(self) -> int:
        return self.partition.active_bytes

    def roll(self, now_ms: int) -> None:
        self.partition.roll(now_ms)
