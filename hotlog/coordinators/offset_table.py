"""What one partition of __consumer_offsets says: the newest record of every key, in memory.  Pure.

A record is noted when the log has it and shown when it is durable.  Both come in the order of the log.

Invariants: what is shown was noted before; the order of `oldest` is that of the newest records in the log, so that everything below the
first of them is dead; a group is listed as long as one record of it is shown.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from itertools import islice

from hotlog.coordinators.offset_records import GroupKey, GroupValue, OffsetKey, OffsetValue

Key = OffsetKey | GroupKey
Value = OffsetValue | GroupValue | None  # None: a tombstone


class Record:
    """The newest record of a key: `value` as shown, `newest` as the log has it.  Offsets; bytes that writing it once more costs."""

    __slots__ = ("key", "newest", "newest_at", "size", "value")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.value: Value = None
        self.newest: Value = None
        self.newest_at = -1
        self.size = 0


class GroupOffsets(Mapping[tuple[str, int], OffsetValue]):
    """A group's offsets by (topic, partition), not copied."""

    def __init__(self, group_id: str, records: Mapping[Key, Record]) -> None:
        self._group_id = group_id
        self._records = records

    def __getitem__(self, place: tuple[str, int]) -> OffsetValue:
        value = self._records[OffsetKey(self._group_id, *place)].value
        if not isinstance(value, OffsetValue):
            raise KeyError(place)
        return value

    def __iter__(self) -> Iterator[tuple[str, int]]:
        for key, record in self._records.items():
            if isinstance(key, OffsetKey) and isinstance(record.value, OffsetValue):
                yield key.topic, key.partition

    def __len__(self) -> int:
        return sum(1 for _ in self)


class OffsetTable:
    """The records of all groups of a partition."""

    def __init__(self) -> None:
        self._records: dict[str, dict[Key, Record]] = {}  # by group
        self._alive: OrderedDict[Record, None] = OrderedDict()  # by where the newest record is
        self.alive_bytes = 0

    # Changes

    def note(self, key: Key, value: Value, at: int, size: int) -> Record:
        """The log has `value` at offset `at`; a later offset than all that were noted before."""
        of_group = self._records.get(key.group_id)
        if of_group is None:
            of_group = self._records[key.group_id] = {}
        record = of_group.get(key)
        if record is None:
            record = of_group[key] = Record(key)
        self.alive_bytes -= record.size
        record.newest, record.newest_at = value, at
        if value is None:
            record.size = 0
            self._alive.pop(record, None)
        else:
            record.size = size
            self.alive_bytes += size
            self._alive[record] = None
            self._alive.move_to_end(record)
        return record

    def show(self, record: Record, value: Value) -> None:
        """What was noted is durable."""
        record.value = value
        of_group = self._records.get(record.key.group_id, {})
        if value is None and record.newest is None and of_group.get(record.key) is record:
            del of_group[record.key]
            if not of_group:
                del self._records[record.key.group_id]

    # What is alive

    def oldest(self, below: int, count_max: int, bytes_max: int) -> list[Record]:
        """The records that stand first in the log and below offset `below`; one at least if there is any."""
        found: list[Record] = []
        size = 0
        for record in islice(self._alive, count_max):
            size += record.size
            if record.newest_at >= below or (found and size > bytes_max):
                break
            found.append(record)
        return found

    # What is shown

    def group_ids(self) -> list[str]:
        """Groups that have a record of any kind."""
        return [group_id for group_id in self._records if self.has(group_id)]

    def groups(self) -> Iterator[tuple[str, GroupValue]]:
        """Groups that were stored as such.  Nothing may change meanwhile."""
        for group_id in self._records:
            value = self.group(group_id)
            if value is not None:
                yield group_id, value

    def has(self, group_id: str) -> bool:
        """Whether the group has a record of any kind."""
        of_group = self._records.get(group_id)
        return of_group is not None and any(record.value is not None for record in of_group.values())

    def group(self, group_id: str) -> GroupValue | None:
        record = self._records.get(group_id, {}).get(GroupKey(group_id))
        return record.value if record is not None and isinstance(record.value, GroupValue) else None

    def offsets(self, group_id: str) -> GroupOffsets:
        """The group's committed offsets, as they are when they are looked at."""
        return GroupOffsets(group_id, self._records.get(group_id, {}))

    def newest_ms(self, group_id: str) -> int | None:
        """When the group last stored something (wall ms), None if nothing of it is shown; looks at every offset of it."""
        value = self.group(group_id)
        times = [offset.commit_ms for offset in self.offsets(group_id).values()]
        if value is not None:
            times.append(value.state_ms)
        return max(times, default=None)
