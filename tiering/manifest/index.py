"""Index pages: immutable objects that hold references to archive pages, so that the root need not.  Built and parsed here only; pure.

    0   8   magic "HOTLIDX\\n"
    8   2   format version (big endian), 1
    10  2   height: 1 above pages of rows, 2 above index pages of height 1, ...
    12  4   number of references
    16  16  topic id
    32  4   partition
    36  8   start offset
    44  8   end offset (exclusive)
    52  12  reserved, 0
    64      the references, 128 bytes each (docs/formats/manifest.md)

References have one size and are read where they lie: a page of five hundred is no five hundred objects.

Invariants: references are ascending and without gaps from the page's start to its end, at most INDEX_REFS_MAX, all of the height below
(asserted on build, raised on parse); what refers to the page carries its size and CRC-32C, and a page that does not match it is Corrupt.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

from crc32c import crc32c

from hotlog.kernel.errors import Corrupt
from hotlog.kernel.ids import PartitionId
from hotlog.kernel.versions import StoredFormat
from hotlog.world.ports import Buffer
from tiering.manifest.invariants import span_problem
from tiering.manifest.root import INDEX_REFS_MAX, PageRef, Totals, join_totals

MAGIC = b"HOTLIDX\n"
FORMAT: StoredFormat[bytes] = StoredFormat("archive index", 1)
_HEADER = struct.Struct(">8sHHI16siqq12x")
_REF = struct.Struct(
    ">qqq16sHHIq8qq"
)  # file start, start, end, nonce, level, height, CRC, size, totals, largest timestamp so far
_START_AT, _END_AT, _PREFIX_AT = 8, 16, 120
_I64 = struct.Struct(">q")
assert (_HEADER.size, _REF.size) == (64, 128)


class Index:
    """References of a parsed index page.  `start_offset` and `end_offset` are those of the whole file."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._count = (len(data) - _HEADER.size) // _REF.size

    def __len__(self) -> int:
        return self._count

    @property
    def start_offset(self) -> int:
        return self._start(0)

    @property
    def end_offset(self) -> int:
        return self._end(self._count - 1)

    @property
    def memory_bytes(self) -> int:
        """Roughly what keeping it costs, for a cache's budget."""
        return len(self._data) + 200

    def ref(self, number: int) -> PageRef:
        file_start, start, end, nonce, level, height, crc, size, *totals, _ = _REF.unpack_from(
            self._data, _HEADER.size + number * _REF.size
        )
        return PageRef(file_start, start, end, nonce.hex(), level, size, crc, Totals(*totals), height)

    def ref_covering(self, offset: int) -> PageRef:
        """The page that has `offset`, which must lie inside this one."""
        assert self.start_offset <= offset < self.end_offset, (self.start_offset, offset, self.end_offset)
        return self.ref(bisect_right(range(self._count), offset, key=self._start) - 1)

    def ref_reaching(self, timestamp_ms: int, *, start_offset: int = 0) -> PageRef | None:
        """The first page with a timestamp >= `timestamp_ms` that reaches above `start_offset`; None if there is none."""
        numbers = range(self._count)
        first = bisect_right(numbers, start_offset, key=self._end)
        for number in numbers[max(first, bisect_left(numbers, timestamp_ms, key=self._prefix_max)) :]:
            ref = self.ref(number)
            if ref.totals.records and ref.totals.max_timestamp >= timestamp_ms:
                return ref
        return None

    def refs_between(self, start: int, end: int) -> tuple[PageRef, ...]:
        """Pages that overlap [start, end)."""
        numbers = range(self._count)
        first, last = bisect_right(numbers, start, key=self._end), bisect_left(numbers, end, key=self._start)
        return tuple(self.ref(number) for number in numbers[first:last])

    def totals(self, start: int, end: int) -> Totals:
        """Sums over the pages that begin inside [start, end)."""
        return join_totals(ref.totals for ref in self.refs_between(start, end) if ref.start_offset >= start)

    def _start(self, number: int) -> int:
        return int(_I64.unpack_from(self._data, _HEADER.size + number * _REF.size + _START_AT)[0])

    def _end(self, number: int) -> int:
        return int(_I64.unpack_from(self._data, _HEADER.size + number * _REF.size + _END_AT)[0])

    def _prefix_max(self, number: int) -> int:
        return int(_I64.unpack_from(self._data, _HEADER.size + number * _REF.size + _PREFIX_AT)[0])

    def __iter__(self) -> Iterator[PageRef]:
        return (self.ref(number) for number in range(self._count))


