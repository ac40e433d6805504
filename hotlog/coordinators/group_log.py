"""One partition of __consumer_offsets: groups and their committed offsets, as its keyed log shows them.

Invariants: as hotlog.coordinators.keyed_log; every group that is shown waits in `ages` until it is taken from there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hotlog.coordinators.ages import Ages
from hotlog.coordinators.consumer.records import TargetEpoch
from hotlog.coordinators.keyed_log import KeyedLog
from hotlog.coordinators.keyed_table import Record
from hotlog.coordinators.offset_records import GroupCodec, GroupKey, GroupValue, Key, OffsetKey, OffsetValue, Value
from hotlog.coordinators.record_log import RecordLog
from hotlog.world.ports import Clock, Entropy


class GroupOffsets(Mapping[tuple[str, int], OffsetValue]):
    """A group's offsets by (topic, partition), not copied."""

    def __init__(self, group_id: str, records: Mapping[Key, Record[Key, Value]]) -> None:
        self._group_id = group_id
        self._records = records

    def __getitem__(self, place: tuple[str, int]) -> OffsetValue:
        value = self._records[OffsetKey(self._group_id, *place)].value
        if not isinstance(value, OffsetValue):
            raise KeyError(place)
        return value

    def __iter__(self) -> Iterator[tuple[str, int]]:
        for key, record in self._records.items():
            if isinstance(key, OffsetKey) and record.value is not None:
                yield key.topic, key.partition

    def __len__(self) -> int:
        return sum(1 for _ in self)


class GroupLog(KeyedLog[Key, Value]):
    """The records of one partition by group."""

    def __init__(self, log: RecordLog, clock: Clock, entropy: Entropy) -> None:
        super().__init__(log, GroupCodec(), clock, entropy)
        self.ages = Ages()
        self._is_read = False

    async def replay(self) -> None:
        await super().replay()
        self._is_read = True

    def group(self, group_id: str) -> GroupValue | None:
        """The group as it was last stored."""
        value = self.value(group_id, GroupKey(group_id))
        return value if isinstance(value, GroupValue) else None

    def offsets(self, group_id: str) -> GroupOffsets:
        """The group's committed offsets, as they are when they are looked at."""
        return GroupOffsets(group_id, self._table.of(group_id))

    def _show(self, record: Record[Key, Value], value: Value | None) -> None:
        super()._show(record, value)
        if value is not None:
            self.ages.put(record.key.group_id, self._time_of(value))

    def _time_of(self, value: Value) -> int:
        """When a record was written, wall ms; 0 where that is not known."""
        if isinstance(value, OffsetValue):
            return value.commit_ms
        if isinstance(value, GroupValue):
            return value.state_ms
        if self._is_read:
            return self._clock.now_ms()
        return value.at_ms if isinstance(value, TargetEpoch) else 0
