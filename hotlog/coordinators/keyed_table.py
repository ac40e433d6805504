"""The newest record of every key of a keyed log, in memory, by owner (such as a group's id).  Pure.

A record is noted when the log has it and shown when it is committed.  Both come in the order of the log; one of a transaction when that ends.

Invariants: what is shown was noted before; in the order of `oldest` what stands below a mark comes before what stands above it; an owner is listed as long as one record of it is shown.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Record(Generic[K, V]):
    """The newest record of a key: `value` as shown, `newest` as the log has it (None: a tombstone).  Offset; bytes that writing it again costs."""

    __slots__ = ("key", "newest", "newest_at", "size", "value")

    def __init__(self, key: K) -> None:
        self.key = key
        self.value: V | None = None
        self.newest: V | None = None
        self.newest_at = -1
        self.size = 0


class KeyedTable(Generic[K, V]):
    """The records of a partition.  `owner_of` says whose a key is, such as a group's id."""

    def __init__(self, owner_of: Callable[[K], str]) -> None:
        self._owner_of = owner_of
        self._records: dict[str, dict[K, Record[K, V]]] = {}  # by owner
        self._alive: OrderedDict[Record[K, V], None] = OrderedDict()  # by where the newest record is
        self.alive_bytes = 0

    # Changes

    def note(self, key: K, value: V | None, at: int, size: int, *, is_first: bool = False) -> Record[K, V]:
        """The log has `value` at offset `at`; a later offset than all that were noted before, or, if it `is_first`, to be taken as the earliest."""
        owner = self._owner_of(key)
        records = self._records.get(owner)
        if records is None:
            records = self._records[owner] = {}
        record = records.get(key)
        if record is None:
            record = records[key] = Record(key)
        self.alive_bytes -= record.size
        record.newest, record.newest_at = value, at
        if value is None:
            record.size = 0
            self._alive.pop(record, None)
        else:
            record.size = size
            self.alive_bytes += size
            self._alive[record] = None
            self._alive.move_to_end(record, last=not is_first)
        return record

    def show(self, record: Record[K, V], value: V | None) -> None:
        """What was noted is committed."""
        record.value = value
        if value is None and record.newest is None:
            owner = self._owner_of(record.key)
            records = self._records.get(owner, {})
            if records.get(record.key) is record:
                del records[record.key]
                if not records:
                    del self._records[owner]

    # What is alive

    def oldest(self, below: int, count_max: int, bytes_max: int) -> list[Record[K, V]]:
        """The records that stand first in the log and below offset `below`; one at least if there is any."""
        found: list[Record[K, V]] = []
        size = 0
        for record in islice(self._alive, count_max):
            size += record.size
            if record.newest_at >= below or (found and size > bytes_max):
                break
            found.append(record)
        return found

    # What is shown

    def owners(self) -> list[str]:
        """Owners that have a record."""
        return [owner for owner in self._records if self.has(owner)]

    def has(self, owner: str) -> bool:
        """Whether the owner has a record."""
        return any(record.value is not None for record in self.of(owner).values())

    def of(self, owner: str) -> Mapping[K, Record[K, V]]:
        """The owner's records, not copied; those whose value is None are not shown."""
        return self._records.get(owner) or {}

    def get(self, owner: str, key: K) -> V | None:
        """A value of the owner's."""
        record = self.of(owner).get(key)
        return record.value if record is not None else None
