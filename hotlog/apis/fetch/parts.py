"""One partition of a fetch: what is asked of it, where it stands, and what was found.

Invariants: a part is answered once; what is not said of a part stands in its class, so that a wide fetch costs little for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

from kio.schema.errors import ErrorCode

from hotlog.apis.fetch.sessions import Cached
from hotlog.log.reader import Slice, Stretch
from hotlog.wire.fetch_reply import PartitionReply
from hotlog.wire.fetch_request import Key, Wanted

if TYPE_CHECKING:
    from hotlog.apis.fetch.cold_reads import ColdWish
    from hotlog.broker.broker import Broker
    from hotlog.partitions.partition import Partition

_new = tuple.__new__  # a named tuple's own constructor is a Python call


class State(Enum):
    """Where one partition of the fetch stands."""

    ANSWERED = "answered"  # error, or records
    AT_END = "at end"  # nothing to read yet: wait for an append
    HOT = "hot"  # local data to read
    ON_DISK = "on disk"  # local data that is not in the page cache
    COLD = "cold"  # data in the store
    AT_REST = "at rest"  # left to its session, which hears when it moves


ANSWERED, AT_END, HOT, ON_DISK, COLD, AT_REST = State  # a member of an enum is looked up slowly
NONE = ErrorCode.none
OUT_OF_RANGE = ErrorCode.offset_out_of_range


def hosted_by(broker: Broker, *, is_by_id: bool) -> Mapping[Key, Partition]:
    """The partitions that are here as a fetch names them."""
    return cast(Mapping[Key, "Partition"], broker.table_by_id() if is_by_id else broker.table())


class Limits(NamedTuple):
    """Byte budget and isolation of the request."""

    bytes_max: int
    bytes_min: int
    is_committed_only: bool


class Watcher(Protocol):
    """Who waits for parts (hotlog.apis.fetch.watch)."""

    def heard(self, part: Part) -> None: ...


class Part:
    """One partition of the fetch; an ear while the fetch waits."""

    partition: Partition | None = None
    state = HOT
    code = NONE
    records: Slice | Stretch | None = None
    aborted: list[tuple[int, int]] | None = None
    wish: ColdWish | None = None
    is_growing = False  # has local records, and a later look may find more
    is_damaged_locally = False  # the local copy failed its checks: the store's is served
    has_given_up = False  # the store had nothing for this fetch: no second try within it
    watch: Watcher | None = None  # who waits for it

    def __init__(self, key: Key, wanted: Wanted, cached: Cached | None = None) -> None:
        self.key = key
        self.wanted = wanted
        self.cached = cached  # of a session

    def moved(self) -> None:
        """The partition moved (hotlog.log.marks.Ear)."""
        if self.watch is not None:
            self.watch.heard(self)

    def fail(self, code: ErrorCode) -> None:
        self.code = code
        self.state = ANSWERED

    def take_back(self) -> int:
        """Forget the records found so far; their size in bytes."""
        size = len(self.records.data) if self.records is not None else 0
        self.records, self.aborted, self.is_growing = None, None, False
        self.state = HOT
        return size

    def reply(self, is_committed_only: bool) -> PartitionReply:
        """The answer as it stands."""
        partition, code = self.partition, self.code
        if partition is None:
            return PartitionReply(self.key[1], code, aborted=())
        if code and code is not OUT_OF_RANGE:
            return PartitionReply(self.key[1], code)
        marks, records = partition.marks, self.records
        end, stable = marks.high_watermark, marks.producers.first_open_transaction
        return _new(
            PartitionReply,
            (
                self.key[1], code, end, stable if stable < end else end, marks.log_start_offset,
                (self.aborted or ()) if is_committed_only else None, b"" if records is None else records[0],
            ),
        )  # fmt: skip
