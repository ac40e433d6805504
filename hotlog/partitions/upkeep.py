"""A partition as those see it who keep its disk and its history in order: retention, scrub, compaction.

Invariants: local data goes only by `drop_local` and `give_up_local`, after the log start or the store has it covered; the manifest hears of a
new log start before the local log does, unless the data is past its time and the store is away.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from hotlog.kernel.errors import HotlogError, OutcomeUnknown, StoreUnavailable
from hotlog.kernel.ids import TopicPartition
from hotlog.kernel.topic_config import TopicConfig
from hotlog.log.clean_view import CleanView
from hotlog.log.scrub_view import ScrubView
from hotlog.log.segment import SegmentInfo
from hotlog.partitions.partition import Partition
from hotlog.wire.batch import header_at
from tiering.manifest.store import ManifestStore

LOG = logging.getLogger(__name__)


class Upkeep:
    """Of one partition."""

    __slots__ = ("_log", "_partition", "tp")

    def __init__(self, partition: Partition) -> None:
        self._partition = partition
        self._log = partition.log
        self.tp: TopicPartition = partition.tp

    # What there is

    @property
    def config(self) -> TopicConfig:
        return self._partition.config

    @property
    def is_closed(self) -> bool:
        """Whether it was given up here."""
        return self._log.is_closed

    @property
    def is_sound(self) -> bool:
        """Whether its log is open and its disk has not failed."""
        return self._log.failed is None and not self._log.is_closed

    @property
    def segment_count(self) -> int:
        return self._log.segment_count

    def segments(self) -> Sequence[SegmentInfo]:
        """The local segments, oldest first, the active one last."""
        return self._log.segments()

    @property
    def scrub(self) -> ScrubView:
        """What a scrub may read of the local log, and the damage that it found."""
        return self._log.scrub

    @property
    def clean(self) -> CleanView:
        """The log as its cleaner sees it."""
        return self._log.clean

    @property
    def stable_end(self) -> int:
        """The last stable offset: below lies what is committed and of no open transaction."""
        return self._log.last_stable_offset

    @property
    def stored_end(self) -> int:
        """Everything below is committed in the store, as far as the local log was told."""
        return self._log.tiered_end_offset

    @property
    def manifest(self) -> ManifestStore | None:
        """The manifest, if it is known what it says (its `view` is None if there is none yet); workers plan from it."""
        return self._partition.cold.manifest if self._partition.cold is not None and self._partition.cold.ready else None

    @property
    def store_epoch(self) -> int | None:
        """The leader epoch that its manifest is written with; None without a cold tier."""
        return self._partition.cold.leader_epoch if self._partition.cold is not None else None

    def stir_store(self) -> None:
        """What may be copied to the store has changed."""
        if self._partition.cold is not None:
            self._partition.cold.stir()

    @property
    def is_tiered(self) -> bool:
        """Whether its history is, or may be, in the store."""
        return self._partition.home.has_tier and (self._partition.config.remote_enabled or self._partition.cold is not None)

    async def stores_record(self, offset: int, *, wait_ms: int) -> bool:
        """Whether the store really answers with the batch that holds `offset`; the cold reader checks its CRC."""
        cold = self._partition.cold
        if cold is None:
            return False
        found = await cold.read(offset, 1, min_one=True, wait_ms=wait_ms)
        if not len(found.data):
            return False
        header = header_at(found.data)
        return header.base_offset <= offset < header.next_offset

    # What is done

    def block_appends(self, reason: str | None) -> None:
        """Refuse appends for `reason`, until called with None."""
        self._log.block_appends(reason)

    def roll(self, now_ms: int) -> None:
        """Close the active segment if it holds anything.  Raises DiskFull, StorageFailed, NotReady."""
        self._log.roll(now_ms)

    async def expire(self, offset: int, *, goes_without_store: bool) -> bool:
        """Move the log start up to `offset` for retention: the manifest first, so that a store that is away holds it up; whether anything moved.

        Args:
            goes_without_store: local data is past total retention: the manifest may follow later.
        Raises:
            StoreUnavailable, OutcomeUnknown: nothing moved.
        """
        log, cold = self._log, self._partition.cold
        view = cold.view if cold is not None and cold.ready else None
        is_behind = view is not None and (view.log_start_offset < offset or view.has_dead_rows)
        failure: HotlogError | None = None
        if cold is not None and is_behind:
            try:
                await cold.advance_start(offset)
            except (StoreUnavailable, OutcomeUnknown) as weather:
                if not goes_without_store:
                    raise
                failure = weather
        is_moved = offset > log.log_start_offset
        if is_moved:
            log.advance_log_start(offset)
            await log.wait_log_start_saved()  # before a file goes
        if failure is not None:
            LOG.warning("%s: the manifest will follow when the store answers: %s", self.tp, failure)
        return is_moved or is_behind

    async def drop_local(self, offset: int) -> int:
        """Drop whole closed local segments that end at or before `offset`; return the bytes.

        Raises:
            Invalid: neither the log start nor the store has come as far.
        """
        return await self._log.drop_local_before(offset, expired=offset <= self._log.log_start_offset)
