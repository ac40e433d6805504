"""One look at all partitions of a fetch, where it is as simple as it nearly always is: each has something to read in the page cache, or lies still.

Invariants: what it finds is what a round (hotlog.apis.fetch.rounds) finds that looks once; where anything else is to be said or done (an error, the device, the
store) it finds nothing and leaves it to a round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from hotlog.apis.fetch.parts import NONE, Limits
from hotlog.apis.fetch.sessions import Plan
from hotlog.apis.fetch.shared import Shared, read_shared
from hotlog.kernel.errors import HotlogError
from hotlog.wire.fetch_reply import PartitionReply
from hotlog.wire.fetch_request import Key
from hotlog.world.ports import Buffer, Streamed

if TYPE_CHECKING:
    from hotlog.partitions.partition import Partition

    Hosted = Mapping[Key, Partition]

_new = tuple.__new__  # a named tuple's own constructor is a Python call


class Glance(NamedTuple):
    """What was found; `is_full`: something is there that does not fit any more, or to which nothing comes any more; `sent` is bytes by topic."""

    replies: list[tuple[Key, PartitionReply]]
    size: int
    is_full: bool
    sent: list[tuple[str, int]]


def glance(hosted: Hosted, plan: Plan, limits: Limits, shared: Shared | None = None) -> Glance | None:
    """What there is now among these partitions; None: a round must look."""
    try:
        return _glance(hosted, plan, limits, shared)
    except (HotlogError, OSError):  # a round looks again, and says what it is
        return None


def _glance(hosted: Hosted, plan: Plan, limits: Limits, shared: Shared | None) -> Glance | None:
    bytes_max, bytes_min, is_committed_only = limits
    resting = plan.session.partitions if plan.session is not None and plan.is_incremental else None
    nothing: Sequence[tuple[int, int]] | None = () if is_committed_only else None
    replies: list[tuple[Key, PartitionReply]] = []
    sent: list[tuple[str, int]] = []
    size, is_full = 0, False
    for key, (offset, wanted, epoch) in plan.partitions:
        partition = hosted.get(key)
        if partition is None or 0 <= epoch != partition.leader_epoch:
            return None
        marks = partition.marks
        high, stable, start = marks.high_watermark, marks.producers.first_open_transaction, marks.log_start_offset
        if stable > high:
            stable = high
        if not marks.local_log_start_offset <= offset <= marks.log_end_offset:
            return None
        records: Buffer | Streamed = b""
        room, aborted = bytes_max - size, nothing
        if offset >= (stable if is_committed_only else high):
            if resting is not None and resting[key].rests_at(partition):
                continue
        elif room <= 0 and size:
            is_full = True
        else:
            most = max(min(room, wanted), 0)
            if shared is None:
                found = partition.read_now(offset, most, min_one=not size, committed_only=is_committed_only)
            else:
                found = read_shared(shared, partition, offset, most, min_one=not size, committed_only=is_committed_only)
            if found is None:
                return None
            records, aborted = found[0], found[2] or nothing
            is_full = is_full or (size > 0 and not len(records))
            size += len(records)
            is_full = is_full or (
                size < bytes_min and len(records) > 0 and marks.is_in_older_segment(offset, committed_only=is_committed_only)
            )
            sent.append((partition.tp[0], len(records)))
        replies.append((key, _new(PartitionReply, (key[1], NONE, high, stable, start, aborted, records))))
    return Glance(replies, size, is_full, sent)
