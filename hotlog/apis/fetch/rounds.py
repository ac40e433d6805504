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
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from kio.schema.errors import ErrorCode

from hotlog.apis.fetch.cold_reads import ColdFetches, ColdWish
from hotlog.apis.fetch.parts import ANSWERED, AT_END, AT_REST, COLD, HOT, ON_DISK, OUT_OF_RANGE, Limits, Part, hosted_by
from hotlog.apis.fetch.sessions import Cached, Session
from hotlog.apis.fetch.shared import Shared, read_shared
from hotlog.broker.leaders import NOT_HERE, epoch_code
from hotlog.kernel.errors import Corrupt, HotlogError, NotReady, OutOfRange, StorageFailed, StoreUnavailable
from hotlog.log.reader import Slice, Stretch
from hotlog.partitions.answers import Place
from hotlog.wire.batch import header_at
from hotlog.wire.error_codes import code_for, is_expected
from hotlog.wire.fetch_reply import PartitionReply
from hotlog.wire.fetch_request import Key, Wanted

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker
    from hotlog.partitions.answers import Cold
    from hotlog.partitions.partition import Partition

LOG = logging.getLogger(__name__)

READ_COMMITTED = 1


class Round:
    """The parts of one fetch and what was found for them so far.

    With a `session` the parts are those that may have news; one that has none is left to the session again, and comes back when it moves.
    """

    def __init__(
        self,
        broker: Broker,
        cold: ColdFetches,
        wanted: Sequence[tuple[Key, Wanted]],
        limits: Limits,
        session: Session | None = None,
        *,
        is_incremental: bool = False,
    ) -> None:
        self.limits = limits
        self.session = session
        self.size = 0
        self.has_error = False
        self.shared: Shared | None = None  # what others found that look in the same turn
        self._is_full = False  # something is there that does not fit any more, or to which nothing comes any more
        self._broker = broker
        is_by_id = session.has_topic_ids if session is not None else bool(wanted) and isinstance(wanted[0][0][0], UUID)
        self._hosted = hosted_by(broker, is_by_id=is_by_id)
        self._cold = cold
        self._names: dict[UUID, str] = {}  # of the topics in this fetch; a topic's name never changes
        self._open: dict[Part, None] = {}  # hot, on disk or cold, and not answered yet
        self._rests = session is not None and is_incremental
        self._has_rest = False  # some of `parts` are left to the session
        if session is None:
            self.parts = [Part(key, each) for key, each in wanted]
        else:
            self.parts = [Part(key, each, session.partitions[key]) for key, each in wanted]

    @property
    def is_satisfied(self) -> bool:
        """Whether the answer need not wait: enough bytes, no room for more, or an error the client should hear of."""
        return self.size >= self.limits.bytes_min or self.has_error or self._is_full

    @property
    def is_on_disk(self) -> bool:
        """Whether something must be read by a disk thread."""
        return any(part.state is ON_DISK for part in self._open)

    def in_store(self) -> list[Part]:
        """What must come from the store."""
        return [part for part in self._open if part.state is COLD] if self._open else []

    def replies(self, parts: list[Part] | None = None) -> list[tuple[Key, PartitionReply]]:
        """The answer of some parts, or of all."""
        return [(part.key, part.reply(self.limits.is_committed_only)) for part in (self.parts if parts is None else parts)]

    # Looking

    def look(self) -> None:
        """Classify every part that has no answer, read the hot ones, start the cold ones and take what they have.

        Hot data that was too little to answer with is read again: there may be more of it by now.
        """
        self.look_at(self.parts)

    def look_at(self, parts: Iterable[Part]) -> None:
        """The same, once all that have not moved were looked at before."""
        self.classify(parts)
        for part, room in self._to_read():
            self._read_now(part, room - self.size)

    def due(self, moved: Iterable[Part], news: Iterable[Cached]) -> list[Part]:
        """What to look at again: what moved, what a session has news of, and what is not read yet."""
        due = dict.fromkeys(part for part in moved if part.state is not AT_REST)
        due.update(self._open)
        if news:
            here = {part.cached for part in self.parts}
            for cached in sorted(news, key=Cached.by_turn):
                if cached not in here and cached.session is self.session:
                    part = Part(cached.key, cached.wanted, cached)
                    self.parts.append(part)
                    due[part] = None
        return list(due)

    def classify(self, parts: Iterable[Part]) -> None:
        """The first half of a look."""
        is_committed_only, hosted = self.limits.is_committed_only, self._hosted
        for part in parts:
            if part.is_growing:
                self.size -= part.take_back()
            if part.state is ANSWERED:
                continue
            partition = part.partition = hosted.get(part.key) or self._find(part)
            if partition is None:
                continue
            marks, (offset, _, epoch) = partition.marks, part.wanted
            end = marks.last_stable_offset if is_committed_only else marks.high_watermark
            # nearly all of a wide fetch: what lies still at its end
            if end <= offset <= marks.log_end_offset and offset >= marks.local_log_start_offset and (
                epoch < 0 or epoch == partition.leader_epoch
            ) and not part.is_damaged_locally:  # fmt: skip
                part.state = AT_END
                if self._open:
                    self._open.pop(part, None)
            else:
                self._classify(part, partition, end)
            if self._rests and part.state is AT_END and part.cached is not None and part.cached.rests_at(partition):
                part.state, self._has_rest = AT_REST, True

    def _classify(self, part: Part, partition: Partition, end: int) -> None:
        marks, (offset, _, epoch) = partition.marks, part.wanted
        if epoch >= 0 and epoch != partition.leader_epoch:
            self._fail(part, epoch_code(epoch, partition.leader_epoch))
        elif not marks.log_start_offset <= offset <= marks.log_end_offset:
            self._fail(part, OUT_OF_RANGE)
        elif part.is_damaged_locally or offset < marks.local_log_start_offset:
            self._classify_cold(part, partition)
        else:
            part.state = HOT if offset < end else AT_END
        if part.state is HOT or part.state is COLD:
            self._open[part] = None
        else:
            self._open.pop(part, None)

    def read(self) -> Iterator[None]:
        """The second half, part by part, once all are classified."""
        for part, room in self._to_read():
            self._read_now(part, room - self.size)
            yield

    def _to_read(self) -> list[tuple[Part, int]]:
        """What there is to read, hot before cold, and how large the answer may be with it."""
        if self._has_rest:
            self.parts = [part for part in self.parts if part.state is not AT_REST]
            self._has_rest = False
        if not self._open:
            return []
        room = self.limits.bytes_max
        hot = [(part, room) for part in self._open if part.state is HOT]
        cold = [(part, room) for part in self._open if part.state is COLD]
        if cold and hot:
            share = max(room * len(hot) // (len(hot) + len(cold)), 1)
            hot = [(part, share) for part, _ in hot]
        return hot + cold

    def _classify_cold(self, part: Part, partition: Partition) -> None:
        offset = partition.behind_hole(part.wanted.offset) if not part.is_damaged_locally else None
        if offset is not None:  # only a recorded hole lies before the local log: no tier has anything in between
            part.wanted = part.wanted._replace(offset=offset)
            is_hot = partition.place_of(offset, self.limits.is_committed_only) is Place.HOT
            part.state = HOT if is_hot else AT_END
            return
        part.state = COLD
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
        self._open.pop(part, None)
        self.has_error = True
        if part.partition is not None:
            self._broker.metrics.fetch_failed.labels(part.partition.tp.topic).inc()

    # Reading

    def _read_now(self, part: Part, room: int) -> None:
        """Hot data from the page cache, or not at all; cold data if it is there."""
        if part.state is COLD:
            self._read_cold(part, room)
            return
        if room <= 0 and self.size:
            self._is_full = True
            return
        partition, bytes_max, is_first = part.partition, max(min(room, part.wanted[1]), 0), self.size == 0
        assert partition is not None
        try:
            if self.shared is None:
                found = partition.read_now(part.wanted[0], bytes_max, min_one=is_first, committed_only=self.limits[2])
            else:
                found = read_shared(
                    self.shared, partition, part.wanted[0], bytes_max, min_one=is_first, committed_only=self.limits[2]
                )
        except Exception as error:
            if self._turns_to_store(part, error):
                self._read_cold(part, room)
            return
        if found is None:
            part.state = ON_DISK
        elif not len(found[0]):
            self._is_full = self.size > 0 or self._is_full
        else:
            self._got(part, found)
            part.is_growing = True

    async def read_disk(self) -> None:
        """The parts that are on disk and not in memory, in disk threads, all at once."""
        parts = [part for part in self._open if part.state is ON_DISK]
        await self._read_disk(parts, max(self.limits.bytes_max - self.size, 0) // len(parts))
        for part in parts:  # the first one failed, or was at its end: the grant of one whole batch goes on
            if not self.size and part.state is HOT:
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
            part.state = HOT
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
        part.state = ANSWERED
        self._open.pop(part, None)
        self.size += len(found.data)
        if self.size < self.limits.bytes_min and part.partition is not None:
            # As in Kafka, where neither the rest of an older segment nor what came from the store waits for more.
            marks, is_committed_only = part.partition.marks, self.limits.is_committed_only
            if marks.is_in_older_segment(part.wanted.offset, committed_only=is_committed_only) and not self.in_store():
                self._is_full = True
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
        part.state = COLD
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
