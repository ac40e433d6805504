"""What a member does again and again while its group stays as it is: looked up once, found again by the bytes of its requests.

Invariants: a handle does nothing once the group is another, is busy, or is not coordinated here any more; it does what the long way would do.
"""

from __future__ import annotations

from typing import Protocol

from hotlog.coordinators.consumer.machine import AnyGroup
from hotlog.coordinators.effects import Arm
from hotlog.coordinators.keyed_log import Told
from hotlog.coordinators.offset_records import OffsetKey
from hotlog.coordinators.shard import Live


class OffsetWriter(Protocol):
    """The shard of the group (group_shard.GroupShard)."""

    def commit_now(self, key: OffsetKey, offset: int, leader_epoch: int, metadata: str, told: Told) -> bool | None: ...


class Session:
    """A member's session, as long as nothing else happens to its group: heartbeat after heartbeat finds everything as it was."""

    __slots__ = ("_arm", "_live", "_state")

    def __init__(self, live: Live[AnyGroup], arm: Arm) -> None:
        self._live = live
        self._state = live.state
        self._arm = arm

    def begins_anew(self) -> bool:
        """A Heartbeat that is answered NONE.  False: the group is another now, or busy; nothing was done."""
        live = self._live
        if live.state is not self._state or live.left or live.is_over:
            return False
        live.timers.arm(*self._arm)
        return True


class Commits:
    """What somebody commits to one partition, as long as nothing else happens to the group: commit after commit finds everything as it was.
    Who keeps it for longer than a moment looks whether the partition is still there."""

    __slots__ = ("_key", "_live", "_metadata_bytes_max", "_session", "_shard", "_state")

    def __init__(
        self, shard: OffsetWriter, live: Live[AnyGroup], key: OffsetKey, session: Arm | None, metadata_bytes_max: int
    ) -> None:
        self._shard = shard
        self._live = live
        self._state = live.state
        self._key = key
        self._session = session
        self._metadata_bytes_max = metadata_bytes_max

    def add(self, offset: int, leader_epoch: int, metadata: str, told: Told) -> bool | None:
        """An OffsetCommit that is answered NONE, without a task.  True: it is committed.  False: `told` says when it is, or why it cannot be.
        None: it is answered otherwise, or not at once; nothing was done.

        Raises:
            StorageFailed, DiskFull, NotReady: nothing was done.
        """
        live = self._live
        if live.state is not self._state or live.left or live.is_over:
            return None
        if metadata and len(metadata.encode("utf-8", "replace")) > self._metadata_bytes_max:
            return None
        is_done = self._shard.commit_now(self._key, offset, leader_epoch, metadata, told)
        if is_done is not None and self._session is not None:
            live.timers.arm(*self._session)
        return is_done
