"""Changes to what a log already has: its end is cut off, or a run of closed segments is replaced by others.

Invariants: one change of this kind at a time, and nobody appends, rolls or flushes while the end is cut; a crash at any point leaves what was
there before or what is there after (truncation.py, replacement.py); a failure of the disk half way ends the log for this process; what was
begun is ended, whether or not somebody still waits for it: a thread that has begun cannot be stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Sequence
from typing import Any, TypeVar

from hotlog.kernel.errors import Corrupt, Invalid, NotReady, OutOfRange
from hotlog.log import checkpoints, files
from hotlog.log.condemned import Condemned
from hotlog.log.epochs import LeaderEpochs
from hotlog.log.large_appends import LargeAppends
from hotlog.log.marks import Watermark
from hotlog.log.parts import Parts
from hotlog.log.producers import Producers
from hotlog.log.repair import producers_at
from hotlog.log.replacement import commit, prepared, settle
from hotlog.log.segment import Segment
from hotlog.log.state import LogState
from hotlog.log.syncer import Syncer
from hotlog.log.truncation import cut_files, kept_part

T = TypeVar("T")


class Reshaper:
    """`lock` is held by who adds to or takes from the closed segments across a wait."""

    def __init__(self, parts: Parts, state: LogState, syncer: Syncer, large: LargeAppends, condemned: Condemned) -> None:
        self.lock = asyncio.Lock()
        self._parts = parts
        self._tp, self._directory, self._segments, self._marks, self._epochs, self._producers = state
        self._syncer = syncer
        self._large = large
        self._condemned = condemned
        self._begun: set[asyncio.Task[Any]] = set()

    def _to_its_end(self, change: Coroutine[Any, Any, T]) -> Awaitable[T]:
        task = asyncio.get_running_loop().create_task(change, name="reshape")
        self._begun.add(task)
        task.add_done_callback(self._begun.discard)
        return asyncio.shield(task)

    # -- the end

    def truncate(self, offset: int) -> Awaitable[int]:
        """Cut off everything from `offset` on, and the batch that holds it; return where the log ends then (KIP-101, KIP-279).

        The high watermark goes back with it, as do the durable end, leader epochs, producers, indexes and the recovery point.

        Raises:
            OutOfRange: the log would end below its start: begin it anew instead.
            StorageFailed: the disk failed; a restart finds the log as it was, or cut at or behind `offset`.
        """
        return self._to_its_end(self._truncate_alone(offset))

    async def _truncate_alone(self, offset: int) -> int:
        async with self.lock, self._large.turn:
            if self._marks.failed is not None or self._marks.is_closed:
                self._syncer.refuse()
            await self._syncer.hold()
            try:
                return await self._truncate(offset)
            finally:
                self._syncer.let_go()

    async def _truncate(self, offset: int) -> int:
        marks, segments, disk = self._marks, self._segments, self._parts.disk
        if marks.failed is not None:  # by the flush that ran
            self._syncer.refuse()
        if offset < marks.local_log_start_offset:
            raise OutOfRange(f"{self._tp}: cannot end at {offset}: the local log begins at {marks.local_log_start_offset}")
        if offset >= marks.log_end_offset:
            self._forget_epochs(offset)  # an epoch that never got a record may still differ from the leader's
            return marks.log_end_offset
        count = segments.index_of(offset)
        last, victims = segments.all[count], segments.all[count + 1 :]
        kept = await disk.run(kept_part, self._parts.reader, last, offset, self._syncer.config.index_interval_bytes)
        end, aborted = kept.end_offset, kept.transactions
        if end < marks.log_start_offset:
            raise OutOfRange(f"{self._tp}: cannot end at {end}, where the batch of offset {offset} begins: the log starts later")
        marks.fall_back(end)
        await self._parts.save_recovery_points()
        try:
            producers = Producers(self._producers.expiry_ms)
            now_ms = self._parts.clock.now_ms()
            await disk.run(producers_at, disk, self._parts.reader, segments.all[: count + 1], producers, end, now_ms)
            epochs = LeaderEpochs(self._epochs.entries)
            epochs.truncate_end(end)
            await disk.run(
                cut_files, disk, self._parts.pool, tuple(reversed(victims)), kept, checkpoints.print_epochs(epochs.entries)
            )
        except (OSError, Corrupt) as error:
            self._syncer.fail(error)
            self._syncer.refuse()
        for segment in (last, *victims):
            self._parts.reader.forget_indexes(segment)
        self._parts.reader.note_transactions(kept, aborted)
        segments.end_with(count, kept)
        self._syncer.cut(end)
        self._syncer.written(f"{self._directory}/{files.EPOCHS_FILE}")
        self._epochs.truncate_end(end)
        self._producers.take_over(producers)
        cut = NotReady(f"{self._tp}: the log was cut at offset {end}")
        marks.truncate(Watermark(end, kept.base_offset, kept.size), cut)
        return end

    # -- closed segments

    def replace_segments(self, old: Sequence[int], new: Sequence[int]) -> Awaitable[None]:
        """Put the segments `new` where the run of closed segments `old` stands, both by base offset.

        The batches of each new one stand in `<base>.log.cleaned` in the log's directory.  Readers of the old ones go on; their files are removed
        after file.delete.delay.ms.

        Raises:
            Invalid: `old` is no run of closed segments, or `new` does not cover it: the first offset is the same, the last record is at or behind
                the beginning of the last old segment, and only a compacted log may have gaps.
            NotReady: part of the run is not committed or not on the device yet.
            StorageFailed: the disk failed; a restart finds the old run or the new one.
        """
        return self._to_its_end(self._replace(old, new))

    async def _replace(self, old: Sequence[int], new: Sequence[int]) -> None:
        await self._syncer.flush()
        async with self.lock:
            run = self._run_of(old)
            config, disk = self._syncer.config, self._parts.disk
            await self._parts.save_recovery_points()  # a start tells by it where gaps may be
            has_gaps = config.is_compacted or self._marks.cleaned_end >= 0
            made = await disk.run(prepared, disk, run, new, config.index_interval_bytes, gaps_allowed=has_gaps)
            async with self._large.turn:
                if self._marks.failed is not None or self._marks.is_closed:
                    self._syncer.refuse()
                try:
                    await disk.run(commit, disk, made)
                    paths = await disk.run(settle, disk, self._parts.pool, run, made)
                except OSError as error:
                    self._syncer.fail(error)
                    self._syncer.refuse()
                for segment in run:
                    self._parts.reader.forget_indexes(segment)
                self._marks.let_go_of(run[-1].end_offset)
                self._segments.replace(run, made)
                self._condemned.note(paths, self._parts.clock.now_ms() + config.file_delete_delay_ms)
                self._syncer.wake()

    def _run_of(self, bases: Sequence[int]) -> tuple[Segment, ...]:
        """The closed segments of those base offsets, if nothing of them can change any more."""
        segments = self._segments.all
        first = self._segments.index_of(bases[0]) if bases else 0
        run = segments[first : first + len(bases)]
        if not bases or [segment.base_offset for segment in run] != list(bases) or run[-1] is segments[-1]:
            raise Invalid(f"{self._tp}: {list(bases)} is no run of closed segments")
        settled = min(self._marks.high_watermark, self._syncer.recovery_point)
        if run[-1].end_offset > settled or any(segment.damage for segment in run):
            raise NotReady(f"{self._tp}: segments up to {run[-1].end_offset} are not settled; those up to {settled} are")
        return run

    def _forget_epochs(self, end: int) -> None:
        """Epochs that begin at or beyond `end` have no record any more."""
        if self._epochs.truncate_end(end):
            path = f"{self._directory}/{files.EPOCHS_FILE}"
            self._syncer.write_soon(path, checkpoints.print_epochs(self._epochs.entries))
