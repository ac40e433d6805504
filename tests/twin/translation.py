"""What differs by nature between two brokers, by the name of the field, and when two such values say the same.

Member ids, topic ids, ports and the like must correspond one to one within a story (`Twins`); times must both be of this run; where Kafka says
something in words, so must Hotlog, in its own.  Everything that is not named here is compared as it is.

Invariants: values that say "none" (null, "", -1, and 0 for sessions) are compared as they are; a pair of ids that was seen once stays a pair.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from hotlog.kernel.limits import BATCH_HEADER_BYTES
from hotlog.wire.batch import crc_ok, walk

RUN_MS = 2 * 60 * 60 * 1000  # two clocks' times of one run are not further apart
NOW_MS_MIN = 1_700_000_000_000  # no broker's clock was ever before; no story's records have such times
NONE = (None, "", -1)


class Kind(Enum):
    """How a value is translated."""

    ID = "an id that a broker makes"
    MEMBER = "a member id: the client's id and then something random, or that alone"
    PORT = "a port"
    FOLDER = "a directory"
    SESSION = "a fetch session, 0 for none"
    TIME = "a time in ms: the broker's clock, or what a client said"
    TEXT = "words for people"
    SIZE = "bytes of a volume"
    EPOCH = "the epoch of a broker's metadata"


FIELDS = {
    "topic_id": Kind.ID, "cluster_id": Kind.ID, "producer_id": Kind.ID, "subscription_id": Kind.ID, "client_instance_id": Kind.ID, "member_id": Kind.MEMBER,
    "leader": Kind.MEMBER, "port": Kind.PORT, "log_dir": Kind.FOLDER, "session_id": Kind.SESSION, "log_append_time": Kind.TIME,
    "timestamp": Kind.TIME, "max_timestamp": Kind.TIME, "base_timestamp": Kind.TIME, "last_timestamp": Kind.TIME,
    "transaction_start_time": Kind.TIME, "error_message": Kind.TEXT, "batch_index_error_message": Kind.TEXT,
    "documentation": Kind.TEXT, "last_fetch_timestamp": Kind.TIME, "last_caught_up_timestamp": Kind.TIME, "total_bytes": Kind.SIZE, "usable_bytes": Kind.SIZE, "finalized_features_epoch": Kind.EPOCH,
}  # fmt: skip
_MEMBER_ID = re.compile(r"(.*)-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.DOTALL)
_KAFKA_ID = re.compile(r"[A-Za-z0-9_-]{22}")  # as it gives one to a classic member of a group of the new protocol


class Twins:
    """Which of Hotlog's ids is which of Kafka's."""

    def __init__(self) -> None:
        self._theirs: dict[tuple[Kind, Any], Any] = {}
        self._ours: dict[tuple[Kind, Any], Any] = {}

    def ours(self, kind: Kind, theirs: Any) -> Any:
        """Hotlog's id for one of Kafka's; None if it has none yet."""
        return self._ours.get((kind, theirs))

    def are_one(self, kind: Kind, ours: Any, theirs: Any) -> bool:
        """Whether they are a pair; two that were never seen become one."""
        known = self._theirs.get((kind, ours)), self._ours.get((kind, theirs))
        if known == (None, None):
            self._theirs[kind, ours], self._ours[kind, theirs] = theirs, ours
            return True
        return known == (theirs, ours)


def same(name: str, ours: Any, theirs: Any, twins: Twins) -> bool:
    """Whether two plain values of a field say the same."""
    if ours == theirs:
        return True
    kind = FIELDS.get(name)
    if kind is Kind.TEXT:
        return theirs in NONE or ours not in NONE  # where Kafka says nothing Hotlog may
    if kind is None or ours in NONE or theirs in NONE or type(ours) is not type(theirs):
        return False
    rule = _RULES.get(kind)
    return twins.are_one(kind, ours, theirs) if rule is None else rule(kind, ours, theirs, twins)


def _members(kind: Kind, ours: Any, theirs: Any, twins: Twins) -> bool:
    forms = _MEMBER_ID.fullmatch(ours), _MEMBER_ID.fullmatch(theirs)
    if forms[0] is not None and _KAFKA_ID.fullmatch(theirs):
        return twins.are_one(kind, ours, theirs)
    if forms[0] is None or forms[1] is None:
        return False  # somebody else's word, which is the same for both
    return forms[0][1] == forms[1][1] and twins.are_one(kind, ours, theirs)


def _sessions(kind: Kind, ours: int, theirs: int, twins: Twins) -> bool:
    return ours > 0 and theirs > 0 and twins.are_one(kind, ours, theirs)


def _times(kind: Kind, ours: int, theirs: int, twins: Twins) -> bool:
    return min(ours, theirs) > NOW_MS_MIN and abs(ours - theirs) < RUN_MS


def _positive(kind: Kind, ours: int, theirs: int, twins: Twins) -> bool:
    return ours >= 0 and theirs >= 0


_RULES: dict[Kind, Callable[[Kind, Any, Any, Twins], bool]] = {
    Kind.MEMBER: _members, Kind.SESSION: _sessions, Kind.TIME: _times, Kind.SIZE: _positive, Kind.EPOCH: _positive,
}  # fmt: skip


def plain(value: Any) -> Any:
    """A value of a field as compared and shown: times in ms, codes by name."""
    if isinstance(value, timedelta):
        return round(value / timedelta(milliseconds=1))
    if isinstance(value, datetime):
        return round(value.timestamp() * 1000)
    if isinstance(value, Enum):
        return value.name
    return value


# Records


@dataclass(frozen=True)
class Batch:
    """A record batch of a Fetch answer, field by field; `is_sound`: its CRC is right."""

    base_offset: int
    leader_epoch: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    record_count: int
    payload: bytes
    is_sound: bool


@dataclass(frozen=True)
class Records:
    """What a Fetch answer holds for a partition; `rest` are the bytes of a batch that was cut off."""

    batches: tuple[Batch, ...]
    rest: int


def records(data: bytes) -> Records:
    """The batches."""
    found, end = [], 0
    for position, header in walk(data):
        end = position + header.size
        batch = memoryview(data)[position:end]
        fields = header._asdict()
        for name in ("length", "magic", "crc"):
            del fields[name]
        found.append(Batch(**fields, payload=bytes(batch[BATCH_HEADER_BYTES:]), is_sound=crc_ok(batch)))
    return Records(tuple(found), len(data) - end)
