"""Small forms of ByteSource: bytes that are uploaded in pieces.

Invariants: `read(start, end)` returns exactly end - start bytes or raises.
"""

from __future__ import annotations

from hotlog.kernel.errors import Corrupt
from hotlog.world.ports import Buffer, ByteSource


class BytesSource:
    """Bytes that are in memory already (tests, small objects)."""

    def __init__(self, data: Buffer) -> None:
        self._data = memoryview(data)

    @property
    def size(self) -> int:
        return len(self._data)

    async def read(self, start: int, end: int) -> Buffer:
        return self._data[start:end]


async def read_exactly(source: ByteSource, start: int, end: int) -> Buffer:
    """`source.read`, held to its contract.

    Raises:
        Corrupt: the source gave another number of bytes (a file that shrank under the upload).
    """
    data = await source.read(start, end)
    if len(data) != end - start:
        raise Corrupt(f"source gave {len(data)} bytes for [{start}, {end}) of {source.size}; the upload is abandoned")
    return data
