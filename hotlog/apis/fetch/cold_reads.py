"""Cold reads on behalf of fetches: started once, never cancelled, kept until the client asks again.

A fetch is answered when its hot data is there or its time is up; the cold read it started goes on, and its result waits here for the
client's next fetch of the same offset.

Invariants: one read in flight per (partition, offset, size, isolation); finished results are bounded in number and bytes; a result is
handed out once.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from hotlog.apis.fetch.sessions import SESSION_ID_MAX, FetchSessions
from hotlog.kernel.limits import MiB
from hotlog.kernel.settings import Settings
from hotlog.wire.batch import header_at

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker
    from hotlog.partitions.answers import Cold
    from hotlog.partitions.partition import Partition

RESULTS_MAX = 256
RESULT_BYTES_MAX = 64 * MiB
READ_WAIT_MS = 30_000  # how long one read may go on by itself; the store's own deadlines are around it


class ColdWish(NamedTuple):
    """What one partition of a fetch wants from the cold tier."""

    topic_id: UUID
    partition: int
    offset: int
    bytes_max: int
    is_committed_only: bool


class ColdFetches:
    """Reads in flight and their results, oldest first."""

    def __init__(self) -> None:
        self._reads: OrderedDict[ColdWish, asyncio.Future[Cold]] = OrderedDict()  # bounded by RESULTS_MAX, results by bytes too
        self._tasks: dict[asyncio.Task[Cold], None] = {}
        self._result_bytes = 0

    def begin_read(self, wish: ColdWish, partition: Partition) -> asyncio.Future[Cold]:
        """The read for `wish`: the one in flight or finished, or a new one, which is finished already if its data is in memory."""
        known = self._reads.get(wish)
        if known is not None:
            return known
        data = partition.read_cold_now(wish.offset, wish.bytes_max, wish.is_committed_only)
        if data is not None:
            there = asyncio.get_running_loop().create_future()
            there.set_result(data)
            self._reads[wish] = there
            self._result_bytes += len(data.data.data)
            self._trim()
            return there
        task = asyncio.get_running_loop().create_task(
            partition.read_cold(wish.offset, wish.bytes_max, wish.is_committed_only, wait_ms=READ_WAIT_MS)
        )
        self._reads[wish] = task
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._finished(wish, done))
        self._trim()
        return task

    def peek(self, wish: ColdWish | None) -> asyncio.Future[Cold] | None:
        """The read for `wish`, in flight or finished."""
        return self._reads.get(wish) if wish is not None else None

    def first_batch_bytes(self, wish: ColdWish) -> int:
        """Size of the first batch of a finished result; 0 if there is none (yet)."""
        task = self._reads.get(wish)
        if task is None or not task.done() or task.cancelled() or task.exception() is not None:
            return 0
        data = task.result().data.data
        return header_at(data).size if len(data) else 0

    def hand_out(self, wish: ColdWish) -> Cold | None:
        """The result, if it is there; the next fetch of the same offset reads again.

        Raises:
            what the read raised.
        """
        task = self._reads.get(wish)
        if task is None or not task.done():
            return None
        self._drop(wish)
        return task.result()

    def _finished(self, wish: ColdWish, task: asyncio.Task[Cold]) -> None:
        self._tasks.pop(task, None)
        if task.cancelled() or self._reads.get(wish) is not task:
            return
        if task.exception() is None:
            self._result_bytes += len(task.result().data.data)
        self._trim()

    def _drop(self, wish: ColdWish) -> None:
        task = self._reads.pop(wish)
        if task.done() and not task.cancelled() and task.exception() is None:
            self._result_bytes -= len(task.result().data.data)

    def _trim(self) -> None:
        while self._reads and (len(self._reads) > RESULTS_MAX or self._result_bytes > RESULT_BYTES_MAX):
            self._drop(next(iter(self._reads)))

    async def close(self) -> None:
        """Cancel what is in flight (the broker is stopping)."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._reads.clear()
        self._result_bytes = 0


class Fetches:
    """What fetching keeps between requests: sessions, and cold reads that outlive the fetch that began them (`broker.kept`)."""

    def __init__(self, broker: Broker) -> None:
        def new_id() -> int:
            return int.from_bytes(broker.entropy.bytes(4), "big") % SESSION_ID_MAX + 1

        self.sessions = FetchSessions(lambda: broker.settings.number("max.incremental.fetch.session.cache.slots"), new_id)
        self.cold_reads = ColdFetches()
        self._broker = broker
        self._settings: Settings | None = None  # of which these two are
        self._fetch_bytes_max = self._queued_bytes_max = 0

    def bytes_max(self, wanted: int) -> int:
        """What a fetch that wants `wanted` bytes may be answered with: less as slow clients fill hotlog.queued.max.response.bytes."""
        broker = self._broker
        if broker.settings is not self._settings:
            self._settings = settings = broker.settings
            self._fetch_bytes_max = settings.number("fetch.max.bytes")
            self._queued_bytes_max = settings.number("hotlog.queued.max.response.bytes")
        return max(min(wanted, self._fetch_bytes_max, (self._queued_bytes_max - broker.reply_backlog_bytes) // 4), 1)

    async def close(self) -> None:
        """Cancel cold reads in flight."""
        await self.cold_reads.close()
