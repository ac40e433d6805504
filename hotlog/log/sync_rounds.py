"""What the logs of one data directory have to sync: all that is due in one turn of the loop is begun by one call.

Invariants: who joined is begun once, in the next turn; a log that waits for its sync holds up no other.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from hotlog.world.ports import Disk, Due


class Joining(Protocol):
    """A log with something to bring to the device."""

    def begin(self) -> Due | None:
        """What is to be synced now; None if nothing is, or if it sees to that itself."""
        ...

    def over(self, error: Exception | None) -> None:
        """Nothing of it is under way any more, with `error` if it failed."""
        ...


class SyncRounds:
    """The logs that joined."""

    __slots__ = ("_disk", "_joined")

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._joined: list[Joining] = []

    def join(self, log: Joining) -> None:
        """Have `log.begin` called in the next turn of the loop."""
        if not self._joined:
            asyncio.get_running_loop().call_soon(self._begin)
        self._joined.append(log)

    def _begin(self) -> None:
        joined, self._joined = self._joined, []
        syncs: list[Due] = []
        for log in joined:
            try:
                due = log.begin()
            except Exception as error:  # of one log: the others are begun all the same
                log.over(error)
            else:
                if due is not None:
                    syncs.append(due)
        if not syncs:
            return
        try:
            self._disk.begin_syncs(syncs)
        except Exception as error:
            for _, told in syncs:
                told(error)
