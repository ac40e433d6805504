"""How far one log has come: where it begins, how far it is written, on the device and committed; and who waits for which.

What was appended and is not committed yet has one entry a batch or append: the offset and the byte at which it ends.  So the committed end
may be any offset at which an append ended, not only the log's end.  Up to where the log is committed is not decided here: a rule that is
handed in says so, from the log's end and the durable end; whoever knows more (followers, in-sync replicas) closes over it, and has it asked
again when that moved (`recommit`).

Invariants: log start <= local log start <= committed end <= log end, and durable end <= log end; the committed end goes back only in
`truncate`; it is one tuple (offset, segment base, byte), swapped as a whole, so that a reader in a thread never sees half of a move; after a
failure nothing becomes durable or committed any more, and who waited for it is told.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

from hotlog.log.producers import Producers
from hotlog.log.segment import Segment
from hotlog.log.waiters import OffsetWaiters

LOG = logging.getLogger(__name__)


class Watermark(NamedTuple):
    """The end of a batch: an offset, and where it lies: byte `position` of the segment at `base`."""

    offset: int
    base: int
    position: int


class Ear(Protocol):
    """Who wants to hear of a move.  It may look only later: what is told may not be whole yet."""

    def moved(self) -> None: ...


CommitRule = Callable[[int, int], int]
"""(log end, durable end) -> the offset up to which the log is committed; above the log's end it means all of it."""

_new = tuple.__new__  # a named tuple's own constructor is a Python call
_NOTHING: deque[Watermark] = deque(maxlen=0)  # of logs to which nothing was appended: a deque takes 0.7 KiB when it is made


def when_appended(log_end: int, durable_end: int) -> int:
    """One replica whose topic trusts the page cache."""
    return log_end


def when_durable(log_end: int, durable_end: int) -> int:
    """One replica whose topic wants an fsync."""
    return durable_end


