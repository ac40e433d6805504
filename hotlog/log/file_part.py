"""Bytes of a segment that are read while they are sent: the first byte of an answer leaves before its last one is read.

Invariants: the file stays open until the part is closed or forgotten, whatever becomes of the segment meanwhile; the event loop reads from
the page cache only (`read_now`), a disk thread from the device (`read`); exactly the bytes that were promised, or an error.
"""

from __future__ import annotations

from hotlog.kernel.errors import StorageFailed
from hotlog.log.pool import FilePool, Held
from hotlog.world.ports import Buffer


class FilePart:
    """`length` bytes of an open file from `position` on (hotlog.world.ports.Streamed)."""

    __slots__ = ("_held", "_length", "_pool", "_position")

    def __init__(self, pool: FilePool, held: Held, position: int, length: int) -> None:
        self._pool = pool
        self._held: Held | None = held
        self._position = position
        self._length = length

    def __len__(self) -> int:
        return self._length

    def read_now(self, start: int, length: int) -> Buffer | None:
        """Bytes [start, start + length) of the part from the page cache; None where the device is needed.

        Raises:
            OSError: the disk failed.
        """
        assert self._held is not None, "the part is open"
        return self._held.file.read_at_nowait(self._position + start, length)

    async def read(self, start: int, length: int) -> Buffer:
        """The same in a disk thread, from the device.

        Raises:
            StorageFailed: the file is shorter than it was, or the disk failed.
        """
        held = self._held
        assert held is not None, "the part is open"
        try:
            data = await self._pool.disk.run(self._read_at, start, length)
        except OSError as error:
            raise StorageFailed(f"{held.file.path}: cannot read at byte {self._position + start}: {error}") from error
        if len(data) != length:
            raise StorageFailed(f"{held.file.path} ends at byte {self._position + start + len(data)}; it was longer")
        return data

    def _read_at(self, start: int, length: int) -> bytes:
        assert self._held is not None, "the thread's reference to this method keeps the part, and so the file, open"
        return self._held.file.read_at(self._position + start, length)

    def close(self) -> None:
        """Let the file go; a second call does nothing."""
        held, self._held = self._held, None
        if held is not None:
            self._pool.release(held)

    def __del__(self) -> None:
        self.close()  # an answer that was never sent: its connection went away, or the fetch looked again
