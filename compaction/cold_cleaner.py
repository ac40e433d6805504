"""Log compaction of what the store has of a topic: measured, priced, and done where it pays (cold_plan.py decides, clean_run.py does the records).

A pass reads the dirty rows for their keys, then every row for what would remain of it, and writes nothing until the sum is known.  Then runs of
rows with something out of date are written anew, oldest first, each as one object and one exact exchange in the manifest; the last commit says how
far the pass came.  Objects come to a folder of their own one run at a time; it is emptied before and after.

Older values go before newer ones and before tombstones, in this pass and in every later one, so no reader ever finds a value that is older than
one that was there before.  A tombstone's time begins with the pass that lets go what it stands against: whoever read that has delete.retention.ms
to come to the tombstone, however long ago the local log was cleaned.  The local log keeps its tombstones (cleaner.py): they hide nothing that the
store has lost.

Invariants: bytes of an object are used only if they pass the CRC-32C of its row; fenced by the manifest's epoch and conditional commits: two at once
waste work and harm nothing; an object that was uploaded and not committed is an orphan, which the reconciler finds.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from crc32c import crc32c

from compaction.clean_run import CopyPass, KeyPass, Sieve, Tally
from compaction.clean_transactions import CleanedTransactions
from compaction.cold_plan import ColdDirt, Measured, Placed, Price, gets_of, group_rows, plan_cold_dirt, price_of
from hotlog.kernel.errors import Corrupt, Invalid, NotFound
from hotlog.kernel.limits import BATCH_HEADER_BYTES, RANGE_BYTES_MAX, MiB
from hotlog.kernel.settings import Settings
from hotlog.kernel.topic_config import TopicConfig
from hotlog.log import files
from hotlog.log.clean_view import ClosedSegment
from hotlog.log.index import AbortedTransaction, parse_txn
from hotlog.log.segment_reader import walk_file
from hotlog.wire.batch import DELETE_HORIZON_MASK
from hotlog.wire.key_map import KeyMap, Rules, key_map, made
from hotlog.world.ports import STANDARD, Buffer, Clock, Disk, Entropy, ObjectStore
from tiering.cost.book import Provider
from tiering.manifest.edits import note_cleaned
from tiering.manifest.rewrite import Rewriter, live_rows
from tiering.manifest.root import GARBAGE_OBJECTS_MAX, Entry, Manifest
from tiering.manifest.store import ManifestStore
from tiering.objects.segment import AbortedTransaction as PackedTransaction
from tiering.objects.segment import Footer, FooterParts, Trailer, build_footer, check_identity, pack_aborted, parse_footer
from tiering.upload.scan import ScanRange, SegmentScan, SegmentSource, scan_segment

LOG = logging.getLogger(__name__)
PIECE_BYTES = MiB
SEED_BYTES = 16
ROWS_MAX = 100_000  # of one partition, in one pass
TRANSACTION_MS_MAX = 60 * 60 * 1000  # above transaction.max.timeout.ms


@dataclass(frozen=True, kw_only=True)
class ColdTarget:
    """A partition in the store.

    A worker without a broker has neither `epoch`, which is then that of whoever holds the manifest, nor `aborted`: the aborted transactions of a
    range of offsets as the local log knows them.
    """

    manifests: ManifestStore
    topic: str
    config: TopicConfig
    epoch: int | None = None
    aborted: Callable[[int, int], Awaitable[Sequence[AbortedTransaction]]] | None = None


class ColdPass(NamedTuple):
    """What a pass found: the runs of which something is out of date, what they cost, and up to where keys are known."""

    dirt: ColdDirt
    changed: tuple[Measured, ...]
    price: Price
    end: int


@dataclass(kw_only=True)
class _Run:
    """A pass under way."""

    target: ColdTarget
    view: Manifest
    store: ObjectStore
    dirt: ColdDirt
    groups: list[list[Entry]]
    aborted: list[AbortedTransaction]
    keys: KeyMap
    rules: Rules
    total_bytes: int
    reads: int = 0
    read_bytes: int = 0
    changed: list[Measured] = field(default_factory=list)
    has_transactions: bool = False


class ColdCleaner:
    """Cleans the store's part of compacted topics.

    Args:
        folder: of its own, on the local disk: holds a run of rows and what remains of it.
        now_ms: the clock that deletion goes by.
        provider: whose prices decide.
    """

    def __init__(
        self,
        store: ObjectStore,
        *,
        disk: Disk,
        clock: Clock,
        entropy: Entropy,
        settings: Callable[[], Settings],
        folder: str,
        now_ms: Callable[[], int],
        provider: Provider,
    ) -> None:
        self._store = store
        self._disk = disk
        self._clock = clock
        self._entropy = entropy
        self._settings = settings
        self._folder = folder
        self._now_ms = now_ms
        self._provider = provider

    async def dirt_of(self, target: ColdTarget) -> tuple[ColdDirt, list[Placed]] | None:
        """How dirty the store's part is; None if nothing is there.  Raises Corrupt, StoreUnavailable."""
        view = target.manifests.view
        if view is None or view.is_deleted or view.end_offset < 0:
            return None
        rows: list[Placed] = []
        async for row, page in live_rows(target.manifests, view):
            rows.append(Placed(row, page))
            if len(rows) > ROWS_MAX:
                raise Invalid(f"{target.topic} has more than {ROWS_MAX} segments in the store: it is not cleaned there")
        if target.aborted is None:
            rows = _told(rows)
        return plan_cold_dirt(rows, view.cleaned_end, start=view.readable_start_offset), rows

    async def clean(self, target: ColdTarget, *, is_dry: bool = False, ratio_min: float | None = None) -> ColdPass | None:
        """One pass over a partition; None if it is not dirty enough.  What it would cost or has cost is in the answer.

        Nothing is changed if it `is_dry`, or does not pay (`price.pays`); then a pass is tried again once there is more.

        Raises:
            PreconditionFailed, Fenced: somebody else changed the manifest; what was exchanged so far stays so.
            Corrupt, InvalidRecord: an object is damaged.
            Invalid: one batch has more keys than there is room for.
            StoreUnavailable, OutcomeUnknown.
        """
        found = await self.dirt_of(target)
        limit = target.config.cleanable_ratio_min if ratio_min is None else ratio_min
        view = target.manifests.view
        if found is None or view is None or not found[0].dirty_bytes or found[0].ratio <= limit:
            return None
        dirt, rows = found
        await self._disk.run(self._empty)
        try:
            run = await self._measure(target, view, dirt, rows)
            price = price_of(
                run.changed, read_bytes=run.read_bytes, reads=run.reads, total_bytes=run.total_bytes, config=target.config,
                provider=self._provider, now_ms=self._now_ms(),
            )  # fmt: skip
            done = ColdPass(dirt, tuple(run.changed), price, run.rules.latest + 1)
            if not is_dry and (price.pays or not run.changed):
                await self._carry_out(run)
            return done
        finally:
            await self._disk.run(self._empty)

    # Measuring

    async def _measure(self, target: ColdTarget, view: Manifest, dirt: ColdDirt, rows: Sequence[Placed]) -> _Run:
        settings = self._settings()
        keys = await self._disk.run(
            key_map, settings.number("log.cleaner.dedupe.buffer.size"), dirt.end - dirt.start, self._entropy.bytes(SEED_BYTES),
            settings.real("log.cleaner.io.buffer.load.factor"),
        )  # fmt: skip
        run = _Run(
            target=target, view=view, store=self._store.bind(topic=target.topic, purpose="compaction"), dirt=dirt, groups=[], aborted=[], keys=keys,
            rules=Rules(-1, 0, 0, dirt.end), total_bytes=view.totals.log_bytes,
        )  # fmt: skip
        run.aborted = await self._aborted_of(run, [placed.row for placed in rows])
        latest = await self._note_keys(run, [placed.row for placed in rows])
        if latest < dirt.start:
            raise Invalid(f"{target.topic}: one batch has more keys than log.cleaner.dedupe.buffer.size has room for")
        now_ms = self._now_ms()
        run.rules = Rules(latest, now_ms, self._clock.now_ms() + target.config.delete_retention_ms, dirt.end)
        run.groups = group_rows(
            [placed for placed in rows if placed.row.base_offset <= latest], segment_bytes=target.config.segment_bytes
        )
        transactions = CleanedTransactions()
        transactions.expect(run.aborted)
        for group in run.groups:
            copied = await self._copied(run, group, transactions)
            if copied.is_changed:
                remaining = sum(await self._disk.run(self._sizes, copied))
                run.changed.append(Measured(tuple(group), remaining))
            await self._disk.run(self._empty)
        run.has_transactions = transactions.is_used
        return run

    async def _aborted_of(self, run: _Run, rows: Sequence[Entry]) -> list[AbortedTransaction]:
        """What is known of aborted transactions: a footer names those that end in its object, whose batches may lie in those before."""
        found: dict[AbortedTransaction, None] = {}
        for row in rows:
            if row.aborted:
                footer = await self._footer(run, row)
                found.update((AbortedTransaction(*entry), None) for entry in footer.aborted)
        if run.target.aborted is not None:
            found.update((entry, None) for entry in await run.target.aborted(run.view.readable_start_offset, run.dirt.end))
        return list(found)

    async def _note_keys(self, run: _Run, rows: Sequence[Entry]) -> int:
        """Note the keys of the dirty rows; the last offset of which all is known."""
        latest, dirt = run.dirt.start - 1, run.dirt
        transactions = CleanedTransactions()
        transactions.expect(run.aborted)
        for row in rows:
            if row.end_offset <= dirt.start:
                continue
            if row.is_hole:
                latest = row.end_offset - 1
                continue
            segment = await self._fetched(run, row)
            noting = KeyPass(
                self._disk,
                [segment],
                dirt.start,
                row.end_offset,
                run.keys,
                (),
                transactions=transactions,
                piece_bytes=PIECE_BYTES,
            )
            noting.latest = latest
            while await self._disk.run(noting.step):
                pass
            latest = noting.latest
            await self._disk.run(self._empty)
            if noting.is_full:
                break
        return latest

    # Carrying out

    async def _carry_out(self, run: _Run) -> None:
        target, manifests = run.target, run.target.manifests
        epoch = run.view.epoch if target.epoch is None else target.epoch
        rewriter = Rewriter(manifests, run.store, self._entropy, epoch=epoch)
        changed = {each.rows for each in run.changed}
        transactions = CleanedTransactions()
        transactions.expect(run.aborted)
        for group in run.groups:
            if tuple(group) not in changed and not run.has_transactions:
                continue
            view = manifests.view
            if view is None or len(view.garbage) + len(group) > GARBAGE_OBJECTS_MAX:
                LOG.info("%s: the cold cleaning goes on when the store was tidied up", target.topic)
                return
            copied = await self._copied(run, group, transactions)
            if tuple(group) in changed:
                new = [await self._uploaded(run, copied, number, group, epoch) for number in range(len(copied.bases))]
                await rewriter.replace(tuple(group), tuple(new), not_before_ms=self._clock.now_ms() + self._grace_ms())
            await self._disk.run(self._empty)
        await manifests.commit(lambda root, _: note_cleaned(root, run.rules.latest + 1, epoch=epoch))

    def _grace_ms(self) -> int:
        return self._settings().number("hotlog.garbage.grace.ms")

    async def _uploaded(self, run: _Run, copied: CopyPass, number: int, group: Sequence[Entry], epoch: int) -> Entry:
        """Upload the `number`-th object of a run that was written anew; its row."""
        base = copied.bases[number]
        end = copied.bases[number + 1] if number + 1 < len(copied.bases) else group[-1].end_offset
        path = files.segment_path(self._folder, base, files.LOG) + files.CLEANED
        scan = await scan_segment(self._disk, path, ScanRange(base, base, end, await self._disk.run(self._disk.size, path), True))
        footer = await self._footer(run, group[-1])
        aborted = await self._disk.run(self._aborted, base)
        nonce, now_ms = self._entropy.uuid().hex, self._clock.now_ms()
        body = build_footer(
            FooterParts(
                offset_index=scan.offset_index, time_index=scan.time_index, aborted=pack_aborted(aborted),
                producer_snapshot=footer.producer_snapshot if end == group[-1].end_offset else b"", leader_epochs=footer.leader_epochs,
                chunk_crcs=scan.chunk_crcs,
            ),
            Trailer(
                pid=run.target.manifests.keys.pid, base_offset=base, end_offset=end, epoch=epoch, nonce=nonce, log_bytes=scan.log_bytes,
                log_crc=scan.log_crc, records=scan.records, created_ms=now_ms,
            ),
        )  # fmt: skip
        entry = _entry(scan, group, epoch=epoch, nonce=nonce, footer_bytes=len(body), aborted=len(aborted), now_ms=now_ms)
        key = run.target.manifests.keys.object(entry.name)
        await run.store.put_source(key, SegmentSource(self._disk, scan, body), storage_class=entry.storage_class)
        return entry

    # Objects and files

    async def _copied(self, run: _Run, group: Sequence[Entry], transactions: CleanedTransactions) -> CopyPass:
        """Write a run of rows anew, in the folder."""
        segments = [await self._fetched(run, row) for row in group]
        for segment in segments:
            if segment.end_offset > run.dirt.start:
                await self._disk.run(self._without_horizons, segment, run.dirt.start)
        copied = CopyPass(
            self._disk, self._folder, segments, Sieve(run.keys, run.rules, transactions, {}, Tally()),
            segment_bytes=max(run.target.config.segment_bytes, *(row.log_bytes for row in group)), piece_bytes=PIECE_BYTES,
        )  # fmt: skip
        while await self._disk.run(copied.step):
            pass
        return copied

    async def _fetched(self, run: _Run, row: Entry) -> ClosedSegment:
        """A row's log as a file, proven by its CRC-32C."""
        path = files.segment_path(self._folder, row.base_offset, files.LOG)
        key, crc = run.target.manifests.keys.object(row.name), 0
        await self._disk.run(self._begin, path)
        for start in range(0, row.log_bytes, RANGE_BYTES_MAX):
            end = min(start + RANGE_BYTES_MAX, row.log_bytes)
            try:
                blob = await run.store.get(key, row.object_start + start, row.object_start + end)
            except NotFound:
                raise Corrupt(f"{key} is missing, though the manifest of {run.target.topic} refers to it") from None
            crc = crc32c(blob.data, crc)
            await self._disk.run(self._append, path, blob.data)
        if crc != row.crc:
            raise Corrupt(f"{key}: the log bytes have CRC-32C {crc:08x}, the manifest says {row.crc:08x}")
        run.reads += gets_of(row)
        run.read_bytes += row.size
        return ClosedSegment(
            row.base_offset, row.end_offset, row.log_bytes, 0, 0, row.max_timestamp, path, path if row.aborted else "", False
        )

    def _without_horizons(self, segment: ClosedSegment, start: int) -> None:
        """Take the delete horizons from the batches at and above `start`: the local log's time says nothing of values that are here."""
        file = self._disk.open(segment.log_path)
        try:
            for position, header in walk_file(file, 0, segment.size):
                if header.attributes & DELETE_HORIZON_MASK and header.base_offset >= start:
                    records = memoryview(file.read_at(position, header.size))[BATCH_HEADER_BYTES:]
                    file.write_at(position, made(header._replace(attributes=header.attributes & ~DELETE_HORIZON_MASK), records))
        finally:
            file.close()

    async def _footer(self, run: _Run, row: Entry) -> Footer:
        keys = run.target.manifests.keys
        key = keys.object(row.name)
        try:
            blob = await run.store.get(key, row.footer_position, row.object_end)
        except NotFound:
            raise Corrupt(f"{key} is missing, though the manifest of {run.target.topic} refers to it") from None
        footer = parse_footer(blob.data, where=key)
        check_identity(footer.trailer, keys.pid, row.base_offset, row.end_offset, row.nonce, where=key)
        return footer

    def _begin(self, path: str) -> None:
        self._disk.make_dirs(self._folder)
        file = self._disk.open(path, create=True)
        file.truncate(0)
        file.close()

    def _append(self, path: str, data: Buffer) -> None:
        file = self._disk.open(path)
        try:
            file.append([data])
        finally:
            file.close()

    def _sizes(self, copied: CopyPass) -> list[int]:
        return [self._disk.size(files.segment_path(self._folder, base, files.LOG) + files.CLEANED) for base in copied.bases]

    def _aborted(self, base: int) -> list[PackedTransaction]:
        path = files.segment_path(self._folder, base, files.TXN_INDEX) + files.CLEANED
        entries = list(parse_txn(self._disk.read(path))) if self._disk.exists(path) else []
        return [PackedTransaction(*entry) for entry in entries]

    def _empty(self) -> None:
        if self._disk.exists(self._folder):
            self._disk.remove_tree(self._folder)


