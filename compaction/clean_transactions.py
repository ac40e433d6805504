"""Which batches of transactions a cleaning may let go: Kafka's rules (CleanedTransactionMetadata).  Pure.

Data of an aborted transaction goes at once.  A marker stays as long as a batch of its transaction was seen before it; from then on it goes as
a tombstone does, a delete horizon later (KIP-534).  An aborted transaction stays in the index for as long as its marker is needed.

Where there is more than what the pass sees (`has_more`: a topic's history may be in the store), an aborted transaction is needed though nothing of it
is seen: its data may have been copied before the topic was compacted, and whoever reads that there is told of its end by the log that has the marker.

What is told of aborted transactions may know of one whose marker is gone: the store's part is told by the local log, which keeps longer what it
knows.  So a transaction ends at its last offset, marker or not.

Invariants: batches come in the order of the log; what is not known to be aborted is kept.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field

from hotlog.log.index import AbortedTransaction

ABORT, COMMIT, OTHER = 0, 1, 2


@dataclass
class _Ongoing:
    """An aborted transaction whose marker was not reached yet."""

    entry: AbortedTransaction
    has_batch: bool = False


@dataclass
class CleanedTransactions:
    """Where one pass over a log is."""

    has_more: bool = False  # data of transactions that end here may lie elsewhere
    kept: list[AbortedTransaction] = field(default_factory=list)  # their markers stay; taken by who writes indexes
    is_used: bool = False  # there were transactions
    _committed: set[int] = field(default_factory=set)  # producers of which a batch was seen that is not aborted, as far as known
    _aborted: dict[int, _Ongoing] = field(default_factory=dict)
    _ahead: list[tuple[int, AbortedTransaction]] = field(default_factory=list)  # a heap, by first offset

    def expect(self, entries: Iterable[AbortedTransaction]) -> None:
        """Aborted transactions that begin or go on in what comes next."""
        for entry in entries:
            heapq.heappush(self._ahead, (entry.first_offset, entry))

    def _reach(self, offset: int) -> None:
        while self._ahead and self._ahead[0][0] <= offset:
            entry = heapq.heappop(self._ahead)[1]
            ongoing = self._aborted.get(entry.producer_id)
            if ongoing is None or ongoing.entry.last_offset < entry.first_offset:
                self._aborted[entry.producer_id] = _Ongoing(entry)

    def on_batch(self, producer_id: int, last_offset: int, *, is_transactional: bool) -> bool:
        """A batch of data; whether its transaction was aborted."""
        self._reach(last_offset)
        if not is_transactional:
            return False
        self.is_used = True
        ongoing = self._aborted.get(producer_id)
        if ongoing is None or ongoing.entry.last_offset < last_offset:  # or its marker is gone
            self._committed.add(producer_id)
            return False
        ongoing.has_batch = True
        return True

    def on_marker(self, producer_id: int, last_offset: int, kind: int | None) -> bool:
        """A marker (`kind`: ABORT, COMMIT, OTHER; None: it was emptied before); whether nothing in the log needs it any more."""
        self._reach(last_offset)
        self.is_used = True
        if kind is None:
            return True
        if kind == ABORT:
            ongoing = self._aborted.pop(producer_id, None)
            if ongoing is None or ongoing.entry.last_offset < last_offset or not (ongoing.has_batch or self.has_more):
                return True
            self.kept.append(ongoing.entry)
            return False
        if kind == COMMIT:
            if producer_id not in self._committed:
                return True
            self._committed.discard(producer_id)
        return False
