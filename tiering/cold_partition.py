"""One partition's cold tier as the broker and its workers see it: what is committed, reads of it, and its log start.

Invariants: `view` is a committed root or None, and None means "none" only while `ready`; nothing here decides what is copied.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from hotlog.kernel.errors import Corrupt, NotReady, UnknownVersion
from hotlog.kernel.ids import PartitionId
from hotlog.log.reader import Slice
from tiering.manifest.edits import advance_start
from tiering.manifest.root import Manifest
from tiering.manifest.store import ManifestStore
from tiering.read.reader import ColdReader
from tiering.upload.copier import CopyTarget, HotLog


class Home(Protocol):
    """What a partition asks of the tier it belongs to."""

    reader: ColdReader

    async def load(self, cold: ColdPartition) -> None:
        """Read the manifest from the store."""
        ...

    def doom_ms(self) -> int:
        """When an object that is doomed now may be deleted, ms since the epoch."""
        ...

    def stir(self, cold: ColdPartition) -> None:
        """Something about `cold` changed: look at it soon."""
        ...


class Lag(NamedTuple):
    """What of a partition is closed and not in the store."""

    size: int = 0
    segments: int = 0
    oldest_ms: int = 0


class ColdPartition:
    """One partition's cold tier.  `ready`: its manifest (or that it has none) is known.  `problem`: why nothing is copied, if so.

    `damage`: the manifest was read and is damaged, or of a newer release, so that waiting does not help.
    """

    def __init__(self, home: Home, target: CopyTarget) -> None:
        self._home = home
        self.target = target
        self.keys = target.keys
        self.topic = target.topic
        self.ready = False
        self.problem = ""
        self.damage: Corrupt | UnknownVersion | None = None
        self.failures = 0
        self.retry_at = 0.0
        self.loaded_at = 0.0
        self.alarm_at = 0.0  # when it is looked at though nothing happens; 0: never
        self.lag = Lag()

    @property
    def pid(self) -> PartitionId:
        return self.keys.pid

    def stir(self) -> None:
        """What it has to copy, or may, has changed."""
        self._home.stir(self)

    @property
    def log(self) -> HotLog:
        return self.target.log

    @property
    def leader_epoch(self) -> int:
        return self.target.leader_epoch

    @property
    def manifest(self) -> ManifestStore:
        """For workers: commit edits, load pages."""
        return self.target.manifest

    @property
    def view(self) -> Manifest | None:
        """The newest committed root known here; None when there is none (or not known: `ready`)."""
        view = self.target.manifest.view
        return None if view is None or view.is_deleted else view

    @property
    def log_start_offset(self) -> int:
        """First offset that is readable in the store; equals `end_offset` when nothing is."""
        view = self.view
        return view.readable_start_offset if view is not None and view.end_offset >= 0 else self.log.local_log_start_offset

    @property
    def end_offset(self) -> int:
        """First offset that is not in the store."""
        view = self.view
        return view.end_offset if view is not None and view.end_offset >= 0 else self.log.local_log_start_offset

    def behind_hole(self, offset: int) -> int | None:
        """Where a reader at `offset` goes on if the store has nothing more from there on, but a recorded hole; None if it has more."""
        view = self.view
        if not self.ready or view is None or offset >= view.end_offset:
            return None
        for row in reversed(view.entries):
            if not row.is_hole:
                return None
            if row.base_offset <= offset:
                return view.end_offset
        return None

    @property
    def size_bytes(self) -> int:
        """Committed log bytes in the store (what retention.bytes counts)."""
        view = self.view
        return view.totals.log_bytes if view is not None else 0

    async def reload(self) -> Manifest | None:
        """The newest root from the store (another process may have changed it)."""
        await self._home.load(self)
        return self.view

    async def read(self, offset: int, bytes_max: int, *, min_one: bool = True, wait_ms: int | None = None) -> Slice:
        """Whole batches from `offset` on; see ColdReader.read.  Raises NotReady, or Corrupt if the manifest is damaged."""
        self._require_ready()
        return await self._home.reader.read(self, offset, bytes_max, min_one=min_one, wait_ms=wait_ms)

    def read_now(self, offset: int, bytes_max: int) -> Slice | None:
        """What `read` would give, if it is in memory and a sequential reader's next; see ColdReader.read_now."""
        return self._home.reader.read_now(self, offset, bytes_max) if self.ready else None

    @property
    def has_aborted(self) -> bool:
        """Whether any transaction in the store was aborted."""
        view = self.view
        return view is not None and view.totals.aborted > 0

    async def offset_for_timestamp(self, timestamp_ms: int) -> tuple[int, int, int] | None:
        """(offset, timestamp, leader epoch) of the first tiered record at or after `timestamp_ms`; None if there is none."""
        self._require_ready()
        return await self._home.reader.offset_for_timestamp(self, timestamp_ms)

    async def offset_of_max_timestamp(self) -> tuple[int, int, int] | None:
        self._require_ready()
        return await self._home.reader.offset_of_max_timestamp(self)

    async def end_offset_for_epoch(self, epoch: int) -> tuple[int, int]:
        self._require_ready()
        return await self._home.reader.end_offset_for_epoch(self, epoch)

    async def newest_epoch(self) -> int:
        self._require_ready()
        return await self._home.reader.newest_epoch(self)

    async def aborted_transactions(self, start: int, end: int) -> list[tuple[int, int]]:
        self._require_ready()
        return await self._home.reader.aborted_transactions(self, start, end)

    async def advance_start(self, offset: int) -> None:
        """Raise the committed log start to `offset`; rows wholly below become garbage (again: `view.has_dead_rows`).

        Raises:
            NotReady, StoreUnavailable, OutcomeUnknown: it may have to be asked again.
        """
        self._require_ready()
        if self.view is None:
            return  # nothing is tiered: the local log start says it all
        not_before_ms = self._home.doom_ms()
        await self.manifest.commit(lambda manifest, pages: advance_start(manifest, offset, pages, not_before_ms=not_before_ms))

    def _require_ready(self) -> None:
        if not self.ready:
            if self.damage is not None:
                raise type(self.damage)(str(self.damage))
            raise NotReady(
                f"the cold tier of {self.topic}-{self.pid.partition} is not loaded yet: the object store has not answered"
            )
