"""Which groups may be past retention, without a look at those that cannot be.  Pure.

Each group waits under a time at which it was in use.  Only when that time has passed retention is the group looked at; if it was used
since, it waits under the newer time.  So a group at rest costs one look per retention period, however many there are.

Invariants: a group waits once; who was taken is put back or forgotten by the caller.
"""

from __future__ import annotations

import heapq


class Ages:
    """Groups by the oldest time that they may have.  Wall ms."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, str]] = []
        self._waiting: set[str] = set()

    def put(self, group_id: str, used_ms: int) -> None:
        """Have the group wait under `used_ms`, unless it waits already."""
        if group_id not in self._waiting:
            self._waiting.add(group_id)
            heapq.heappush(self._heap, (used_ms, group_id))

    def take(self, before_ms: int, count_max: int) -> list[str]:
        """Up to `count_max` groups that wait under a time below `before_ms`, oldest first; they wait no more."""
        taken: list[str] = []
        while self._heap and len(taken) < count_max and self._heap[0][0] < before_ms:
            taken.append(heapq.heappop(self._heap)[1])
        self._waiting.difference_update(taken)
        return taken
