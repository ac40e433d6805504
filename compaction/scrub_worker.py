"""The scrub: reads every byte of the local logs, slowly, round after round, and makes good what it can.

One segment at a time, a piece at a time in a disk thread, paced by hotlog.scrub.bytes.per.second.  What is found is counted, told, and
remembered by the log, which from then on serves nothing of it (fetches turn to the store, or are refused).  Damaged segments that the store
has are then dropped by the log's own path for local retention.

What is known to be damaged when a round begins, from an earlier life too, is repaired without waiting for the round to reach it.

Invariants: nothing is written but through the log; one read at a time, of at most hotlog.log.scrub.PIECE_BYTES; a partition that
fails never stops the others; local bytes go only after the store has answered with the very records that are damaged.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence

from compaction.scrub import Hurt, Repair, Stored, plan_ranges, plan_repair
from hotlog.kernel.errors import HotlogError
from hotlog.kernel.ids import TopicPartition
from hotlog.kernel.limits import KiB
from hotlog.kernel.metrics import Metrics
from hotlog.kernel.settings import Settings
from hotlog.log.damage import Damage
from hotlog.log.scrub import PIECE_BYTES, ScrubRange, SegmentScrub
from hotlog.partitions.partition import Partition
from hotlog.partitions.upkeep import Upkeep
from hotlog.world.pacing import ByteRate
from hotlog.world.ports import Clock, Disk

LOG = logging.getLogger(__name__)
TICK_S = 1.0
BATCH_BYTES_MIN = 1 * KiB  # a smaller batch counts as this much: walking it holds the interpreter lock for two microseconds
REPAIR_RETRY_S = 60.0
PROOF_WAIT_MS = 30_000
YIELD_EVERY = 64  # partitions looked at before the event loop gets a turn


class Scrubber:
    """Scrubs the partitions that a broker hosts.

    Args:
        hosted: the partitions, asked at the start of each round.
        settings: the broker's settings as they are now (hotlog.scrub.*).
    """

    def __init__(
        self,
        hosted: Callable[[], Sequence[Partition]],
        *,
        clock: Clock,
        disk: Disk,
        settings: Callable[[], Settings],
        metrics: Metrics,
    ) -> None:
        self._hosted = hosted
        self._clock = clock
        self._disk = disk
        self._settings = settings
        self._metrics = metrics
        self._rate = ByteRate(clock, settings().number("hotlog.scrub.bytes.per.second"), burst_bytes=PIECE_BYTES)
        self._round_due = clock.monotonic()
        self._is_running = False
        self._queue: deque[Partition] = deque()
        self._ranges: deque[ScrubRange] = deque()
        self._partition: Partition | None = None
        self._scrub: SegmentScrub | None = None
        self._hurt: dict[TopicPartition, Partition] = {}
        self._repair_due = clock.monotonic()

    async def tick(self) -> bool:
        """Repair what can be repaired; scrub for about TICK_S seconds; True while the round goes on.

        A round begins every hotlog.scrub.interval.ms.
        """
        interval_ms = self._settings().number("hotlog.scrub.interval.ms")
        if interval_ms < 0:
            self._end_round()
            return False
        await self._repair_all()
        if not self._is_running:
            if self._clock.monotonic() < self._round_due:
                return False
            self._is_running, self._round_due = True, self._clock.monotonic() + interval_ms / 1000
            hosted = self._hosted()
            self._queue.extend(hosted)
            self._hurt.update((partition.tp, partition) for partition in hosted if Upkeep(partition).scrub.damaged_segments())
        self._rate.change(self._settings().number("hotlog.scrub.bytes.per.second"))
        until = self._clock.monotonic() + TICK_S
        while await self._next():
            await self._step()
            if self._clock.monotonic() >= until:
                return True
        self._end_round()
        self._metrics.scrub_ended.set(self._clock.now_ms() / 1000)
        return False

    def _end_round(self) -> None:
        self._is_running, self._partition, self._scrub = False, None, None
        self._queue.clear()
        self._ranges.clear()

    # Reading

    async def _next(self) -> bool:
        """Take up the next segment, if none is under way; False at the end of the round."""
        looked_at = 0
        while self._scrub is None:
            if self._ranges:
                self._scrub = SegmentScrub(self._disk, self._ranges.popleft())
            elif self._queue:
                self._partition = self._queue.popleft()
                found = Upkeep(self._partition).scrub.scrub_ranges()
                self._ranges.extend(plan_ranges(found, self._partition.log_start_offset))
                looked_at += 1
                if looked_at % YIELD_EVERY == 0:
                    await asyncio.sleep(0)
            else:
                return False
        return True

    async def _step(self) -> None:
        partition, scrub = self._partition, self._scrub
        assert partition is not None
        assert scrub is not None
        if Upkeep(partition).is_closed:
            self._scrub = None
            self._ranges.clear()
            return
        before, batches = scrub.damages[-1:], scrub.batches
        try:
            count = await self._disk.run(scrub.step)
        except FileNotFoundError:  # dropped meanwhile
            self._scrub = None
            return
        except OSError as error:
            LOG.warning("scrub: %s is not looked at in this round: %s", scrub.want.path, error)
            self._scrub = None
            return
        if scrub.damages[-1:] != before:
            await self._note(partition, scrub, is_all=False)
        if count:
            self._metrics.scrub_bytes.inc(count)
            await self._rate.pace(max(count, (scrub.batches - batches) * BATCH_BYTES_MIN))
        else:
            self._scrub = None
            await self._note(partition, scrub, is_all=True)

    async def _note(self, partition: Partition, scrub: SegmentScrub, *, is_all: bool) -> None:
        """Tell the log, the metrics and the output what was found; return once it is kept on disk, where a kill does not take it back."""
        view, base = Upkeep(partition).scrub, scrub.want.base_offset
        if not view.has_segment(base):
            return  # dropped meanwhile
        news = view.note_damage(base, scrub.damages, is_all=is_all)
        for damage in news:
            self._tell_damage(partition, scrub.want, damage)
        if scrub.damages:
            if partition.tp not in self._hurt:
                self._repair_due = self._clock.monotonic()
            self._hurt[partition.tp] = partition
        if is_all and scrub.is_index_wrong:
            self._metrics.corruption.labels("index").inc()
            LOG.error("scrub: %s: an index of %s does not agree with the batches and is made anew", partition.tp, scrub.want.path)
            view.note_index_broken(base)
        if is_all and scrub.is_epochs_wrong:
            self._metrics.corruption.labels("leader-epochs").inc()
            LOG.error(
                "scrub: %s: the leader epoch checkpoint does not agree with the batches of %s", partition.tp, scrub.want.path
            )
        if news:
            await view.wait_damage_saved()

    def _tell_damage(self, partition: Partition, want: ScrubRange, damage: Damage) -> None:
        self._metrics.corruption.labels("scrub").inc()
        upkeep = Upkeep(partition)
        end = next(
            (info.end_offset for info in upkeep.segments() if info.base_offset == want.base_offset and info.closed_ms >= 0), None
        )
        fate = "nobody else has it, and its segment is still written to"
        if end is not None and upkeep.config.remote_enabled and end <= upkeep.stored_end:
            fate = "the store has it too"
        elif end is not None:
            fate = f"nobody else has it: deleting records up to {end} gives it up"
        LOG.error("scrub: %s: damaged: %s; %s", partition.tp, damage.error(want.path), fate)

    # Repair

    async def _repair_all(self) -> None:
        """Try all damaged partitions; those that cannot be repaired yet are tried again every REPAIR_RETRY_S."""
        if not self._hurt or self._clock.monotonic() < self._repair_due:
            return
        self._repair_due = self._clock.monotonic() + REPAIR_RETRY_S
        for tp, partition in list(self._hurt.items()):
            try:
                if not Upkeep(partition).is_closed:
                    await self._repair(partition)
            except (HotlogError, OSError) as failure:
                LOG.warning("scrub: the damaged segments of %s stay for now: %s", tp, failure)
            if Upkeep(partition).is_closed or not Upkeep(partition).scrub.damaged_segments():
                del self._hurt[tp]

    async def _repair(self, partition: Partition) -> None:
        repair = self._plan(partition)
        if repair is None:
            return
        for offset in repair.proofs:
            if not await Upkeep(partition).stores_record(offset, wait_ms=PROOF_WAIT_MS):
                LOG.warning("scrub: %s: the store has not answered with offset %d yet: nothing is dropped", partition.tp, offset)
                return
        freed = await Upkeep(partition).drop_local(repair.drop_offset)
        if freed:
            self._metrics.scrub_repairs.labels(partition.tp.topic).inc()
            LOG.warning(
                "scrub: %s: %d local bytes below offset %d are dropped: the store's copy is read from now on",
                partition.tp, freed, repair.drop_offset,
            )  # fmt: skip

    @staticmethod
    def _plan(partition: Partition) -> Repair | None:
        upkeep, stored, known = Upkeep(partition), None, partition.stored_range()
        if partition.config.remote_enabled and known is not None:
            stored = Stored(known[0], min(known[1], upkeep.stored_end))
        hurt = [
            Hurt(info.end_offset, info.closed_ms >= 0, [(damage.offset, damage.end_offset) for damage in damages])
            for info, damages in upkeep.scrub.damaged_segments()
        ]
        return plan_repair(
            hurt, stored, log_start_offset=partition.log_start_offset, local_start_offset=partition.local_log_start_offset
        )  # fmt: skip