def _told(rows: Sequence[Placed]) -> list[Placed]:
    """The rows of which the store is sure to have the end of every transaction: another was closed TRANSACTION_MS_MAX later."""
    last_ms = max((placed.row.closed_ms for placed in rows), default=0)
    late = next((n for n, placed in enumerate(rows) if placed.row.closed_ms + TRANSACTION_MS_MAX > last_ms), len(rows))
    return list(rows[:late])


def _entry(
    scan: SegmentScan, group: Sequence[Entry], *, epoch: int, nonce: str, footer_bytes: int, aborted: int, now_ms: int
) -> Entry:
    """The row of what remains of a run: as old as the run is."""
    return Entry(
        base_offset=scan.base_offset, end_offset=scan.end_offset, epoch=epoch, nonce=nonce, object="", object_start=0,
        object_end=scan.log_bytes + footer_bytes, log_bytes=scan.log_bytes, records=scan.records, min_timestamp=scan.min_timestamp,
        max_timestamp=scan.max_timestamp, max_timestamp_offset=scan.max_timestamp_offset,
        appended_ms=min(row.appended_ms for row in group), closed_ms=max(row.closed_ms for row in group), created_ms=now_ms,
        epochs=scan.epochs, aborted=aborted, storage_class=STANDARD, crc=scan.log_crc,
    )  # fmt: skip
