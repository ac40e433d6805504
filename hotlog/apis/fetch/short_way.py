"""The short way of Fetch: from the bytes of a request for one partition, without a session, to the bytes of its answer, also where it must wait.

What a request says is known by its bytes once it has been read (hotlog.wire.fetch_short); what is known is forgotten whenever a partition begins
or ends to be served.  A request for which there is too little waits as one object, an ear of its log.  Of those that are woken together and ask the same, the
first reads and encodes for all: only the correlation id differs.

Invariants: those of k01_fetch, which has every other request: whatever is not the common case in every respect (an error, aborted
transactions, what is in the store or on the device) is handed on unchanged, also by a fetch that has waited.  What has a session or several partitions is
for hotlog.apis.fetch.round_way.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from hotlog.answers.api import Answer, Caller, Pending, RequestContext, Short
from hotlog.apis.fetch.cold_reads import Fetches
from hotlog.apis.fetch.general_way import handle
from hotlog.apis.fetch.round_way import RoundWay
from hotlog.apis.fetch.rounds import READ_COMMITTED
from hotlog.apis.fetch.shared import PLAIN, Shared
from hotlog.apis.fetch.waits import WAIT_MS_MAX, Waiter, Waits
from hotlog.kernel.errors import HotlogError
from hotlog.kernel.limits import KiB
from hotlog.wire.fetch_request import FetchRequest, Wanted
from hotlog.wire.fetch_short import KEY, NOT_SHORT, OFFSET_BYTES, Answers, asked, offset_at, split_of
from hotlog.world.ports import Buffer, Streamed

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker
    from hotlog.partitions.partition import Partition

PLACES_MAX = 16_384  # of all versions: some hundred bytes each
NAMED_BYTES_MAX = 256  # topic, rack and what stands beside them; a request that says more goes the general way
JOIN_BYTES_MAX = 8 * KiB  # records up to this size are copied into the answer: that costs less than one more buffer to write
NOTHING = b""
_HEAD = struct.Struct(">ii")  # size, correlation id
_CORRELATION = struct.Struct(">i")
_new = tuple.__new__  # a named tuple's own constructor is a Python call


class Found(NamedTuple):
    """What there is for a request: all of an answer behind the correlation id, its bytes, and how many of them are records."""

    buffers: tuple[Buffer | Streamed, ...]
    size: int
    record_bytes: int

    @property
    def is_in_memory(self) -> bool:
        """Whether it can be sent more than once: a part of a file is closed by who sent it."""
        return PLAIN.issuperset(map(type, self.buffers))

    def answer(self, correlation_id: int) -> Answer:
        """The whole answer to a request with that correlation id."""
        buffers, size, _ = self
        head = _HEAD.pack(size + _CORRELATION.size, correlation_id)
        return head + buffers[0] if len(buffers) == 1 else [head, *buffers]  # type: ignore[operator]


class Place:
    """A partition as requests ask for it, all but the offset."""

    __slots__ = (
        "_answers", "_bytes_max", "_epoch", "_fetches", "_hosted", "_is_committed_only", "_tp", "bytes_min", "bytes_out", "partition", "request",
        "version", "wait_ms",
    )  # fmt: skip

    def __init__(self, broker: Broker, version: int, request: FetchRequest, partition: Partition) -> None:
        (((topic, number), wanted),) = request.partitions.items()
        self._bytes_max, self._epoch = wanted.bytes_max, wanted.leader_epoch
        self.version = version
        self.request = request
        self.partition = partition
        self.wait_ms = min(max(request.wait_ms_max, 0), WAIT_MS_MAX)
        self.bytes_min = min(request.bytes_min, request.bytes_max)
        self.bytes_out = broker.metrics.bytes_out.labels(partition.tp.topic)
        self._tp = partition.tp
        self._is_committed_only = request.isolation_level == READ_COMMITTED
        self._answers = Answers(version, topic, number, is_committed_only=self._is_committed_only)
        self._fetches = broker.kept[Fetches]
        self._hosted = broker.hosted_places

    def find(self, offset: int, shared: Shared | None = None) -> Found | None:
        """What there is from `offset` on; None: it is for the general way to say."""
        partition, epoch = self.partition, self._epoch
        marks = partition.marks
        high, start = marks.high_watermark, marks.log_start_offset
        stable = min(high, marks.producers.first_open_transaction)
        if (
            (epoch >= 0 and epoch != partition.leader_epoch)
            or not marks.local_log_start_offset <= offset <= marks.log_end_offset
            or self._hosted.get(self._tp) is not partition
        ):
            return None
        if offset >= (stable if self._is_committed_only else high):
            return self._found(high, stable, start, NOTHING)
        bytes_max = max(min(self._fetches.bytes_max(self.request.bytes_max), self._bytes_max), 0)
        if shared is None:
            return self._read(offset, bytes_max, high, stable, start)
        key = self, offset, bytes_max, high, stable, start
        found: Found | None = shared.get(key)
        if found is None:
            found = self._read(offset, bytes_max, high, stable, start)
            if found is not None and found.is_in_memory:
                shared[key] = found
        return found

    def is_full(self, offset: int, size: int) -> bool:
        """Whether to what was found, `size` bytes of records, nothing would come: it is all that the broker gives at once, or the rest of an older
        segment."""
        if not size:
            return False
        return size >= self._fetches.bytes_max(self.request.bytes_max) or self.partition.marks.is_in_older_segment(
            offset, committed_only=self._is_committed_only
        )

    def _read(self, offset: int, bytes_max: int, high: int, stable: int, start: int) -> Found | None:
        try:
            read = self.partition.read_now(offset, bytes_max, min_one=True, committed_only=self._is_committed_only)
        except HotlogError:
            return None
        return None if read is None or read[2] else self._found(high, stable, start, read[0])

    def _found(self, high: int, stable: int, start: int, records: Buffer | Streamed) -> Found:
        answers, length = self._answers, len(records)
        head, end = answers.head(high, stable, start, length), answers.end
        size = len(head) + length + len(end)
        if length <= JOIN_BYTES_MAX:
            return _new(Found, ((b"".join((head, records, end)),), size, length))  # type: ignore[arg-type]
        return _new(Found, ((head, records, end) if end else (head, records), size, length))


class Places(dict[bytes, Place]):
    """All places of a broker by what requests say, their version first, so that they have one bound: clients choose what they say."""

    def __init__(self, broker: Broker) -> None:
        super().__init__()
        self._hosted = broker.hosted_places
        self.version = -1  # of what is hosted, of which they are true

    def make_room(self) -> None:
        """Forget all if they are many, or may be true no more: who still comes is learnt again."""
        if len(self) >= PLACES_MAX or self.version != self._hosted.version:
            self.clear()
            self.version = self._hosted.version


class Poll(Waiter):
    """A fetch of one partition that waits."""

    __slots__ = ("_caller", "_correlation_id", "_offset", "_place", "_way")

    def __init__(self, way: ShortWay, place: Place, caller: Caller, correlation_id: int, offset: int) -> None:
        super().__init__(way.waits)
        self._way = way
        self._place = place
        self._caller = caller
        self._correlation_id = correlation_id
        self._offset = offset

    def look(self, shared: Shared) -> None:
        place = self._place
        found = place.find(self._offset, shared)
        if found is None:
            self.go_long()
        elif found.record_bytes >= place.bytes_min or self.is_late or place.is_full(self._offset, found.record_bytes):
            self.waits.end(self)
            place.bytes_out.value += found.record_bytes
            self.known(found.answer(self._correlation_id))
        elif found.record_bytes and not self.has_rested:
            self.waits.rest(self)
        else:
            self.has_rested = False
            place.partition.add_ear(self)

    def leave(self) -> None:
        self._place.partition.remove_ear(self)

    def go_long(self) -> None:
        place, way = self._place, self._way
        request, context = (
            place.request,
            RequestContext(KEY, place.version, self._correlation_id, None, self._caller, self.arrived),
        )
        ((key, wanted),) = request.partitions.items()
        request = request._replace(partitions={key: Wanted(self._offset, wanted.bytes_max, wanted.leader_epoch)})
        self.waits.hand_over(self, context, request, lambda: handle(way.broker, context, request))


class ShortWay:
    """The short way of one version."""

    def __init__(self, broker: Broker, version: int) -> None:
        self.broker = broker
        self.waits = broker.kept[Waits]
        self._version = version
        self._mark = bytes([version])
        self._split = split_of(version)
        self._of_rounds = RoundWay(broker, version).answer
        self._hosted = broker.hosted_places
        self._places = broker.kept[Places]

    def answer(self, caller: Caller, data: memoryview, start: int, end: int) -> Answer | Pending | None:
        """A `Short` (hotlog.answers.api)."""
        try:
            behind, at = self._split(data, start, end)
        except NOT_SHORT:
            return self._of_rounds(caller, data, start, end)
        places, key = self._places, b"".join((self._mark, data[behind:at], data[at + OFFSET_BYTES : end]))
        place = places.get(key) if places.version == self._hosted.version else None
        if place is None and (place := self._learnt(key, data, start, end, at)) is None:
            return None
        offset = offset_at(data, at)
        found = place.find(offset)
        if found is None:
            return None
        correlation_id = _CORRELATION.unpack_from(data, start + 4)[0]
        if found.record_bytes >= place.bytes_min or not place.wait_ms or place.is_full(offset, found.record_bytes):
            place.bytes_out.value += found.record_bytes
            return found.answer(correlation_id)
        if not self.waits.has_room(place.wait_ms):
            return None
        poll = Poll(self, place, caller, correlation_id, offset)
        place.partition.add_ear(poll)
        self.waits.begin(poll, place.wait_ms)
        return poll

    def _learnt(self, key: bytes, data: memoryview, start: int, end: int, at: int) -> Place | None:
        """What a request says, read for the first time; None: there is no such place, or it is not for the short way."""
        self._places.make_room()
        if len(key) > NAMED_BYTES_MAX:
            return None
        try:
            request = asked(self._version, data, start, end, at)
        except NOT_SHORT:
            return None
        broker = self.broker
        ((topic, number),) = request.partitions
        if isinstance(topic, UUID):
            image = broker.topic_by_id(topic)
            partition = None if image is None else broker.partition(image.name, number)
            if partition is not None and partition.topic_id != topic:
                return None
        else:
            partition = broker.partition(topic, number)
        if partition is None:
            return None
        place = self._places[key] = Place(broker, self._version, request, partition)
        return place


def short(broker: Broker, version: int) -> Short:
    """What Api.short wants."""
    return ShortWay(broker, version).answer
