"""Bytes to request frames, sans-IO: the connection receives straight into the frame's own buffer.

A frame is a signed 32-bit size and that many bytes.  Small frames pass through a scratch buffer that all connections share (ten thousand
idle connections must not hold ten thousand buffers) and are copied out of it; the rest of a frame that is larger than the scratch is
received into place, so that the record batches of a 1 MB produce request are views of what the kernel wrote.

Invariants: a returned frame is writable and belongs to its receiver alone; memory held follows bytes received, never sizes claimed: at most
FRAME_BYTES_FIRST, or GROWTH times what came (2 times above FRAME_BYTES_LEAP); after an error the reader is of no further use.
"""

from __future__ import annotations

import struct

from hotlog.kernel.errors import Invalid, TooLarge
from hotlog.kernel.limits import KiB, MiB

SCRATCH_BYTES = 256 * KiB
FRAME_BYTES_FIRST = 4 * KiB  # what an unfinished frame begins with, however little of it came
FRAME_BYTES_LEAP = (
    2 * MiB
)  # up to here a buffer grows by GROWTH: a 1 MB produce request of which a scratch full came is not copied again
GROWTH = 8
FRAME_BYTES_MIN = 8  # API key, version, correlation id
SIZE_BYTES = 4
_SIZE = struct.Struct(">i")

assert GROWTH * SCRATCH_BYTES >= FRAME_BYTES_LEAP > FRAME_BYTES_FIRST


class FrameReader:
    """One connection's frames.  `buffer()` is where to receive next; `received(count)` returns the frames that became whole."""

    __slots__ = ("_bytes_max", "_filled", "_head", "_scratch", "_size", "_view", "failure")

    def __init__(self, scratch: memoryview, bytes_max: int) -> None:
        self._scratch = scratch
        self._bytes_max = bytes_max
        self._head = b""  # the first 1 to 3 bytes of a size
        self._view: memoryview | None = None  # of an unfinished frame's buffer
        self._filled = 0
        self._size = 0
        self.failure: Invalid | TooLarge | None = None  # a size that cannot be; the frames before it were returned

    @property
    def held(self) -> int:
        """Bytes of memory held for an unfinished frame."""
        return len(self._view) if self._view is not None else len(self._head)

    def buffer(self) -> memoryview:
        """Where the next bytes go: the rest of a large frame, or the shared scratch (consumed before anybody else's turn)."""
        if self._view is not None:
            return self._view[self._filled :]
        return self._scratch

    def received(self, count: int) -> list[memoryview]:
        """`count` bytes were put into `buffer()`.  Look at `failure` after serving what is returned.

        A size below 8 is Invalid, one above the limit is TooLarge.
        """
        if self._view is None:
            frames: list[memoryview] = []
            try:
                self._split(self._scratch[:count], frames)
            except (Invalid, TooLarge) as error:
                self.failure = error
            return frames
        self._filled += count
        if self._filled == self._size:
            return [self._finish()]
        if self._filled == len(self._view):
            self._grow()
        return []

    def _split(self, data: memoryview, frames: list[memoryview]) -> None:
        position, end = 0, len(data)
        if self._head:
            position = min(SIZE_BYTES - len(self._head), end)
            self._head += bytes(data[:position])
            if len(self._head) < SIZE_BYTES:
                return
            size = self._checked(_SIZE.unpack(self._head)[0])
            self._head = b""
        elif end >= SIZE_BYTES:
            size = self._checked(_SIZE.unpack_from(data)[0])
            position = SIZE_BYTES
        else:
            self._head = bytes(data)
            return
        while position + size <= end:
            frames.append(memoryview(bytearray(data[position : position + size])))
            position += size
            if end - position < SIZE_BYTES:
                self._head = bytes(data[position:])
                return
            size = self._checked(_SIZE.unpack_from(data, position)[0])
            position += SIZE_BYTES
        self._begin(size, data[position:])

    def _checked(self, size: int) -> int:
        if size < FRAME_BYTES_MIN:
            raise Invalid(f"request size {size} is not possible; at least {FRAME_BYTES_MIN} bytes are needed")
        if size > self._bytes_max:
            raise TooLarge(f"request of {size} bytes; at most {self._bytes_max} are allowed (socket.request.max.bytes)")
        return size

    def _begin(self, size: int, rest: memoryview) -> None:
        self._size = size
        self._filled = len(rest)
        self._view = self._room()
        self._view[: len(rest)] = rest

    def _grow(self) -> None:
        assert self._view is not None
        view = self._room()
        view[: self._filled] = self._view
        self._view = view

    def _room(self) -> memoryview:
        """A buffer for the frame of which `filled` bytes came."""
        leap = min(GROWTH * self._filled, FRAME_BYTES_LEAP)
        return memoryview(bytearray(min(self._size, max(FRAME_BYTES_FIRST, leap, 2 * self._filled))))

    def _finish(self) -> memoryview:
        view = self._view
        assert view is not None
        self._view = None
        self._filled = 0
        return view
