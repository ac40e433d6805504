"""The driver of readahead: begins the GETs that the decider's window asks for, each byte's once, over objects.

It remembers how far it has come for each sequential reader (its frontier), so that a read that is answered from memory costs no look at
what was begun before.  A reader that had to wait shows that something of that is gone or late: the frontier starts over at its feet.

The footer of the next object comes with the last range of its log, by one GET, where neither is here: a footer by itself would be every fifth GET of a
replay of segments of 64 MiB.  That range is held until the reader has come to it, so it comes only where memory has room for three of each reader.

Invariants: a frontier never lies behind its reader; GETs are whole aligned ranges in the readahead lane; nothing here raises.
"""

from __future__ import annotations

from hotlog.kernel.errors import HotlogError
from hotlog.world.tasks import TaskScope
from tiering.cache.chunks import ChunkCache
from tiering.manifest.root import Entry
from tiering.read.cursors import Cursor, Frontier, Reading
from tiering.read.history import History, Shelf
from tiering.store.lanes import Lane


class Ahead:
    """Readahead of all sequential readers of a process."""

    def __init__(self, shelf: Shelf, chunks: ChunkCache) -> None:
        self._shelf = shelf
        self._chunks = chunks
        self._scope = TaskScope("cold-readahead")

    async def close(self) -> None:
        await self._scope.cancel()

    def follow(self, reading: Reading, frontier: Frontier | None, cursor: Cursor, room: int) -> Frontier | None:
        """The frontier of a reader that now stands at `cursor`, after `reading`; `frontier` is the one before.

        The cursor's window of bytes ahead is wanted, but no more than `room` bytes held for it, the run in which it stands included.
        """
        history, window = reading.history, cursor.stream.window_bytes
        if frontier is not None:
            frontier.left -= reading.taken
        if not window:
            return None
        is_busy = frontier is not None and frontier.task is not None and not frontier.task.done()
        if is_busy:
            return frontier
        if frontier is None or reading.has_waited or frontier.left < 0:
            frontier = Frontier(cursor.row, cursor.footer, cursor.position)
        if frontier.left < window and frontier.end_offset != history.end_offset:
            ahead = History(self._shelf, history.keys, history.topic, history.manifest, lane=Lane.READAHEAD)
            room -= cursor.position % self._chunks.run_bytes(history.chunks_of(cursor.row, cursor.footer))
            is_object_done = self._begin(ahead, frontier, window, room)
            if is_object_done and frontier.left < window:  # the next object's footer may have to be read
                frontier.task = self._scope.spawn(self._go_on(ahead, frontier, window, room))
        return frontier

    def _begin(self, history: History, frontier: Frontier, window: int, room: int) -> bool:
        """Begin what is missing to the window, within the frontier's object and `room`; whether the object is done with."""
        row = frontier.row
        source = history.chunks_of(row, frontier.footer)
        step = self._chunks.run_bytes(source)
        stop = min(frontier.position + window - frontier.left, row.log_bytes)
        reached = frontier.position
        while reached < stop:
            following = min(reached - reached % step + step, row.log_bytes)
            if frontier.left + following - frontier.position > room:
                break
            reached = following
        if reached > frontier.position:
            self._chunks.prefetch(source, frontier.position // source.chunk_bytes, -(-reached // source.chunk_bytes))
            frontier.left += reached - frontier.position
            frontier.position = reached
        return reached == row.log_bytes

    async def _go_on(self, history: History, frontier: Frontier, window: int, room: int) -> None:
        try:
            while frontier.left < window:
                following = await _following(history, frontier.row)
                if following is None:
                    frontier.end_offset = history.end_offset
                    return
                footer = await history.footer(following, is_read_through=True)
                frontier.row, frontier.footer, frontier.position = following, footer, 0
                if not self._begin(history, frontier, window, room):
                    return
        except HotlogError:
            return  # the read that needs it will say so


async def _following(history: History, row: Entry) -> Entry | None:
    """The next row with data."""
    offset = row.end_offset
    while offset < history.end_offset:
        row = await history.row_at(offset)
        if not row.is_hole:
            return row
        offset = row.end_offset
    return None
