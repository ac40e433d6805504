"""One fetch, planned as one byte budget over all its partitions and both tiers.

Hot partitions are answered from the page cache at once; those that are not cached are read by a disk thread; cold ones are started
concurrently and joined as they come.  Shares: hot and cold split the budget by their number, so that neither starves the other; the
first partition with data may exceed it by one batch (KIP-74), one such grant per answer.

Invariants: hot data never waits for cold; every partition ends with an answer; data outside [log start, high watermark or last stable
offset) never leaves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from kio.schema.errors import ErrorCode

from hotlog.apis.fetch.cold_reads import ColdFetches, ColdWish
from hotlog.broker.leaders import NOT_HERE, epoch_code
from hotlog.kernel.errors import Corrupt, HotlogError, NotReady, OutOfRange, StorageFailed, StoreUnavailable
from hotlog.log.reader import Slice, Stretch
from hotlog.partitions.partition import Place
from hotlog.wire.batch import header_at
from hotlog.wire.error_codes import code_for, is_expected
from hotlog.wire.fetch_reply import PartitionReply
from hotlog.wire.fetch_request import Key, Wanted

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker
    from hotlog.partitions.partition import Cold, Partition

LOG = logging.getLogger(__name__)

READ_COMMITTED = 1


class State(Enum):
    """Where one partition of the fetch stands."""

    ANSWERED = "answered"  # error, or records
    AT_END = "at end"  # nothing to read yet: wait for an append
    HOT = "hot"  # local data to read
    ON_DISK = "on disk"  # local data that is not in the page cache
    COLD = "cold"  # data in the store


class Limits(NamedTuple):
    """Byte budget and isolation of the request."""

    bytes_max: int
    bytes_min: int
    is_committed_only: bool


class Part:
    """One partition of the fetch."""

    __slots__ = (
        "aborted",
        "code",
        "has_given_up",
        "is_damaged_locally",
        "is_growing",
        "key",
        "partition",
        "records",
        "state",
        "wanted",
        "wish",
    )

    def __init__(self, key: Key, wanted: Wanted) -> None:
        self.key = key
        self.wanted = wanted
        self.partition: Partition | None = None
        self.state = State.HOT
        self.code = ErrorCode.none
        self.records: Slice | Stretch | None = None
        self.aborted: list[tuple[int, int]] | None = None
        self.wish: ColdWish | None = None
        self.is_growing = False  # has local records, and a later look may find more
        self.is_damaged_locally = False  # the local copy failed its checks: the store's is served
        self.has_given_up = False  # the store had nothing for this fetch: no second try within it

    def fail(self, code: ErrorCode) -> None:
        self.code = code
        self.state = State.ANSWERED

    def take_back(self) -> int:
        """Forget the records found so far; their size in bytes."""
        size = len(self.records.data) if self.records is not None else 0
        self.records, self.aborted, self.is_growing = None, None, False
        self.state = State.HOT
        return size

    def reply(self, is_committed_only: bool) -> PartitionReply:
        """The answer as it stands."""
        partition = self.partition
        if partition is None or (self.code and self.code is not ErrorCode.offset_out_of_range):
            return PartitionReply(self.key[1], self.code)
        marks = partition.marks
        aborted = (self.aborted or ()) if is_committed_only else None
        data = self.records.data if self.records is not None else b""
        return PartitionReply(
            self.key[1], self.code, marks.high_watermark, marks.last_stable_offset, marks.log_start_offset, aborted, data
        )


class Round:
    """The parts of one fetch and what was found for them so far."""

    def __init__(self, broker: Broker, cold: ColdFetches, wanted: list[tuple[Key, Wanted]], limits: Limits) -> None:
        self.limits = limits
        self.parts = [Part(key, each) for key, each in wanted]
        self.size = 0
        self.has_error = False
        self._is_full = False  # something is there that does not fit any more
        self._broker = broker
        self._cold = cold
        self._names: dict[UUID, str] = {}  # of the topics in this fetch; a topic's name never changes

    @property
    def is_satisfied(self) -> bool:
        """Whether the answer need not wait: enough bytes, no room for more, or an error the client should hear of."""
        return self.size >= self.limits.bytes_min or self.has_error or self._is_full

    def in_state(self, state: State) -> list[Part]:
        return [part for part in self.parts if part.state is state]

    def replies(self, parts: list[Part] | None = None) -> list[tuple[Key, PartitionReply]]:
        """The answer of some parts, or of all."""
        return [(part.key, part.reply(self.limits.is_committed_only)) for part in (self.parts if parts is None else parts)]

    # Looking

    def look(self) -> None:
        """Classify every part that has no answer, read the hot ones, start the cold ones and take what they have.

        Hot data that was too little to answer with is read again: there may be more of it by now.
        """
        self.classify(self.parts)
        for _ in self.read():
            pass

    def classify(self, parts: list[Part]) -> None:
        """The first half of a look."""
        for part in parts:
            if part.is_growing:
                self.size -= part.take_back()
            if part.state is not State.ANSWERED and not (part.state is State.AT_END and self._is_still_at_end(part)):
                self._classify(part)

    def read(self) -> Iterator[None]:
        """The second half, part by part, once all are classified."""
        hot, cold = self.in_state(State.HOT), self.in_state(State.COLD)
        room = self.limits.bytes_max
        if cold and hot:
            room = max(room * len(hot) // (len(hot) + len(cold)), 1)
        for part in hot:
            self._read_hot(part, room - self.size)
            yield
        for part in cold:
            self._read_cold(part, self.limits.bytes_max - self.size)
            yield

    def _is_still_at_end(self, part: Part) -> bool:
        """The short way for most partitions of a poll that was woken by one of them."""
        partition = part.partition
        if partition is None or self._broker.partition(*partition.tp) is not partition:
            return False
        marks, offset = partition.marks, part.wanted.offset
        end = marks.last_stable_offset if self.limits.is_committed_only else marks.high_watermark
        return end <= offset and marks.log_start_offset <= offset and marks.failed is None

    def _classify(self, part: Part) -> None:
        partition = part.partition = self._find(part)
        if partition is None:
            return
        marks, wanted = partition.marks, part.wanted
        if wanted.leader_epoch >= 0 and wanted.leader_epoch != partition.leader_epoch:
            self._fail(part, epoch_code(wanted.leader_epoch, partition.leader_epoch))
        elif not marks.log_start_offset <= wanted.offset <= marks.log_end_offset:
            self._fail(part, ErrorCode.offset_out_of_range)
        elif part.is_damaged_locally or wanted.offset < marks.local_log_start_offset:
            self._classify_cold(part, partition)
        else:
            end = marks.last_stable_offset if self.limits.is_committed_only else marks.high_watermark
            part.state = State.HOT if wanted.offset < end else State.AT_END

    def _classify_cold(self, part: Part, partition: Partition) -> None:
        offset = partition.behind_hole(part.wanted.offset) if not part.is_damaged_locally else None
        if offset is not None:  # only a recorded hole lies before the local log: no tier has anything in between
            part.wanted = part.wanted._replace(offset=offset)
            is_hot = partition.place_of(offset, self.limits.is_committed_only) is Place.HOT
            part.state = State.HOT if is_hot else State.AT_END
            return
        part.state = State.COLD
        try:
            partition.check_cold(part.wanted.offset)
        except StorageFailed as missing:
            LOG.error("%s", missing)
            self._fail(part, ErrorCode.kafka_storage_error)
        except HotlogError as damage:  # of the manifest: an empty answer would hide it for ever
            self._failed(part, damage)

    def _find(self, part: Part) -> Partition | None:
        key, number = part.key
        topic = key
        if isinstance(topic, UUID):
            name = self._names.get(topic)
            if name is None:
                image = self._broker.topic_by_id(topic)
                if image is None:
                    self._fail(part, ErrorCode.unknown_topic_id)
                    return None
                name = self._names[topic] = image.name
            topic = name
        partition = self._broker.partition(topic, number)
        if partition is None:
            self._fail(part, NOT_HERE)
        elif isinstance(key, UUID) and partition.topic_id != key:  # deleted and made again under the same name
            self._fail(part, ErrorCode.unknown_topic_id)
            return None
        return partition

    def _fail(self, part: Part, code: ErrorCode) -> None:
        part.fail(code)
        self.has_error = True
        if part.partition is not None:
            self._broker.metrics.fetch_failed.labels(part.partition.tp.topic).inc()

    # Reading

    def _read_hot(self, part: Part, room: int) -> None:
        """From the page cache, or not at all."""
        if room <= 0 and self.size:
            self._is_full = True
            return
        assert part.partition is not None
        try:
            found = part.partition.read_now(
                part.wanted.offset,
                max(min(room, part.wanted.bytes_max), 0),
                min_one=self.size == 0,
                committed_only=self.limits.is_committed_only,
            )
        except Exception as error:
            if self._turns_to_store(part, error):
                self._read_cold(part, room)
            return
        if found is None:
            part.state = State.ON_DISK
        elif not len(found.data) and self.size:
            self._is_full = True
        else:
            self._got(part, found)
            part.is_growing = part.records is not None

    async def read_disk(self) -> None:
        """The parts that are on disk and not in memory, in disk threads, all at once."""
        parts = self.in_state(State.ON_DISK)
        await self._read_disk(parts, max(self.limits.bytes_max - self.size, 0) // len(parts))
        for part in parts:  # the first one failed, or was at its end: the grant of one whole batch goes on
            if not self.size and part.state is State.HOT:
                await self._read_disk([part], self.limits.bytes_max)

    async def _read_disk(self, parts: list[Part], room: int) -> None:
        reads = [
            part.partition.read_disk(
                part.wanted.offset,
                min(room, part.wanted.bytes_max),
                min_one=self.size == 0 and part is parts[0],
                committed_only=self.limits.is_committed_only,
            )
            for part in parts
            if part.partition is not None
        ]
        for part, found in zip(parts, await asyncio.gather(*reads, return_exceptions=True), strict=True):
            part.state = State.HOT
            if isinstance(found, Exception):
                if self._turns_to_store(part, found):
                    self._read_cold(part, self.limits.bytes_max - self.size)
            elif isinstance(found, BaseException):
                raise found
            else:
                self._got(part, found)

    def _got(self, part: Part, found: Slice | Stretch) -> None:
        if not len(found.data):
            return
        part.records = found
        part.state = State.ANSWERED
        self.size += len(found.data)
        if part.aborted is None:
            part.aborted = found.aborted

    def _turns_to_store(self, part: Part, error: Exception) -> bool:
        """Whether a failed local read is made good by the store's copy; if not, the error is the partition's answer (docs/faults.md, row 12)."""
        partition = part.partition
        if not isinstance(error, Corrupt) or partition is None or not partition.is_stored(part.wanted.offset):
            self._failed(part, error)
            return False
        LOG.error("%s: %s; served from the store's copy", part.key, error)
        self._broker.metrics.corruption.labels("fetch").inc()
        part.is_damaged_locally = True
        part.state = State.COLD
        return True

    def _failed(self, part: Part, error: Exception) -> None:
        """An error of a read: the partition's answer, never the request's."""
        if not is_expected(error):
            LOG.error("fetch of %s failed", part.key, exc_info=error)
        if isinstance(error, (Corrupt, StorageFailed)):
            LOG.error("%s: %s", part.key, error)
            self._broker.metrics.corruption.labels("fetch").inc()
        self._fail(part, code_for(error))

    # The cold tier

    def _read_cold(self, part: Part, room: int) -> None:
        partition = part.partition
        assert partition is not None
        if part.has_given_up or (room <= 0 and self.size):
            return
        if not partition.has_store:
            return  # the store is away: the fetch waits its time and is answered with nothing
        if part.wish is None:
            bytes_max = max(min(self.limits.bytes_max, part.wanted.bytes_max), 1)
            part.wish = ColdWish(
                partition.topic_id, partition.tp.partition, part.wanted.offset, bytes_max, self.limits.is_committed_only
            )
        self._cold.begin_read(part.wish, partition)
        self._join_cold(part, room)

    def _join_cold(self, part: Part, room: int) -> None:
        """Take the result if it is there, as much of it as fits; what does not stays for the next fetch, or in the chunk cache."""
        assert part.wish is not None
        if self.size and self._cold.first_batch_bytes(part.wish) > room:
            self._is_full = True
            return
        try:
            found = self._cold.hand_out(part.wish)
        except (StoreUnavailable, NotReady):
            part.has_given_up = True  # weather: an empty answer after the wait is a calm retry, an error at once a loop
        except OutOfRange:
            self._fail(part, ErrorCode.offset_out_of_range)
        except Exception as error:
            self._failed(part, error)
        else:
            if found is not None:
                part.has_given_up = not len(found.data.data)
                part.aborted = found.aborted
                self._got(part, _cut(found.data, room if self.size else part.wish.bytes_max))

    def cold_read(self, part: Part) -> asyncio.Future[Cold] | None:
        """The read in flight for a cold part."""
        return self._cold.peek(part.wish)


def _cut(found: Slice, room: int) -> Slice:
    """At most `room` bytes, but at least the first batch."""
    if len(found.data) <= room:
        return found
    size = max(room, header_at(found.data).size)
    return found._replace(data=memoryview(found.data)[:size])
