"""The short way of Produce: from the bytes of a request for one partition to the bytes of its answer, with one look at its batch and one append.

What a request says before its records is known by its bytes once it has been read; what is known is forgotten whenever a partition
begins or ends to be served.  In page-cache mode the answer is known at once.  Where a commit is waited for, the log calls back: no task and no future.

Invariants: those of k00_produce, which has every other request: whatever is not the common case in every respect is handed on unchanged; a
batch that was appended is answered here, whatever comes then.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from kio.schema.errors import ErrorCode

from hotlog.answers.api import Caller, Pending, Short
from hotlog.kernel.errors import HotlogError
from hotlog.wire.error_codes import code_for, message_for
from hotlog.wire.plain_batch import sound
from hotlog.wire.produce_short import CLIENT_OFFSET, NOT_SHORT, Answers, Named, named, split_of

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker
    from hotlog.partitions.partition import Partition

PLACES_MAX = 16_384  # of all versions: a few hundred bytes each
NAMED_BYTES_MAX = 256  # client id, topic and what stands between them; a request that says more goes the general way
ACKS_ALLOWED = (0, 1, -1)
NOTHING = b""
_CORRELATION = struct.Struct(">i")


class Place:
    """A partition as a request names it, and how it is to be acknowledged."""

    __slots__ = ("acks", "answers", "bytes_in", "messages_in", "partition", "timeout_s")

    def __init__(self, broker: Broker, version: int, what: Named, partition: Partition) -> None:
        topic = partition.tp.topic
        self.partition = partition
        self.acks = what.acks
        self.timeout_s = max(what.timeout_ms, 1) / 1000
        self.answers = Answers(version, what)
        self.bytes_in = broker.metrics.bytes_in.labels(topic)
        self.messages_in = broker.metrics.messages_in.labels(topic)


class Places:
    """All places of a broker, so that they have one bound: clients choose their names."""

    def __init__(self, broker: Broker) -> None:
        self._by_version: list[dict[bytes, Place]] = []

    def of_version(self) -> dict[bytes, Place]:
        """Those of one more version."""
        self._by_version.append({})
        return self._by_version[-1]

    def make_room(self) -> None:
        """Forget all if they are many: who still comes is learnt again."""
        if sum(map(len, self._by_version)) >= PLACES_MAX:
            for places in self._by_version:
                places.clear()


class Ack(Pending):
    """An answer that waits for the commit; the log calls it."""

    __slots__ = ("_base", "_correlation_id", "_place")

    def __init__(self, place: Place, correlation_id: int, base: int) -> None:
        self.buffers = self.owner = self.door = None  # as Pending.__init__, without a call
        self.has_failed = False
        self._place = place
        self._correlation_id = correlation_id
        self._base = base

    def __call__(self, error: Exception | None) -> None:
        answers = self._place.answers
        if error is None:
            self.known(answers.done(self._correlation_id, self._base, self._place.partition.marks.log_start_offset))
        else:
            code: ErrorCode = code_for(error)
            self.known(answers.refused(self._correlation_id, code, message_for(error)), has_failed=True)


class ShortWay:
    """The short way of one version."""

    def __init__(self, broker: Broker, version: int) -> None:
        self._broker = broker
        self._version = version
        self._split = split_of(version)
        self._partitions = broker.hosted_places
        self._all_places = broker.kept[Places]
        self._places = self._all_places.of_version()  # by the bytes from the client id to the partition's number
        self._hosting_version = -1  # of which they are true

    def answer(self, caller: Caller, data: memoryview, start: int, end: int) -> bytes | Pending | None:
        """A `Short` (hotlog.answers.api)."""
        try:
            behind, begin, stop = self._split(data, start, end)
        except NOT_SHORT:
            return None
        place = None
        if self._hosting_version == self._partitions.version:
            place = self._places.get(bytes(data[start + CLIENT_OFFSET : behind]))
        if place is None and (place := self._learnt(data, start, behind)) is None:
            return None
        partition, batch = place.partition, data[begin:stop]
        config, now_ms = partition.config, self._broker.clock.now_ms()
        fields = sound(batch, config.message_bytes_max, config, now_ms)
        if fields is None:
            return None
        try:
            base = partition.append_plain(batch, fields, now_ms)
        except HotlogError:
            return None
        if base < 0:
            return None
        return self._answered(place, _CORRELATION.unpack_from(data, start + 4)[0], base, stop - begin, fields[12])

    def _answered(self, place: Place, correlation_id: int, base: int, size: int, count: int) -> bytes | Pending:
        """What is to be said of `count` records that were appended from the offset `base` on."""
        self._broker.produce_requests += 1
        place.bytes_in.value += size
        place.messages_in.value += count
        if place.acks == 0:
            return NOTHING
        marks = place.partition.marks
        if base + count <= marks.high_watermark:
            return place.answers.done(correlation_id, base, marks.log_start_offset)
        ack = Ack(place, correlation_id, base)
        place.partition.when_committed(base + count, ack, place.timeout_s)
        return ack

    def _learnt(self, data: memoryview, start: int, behind: int) -> Place | None:
        """What the request says before its records, read for the first time; None: there is no such place, or it is not for the short way."""
        if self._hosting_version != self._partitions.version:
            self._places.clear()
            self._hosting_version = self._partitions.version
        self._all_places.make_room()
        if behind - start > NAMED_BYTES_MAX:
            return None
        try:
            what = named(self._version, data, start, behind)
        except NOT_SHORT:
            return None
        name, broker = what.name, self._broker
        if what.topic_id is not None:
            topic = broker.topic_by_id(what.topic_id)
            name = None if topic is None else topic.name
        partition = None if name is None else broker.partition(name, what.partition)
        if partition is None or what.acks not in ACKS_ALLOWED:
            return None
        place = self._places[bytes(data[start + CLIENT_OFFSET : behind])] = Place(broker, self._version, what, partition)
        return place


def short(broker: Broker, version: int) -> Short:
    """What Api.short wants."""
    return ShortWay(broker, version).answer