def build_index(pid: PartitionId, refs: Sequence[PageRef]) -> bytes:
    """Bytes of an index page."""
    assert refs, "an index page has references"
    problem = _problem(refs)
    assert problem is None, problem
    parts = [
        _HEADER.pack(
            MAGIC, FORMAT.version, refs[0].height + 1, len(refs), pid.topic_id.bytes, pid.partition,
            refs[0].start_offset, refs[-1].end_offset,
        )
    ]  # fmt: skip
    largest = accumulate((ref.totals.max_timestamp for ref in refs), max)
    parts += [
        _REF.pack(
            ref.file_start, ref.start_offset, ref.end_offset, bytes.fromhex(ref.nonce), ref.level, ref.height, ref.crc, ref.size,
            *ref.totals, highest,
        )
        for ref, highest in zip(refs, largest, strict=True)
    ]  # fmt: skip
    return b"".join(parts)


def parse_index(data: Buffer, pid: PartitionId, ref: PageRef | None = None) -> Index:
    """References of an index page, checked against its own reference.

    Raises:
        Corrupt: wrong size or CRC-32C, no index page, another partition's, or pages that do not follow each other.
        UnknownVersion: a newer release wrote it.
    """
    where = f"archive index {ref.name if ref else '(unnamed)'} of {pid}"
    if ref is not None and (len(data) != ref.size or crc32c(data) != ref.crc):
        raise Corrupt(
            f"{where}: {len(data)} bytes with CRC-32C {crc32c(data):08x}, the manifest says {ref.size} and {ref.crc:08x}"
        )
    raw = bytes(data)
    if len(raw) < _HEADER.size or raw[:8] != MAGIC:
        raise Corrupt(f"{where}: {len(raw)} bytes that do not begin with the magic {MAGIC!r}")
    _, version, height, count, topic_id, partition, start, end = _HEADER.unpack_from(raw)
    FORMAT.require(version, where)
    if (topic_id, partition) != (pid.topic_id.bytes, pid.partition):
        raise Corrupt(f"{where}: it is of partition {partition} of topic {topic_id.hex()}; {pid} is expected")
    if not 0 < count <= INDEX_REFS_MAX or len(raw) != _HEADER.size + count * _REF.size:
        raise Corrupt(f"{where}: {len(raw)} bytes with {count} references")
    index = Index(raw)
    problem = _problem(list(index))
    if problem is None and (index.start_offset, index.end_offset, index.ref(0).height + 1) != (start, end, height):
        problem = f"references cover [{index.start_offset}, {index.end_offset}) at height {index.ref(0).height + 1}"
    if problem is None and ref is not None and (start, end, height) != (ref.file_start, ref.end_offset, ref.height):
        problem = f"it covers [{start}, {end}) at height {height}"
    if problem:
        raise Corrupt(f"{where}: {problem}")
    return index


def _problem(refs: Sequence[PageRef]) -> str | None:
    if len(refs) > INDEX_REFS_MAX:
        return f"{len(refs)} references; at most {INDEX_REFS_MAX} are allowed"
    if any(ref.height != refs[0].height for ref in refs):
        return "pages of different heights lie side by side"
    if any(not ref.file_start <= ref.start_offset for ref in refs):
        return "a page begins after its live rows"
    return span_problem([(ref.start_offset, ref.end_offset) for ref in refs])


def index_ref(refs: Sequence[PageRef], body: bytes, *, nonce: str, level: int) -> PageRef:
    """The reference to an index page just built."""
    start, end = refs[0].start_offset, refs[-1].end_offset
    return PageRef(
        start, start, end, nonce, level, len(body), crc32c(body), join_totals(ref.totals for ref in refs), refs[0].height + 1
    )
