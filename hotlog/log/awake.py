"""Which logs upkeep looks at: those in which something happened, and those whose time has come.

A log is awake from the moment in which something is to be looked after (its first append, a roll, changed settings, files to be removed) until
nothing is left that only a tick would notice; then it says when it must be looked at though nothing happens, if ever.

Invariants: a log that sleeps costs nothing; each has at most one alarm that counts; who follows hears of each log that may have changed since it
was asked last, and of no other.
"""

from __future__ import annotations

import heapq
import itertools

from hotlog.kernel.ids import TopicPartition

NEVER = 2**63 - 1


class Follower:
    """Hears of logs in which something happened."""

    def __init__(self, awake: dict[TopicPartition, None]) -> None:
        self._awake = awake
        self.slept: dict[TopicPartition, None] = {}  # since it was asked last

    def take(self) -> list[TopicPartition]:
        """The logs that may have changed since this was asked last: those that are awake, or were meanwhile."""
        found, self.slept = self.slept, {}
        return list(found | self._awake)


class Awake:
    """The logs of one data directory that are awake, and the alarms of the others.  Times are ms since the epoch."""

    def __init__(self) -> None:
        self._awake: dict[TopicPartition, None] = {}
        self._alarms: list[tuple[int, int, TopicPartition]] = []
        self._alarm_ms: dict[TopicPartition, int] = {}  # the one that counts
        self._numbers = itertools.count()
        self._followers: list[Follower] = []

    def follow(self) -> Follower:
        """Somebody who wants to hear of what happens, from now on; at first of every log that is awake."""
        follower = Follower(self._awake)
        self._followers.append(follower)
        return follower

    def wake(self, tp: TopicPartition) -> None:
        """Something happened to it."""
        self._awake[tp] = None

    def sleep(self, tp: TopicPartition, until_ms: int) -> None:
        """Nothing is left to be done about it until then (NEVER: until something happens)."""
        self._awake.pop(tp, None)
        for follower in self._followers:
            follower.slept[tp] = None
        if until_ms < self._alarm_ms.get(tp, NEVER):
            self._alarm_ms[tp] = until_ms
            heapq.heappush(self._alarms, (until_ms, next(self._numbers), tp))

    def forget(self, tp: TopicPartition) -> None:
        """It is gone."""
        self._awake.pop(tp, None)
        self._alarm_ms.pop(tp, None)

    def due(self, now_ms: int) -> list[TopicPartition]:
        """The logs to look at now, those whose time has come among them."""
        while self._alarms and self._alarms[0][0] <= now_ms:
            when, _, tp = heapq.heappop(self._alarms)
            if self._alarm_ms.get(tp) == when:
                del self._alarm_ms[tp]
                self._awake[tp] = None
        return list(self._awake)
