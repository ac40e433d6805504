"""Finds the groups that may be past offset retention without looking at all the others.  Pure.

Each group waits under a time at which it was in use.  Only when that time has passed retention is the group looked at; if it was used
since, it waits under the newer time.  So a group at rest costs one look per retention period, however many there are.

Invariants: a group waits once; the caller puts back or forgets each group that it took.
"""

from __future__ import annotations

import heapq


class Ages:
    """Groups by when they were in use last.  Wall ms."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, str]] = []
        self._newest: dict[str, int] = {}  # of those in the heap

    def put(self, group_id: str, used_ms: int) -> None:
        """The group was in use at `used_ms`."""
        newest_ms = self._newest.get(group_id)
        if newest_ms is None:
            heapq.heappush(self._heap, (used_ms, group_id))
        if newest_ms is None or used_ms > newest_ms:
            self._newest[group_id] = used_ms

    def newest_ms(self, group_id: str) -> int | None:
        """When the group was in use last, if it waits."""
        return self._newest.get(group_id)

    def is_due(self, before_ms: int) -> bool:
        """Whether some group waits under a time below `before_ms`."""
        return bool(self._heap) and self._heap[0][0] < before_ms

    def take_due(self, before_ms: int, count_max: int) -> list[tuple[str, int]]:
        """Groups that were not in use since `before_ms`, and when they were last; up to `count_max` are looked at.  They wait no more."""
        taken: list[tuple[str, int]] = []
        for _ in range(count_max):
            if not self.is_due(before_ms):
                break
            _, group_id = heapq.heappop(self._heap)
            newest_ms = self._newest[group_id]
            if newest_ms < before_ms:
                del self._newest[group_id]
                taken.append((group_id, newest_ms))
            else:
                heapq.heappush(self._heap, (newest_ms, group_id))
        return taken
