"""A segment as the chunk cache sees it: where its log bytes lie in an object, in what chunks, and how each is proven.

Invariants: a chunk is bytes [i * chunk_bytes, (i + 1) * chunk_bytes) of the segment's log, the last one shorter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hotlog.kernel.limits import CHUNK_BYTES

Check = Callable[[int, memoryview], bool]


@dataclass(frozen=True, slots=True)
class ChunkSource:
    """A segment as the cache needs it: bytes from `object_start` on of an object, `object_end` being where its bytes end.

    `key` is the object's, or tells the segment from others in the object `shared_key`.  `check(index, chunk)` says whether bytes are
    what this segment holds there.
    """

    key: str
    data_bytes: int
    object_end: int
    topic: str
    check: Check | None = None
    chunk_bytes: int = CHUNK_BYTES
    object_start: int = 0
    shared_key: str = ""

    @property
    def object_key(self) -> str:
        return self.shared_key or self.key

    def is_of(self, object_bytes: int) -> bool:
        """Whether the object that came has the size it must have."""
        return object_bytes >= self.object_end if self.shared_key else object_bytes == self.object_end

    @property
    def chunk_count(self) -> int:
        return -(-self.data_bytes // self.chunk_bytes)

    def holds(self, start: int, data: memoryview) -> bool:
        """Whether `data`, which begins at byte `start` of a chunk and ends with one, is what this object holds there."""
        assert start % self.chunk_bytes == 0
        if self.check is None:
            return True
        step, first = self.chunk_bytes, start // self.chunk_bytes
        return all(self.check(first + at // step, data[at : at + step]) for at in range(0, len(data), step))

    def byte_range(self, first: int, end: int) -> tuple[int, int]:
        """Bytes [start, stop) of chunks [first, end)."""
        return first * self.chunk_bytes, min(end * self.chunk_bytes, self.data_bytes)


def joined(chunks: Sequence[memoryview], skip: int, size: int) -> memoryview:
    """`size` bytes (fewer if the chunks end before) from byte `skip` of the first chunk on."""
    if len(chunks) == 1:
        return chunks[0][skip : skip + size]
    parts = [chunks[0][skip:]]
    left = size - len(parts[0])
    for chunk in chunks[1:]:
        parts.append(chunk[: max(left, 0)])
        left -= len(chunk)
    return memoryview(b"".join(parts))