class Marks:
    """Offsets of one log.  Those that others may set say so; the rest is for looking at."""

    __slots__ = (
        "_ears", "_rule", "_uncommitted", "cleaned_end", "committed", "committed_before", "committed_waiters", "durable_end", "durable_waiters", "failed",
        "high_watermark", "is_closed", "local_log_start_offset", "log_end_offset", "log_start_offset", "producers", "tiered_end_offset", "when_stable",
    )  # fmt: skip

    def __init__(
        self, *, log_start: int, local_start: int, committed: Watermark, log_end: int, producers: Producers, rule: CommitRule
    ) -> None:
        self.log_start_offset = log_start
        self.local_log_start_offset = max(local_start, log_start)  # first offset that may be read from the local disk
        self.committed = committed
        self.committed_before = committed  # where it was before it moved last: who waited there reads on from there
        self.high_watermark = committed.offset
        self.log_end_offset = log_end
        self.durable_end = committed.offset
        self.cleaned_end = -1  # up to here the cleaner has been; -1: it never was, and no offset is missing; set by who knows
        self.tiered_end_offset = 0  # everything below is committed in the cold tier; set by who knows
        self.failed: Exception | None = None
        self.is_closed = False
        self.durable_waiters = OffsetWaiters()
        self.committed_waiters = OffsetWaiters()
        self.producers = producers
        producers.settle(committed.offset)
        producers.begin_at(log_start)
        self.when_stable: Callable[[], None] = _nobody  # called when the last stable offset may have moved
        self._rule = rule
        self._uncommitted = _NOTHING  # bounded by what the log holds; ascending
        self._ears: dict[Ear, None] = {}

    @property
    def last_stable_offset(self) -> int:
        """The high watermark, or the first offset of the oldest transaction below it that is open, or whose marker is not committed."""
        return min(self.high_watermark, self.producers.first_open_transaction)

    def is_in_older_segment(self, offset: int, *, committed_only: bool) -> bool:
        """Whether a reader at `offset` reads the rest of a segment, and what it may read goes on in another: nothing comes to that rest any more."""
        base = self.committed.base
        return offset < base and (not committed_only or base <= self.producers.first_open_transaction)

    # -- moves

    def appended(self, end: int, base: int, position: int) -> None:
        """A batch is written that ends at offset `end`, which is byte `position` of the segment at `base`."""
        self.log_end_offset = end
        mark = _new(Watermark, (end, base, position))
        if self._rule is when_appended:
            self.committed_before, self.committed = self.committed, mark
            self.high_watermark = end
            if self.producers.ended:
                self._settle(end)
            if self._ears or self.committed_waiters.waiting:
                self._say(end)
            return
        if self._uncommitted is _NOTHING:
            self._uncommitted = deque()
        self._uncommitted.append(mark)
        if self._rule is not when_durable:
            self._commit(self._rule(end, self.durable_end))

    def synced(self, end: int) -> None:
        """Everything below `end` is on the device."""
        if end > self.durable_end:
            self.durable_end = end
        self._commit(self._rule(self.log_end_offset, self.durable_end))
        if self.durable_waiters.waiting:
            self.durable_waiters.release(self.durable_end)

    def set_rule(self, rule: CommitRule) -> None:
        """Commit by `rule` from now on; what is committed stays so."""
        self._rule = rule
        self.recommit()

    def recommit(self) -> None:
        """Ask the rule again: what it knows besides this log has moved."""
        if self.failed is None:
            self._commit(self._rule(self.log_end_offset, self.durable_end))

    def _commit(self, offset: int) -> None:
        """Move the committed end to the last append that ends at or below `offset`."""
        uncommitted, mark = self._uncommitted, None
        while uncommitted and uncommitted[0][0] <= offset:
            mark = uncommitted.popleft()
        if mark is not None:
            self._set(mark)

    def _set(self, mark: Watermark) -> None:
        self.committed_before, self.committed = self.committed, mark
        self.high_watermark = end = mark[0]
        if self.producers.ended:
            self._settle(end)
        self._say(end)

    def _settle(self, end: int) -> None:
        """Transactions whose markers are committed now are over; who waits hears of it with the move."""
        self.producers.settle(end)
        self.when_stable()

    def _say(self, end: int) -> None:
        """The committed end moved to `end`."""
        if self.committed_waiters.waiting:
            self.committed_waiters.release(end)
        if self._ears:
            self.tell()

    def let_go_of(self, end: int) -> None:
        """The segment that ends at offset `end` is about to go: if the committed end lies there, it lies where the next one begins."""
        if self.committed.offset == end:
            self.committed = Watermark(end, end, 0)

    def begin_at(self, log_start: int, local_start: int) -> None:
        """The log begins at `log_start`, its local part at `local_start` or there, whichever is later."""
        self.log_start_offset = log_start
        self.local_log_start_offset = max(log_start, local_start)
        self.producers.begin_at(log_start)
        if self._ears:
            self.tell()

    def fall_back(self, offset: int) -> None:
        """Nothing from `offset` on counts as durable any more: it is about to be cut off."""
        self.durable_end = min(self.durable_end, offset)

    def truncate(self, end: Watermark, error: Exception) -> None:
        """The log ends at `end`; who waits for more is refused with `error`."""
        self.log_end_offset = end.offset
        self.durable_end = min(self.durable_end, end.offset)
        self.cleaned_end = min(self.cleaned_end, end.offset)
        while self._uncommitted and self._uncommitted[-1].offset >= end.offset:
            self._uncommitted.pop()
        if self.committed.offset >= end.offset:
            self.committed = self.committed_before = end
            self.high_watermark = end.offset
        else:
            self._uncommitted = deque((*self._uncommitted, end))
        self.producers.settle(self.high_watermark)
        self.durable_waiters.refuse(error, above=end.offset)
        self.committed_waiters.refuse(error, above=end.offset)
        self.tell()

    def fail(self, error: Exception, refusal: Exception) -> None:
        """Nothing more will be durable or committed, because of `error`; who waits is refused with `refusal`."""
        self.failed = error
        self._refuse(refusal)

    def close(self, refusal: Exception) -> None:
        """The same, because nobody writes any more."""
        self.is_closed = True
        self._refuse(refusal)

    def _refuse(self, refusal: Exception) -> None:
        self.durable_waiters.refuse(refusal)
        self.committed_waiters.refuse(refusal)
        self.tell()

    # -- who is told

    def add_ear(self, ear: Ear) -> None:
        """Call `ear.moved` once, on the loop, when anything that a reader is told may have changed: where the log begins, up to where it is
        committed, that it failed or closed."""
        self._ears[ear] = None

    def remove_ear(self, ear: Ear) -> None:
        self._ears.pop(ear, None)

    def tell(self) -> None:
        """Something changed; who wants to hear of what comes next says so again."""
        ears, self._ears = self._ears, {}
        for ear in ears:
            try:
                ear.moved()
            except Exception:  # of one reader: the others, and the acks, go on
                LOG.exception("a reader could not be told")

    # -- as a segment sees it

    def readable_bytes(self, segment: Segment) -> int:
        """How many bytes of `segment` lie below the committed end."""
        mark = self.committed
        if segment.base_offset == mark.base:
            return mark.position
        return segment.size if segment.base_offset < mark.base else 0


def _nobody() -> None:
    """Wants to know."""
