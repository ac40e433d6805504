"""What of a compacted topic's history in the store is cleaned next, and whether that pays.  Pure.

The same rules as for a local log (clean_plan.py), over the rows of a manifest: the dirty ones are read for their keys, then all below are written
anew without what is out of date.  What is dead is measured before anything is written; a pass that costs more than what it frees would cost
within the retention is refused.

Invariants: a run of rows lies in one page, or in the root, so that it can be replaced exactly; a hole is never part of a run; the sums hold
every request that a pass makes, the reading that measured it as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hotlog.kernel.limits import RANGE_BYTES_MAX
from hotlog.kernel.topic_config import DAY_MS, TopicConfig
from tiering.cost.book import Provider
from tiering.cost.formulas import MONTH_SECONDS, average_price, requests, transfer
from tiering.manifest.root import Entry

KEPT_DAYS = 365  # how long what is not deleted by time is thought to stay
PUTS_PER_ROW = 3  # the object, and at most a page and the root


class Placed(NamedTuple):
    """A row, and the name of the page that it is in ("" for the root)."""

    row: Entry
    page: str


@dataclass(frozen=True, kw_only=True)
class ColdDirt:
    """As clean_plan.Dirt, in log bytes of the store."""

    start: int
    end: int
    clean_bytes: int
    dirty_bytes: int

    @property
    def ratio(self) -> float:
        total = self.clean_bytes + self.dirty_bytes
        return self.dirty_bytes / total if total else 0.0


def plan_cold_dirt(rows: Sequence[Placed], cleaned_end: int, *, start: int) -> ColdDirt:
    """What is dirty of the live rows, oldest first; `start` is the first readable offset."""
    first = max(cleaned_end, start)
    end = rows[-1].row.end_offset if rows else first
    dirty = sum(placed.row.log_bytes for placed in rows if placed.row.end_offset > first)
    return ColdDirt(start=first, end=end, clean_bytes=sum(placed.row.log_bytes for placed in rows) - dirty, dirty_bytes=dirty)


def group_rows(rows: Sequence[Placed], *, segment_bytes: int) -> list[list[Entry]]:
    """Runs of neighbouring rows that become one object each, oldest first."""
    groups: list[list[Entry]] = []
    page, size = None, 0
    for placed in rows:
        row = placed.row
        if row.is_hole:
            page = None
            continue
        if page != placed.page or size + row.log_bytes > segment_bytes:
            groups.append([])
            size = 0
        page = placed.page
        groups[-1].append(row)
        size += row.log_bytes
    return groups


class Measured(NamedTuple):
    """A run of rows and the log bytes that would remain of it."""

    rows: tuple[Entry, ...]
    remaining_bytes: int

    @property
    def log_bytes(self) -> int:
        return sum(row.log_bytes for row in self.rows)

    @property
    def freed_bytes(self) -> int:
        return self.log_bytes - self.remaining_bytes


class Price(NamedTuple):
    """What a pass reads, writes and frees, in bytes and dollars."""

    read_bytes: int
    written_bytes: int
    freed_bytes: int
    cost: float
    saving: float

    @property
    def pays(self) -> bool:
        return self.freed_bytes > 0 and self.saving >= self.cost


def price_of(
    changed: Sequence[Measured], *, read_bytes: int, reads: int, total_bytes: int, config: TopicConfig, provider: Provider, now_ms: int
) -> Price:  # fmt: skip
    """What a pass costs, and what it saves.

    Args:
        changed: the runs that would be written anew.
        read_bytes, reads: of the measuring, in bytes and GETs.
        total_bytes: of the account, for the price a GB.
    """
    kind = provider.storage_class()
    written = sum(each.remaining_bytes for each in changed)
    again = sum(each.log_bytes for each in changed)
    gets = reads + sum(gets_of(row) for each in changed for row in each.rows)
    cost = requests(kind, "get", gets).dollars + requests(kind, "put", PUTS_PER_ROW * len(changed) + 1).dollars
    cost += transfer(provider, kind, sent=written, received=read_bytes + again).dollars
    gb_month = average_price(kind, total_bytes / provider.gb_bytes)
    saving = 0.0
    for each in changed:
        saving += each.freed_bytes / provider.gb_bytes * gb_month * _months_left(each, config, now_ms)
        cost += each.log_bytes / provider.gb_bytes * gb_month * _months_owed(each, kind.minimum_days, now_ms)
    return Price(read_bytes + again, written, sum(each.freed_bytes for each in changed), cost, saving)


def gets_of(row: Entry) -> int:
    """GETs that reading a row takes: ranges of the log, and its footer."""
    return 1 + -(-row.log_bytes // RANGE_BYTES_MAX)


def _months_left(each: Measured, config: TopicConfig, now_ms: int) -> float:
    """How long the rows would stay."""
    left_ms = KEPT_DAYS * DAY_MS
    if config.is_deleted and config.retention_ms >= 0:
        newest_ms = max(max(row.max_timestamp, row.appended_ms) for row in each.rows)
        left_ms = min(max(newest_ms + config.retention_ms - now_ms, 0), left_ms)
    return left_ms / 1000 / MONTH_SECONDS


def _months_owed(each: Measured, minimum_days: float, now_ms: int) -> float:
    """For how long an object that goes now is paid all the same."""
    age_ms = now_ms - min(row.created_ms for row in each.rows)
    return max(minimum_days * DAY_MS - age_ms, 0) / 1000 / MONTH_SECONDS
