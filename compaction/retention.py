"""What a topic's retention condemns: one pure function for both tiers.

The log is one ascending run of pieces: committed cold entries, then what only the local disk has.  Retention cuts a prefix of that run;
where the border between the tiers lies changes nothing about the answer.  Rules: Kafka's (UnifiedLog.deleteOldSegments; KIP-405 for
the local part).

Invariants: decides from one committed view and the local log; an unknown border means no change; by size, what is left is never below
retention.bytes; by time, only pieces wholly older than retention.ms go, and a timestamp in the future cannot pin a closed piece; local
data goes only below the committed end or below the new log start; the log start never goes back and never passes the high watermark;
one round takes at most a quarter of a large log.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from hotlog.kernel.age import segment_time_ms
from hotlog.kernel.limits import GiB
from hotlog.kernel.topic_config import TopicConfig

DELETES_PER_REQUEST = 1000  # S3 DeleteObjects
EXPIRE_SHARE = 4  # at most 1/4 of a partition's log expires in one round,
EXPIRE_BYTES_MIN = 1 * GiB  # or this much, if that is more
STALL_MS = 10 * 60 * 1000  # a closed segment that waits this much longer than it should for its copy: copying is stalled


class Piece(NamedTuple):
    """A cold entry, a hole or a local segment.  Offsets half open, `size` in log bytes, times in ms since the epoch.

    `max_timestamp` -1: its records have no timestamp.  `closed_ms` -1: it is still being written to.
    """

    base_offset: int
    end_offset: int
    size: int
    max_timestamp: int
    closed_ms: int
    is_hole: bool = False


class Cold(NamedTuple):
    """The committed manifest as far as retention needs it.

    `oldest` is an ascending run of its entries from the start, perhaps not all of them; `size` is the log bytes of all.
    [start_offset, end_offset) is what the store has; both are where the next upload begins when it has nothing.
    """

    start_offset: int
    end_offset: int
    size: int
    oldest: Sequence[Piece]


class Local(NamedTuple):
    """The local log: its segments ascending, the active one last (closed_ms -1)."""

    segments: Sequence[Piece]
    high_watermark: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do, in this order, and what it frees and costs."""

    roll: bool = False  # the active segment has nothing to keep: seal it first
    log_start_offset: int  # commit this start to the manifest, then to the local log
    local_drop_offset: int  # whole local segments that end at or below it may go
    blocks_appends: bool = False  # total retention by size is reached by data that could not be copied (policy `block`)
    cold_entries: int = 0
    cold_bytes: int = 0
    local_bytes: int = 0
    dropped_bytes: int = 0  # of local_bytes: never copied, past total retention
    reason: str = ""
    is_slowed: bool = False  # more is past retention than one round may take

    @property
    def requests(self) -> int:
        """Store requests this will cost: one commit, and later the deletes and the commit that clears them."""
        return 0 if not self.cold_entries else 2 + -(-self.cold_entries // DELETES_PER_REQUEST)


def plan_retention(
    cold: Cold | None,
    local: Local | None,
    config: TopicConfig,
    *,
    now_ms: int,
    log_start_offset: int,
    is_tiered: bool,
) -> Plan:
    """Plan one partition.

    Args:
        cold: the committed manifest; None if it is not known (or, with `is_tiered` false, if there is none).
        local: the local log; None for a worker that has only the bucket.
        now_ms: wall time that may be trusted (compaction.trusted_clock).
        log_start_offset: the start that is in force; everything below it is gone already.
        is_tiered: whether this partition has, or should have, a cold tier.
    """
    if is_tiered and cold is None:
        start = local.segments[0].base_offset if local and local.segments else log_start_offset
        return Plan(log_start_offset=log_start_offset, local_drop_offset=start, reason="the border between the tiers is unknown")
    run = _one_run(cold, local)
    start = log_start_offset if cold is None else max(log_start_offset, cold.start_offset)
    ceiling = local.high_watermark if local is not None else (cold.end_offset if cold else start)
    wanted = _cut(run, config, now_ms) if config.is_deleted else _Cut(0, 0, 0)
    cut = _slowed(run, wanted)
    border = cold.end_offset if cold is not None else 0
    blocks = is_tiered and _must_block(run, cut, config, border, now_ms)
    new_start = max(start, _reach(run, cut, border if blocks else None))
    new_start = min(new_start, max(ceiling, start))
    plan = _priced(cold, local, config, now_ms, new_start, is_tiered=is_tiered, blocks=blocks)
    return replace(plan, is_slowed=cut != wanted)


class _Run(NamedTuple):
    """Pieces from the oldest on, each byte once, and the bytes of the whole log (pieces may be a part of it)."""

    pieces: list[Piece]
    size: int


class _Cut(NamedTuple):
    """How many of the run's pieces go by time, by size, and by time behind those that go by size (as in Kafka, which looks at the size first)."""

    by_time: int
    by_size: int
    by_both: int


def _one_run(cold: Cold | None, local: Local | None) -> _Run:
    """Cold entries, then the local segments above them.

    A local segment that begins below the committed end is counted as nothing: counting a byte twice is how data was lost elsewhere
    (KAFKA-20732), counting one too few only deletes later.
    """
    pieces = list(cold.oldest) if cold is not None else []
    size = cold.size if cold is not None else 0
    border = cold.end_offset if cold is not None else 0
    is_whole = cold is None or cold.end_offset <= (pieces[-1].end_offset if pieces else cold.start_offset)
    for segment in local.segments if local is not None else ():
        if segment.end_offset <= border:
            continue
        if segment.base_offset < border:
            segment = segment._replace(base_offset=border, size=0)
        size += segment.size
        if is_whole:
            pieces.append(segment)
    return _Run(pieces, size)


def age_reference_ms(piece: Piece, clock: str) -> int | None:
    """The time from which `piece` ages under `hotlog.retention.clock`; None if it does not age yet.

    `record`: its largest timestamp, but no later than its close, so that a timestamp in the future pins nothing for ever.  `append` and
    `close`: its close, before which its last record was appended.
    """
    if piece.closed_ms < 0 and (clock != "record" or piece.max_timestamp < 0):
        return None
    return segment_time_ms(clock, max_timestamp=piece.max_timestamp, closed_ms=piece.closed_ms)


def _is_expired(piece: Piece, clock: str, retention_ms: int, now_ms: int) -> bool:
    reference = age_reference_ms(piece, clock)
    return retention_ms >= 0 and reference is not None and now_ms - reference > retention_ms


def _cut(run: _Run, config: TopicConfig, now_ms: int) -> _Cut:
    """A hole goes only with a piece behind it: it has neither age nor size of its own."""
    by_time = _expired_from(run, 0, config, now_ms)
    by_size, left = 0, run.size
    for index, piece in enumerate(run.pieces if config.retention_bytes >= 0 else ()):
        if piece.is_hole:
            continue
        if piece.closed_ms < 0 or left - piece.size < config.retention_bytes:
            break
        left -= piece.size
        by_size = index + 1
    return _Cut(by_time, by_size, _expired_from(run, by_size, config, now_ms) if by_size else 0)


def _expired_from(run: _Run, first: int, config: TopicConfig, now_ms: int) -> int:
    """How many pieces go if those before `first` do, and those behind them that are too old."""
    count = first
    for index, piece in enumerate(run.pieces[first:], first):
        if piece.is_hole:
            continue
        if piece.base_offset == piece.end_offset or not _is_expired(piece, config.retention_clock, config.retention_ms, now_ms):
            break
        count = index + 1
    return count


def _slowed(run: _Run, cut: _Cut) -> _Cut:
    """At most a quarter of the log (or EXPIRE_BYTES_MIN) in one round: a retention that was mistyped is seen before all is gone (docs/faults.md, row 39)."""
    allowed = max(EXPIRE_BYTES_MIN, run.size // EXPIRE_SHARE)
    total, count = 0, 0
    for piece in run.pieces[: max(cut)]:
        total += piece.size
        if total > allowed and count:
            break
        count += 1
    while count and run.pieces[count - 1].is_hole:
        count -= 1
    return _Cut(*(min(each, count) for each in cut))


def _must_block(run: _Run, cut: _Cut, config: TopicConfig, border: int, now_ms: int) -> bool:
    """Whether size alone condemns data that should be in the store for STALL_MS, and the topic says `block`."""
    if config.untiered_overflow != "block" or not config.is_copied or config.is_compacted:  # that is copied once it was cleaned
        return False
    late_ms = max(config.remote_copy_lag_ms, 0) + STALL_MS
    return any(
        piece.end_offset > border and now_ms - piece.closed_ms > late_ms for piece in run.pieces[cut.by_time : cut.by_size]
    )


def _reach(run: _Run, cut: _Cut, size_border: int | None) -> int:
    """The offset that the cut reaches; by size no further than `size_border`, nor by time behind that."""
    sure = cut.by_time if size_border is not None else max(cut.by_time, cut.by_both)
    reached = run.pieces[sure - 1].end_offset if sure else 0
    for piece in run.pieces[: cut.by_size]:
        if size_border is None or piece.end_offset <= size_border:
            reached = max(reached, piece.end_offset)
    return reached


def _local_drop(cold: Cold | None, local: Local, config: TopicConfig, now_ms: int, new_start: int, *, is_tiered: bool) -> int:
    """How far local segments may go: below the log start, or committed and past local retention."""
    drop = local.segments[0].base_offset if local.segments else new_start
    left = sum(segment.size for segment in local.segments)
    border = cold.end_offset if is_tiered and cold is not None and config.remote_enabled else 0
    for segment in local.segments:
        is_old = _is_expired(segment, config.retention_clock, config.local_retention_ms, now_ms)
        is_over = 0 <= config.local_retention_bytes <= left - segment.size
        if segment.end_offset > new_start and not (
            segment.closed_ms >= 0 and segment.end_offset <= border and (is_old or is_over)
        ):
            break
        left -= segment.size
        drop = segment.end_offset
    return drop


def _priced(
    cold: Cold | None, local: Local | None, config: TopicConfig, now_ms: int, new_start: int, *, is_tiered: bool, blocks: bool
) -> Plan:
    gone = [piece for piece in cold.oldest if piece.end_offset <= new_start] if cold is not None else []
    if local is None:
        return Plan(
            log_start_offset=new_start,
            local_drop_offset=new_start,
            cold_entries=len(gone),
            cold_bytes=sum(piece.size for piece in gone),
        )
    drop = _local_drop(cold, local, config, now_ms, new_start, is_tiered=is_tiered)
    dropped = [segment for segment in local.segments if segment.end_offset <= drop]
    border = cold.end_offset if cold is not None else 0
    active = local.segments[-1] if local.segments else None
    return Plan(
        roll=active is not None and active.closed_ms < 0 and active.base_offset < active.end_offset <= new_start,
        log_start_offset=new_start,
        local_drop_offset=drop,
        blocks_appends=blocks,
        cold_entries=len(gone),
        cold_bytes=sum(piece.size for piece in gone),
        local_bytes=sum(segment.size for segment in dropped),
        dropped_bytes=sum(segment.size for segment in dropped if is_tiered and segment.end_offset > border),
    )
