"""Stretches of topics, read through a broker: where they begin and end, and when a reader is done.  For consume and replay.

Invariants: a stretch ends at the latest at the offset that was its partition's end when it was looked up, so that a live topic ends as well;
a partition counts as done by its offsets (a record at the end, or the broker's word that nothing more is there), so that compacted and
deleted offsets hold nothing up; a reader that waits for an end gives up after STALL_SECONDS without a sign of life.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, KafkaError, TopicPartition

from hotlog.cli.client import WAIT_SECONDS, answered, error_of, topic_meta
from hotlog.cli.output import say
from hotlog.kernel.errors import NotFound, OutOfRange, Retry
from tiering.replay.places import AtOffset, AtTime, FromEnd, Place, check_start

BATCH_RECORDS_MAX = 10_000
STALL_SECONDS = 120.0
_POLL_SECONDS = 0.5


class Stretch(NamedTuple):
    """Offsets [start, end) of one partition; `end` None: for ever."""

    topic: str
    partition: int
    start: int
    end: int | None

    @property
    def is_empty(self) -> bool:
        return self.end is not None and self.start >= self.end


def partitions_of(client: Any, topic: str, wanted: Sequence[int] | None = None) -> list[int]:
    """The partitions of a topic, or those of them that are wanted.

    Raises:
        NotFound: the topic, or a partition that was named, does not exist.
    """
    meta = topic_meta(client, topic)
    there = sorted(meta.partitions)
    for index in wanted or ():
        if index not in meta.partitions:
            raise NotFound(f"partition {index} of {topic!r} does not exist; it has {len(there)}, 0 to {len(there) - 1}")
    return sorted(set(wanted)) if wanted else there


def stretches(
    client: Any, topic: str, start: Place, until: Place, *, partitions: Sequence[int] | None = None, is_bounded: bool = True
) -> list[Stretch]:
    """[start, until) in each partition, as far as there is any now; not bounded: on for ever.

    Raises:
        NotFound: the topic or a partition does not exist.
        OutOfRange: `start` is an offset that no partition has reached.
    """
    indexes = partitions_of(client, topic, partitions)
    first, ends = (_offsets(client, topic, indexes, which) for which in (OFFSET_BEGINNING, OFFSET_END))
    check_start(topic, start, ends)
    begin = _resolved(client, topic, start, first, ends)
    end = ends if until is None else _resolved(client, topic, until, ends, ends)
    gone = [index for index in indexes if isinstance(start, AtOffset) and 0 < start.offset < first[index]]
    if gone:
        say(f"{topic}: offsets before {first[gone[0]]} of partition {gone[0]} are gone; reading starts there")
    return [
        Stretch(topic, index, max(begin[index], first[index]), min(end[index], ends[index]) if is_bounded else None)
        for index in indexes
    ]


def offsets_at(client: Any, topic: str, indexes: Sequence[int], place: Place) -> dict[int, int]:
    """The offset of a place in each of these partitions, within what is there now.

    Raises what `stretches` does.
    """
    first, ends = (_offsets(client, topic, indexes, which) for which in (OFFSET_BEGINNING, OFFSET_END))
    check_start(topic, place, ends)
    found = _resolved(client, topic, place, first, ends)
    return {index: min(max(offset, first[index]), ends[index]) for index, offset in found.items()}


def _resolved(client: Any, topic: str, place: Place, default: dict[int, int], ends: dict[int, int]) -> dict[int, int]:
    match place:
        case AtOffset(offset):
            return dict.fromkeys(ends, offset)
        case FromEnd(records):
            return {index: max(end - records, 0) for index, end in ends.items()}
        case AtTime(timestamp_ms):
            found = _offsets(client, topic, list(ends), timestamp_ms)
            return {index: ends[index] if offset < 0 else offset for index, offset in found.items()}  # none is as late
        case None:
            return default


def _offsets(client: Any, topic: str, indexes: Iterable[int], timestamp: int) -> dict[int, int]:
    """ListOffsets in one go: a time in ms, or OFFSET_BEGINNING, OFFSET_END; negative where no record is as late.

    Raises what `answered` does, also for a single partition.
    """
    asked = [TopicPartition(topic, index, timestamp) for index in indexes]
    found = answered(lambda: client.offsets_for_times(asked, timeout=WAIT_SECONDS))
    for place in found:
        if place.error is not None:
            raise error_of(place.error)
    return {place.partition: place.offset for place in found}


class Reading:
    """Messages of a consumer, batch by batch, until every stretch is read."""

    def __init__(self, client: Any, plan: Sequence[Stretch], *, stall_s: float = STALL_SECONDS) -> None:
        self._client = client
        self._is_bounded = all(stretch.end is not None for stretch in plan)
        self._ends = {(s.topic, s.partition): s.end for s in plan if s.end is not None}
        self._at = {(s.topic, s.partition): s.start for s in plan}
        self._done: set[tuple[str, int]] = {(s.topic, s.partition) for s in plan if s.is_empty}
        self._joined: bool | None = None
        self._stall_s = stall_s

    def assign(self, plan: Sequence[Stretch]) -> None:
        """Read these partitions, each from its start."""
        self._client.assign([TopicPartition(s.topic, s.partition, s.start) for s in plan if not s.is_empty])

    def subscribe(self, topics: list[str]) -> None:
        """Read what the group gives this member, from where the group is; the starts of the plan do not count."""
        self._joined = False
        self._done.clear()
        self._client.subscribe(topics, on_assign=self._on_assign)

    def _on_assign(self, client: Any, places: list[Any]) -> None:
        self._joined = True
        if not places:
            say("the group gave this member no partition: others have them all")

    def batches(self, count: int | None = None) -> Iterator[list[Any]]:
        """Batches of records in the order of each partition, at most `count` in all; ends as the plan says.

        Raises:
            Retry: a reader with an end heard nothing for too long, with how far it came.  HotlogError: what the broker answered.
        """
        left, heard_at = count, time.monotonic()
        while (left is None or left > 0) and not self._is_done():
            messages = self._some(BATCH_RECORDS_MAX if left is None else min(left, BATCH_RECORDS_MAX))
            records = [message for message in messages if self._is_wanted(message)]
            if messages:
                heard_at = time.monotonic()
            elif self._is_bounded and time.monotonic() - heard_at > self._stall_s:
                raise Retry(f"nothing came for {self._stall_s:.0f} s; stopped at {self._where()}")
            if records:
                yield records
            left = None if left is None else left - len(records)

    def _some(self, count_max: int) -> list[Any]:
        """What is there, as soon as anything is."""
        first = self._client.poll(_POLL_SECONDS)
        return [] if first is None else [first, *self._client.consume(count_max - 1, 0)] if count_max > 1 else [first]

    def _is_wanted(self, message: Any) -> bool:
        error, place = message.error(), (message.topic(), message.partition())
        end = self._ends.get(place)
        if error is not None:
            if error.code() != KafkaError._PARTITION_EOF:
                raise self._failed(error, place)
            if end is None or message.offset() >= end:
                self._done.add(place)
            return False
        offset = message.offset()
        self._at[place] = offset + 1
        if end is None:
            return True
        if offset + 1 >= end:
            self._done.add(place)
        return bool(offset < end)

    def _failed(self, error: Any, place: tuple[str, int]) -> Exception:
        failure = error_of(error)
        if isinstance(failure, OutOfRange):
            return OutOfRange(f"offset {self._at.get(place, '?')} of {place[0]}-{place[1]} is gone (retention); {error.str()}")
        return failure

    def _is_done(self) -> bool:
        if not self._is_bounded:
            return False
        if self._joined is None:
            return len(self._done) == len(self._ends)
        return bool(self._joined) and all((place.topic, place.partition) in self._done for place in self._client.assignment())

    def _where(self) -> str:
        open_ends = [place for place in self._ends if place not in self._done]
        some = ", ".join(f"{topic}-{index} offset {self._at[topic, index]}" for topic, index in open_ends[:4])
        return some + (f" and {len(open_ends) - 4} more partitions" if len(open_ends) > 4 else "")
