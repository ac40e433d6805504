"""Appends that are too large for the event loop: written in a thread, one at a time, while the log's own end stands still.

The page cache takes about a gigabyte a second from new memory, so 50 MB on the loop held everybody up for a quarter of a second.

Invariants: from `_begin` to `_finish` nobody else writes, rolls or closes (`is_writing`, and the turn); readers see the end move once, when
all of it is there; what was begun is ended, whether or not somebody still waits for it; turns are taken in the order in which they were asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from hotlog.kernel.errors import NotReady
from hotlog.kernel.ids import TopicPartition
from hotlog.kernel.limits import MiB
from hotlog.kernel.topic_config import TopicConfig
from hotlog.log.loaded import Loaded
from hotlog.log.log_appends import Appended, LogAppends
from hotlog.log.log_state import Parts
from hotlog.wire.batch import BatchHeader

INLINE_APPEND_BYTES_MAX = 4 * MiB  # written on the event loop by one request


class LargeAppends(LogAppends):
    """A log's appends, of any size."""

    def __init__(
        self, parts: Parts, tp: TopicPartition, directory: str, config: TopicConfig, loaded: Loaded, log_start: int
    ) -> None:
        super().__init__(parts, tp, directory, config, loaded, log_start)
        self._turn = asyncio.Lock()
        self._in_turn: set[asyncio.Task[Appended]] = set()

    def append_in_turn(self, data: memoryview, headers: list[BatchHeader], *, now_ms: int) -> Awaitable[Appended]:
        """append() in a thread, after those that asked before.

        Raises as append, but NotReady: the leader epoch changed meanwhile; nothing was appended.
        """
        task = asyncio.get_running_loop().create_task(self._append_in_turn(data, headers, now_ms), name="large-append")
        self._in_turn.add(task)
        task.add_done_callback(self._in_turn.discard)
        return asyncio.shield(task)

    async def _append_in_turn(self, data: memoryview, headers: list[BatchHeader], now_ms: int) -> Appended:
        async with self._turn:
            await self.wait_room()
            begun = self._begin(data, headers, now_ms)
            if isinstance(begun, Appended):
                return begun
            writer, epoch = self._open_writer(), self.leader_epoch
            self.is_writing, self.last_append_ms = True, now_ms
            try:
                await self._parts.disk.run(writer.append, (data,))
                if self.failed is not None:
                    self._refuse()
                if self.leader_epoch != epoch:
                    writer.truncate(self.active.size)
                    raise NotReady(f"{self.tp}: leader epoch {epoch} ended while a batch was written")
                return self._finish(begun, now_ms)
            except OSError as error:
                self._disk_error("append to", self.active.log_path, error)
            finally:
                self.is_writing = False
                if self.failed is not None:
                    self._unpin_all()
