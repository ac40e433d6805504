"""Records of transactions that have not ended: what each producer's has of a key, and which keys are not decided yet.  Pure.

Invariants: a key is pending from the first record that a transaction has of it until `forget`, which comes when the transaction's end is shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, NamedTuple, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Pending(NamedTuple, Generic[V]):
    """A record of a transaction: its offset, value and bytes."""

    at: int
    value: V | None
    size: int


class PendingRecords(Generic[K, V]):
    """Bounded by the transactions that are open, and by those whose end is being committed."""

    def __init__(self, owner_of: Callable[[K], str]) -> None:
        self._owner_of = owner_of
        self._open: dict[int, dict[K, Pending[V]]] = {}  # by producer id: the newest of each key in its transaction
        self._keys: dict[str, Counter[K]] = {}  # by owner: in how many transactions

    def has(self, owner: str) -> bool:
        """Whether a key of the owner's is pending."""
        return owner in self._keys

    def has_key(self, owner: str, key: K) -> bool:
        """Whether this one is."""
        return key in self._keys.get(owner, ())

    def note(self, producer_id: int, key: K, pending: Pending[V]) -> None:
        """The producer's transaction has this record."""
        records = self._open.setdefault(producer_id, {})
        if key not in records:
            self._keys.setdefault(self._owner_of(key), Counter())[key] += 1
        records[key] = pending

    def end(self, producer_id: int) -> Mapping[K, Pending[V]]:
        """The producer's transaction has ended: what it had.  Its keys stay pending."""
        return self._open.pop(producer_id, {})

    def forget(self, keys: Iterable[K]) -> None:
        """The end of a transaction with these keys is shown."""
        for key in keys:
            owner = self._owner_of(key)
            counts = self._keys[owner]
            counts[key] -= 1
            if not counts[key]:
                del counts[key]
                if not counts:
                    del self._keys[owner]
