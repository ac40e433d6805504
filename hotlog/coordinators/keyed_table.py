"""The newest record of every key of a keyed log, in memory, by owner (such as a group's id).  Pure.

A record is noted when the log has it and shown when it is committed.  Both come in the order of the log; one of a transaction when that ends.

Invariants: what is shown was noted before; an owner is listed as long as one record of it is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Record(Generic[K, V]):
    """The newest record of a key: `value` as shown; `newest_at` and `size` as the log has it, its offset and about its bytes (0: a tombstone)."""

    __slots__ = ("key", "newest_at", "size", "value")

    def __init__(self, key: K) -> None:
        self.key = key
        self.value: V | None = None
        self.newest_at = -1
        self.size = 0


class KeyedTable(Generic[K, V]):
    """The records of a partition.  `owner_of` says whose a key is, such as a group's id."""

    def __init__(self, owner_of: Callable[[K], str]) -> None:
        self._owner_of = owner_of
        self._records: dict[str, dict[K, Record[K, V]]] = {}  # by owner
        self.alive_bytes = 0

    # Changes

    def note(self, key: K, value: V | None, at: int, size: int) -> Record[K, V]:
        """The log has `value` of `size` bytes at offset `at`, which is newer than what was noted of the key before."""
        owner = self._owner_of(key)
        records = self._records.get(owner)
        if records is None:
            records = self._records[owner] = {}
        record = records.get(key)
        if record is None:
            record = records[key] = Record(key)
        size = size if value is not None else 0
        self.alive_bytes += size - record.size
        record.newest_at, record.size = at, size
        return record

    def show(self, record: Record[K, V], value: V | None) -> None:
        """What was noted is committed."""
        record.value = value
        if value is None and not record.size:
            owner = self._owner_of(record.key)
            records = self._records.get(owner, {})
            if records.get(record.key) is record:
                del records[record.key]
                if not records:
                    del self._records[owner]

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
