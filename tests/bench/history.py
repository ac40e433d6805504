"""What a long history costs: `python -m tests.bench.history [SEGMENTS ...]` prints a table, in Markdown, of look-ups and of retention.

Everything is in memory and in this process: the CPU is that of the code under test, the store costs nothing.  A look-up is of an offset and of a
timestamp, at random; cold is with empty caches, warm is the same again.  "On the loop" is the event loop's thread; pages are parsed in another.
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass, replace
from random import Random
from statistics import median

from compaction.reaper import reap
from compaction.worker import retain_cold
from hotlog.kernel.topic_config import TopicConfig
from hotlog.world.posix import PosixDisk, SystemClock, SystemEntropy
from tests.support.scripted_store import ScriptedStore
from tests.tiering.support import KEYS, PID, row
from tiering.cache.footers import FooterCache
from tiering.manifest.archive import build_page, page_ref
from tiering.manifest.codec import encode
from tiering.manifest.edits import blank
from tiering.manifest.root import (
    ENTRIES_MAX,
    PAGE_LEVEL_MAX,
    PAGE_ROWS_MAX,
    SPILL_ENTRIES,
    Entry,
    Manifest,
    PageRef,
    find_offset,
    sealed,
)
from tiering.manifest.spill import apply_spill, made, plan_spill
from tiering.manifest.store import ManifestMeans, ManifestStore
from tiering.manifest.tree import Node, parse_node
from tiering.read.history import History, Shelf
from tiering.store.lanes import LaneGate

SIZES = (100, 1_000, 10_000, 100_000, 1_000_000)
LOOKUPS = 15
BEGUN_MS = 1_700_000_000_000
CACHE_BYTES = 64 << 20


@dataclass
class Cost:
    """Of one kind of work: milliseconds of CPU of the loop and of the process, pages and bytes read."""

    loop_ms: float
    all_ms: float
    pages: int
    bytes: int


class Lot:
    """A history of `count` rows in a store, one a second, made as uploads would have made it."""

    def __init__(self, count: int) -> None:
        self.count, self.random, self.store = count, Random(count), ScriptedStore()
        self.nodes: dict[str, Node] = {}
        self.likes = [row(0, 1000, self.random) for _ in range(PAGE_ROWS_MAX)]
        self.number = 0
        root = replace(blank(PID, "clicks", epoch=0, created_ms=BEGUN_MS), nonces=("aa" * 16,), generation=1, end_offset=0)
        inline = ENTRIES_MAX - SPILL_ENTRIES  # at least so many stay in the root
        for level in (PAGE_LEVEL_MAX, 0):
            rows = PAGE_ROWS_MAX if level else SPILL_ENTRIES
            while count - self.number >= rows + inline:
                root = self._settled(self._with_page(root, level, rows))
        rest = self._rows(count - self.number)
        self.manifest = sealed(replace(root, entries=tuple(rest), end_offset=rest[-1].end_offset, garbage=()))
        self.store.objects[KEYS.manifest] = encode(self.manifest)

    def _rows(self, count: int) -> list[Entry]:
        found = []
        for number in range(self.number, self.number + count):
            stamp = BEGUN_MS + number * 1000
            found.append(
                self.likes[number % len(self.likes)]._replace(
                    base_offset=number * 1000, end_offset=number * 1000 + 1000, min_timestamp=stamp, max_timestamp=stamp + 900,
                    closed_ms=stamp + 900,
                )
            )  # fmt: skip
        self.number += count
        return found

    def _with_page(self, root: Manifest, level: int, count: int) -> Manifest:
        rows = self._rows(count)
        body = build_page(PID, rows)
        ref = page_ref(rows, body, nonce=f"{self.random.getrandbits(128):032x}", level=level)
        self._put(ref, body)
        return sealed(replace(root, archive=(*root.archive, ref), end_offset=ref.end_offset))

    def _settled(self, root: Manifest) -> Manifest:
        while (plan := plan_spill(root)) is not None:
            refs = () if plan.keeps_pages else plan.refs
            nodes = {ref.name: parse_node(self.store.objects[KEYS.object(ref.name)], PID, ref) for ref in refs}
            for ref, body in made(plan, PID, nodes, [f"{self.random.getrandbits(128):032x}"] * plan.nonces):
                self._put(ref, body)
            root = replace(apply_spill(root, plan, ref, not_before_ms=BEGUN_MS), garbage=())
        return root

    def _put(self, ref: PageRef, body: bytes) -> None:
        self.store.objects[KEYS.object(ref.name)] = body

    def read_since(self, first: int) -> tuple[int, int]:
        """Pages of the archive, and bytes of them and of the root, that were read since the `first` GET."""
        calls = self.store.gets[first:]
        return sum("/archive/" in call.key for call in calls), sum(call.end - call.start for call in calls)

    def measured(self, seconds: tuple[float, float], first: int) -> Cost:
        return Cost((time.thread_time() - seconds[0]) * 1000, (time.process_time() - seconds[1]) * 1000, *self.read_since(first))


async def look_up(lot: Lot, disk: PosixDisk) -> tuple[Cost, Cost]:
    """Medians of look-ups, cold and warm."""
    cold, warm = [], []
    for _ in range(LOOKUPS):
        shelf = Shelf.of(lot.store, LaneGate(4, 100), CACHE_BYTES, disk=disk)  # type: ignore[arg-type]
        history = History(shelf, KEYS, "clicks", lot.manifest)
        number = lot.random.randrange(lot.count)
        for costs in (cold, warm):
            first, seconds = len(lot.store.gets), (time.thread_time(), time.process_time())
            at_offset = await history.row_at(number * 1000 + 500)
            at_time = await history.row_reaching(BEGUN_MS + number * 1000, 0)
            costs.append(lot.measured(seconds, first))
            assert at_offset == at_time is not None
            assert at_offset.base_offset == number * 1000
        await shelf.close()
    return middle(cold), middle(warm)


def middle(costs: list[Cost]) -> Cost:
    return Cost(
        median(cost.loop_ms for cost in costs), median(cost.all_ms for cost in costs),
        max(cost.pages for cost in costs), max(cost.bytes for cost in costs),
    )  # fmt: skip


async def retain(lot: Lot, disk: PosixDisk) -> tuple[Cost, Cost, int]:
    """The oldest hundredth goes: cost of dooming it, of deleting it, and how many objects that were."""
    pages: FooterCache[str, Node] = FooterCache(CACHE_BYTES, lambda page: page.memory_bytes)
    means = ManifestMeans(
        store=lot.store, clock=SystemClock(), entropy=SystemEntropy(), disk=disk, pages=pages,  # type: ignore[arg-type]
    )  # fmt: skip
    store, now_ms = ManifestStore(means, KEYS, topic="clicks"), BEGUN_MS + 10 * 365 * 86_400_000
    config = TopicConfig.resolve({"retention.ms": str(now_ms - BEGUN_MS - lot.count * 10)})
    first, seconds = len(lot.store.gets), (time.thread_time(), time.process_time())
    await retain_cold(store, config, now_ms=now_ms, grace_ms=0)
    doomed = lot.measured(seconds, first)
    assert store.view is not None
    gone, first, seconds = 0, len(lot.store.gets), (time.thread_time(), time.process_time())
    while count := await reap(lot.store, store, now_ms=now_ms + 1, grace_ms=1_000_000):  # type: ignore[arg-type]
        gone += count
    reaped = lot.measured(seconds, first)
    await pages.close()
    return doomed, reaped, gone


def line(lot: Lot, cold: Cost, warm: Cost, doomed: Cost, reaped: Cost, gone: int) -> str:
    sizes = [len(body) for key, body in lot.store.objects.items() if "/archive/" in key]
    return " | ".join(
        (
            f"| {lot.count:,}", f"{len(lot.store.objects[KEYS.manifest]) / 1024:.0f} KiB", f"{max(sizes, default=0) / 1024:.0f} KiB",
            f"{cold.loop_ms:.1f}, {cold.all_ms:.1f} ms", f"{cold.pages}, {cold.bytes / 1024:.0f} KiB", f"{warm.all_ms:.2f} ms",
            f"{gone:,}", f"{doomed.all_ms:.0f} ms; {doomed.pages}, {doomed.bytes / 1024:.0f} KiB",
            f"{reaped.all_ms:.0f} ms; {reaped.pages}, {reaped.bytes / 1024:.0f} KiB |",
        )
    )  # fmt: skip


async def table(sizes: tuple[int, ...]) -> None:
    disk = PosixDisk(2)
    begun = time.thread_time(), time.process_time()
    await disk.run(__import__, "pyarrow.parquet")
    print(
        f"import of pyarrow: {(time.thread_time() - begun[0]) * 1000:.0f} ms on the loop, {(time.process_time() - begun[1]) * 1000:.0f} in all"
    )
    print("| segments | root | largest page | cold look-up: CPU on the loop, in all | pages, bytes read | warm look-up | retention of 1 %: objects"
          " | dooming: CPU; pages, bytes read | deleting: CPU; pages, bytes read |")  # fmt: skip
    print("|" + " --- |" * 9)
    for size in sizes:
        lot = Lot(size)
        assert find_offset(lot.manifest, 0) is not None
        cold, warm = await look_up(lot, disk)
        print(line(lot, cold, warm, *await retain(lot, disk)), flush=True)
    disk.close()


if __name__ == "__main__":
    asyncio.run(table(tuple(map(int, sys.argv[1:])) or SIZES))
