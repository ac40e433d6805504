"""Log compaction: looks which compacted log is the dirtiest, and cleans it (clean_plan.py says what, clean_run.py how).

A cleaning notes the keys of the dirty part, writes everything below its end anew, run of segments by run, and notes up to where it came.  A stop
in between leaves some runs cleaned and others not, which is a log like any other: no newer value of a key goes before an older one.

What the store has of a topic is not cleaned here.  So the tombstones of a tiered topic stay in the local log: an older value that they stand
against may be in the store.  So do the ends of aborted transactions, whose data may be there.

Invariants: a log is cleaned once at a time; one that fails is tried again later and never stops the others; one that is damaged is named by
the metrics, as Kafka's uncleanable partitions are; nothing is held to be old by a clock that was not confirmed (trusted_clock.py),
and a time that begins now is counted from the wall clock, which is never behind that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from compaction.clean_plan import Dirt, first_dirty, group_segments, plan_dirt
from compaction.clean_run import CopyPass, KeyPass, Sieve, Tally
from compaction.clean_transactions import CleanedTransactions
from compaction.trusted_clock import TrustedClock
from hotlog.kernel.configdef import LONG_MAX
from hotlog.kernel.errors import Corrupt, HotlogError, Invalid, InvalidRecord, NotReady, TooLarge
from hotlog.kernel.ids import TopicPartition
from hotlog.kernel.limits import KiB, MiB
from hotlog.kernel.metrics import Metrics
from hotlog.kernel.settings import Settings
from hotlog.log.clean_view import ClosedSegment
from hotlog.log.producers import LastBatch
from hotlog.partitions.partition import Partition
from hotlog.partitions.upkeep import Upkeep
from hotlog.wire.key_map import KeyMap, Rules, key_map
from hotlog.world.pacing import ByteRate
from hotlog.world.ports import Clock, Disk, Entropy
from hotlog.world.tasks import TaskScope

LOG = logging.getLogger(__name__)
LOOKED_AT_ONCE = 256  # partitions, in one turn of the loop
STEP_BYTES = 4 * MiB  # in one go of a thread, about
PIECE_BYTES_MIN = 64 * KiB
RETRY_S, RETRY_DAMAGED_S = 60.0, 3600.0
SEED_BYTES = 16
NEVER_EXPIRES = -1  # by this clock no delete horizon has passed


class Chosen(NamedTuple):
    """A log to clean."""

    partition: Partition
    dirt: Dirt


class Failed(NamedTuple):
    """A log that could not be cleaned: `until` is when it is tried again (monotonic seconds)."""

    until: float
    is_damaged: bool
    size: int


@dataclass(kw_only=True)
class Cleaning:
    """One cleaning under way."""

    upkeep: Upkeep
    dirt: Dirt
    keys: KeyMap
    rules: Rules
    piece_bytes: int
    last_batches: dict[int, LastBatch]
    transactions: CleanedTransactions
    tally: Tally = field(default_factory=Tally)


class Cleaner:
    """Cleans the compacted logs that a broker hosts.

    Args:
        hosted: the partitions, asked at each tick.
        settings: the broker's settings as they are now (log.cleaner.*).
        trusted: the clock that deletion goes by.
    """

    def __init__(
        self,
        hosted: Callable[[], Sequence[Partition]],
        *,
        clock: Clock,
        disk: Disk,
        entropy: Entropy,
        settings: Callable[[], Settings],
        metrics: Metrics,
        trusted: TrustedClock,
    ) -> None:
        self._hosted = hosted
        self._clock = clock
        self._disk = disk
        self._entropy = entropy
        self._settings = settings
        self._metrics = metrics
        self._trusted = trusted
        self._failed: dict[TopicPartition, Failed] = {}
        self._rate = ByteRate(clock, LONG_MAX)
        self._due = clock.monotonic()

    async def tick(self) -> bool:
        """Clean as many of the dirtiest logs as log.cleaner.threads says, each to its end; True if there may be more to do.

        Where nothing was to be done it is looked again after log.cleaner.backoff.ms.
        """
        settings = self._settings()
        at_once = settings.number("log.cleaner.threads")
        if not settings.flag("log.cleaner.enable") or at_once < 1 or self._clock.monotonic() < self._due:
            return False
        self._rate.change(self._bytes_per_second())
        chosen = await self._choose(at_once)
        cleaned: list[Chosen] = []
        async with TaskScope("cleaner") as scope:
            for each in chosen:
                scope.spawn(self._try(each, cleaned))
        self._tell_failed()
        if not cleaned:
            self._due = self._clock.monotonic() + settings.number("log.cleaner.backoff.ms") / 1000
        return bool(cleaned)

    def _bytes_per_second(self) -> int:
        return int(min(max(self._settings().real("log.cleaner.io.max.bytes.per.second"), 1.0), LONG_MAX))

    # Which

    async def _choose(self, count: int) -> list[Chosen]:
        found: list[Chosen] = []
        dirtiest, delay_ms = 0.0, 0
        for number, partition in enumerate(self._hosted(), 1):
            if number % LOOKED_AT_ONCE == 0:
                await asyncio.sleep(0)
            if not partition.config.is_compacted or not Upkeep(partition).is_sound:
                continue
            failed = self._failed.get(partition.tp)
            if failed is not None and self._clock.monotonic() < failed.until:
                continue
            dirt = await self.dirt_of(partition)
            dirtiest, delay_ms = max(dirtiest, dirt.ratio), max(delay_ms, dirt.delay_ms)
            if dirt.is_due(partition.config.cleanable_ratio_min):
                found.append(Chosen(partition, dirt))
        self._metrics.cleaner_dirty.set(100 * dirtiest)
        self._metrics.cleaner_delay.set(delay_ms / 1000)
        self._metrics.cleaner_last_run.set(self._clock.now_ms() / 1000)
        found.sort(key=lambda each: each.dirt.ratio, reverse=True)
        return found[:count]

    async def dirt_of(self, partition: Partition) -> Dirt:
        """What there is to clean of `partition` now."""
        upkeep, config = Upkeep(partition), partition.config
        view, segments = upkeep.clean, upkeep.clean.segments()
        start = first_dirty(
            view.cleaned_end, log_start_offset=partition.log_start_offset, log_end_offset=partition.log_end_offset
        )
        times: list[int] = []
        if config.compaction_lag_max_ms < LONG_MAX:
            times = await self._disk.run(_first_times, upkeep, [segment for segment in segments if segment.end_offset > start])
        skipped = len(segments) - len(times)
        return plan_dirt(
            segments,
            config,
            start=start,
            stable_end=upkeep.stable_end,
            active_offset=view.active_offset,
            now_ms=self._clock.now_ms(),
            first_timestamp=lambda index: times[index - skipped] if times else -1,
        )

    # How

    async def _try(self, each: Chosen, cleaned: list[Chosen]) -> None:
        """Clean one log; failures are told and left for later."""
        partition, began = each.partition, self._clock.monotonic()
        try:
            await self._clean(partition, each.dirt)
        except (Corrupt, InvalidRecord, TooLarge, Invalid) as damage:
            LOG.error("cleaning of %s stops, it is not cleaned for now: %s", partition.tp, damage)
            self._fail(partition, str(damage))
        except (HotlogError, OSError) as failure:
            LOG.warning("cleaning of %s failed and is tried again: %s", partition.tp, failure)
            self._fail(partition)
        except Exception as bug:  # of one log: the others go on
            LOG.exception("cleaning of %s failed", partition.tp)
            self._fail(partition, f"{type(bug).__name__}: {bug}")
        else:
            self._failed.pop(partition.tp, None)
            Upkeep(partition).clean.trouble = ""
            self._metrics.cleaner_seconds.set(self._clock.monotonic() - began)
            cleaned.append(each)

    def _fail(self, partition: Partition, trouble: str = "") -> None:
        """It is tried again; after long, and named until then, if `trouble` says that it cannot be cleaned."""
        until = self._clock.monotonic() + (RETRY_DAMAGED_S if trouble else RETRY_S)
        self._failed[partition.tp] = Failed(until, bool(trouble), partition.local_bytes)
        Upkeep(partition).clean.trouble = trouble

    def _tell_failed(self) -> None:
        here = {partition.tp for partition in self._hosted()} if self._failed else set()
        self._failed = {tp: failed for tp, failed in self._failed.items() if tp in here}
        damaged: dict[tuple[str, ...], float] = {
            (tp.topic, str(tp.partition)): float(one.size) for tp, one in self._failed.items() if one.is_damaged
        }
        self._metrics.uncleanable_bytes.rows = damaged
        self._metrics.uncleanable_count.set(len(damaged))

    async def _clean(self, partition: Partition, dirt: Dirt) -> None:
        """Clean one log up to where its keys go into the map."""
        upkeep, settings = Upkeep(partition), self._settings()
        view = upkeep.clean
        if view.cleaned_end < 0:
            await view.save_cleaned_end(dirt.start)  # from here on offsets may be missing, also when it is compacted no more
        segments = [segment for segment in view.segments() if segment.base_offset < dirt.end]
        if hurt := next((segment for segment in segments if segment.is_damaged), None):
            raise Corrupt(f"{hurt.log_path} is damaged")
        at_once = max(settings.number("log.cleaner.threads"), 1)
        piece = max(settings.number("log.cleaner.io.buffer.size") // at_once, PIECE_BYTES_MIN)
        keys = await self._disk.run(
            key_map, settings.number("log.cleaner.dedupe.buffer.size") // at_once, dirt.end - dirt.start, self._entropy.bytes(SEED_BYTES),
            settings.real("log.cleaner.io.buffer.load.factor"),
        )  # fmt: skip
        aborted = await self._disk.run(view.aborted, dirt.start, dirt.end)
        noting = KeyPass(self._disk, segments, dirt.start, dirt.end, keys, aborted, piece_bytes=piece)
        await self._run(upkeep, noting.step)
        end = noting.latest + 1
        if end <= dirt.start:
            raise Invalid(f"one batch has more keys than the {keys.keys_max} that log.cleaner.dedupe.buffer.size has room for")
        now_ms, is_tiered = self._trusted.now_ms(), upkeep.is_tiered
        cleaning = Cleaning(
            upkeep=upkeep,
            dirt=dirt,
            keys=keys,
            rules=Rules(
                noting.latest,
                NEVER_EXPIRES if is_tiered else now_ms,
                self._clock.now_ms() + partition.config.delete_retention_ms,  # by what is trusted it might be over already
                dirt.end,
            ),
            piece_bytes=piece,
            last_batches=await self._disk.run(view.last_batches()),
            transactions=CleanedTransactions(has_more=is_tiered),
        )
        groups = group_segments(
            [segment for segment in segments if segment.base_offset < end],
            end=dirt.end,
            segment_bytes=partition.config.segment_bytes,
            index_bytes=partition.config.segment_index_bytes,
        )
        for group in groups:
            await self._copy(cleaning, group)
        await view.save_cleaned_end(end)
        upkeep.stir_store()
        self._tell(partition, cleaning, end)

    async def _copy(self, cleaning: Cleaning, group: Sequence[ClosedSegment]) -> None:
        """Write one run anew, and put it in the place of the old one if it differs."""
        group = list(group)
        while group and not group[-1].size:
            group.pop()
        if not group:
            return
        upkeep, view = cleaning.upkeep, cleaning.upkeep.clean
        cleaning.transactions.expect(await self._disk.run(view.aborted, group[0].base_offset, group[-1].end_offset))
        sieve = Sieve(cleaning.keys, cleaning.rules, cleaning.transactions, cleaning.last_batches, cleaning.tally)
        segment_bytes, piece_bytes = upkeep.config.segment_bytes, cleaning.piece_bytes
        run = CopyPass(self._disk, view.directory, group, sieve, segment_bytes=segment_bytes, piece_bytes=piece_bytes)
        is_replaced = False
        try:
            await self._run(upkeep, run.step)
            if run.is_changed:
                is_replaced = True  # or may be: a start has to find all of it, or none
                try:
                    await view.replace_segments([segment.base_offset for segment in group], run.bases)
                except (Invalid, NotReady) as refused:
                    is_replaced = False
                    here = {segment.base_offset for segment in view.segments()}
                    if any(segment.base_offset not in here for segment in group):
                        raise NotReady(f"{upkeep.tp}: segments were dropped while they were cleaned") from refused
                    raise
                except OSError:  # before the exchange: one that fails in it is StorageFailed
                    is_replaced = False
                    raise
        finally:
            if not is_replaced:
                await self._disk.run(_remove, self._disk, run.paths())

    async def _run(self, upkeep: Upkeep, step: Callable[[], int]) -> None:
        """Take a pass to its end, no faster than log.cleaner.io.max.bytes.per.second.

        Raises:
            NotReady: the log was given up here meanwhile.
        """
        rate = self._bytes_per_second()
        self._rate.change(rate)
        while count := await self._disk.run(_several, step, min(STEP_BYTES, rate)):
            if not upkeep.is_sound:
                raise NotReady(f"{upkeep.tp} was closed")
            await self._rate.pace(count)

    def _tell(self, partition: Partition, cleaning: Cleaning, end: int) -> None:
        tally, metrics = cleaning.tally, self._metrics
        metrics.cleaner_buffer.set(100 * cleaning.keys.used / cleaning.keys.keys_max)
        metrics.cleaner_recopy.set(100 * tally.written_bytes / tally.read_bytes if tally.read_bytes else 100)
        metrics.cleaned_bytes.labels("read").inc(tally.read_bytes + cleaning.dirt.dirty_bytes)
        metrics.cleaned_bytes.labels("written").inc(tally.written_bytes)
        metrics.cleaned_records.labels("kept").inc(tally.records_kept)
        metrics.cleaned_records.labels("removed").inc(tally.records_seen - tally.records_kept)
        LOG.info(
            "%s was cleaned up to offset %d: %d of %d bytes and %d of %d records remain; %d keys were new",
            partition.tp, end, tally.written_bytes, tally.read_bytes, tally.records_kept, tally.records_seen, cleaning.keys.used,
        )  # fmt: skip


def _first_times(upkeep: Upkeep, segments: Sequence[ClosedSegment]) -> list[int]:
    times = []
    for segment in segments:
        try:
            times.append(upkeep.clean.first_timestamp(segment))
        except (OSError, Corrupt):  # dropped meanwhile, or the cleaning will say what is wrong
            times.append(-1)
    return times


def _several(step: Callable[[], int], count: int) -> int:
    """Steps until `count` bytes were moved; 0 at the end."""
    total = 0
    while total < count and (moved := step()):
        total += moved
    return total


def _remove(disk: Disk, paths: Sequence[str]) -> None:
    for path in paths:
        if disk.exists(path):
            disk.remove(path)
