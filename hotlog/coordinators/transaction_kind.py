"""Transactional ids as a kind of machine that a shard drives (hotlog.coordinators.shard.Kind).

Invariants: pure, but for the time and the settings, which are those of that moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from hotlog.coordinators.effects import Effect
from hotlog.coordinators.keyed_log import KeyedLog
from hotlog.coordinators.transaction import revived, step
from hotlog.coordinators.transaction_types import Event, Now, Status, Stored, Transaction

TRANSACTION_BYTES, PARTITION_BYTES = 1024, 200  # what an id, and each partition of its transaction, take, about


class TransactionKind:
    """A transactional id."""

    def __init__(self, now: Callable[[], Now]) -> None:
        self._now = now

    def fresh(self, owner: str) -> Transaction:
        return Transaction(transactional_id=owner)

    def revived(self, owner: str, stored: KeyedLog[str, Transaction]) -> tuple[Transaction, Iterable[Effect]] | None:
        """As it was last stored: an end that was decided is told to who does not know of it, and its time goes on."""
        value = stored.value(owner, owner)
        return None if value is None else revived(value, self._now())

    def step(self, state: Transaction, event: Event) -> tuple[Transaction, Sequence[Effect]]:
        return step(state, event, self._now())

    def entries(self, state: Transaction, now_ms: int) -> Sequence[tuple[str, Transaction | None]]:
        return [(state.transactional_id, None if state.status is Status.DEAD else state)]

    def stored(self, state: Transaction, is_ok: bool) -> Event:
        return Stored(state, is_ok)

    def is_at_rest(self, state: Transaction) -> bool:
        return not state.is_known and state.coming is None

    def size(self, state: Transaction) -> int:
        if self.is_at_rest(state):
            return 0
        coming = len(state.coming.partitions) if state.coming is not None else 0
        return TRANSACTION_BYTES + len(state.transactional_id) + PARTITION_BYTES * (len(state.partitions) + coming)
