"""Appends that are too large for the event loop: written in a thread, one at a time, while the log's own end stands still.

The page cache takes about a gigabyte a second from new memory, so 50 MB on the loop held everybody up for a quarter of a second.

Invariants: from `begin` to `finish` nobody else writes, rolls, cuts or closes (`is_writing`, and the turn); readers see the end move once, when
all of it is there; what was begun is ended, whether or not somebody still waits for it; turns are taken in the order in which they were asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from hotlog.kernel.errors import NotReady
from hotlog.kernel.limits import MiB
from hotlog.log.producers import Guard
from hotlog.log.state import LogState
from hotlog.log.syncer import Syncer
from hotlog.log.writer import Appended, Writer
from hotlog.wire.batch import BatchHeader
from hotlog.world.ports import Disk

INLINE_APPEND_BYTES_MAX = 4 * MiB  # written on the event loop by one request


class LargeAppends:
    """`turn` is held by who needs the log's end for itself across a wait: a large append, a cut, the end."""

    def __init__(self, disk: Disk, state: LogState, syncer: Syncer, writer: Writer) -> None:
        self.turn = asyncio.Lock()
        self._tp, self._segments, self._marks = state.tp, state.segments, state.marks
        self._disk = disk
        self._syncer = syncer
        self._writer = writer
        self._in_turn: set[asyncio.Task[Appended]] = set()

    def append_in_turn(
        self, data: memoryview, headers: list[BatchHeader], *, now_ms: int, guard: Guard | None = None
    ) -> Awaitable[Appended]:
        """append() in a thread, after those that asked before; `guard` of one that begins a transaction.

        Raises as append, but NotReady: the leader epoch changed meanwhile; nothing was appended.
        """
        task = asyncio.get_running_loop().create_task(self._append_in_turn(data, headers, now_ms, guard), name="large-append")
        self._in_turn.add(task)
        task.add_done_callback(self._in_turn.discard)
        return asyncio.shield(task)

    async def _append_in_turn(self, data: memoryview, headers: list[BatchHeader], now_ms: int, guard: Guard | None) -> Appended:
        syncer, writer = self._syncer, self._writer
        async with self.turn:
            await syncer.wait_room()
            if guard is not None:
                self._marks.producers.require(guard, headers[0].base_sequence)
            begun = writer.begin(data, headers, now_ms)
            if isinstance(begun, Appended):
                return begun
            file, epoch = syncer.open_file(), writer.leader_epoch
            syncer.is_writing, writer.last_append_ms = True, now_ms
            try:
                await self._disk.run(file.append, (data,))
                if self._marks.failed is not None:
                    syncer.refuse()
                if writer.leader_epoch != epoch:
                    file.truncate(self._segments.active.size)
                    raise NotReady(f"{self._tp}: leader epoch {epoch} ended while a batch was written")
                return writer.finish(begun, now_ms)
            except OSError as error:
                syncer.refuse_after(error, "append to", file.path)
            finally:
                syncer.writing_ended()
