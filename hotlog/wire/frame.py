"""Bytes to request frames, sans-IO: the connection receives straight into the frame's own buffer.

A frame is a signed 32-bit size and that many bytes.  Small frames pass through a scratch buffer that all connections share (ten thousand
idle connections must not hold ten thousand buffers) and are copied out of it; the rest of a frame that is larger than the scratch is
received into place, so that the record batches of a 1 MB produce request are views of what the kernel wrote.  A frame of which
FRAME_BYTES_LEAP came goes on in an anonymous mapping of its whole size, which takes memory page by page as it is written: growing a
buffer of 50 MB by copies, or only filling it with zeros, holds up the event loop.

Invariants: a returned frame is writable and belongs to its receiver alone; memory held follows bytes received, never sizes claimed: at most
FRAME_BYTES_FIRST, or GROWTH times what came, up to FRAME_BYTES_LEAP, and above it what came; after an error the reader is of no further use.
"""

from __future__ import annotations

import mmap
import struct

from hotlog.kernel.errors import Invalid, TooLarge
from hotlog.kernel.limits import KiB, MiB

SCRATCH_BYTES = 256 * KiB
FRAME_BYTES_FIRST = 4 * KiB  # what an unfinished frame begins with, however little of it came
FRAME_BYTES_LEAP = (
    2 * MiB
)  # up to here a buffer grows by GROWTH: a 1 MB produce request of which a scratch full came is not copied again
GROWTH = 8
RECEIVE_BYTES_MAX = 1 * MiB  # into a mapping at once: the kernel makes its pages meanwhile
SLACK_BYTES = 64  # of a mapping behind its frame: a decoder may look a byte further (hotlog.wire.records)
FRAME_BYTES_MIN = 8  # API key, version, correlation id
SIZE_BYTES = 4
_SIZE = struct.Struct(">i")

assert GROWTH * SCRATCH_BYTES >= FRAME_BYTES_LEAP > FRAME_BYTES_FIRST


class FrameReader:
    """One connection's frames.  `buffer()` is where to receive next; `received(count)` returns the frames that became whole."""

    __slots__ = ("_filled", "_head", "_is_mapped", "_size", "_view", "bytes_max", "failure", "is_between", "scratch")

    def __init__(self, scratch: memoryview, bytes_max: int) -> None:
        self.scratch = scratch
        self.bytes_max = bytes_max
        self.is_between = True  # frames: what comes next is the beginning of one, and comes into the scratch
        self._head = b""  # the first 1 to 3 bytes of a size
        self._view: memoryview | None = None  # of an unfinished frame's buffer
        self._is_mapped = False
        self._filled = 0
        self._size = 0
        self.failure: Invalid | TooLarge | None = None  # a size that cannot be; the frames before it were returned

    @property
    def held(self) -> int:
        """Bytes of memory held for an unfinished frame."""
        if self._view is None:
            return len(self._head)
        return self._filled if self._is_mapped else len(self._view)

    def drop(self) -> mmap.mmap | None:
        """Give up an unfinished frame: nothing more comes.  Its mapping, if it has one."""
        view, self._view = self._view, None
        return view.obj if view is not None and isinstance(view.obj, mmap.mmap) else None

    def buffer(self) -> memoryview:
        """Where the next bytes go: the rest of a large frame, or the shared scratch (consumed before anybody else's turn)."""
        if self._view is not None:
            end = self._filled + RECEIVE_BYTES_MAX if self._is_mapped else len(self._view)
            return self._view[self._filled : end]
        return self.scratch

    def received(self, count: int, start: int = 0) -> list[memoryview]:
        """`count` bytes were put into `buffer()`; those before `start` (only where `is_between`) are whole frames that somebody has served.

        Look at `failure` after serving what is returned.

        A size below 8 is Invalid, one above the limit is TooLarge.
        """
        if self._view is None:
            frames: list[memoryview] = []
            try:
                self._split(self.scratch[start:count], frames)
            except (Invalid, TooLarge) as error:
                self.failure = error
            self.is_between = self._view is None and not self._head
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
        if size > self.bytes_max:
            raise TooLarge(f"request of {size} bytes; at most {self.bytes_max} are allowed (socket.request.max.bytes)")
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
        self._is_mapped = self._filled >= FRAME_BYTES_LEAP
        if self._is_mapped:
            try:
                return memoryview(mmap.mmap(-1, self._size + SLACK_BYTES))[: self._size]
            except OSError:  # no address space: as long as there is memory, copies do
                self._is_mapped = False
        leap = min(GROWTH * self._filled, FRAME_BYTES_LEAP)
        return memoryview(bytearray(min(self._size, max(FRAME_BYTES_FIRST, leap, 2 * self._filled))))

    def _finish(self) -> memoryview:
        view = self._view
        assert view is not None
        self._view = None
        self._filled = 0
        self.is_between = True
        return view
