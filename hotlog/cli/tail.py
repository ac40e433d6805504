"""What only a broker has of a topic, for the verbs that read the bucket: the open segments, batch by batch as they are.

Invariants: a tail belongs to the very topic (by id) of the very cluster that the bucket holds; it ends where consumers' view ended when it was
opened; batches come whole, proven by their CRC-32C; what the broker has no more comes as a Hole.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

from kio.schema.errors import ErrorCode
from kio.schema.fetch.v12.request import FetchPartition, FetchRequest, FetchTopic
from kio.schema.fetch.v12.response import FetchResponse
from kio.schema.metadata.v12.request import MetadataRequest, MetadataRequestTopic
from kio.schema.metadata.v12.response import MetadataResponse
from kio.schema.types import TopicName
from kio.static.primitive import i8, i32, i32Timedelta, i64

from hotlog.cli.raw import EARLIEST, LATEST, ask, tier_borders
from hotlog.kernel.errors import Corrupt, Invalid, Retry
from hotlog.kernel.limits import MiB
from hotlog.wire.batch import crc_ok, walk
from tiering.replay.direct import Hole, Run

FETCH, METADATA = (1, 12), (3, 12)
FETCH_BYTES_MAX = 8 * MiB
FETCH_WAIT = timedelta(seconds=1)
FETCHES_EMPTY_MAX = 60
KNOCK_SECONDS_MAX = 5.0  # a broker that is down is told soon


class Tails(NamedTuple):
    """What a broker has.  `parts` is empty, and `why` says why, where it was not to be asked or gave no answer.

    `ends`: where each partition ends at the broker; None: nobody knows.
    """

    parts: Mapping[int, BrokerTail]
    ends: Mapping[int, int] | None
    why: str = ""


class BrokerTail:
    """One partition at a broker; implements tiering.replay.source.Tail."""

    def __init__(self, bootstrap: str, topic: str, partition: int, start: int, end: int) -> None:
        self._bootstrap = bootstrap
        self._topic = topic
        self._partition = partition
        self.start_offset = start
        self.end_offset = end

    async def runs(self, start: int, end: int) -> AsyncGenerator[Run | Hole, None]:
        """Batches of [start, end) in order.

        Raises:
            Retry: the broker does not answer any more.  Corrupt: a batch fails its CRC-32C, or an answer is none.
        """
        empty = 0
        while start < end:
            data = await asyncio.to_thread(self.fetch, start)
            if data is None:
                first = await asyncio.to_thread(self._first)
                if not start < first:
                    raise Corrupt(f"{self._where} refuses offset {start}, though it begins at {first}")
                yield Hole(start, min(first, end), "deleted meanwhile")
                start = first
                continue
            run = self._run(data, start, end)
            if run is not None:
                yield run
                start, empty = run.end_offset, 0
                continue
            empty += 1
            if empty > FETCHES_EMPTY_MAX:
                raise Retry(f"{self._where} has nothing at offset {start}, though it ended at {end} before")

    def _run(self, data: memoryview, start: int, end: int) -> Run | None:
        """The wanted batches of an answer."""
        first = stop = base = last = -1
        for position, header in walk(data):
            if header.last_offset < start:
                continue
            if header.base_offset >= end:
                break
            if not crc_ok(data[position : position + header.size]):
                raise Corrupt(f"{self._where}: the batch at offset {header.base_offset} fails its CRC-32C")
            if first < 0:
                first, base = position, header.base_offset
            stop, last = position + header.size, header.next_offset
        return None if first < 0 else Run(data[first:stop], base, last)

    async def offset_at_time(self, timestamp_ms: int) -> int:
        """The first offset with a timestamp >= `timestamp_ms`, or the end."""
        found = await asyncio.to_thread(tier_borders, self._bootstrap, self._topic, [self._partition], timestamp_ms)
        offset = found[self._partition]
        return offset if 0 <= offset < self.end_offset else self.end_offset

    @property
    def _where(self) -> str:
        return f"{self._topic}-{self._partition} at {self._bootstrap}"

    def _first(self) -> int:
        return tier_borders(self._bootstrap, self._topic, [self._partition], EARLIEST)[self._partition]

    def fetch(self, offset: int) -> memoryview | None:
        """One answer; None if the broker does not have the offset."""
        part = FetchPartition(partition=i32(self._partition), fetch_offset=i64(offset), partition_max_bytes=i32(FETCH_BYTES_MAX))
        body = FetchRequest(
            max_wait=i32Timedelta.parse(FETCH_WAIT),
            min_bytes=i32(1),
            max_bytes=i32(FETCH_BYTES_MAX),
            isolation_level=i8(1),
            topics=(FetchTopic(topic=TopicName(self._topic), partitions=(part,)),),
            forgotten_topics_data=(),
        )
        answer = ask(self._bootstrap, FETCH, FetchRequest, body, FetchResponse)
        if answer.error_code is not ErrorCode.none or not answer.responses:
            raise Retry(f"{self._where} does not answer a fetch: {answer.error_code.name}")
        found = answer.responses[0].partitions[0]
        if found.error_code is ErrorCode.offset_out_of_range:
            return None
        if found.error_code is not ErrorCode.none:
            raise Retry(f"{self._where} does not answer a fetch at offset {offset}: {found.error_code.name}")
        return memoryview(found.records or b"")


def open_tails(
    bootstrap: str, *, cluster_id: str, topic: str, topic_id: UUID, partitions: Sequence[int], wanted: bool | None
) -> Tails:
    """What the broker at `bootstrap` has of a topic of the bucket.

    Args:
        wanted: True: it must be there; None: if it answers; False: only its ends, so that it can be said what is left out.
    Raises:
        Retry, Invalid: it is wanted, and nobody answers there, or another cluster does.
    """
    try:
        answer = _metadata(bootstrap, topic)
        if answer.cluster_id != cluster_id or _topic_id(answer) != topic_id:
            raise Invalid(f"the broker at {bootstrap} does not serve this topic of this bucket (cluster {answer.cluster_id})")
        ends = tier_borders(bootstrap, topic, list(partitions), LATEST)
        starts = tier_borders(bootstrap, topic, list(partitions), EARLIEST)
    except (Retry, Corrupt, Invalid) as failure:
        if wanted:
            raise
        return Tails({}, None, str(failure))
    if min(*ends.values(), *starts.values(), 0) < 0:
        raise Retry(f"the broker at {bootstrap} does not lead all partitions of {topic} now")
    if wanted is False:
        return Tails({}, ends, "--no-tail")
    parts = {index: BrokerTail(bootstrap, topic, index, starts[index], ends[index]) for index in partitions}
    return Tails(parts, ends)


def _metadata(bootstrap: str, topic: str) -> Any:
    asked = (MetadataRequestTopic(topic_id=None, name=TopicName(topic)),)
    body = MetadataRequest(topics=asked, allow_auto_topic_creation=False, include_topic_authorized_operations=False)
    return ask(bootstrap, METADATA, MetadataRequest, body, MetadataResponse, seconds_max=KNOCK_SECONDS_MAX)


def _topic_id(answer: Any) -> UUID | None:
    return answer.topics[0].topic_id if answer.topics else None


def left_out(topic: str, read_ends: Mapping[int, int], tails: Tails) -> list[str]:
    """What a reader of the bucket tells about the records that it could not read; nothing if it read all there are.

    Args:
        read_ends: per partition, the offset after the last one that could be read.
    """
    if tails.parts:
        return [] if any(read_ends.values()) else [f"topic {topic} is empty"]
    advice = f"the broker knows them (--tail); `hotlog topic roll {topic}` has them move to the store now"
    if tails.ends is None:
        lines = [f"open segments were not read: {tails.why}"]
        if not any(read_ends.values()):
            lines += [f"nothing of topic {topic} is in the store yet: it is empty, or its records are in open segments; {advice}"]
        else:
            lines += [f"how many records follow {_places(read_ends)} cannot be known without the broker; {advice}"]
        return lines
    missing = {index: end - read_ends.get(index, 0) for index, end in tails.ends.items() if end > read_ends.get(index, 0)}
    if not missing:
        return [] if any(tails.ends.values()) else [f"topic {topic} is empty"]
    upto = _places({index: tails.ends[index] for index in missing})
    return [f"{sum(missing.values()):,} records up to {upto} are in open segments and were not read; {advice}"]


def _places(offsets: Mapping[int, int]) -> str:
    some = ", ".join(f"offset {offset} of partition {index}" for index, offset in sorted(offsets.items())[:4])
    return some + (f" and of {len(offsets) - 4} more partitions" if len(offsets) > 4 else "")
