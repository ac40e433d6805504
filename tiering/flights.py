"""The copies of one broker: which partition is next, which are under way, and what ends them.

Partitions with something to copy stand in line, the one whose oldest closed segment has waited longest at the head.  A copy goes on with its
partition while nobody waits for its slot.  One that overstays its lease is abandoned to its own task; others go on.

Invariants: at most `slots` copies at once, one per partition; whether a partition has something to copy is asked again when its turn comes;
to choose the next costs the same however many partitions and segments wait.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple

from hotlog.kernel.errors import HotlogError
from hotlog.kernel.ids import PartitionId
from hotlog.kernel.metrics import Metrics
from hotlog.world.ports import Clock
from hotlog.world.tasks import TaskScope
from tiering.cold_partition import ColdPartition
from tiering.upload.copier import Copier, Lease
from tiering.upload.plan import CopyPlan, covered_until, plan_copy

LOG = logging.getLogger("hotlog.tier")
COPIES_PER_FLIGHT_MAX = 16


class Flight(NamedTuple):
    """A copy under way."""

    cold: ColdPartition
    lease: Lease
    task: asyncio.Task[None]


class Owner(NamedTuple):
    """What the flights ask of the tier: how many may be under way, what is told of a copy that failed, and that one has ended."""

    slots: Callable[[], int]
    fail: Callable[[ColdPartition, Exception], None]
    copy_failed: Callable[[ColdPartition, Exception], Awaitable[None]]
    ended: Callable[[ColdPartition], None]


def next_plan(cold: ColdPartition, now_ms: int) -> CopyPlan | None:
    """The next copy of a partition, if any is due."""
    log, view = cold.log, cold.view
    # A power loss may take back what is not on the device; the store must not have it then, or offsets are given out twice.
    readable_end = min(log.high_watermark, log.last_stable_offset, log.recovery_point)
    if log.config.is_compacted:  # what was not cleaned yet would go up twice
        readable_end = min(readable_end, log.cleaned_end)
    plan = plan_copy(
        view, log.closed_above(covered_until(view, log.log_start_offset)), log.config,
        readable_end=readable_end,
        log_start_offset=log.log_start_offset, now_ms=now_ms,
    )  # fmt: skip
    return plan if isinstance(plan, CopyPlan) else None


def has_gap(cold: ColdPartition) -> bool:
    """Whether offsets that clients may ask for are in no tier: a log that began anew behind what the store has."""
    log, view = cold.log, cold.view
    if view is None or view.end_offset < 0 or cold.problem:
        return False
    return max(view.end_offset, log.log_start_offset) < log.local_log_start_offset


class Flights:
    """See the module's head."""

    def __init__(self, copier: Copier, clock: Clock, metrics: Metrics, scope: TaskScope, owner: Owner) -> None:
        self._copier = copier
        self._clock = clock
        self._metrics = metrics
        self._scope = scope
        self._owner = owner
        self._line: dict[PartitionId, ColdPartition] = {}
        self._heap: list[tuple[int, PartitionId, int, ColdPartition]] = []  # who left the line is passed over
        self._numbers = itertools.count()
        self.under_way: dict[PartitionId, Flight] = {}

    def __len__(self) -> int:
        return len(self.under_way)

    @property
    def is_crowded(self) -> bool:
        """Whether more partitions are due than there are free slots."""
        return bool(self._line)

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        return [flight.task for flight in self.under_way.values()]

    @property
    def seconds_left(self) -> float | None:
        """Until the next lease runs out; None if none is running."""
        left = [seconds for flight in self.under_way.values() if (seconds := flight.lease.seconds_left) is not None]
        return min(left, default=None)

    # -- who is next

    def consider(self, cold: ColdPartition) -> None:
        """Have `cold` stand in line if it has something to copy now, or its gap closed at once."""
        if cold.pid in self.under_way:
            return  # it is looked at again when that has ended
        if has_gap(cold):
            self._fly(cold, lambda lease: self._close_gap(cold, lease))
        elif cold.pid not in self._line and (plan := self._plan(cold)) is not None:
            self._line[cold.pid] = cold
            heapq.heappush(self._heap, (plan.segment.closed_ms, cold.pid, next(self._numbers), cold))

    def launch(self) -> None:
        """Begin copies while there are free slots."""
        slots = self._owner.slots()
        while self._heap and len(self.under_way) < slots:
            *_, cold = heapq.heappop(self._heap)
            if self._line.get(cold.pid) is not cold:
                continue
            del self._line[cold.pid]
            plan = self._plan(cold)
            if plan is not None:
                self._launch(cold, plan)

    def _plan(self, cold: ColdPartition) -> CopyPlan | None:
        if not cold.ready or cold.problem or cold.retry_at > self._clock.monotonic():
            return None
        return next_plan(cold, self._clock.now_ms())

    def _launch(self, cold: ColdPartition, plan: CopyPlan) -> None:
        self._fly(cold, lambda lease: self._copy(cold, plan, lease))

    def _fly(self, cold: ColdPartition, work: Callable[[Lease], Coroutine[Any, Any, None]]) -> None:
        lease = Lease(self._clock)
        flight = Flight(cold, lease, self._scope.spawn(work(lease)))
        self.under_way[cold.pid] = flight
        flight.task.add_done_callback(lambda task: self._ended(flight))

    # -- what a flight does

    async def _copy(self, cold: ColdPartition, plan: CopyPlan, lease: Lease) -> None:
        """Copy `plan`, then go on with the same partition while nobody waits for the slot."""
        try:
            for _ in range(COPIES_PER_FLIGHT_MAX):
                await self._copier.copy(cold.target, plan, lease)
                LOG.debug(
                    "%s-%d: offsets [%d, %d) are in the store",
                    cold.topic,
                    cold.pid.partition,
                    plan.start_offset,
                    plan.segment.end_offset,
                )
                cold.failures, cold.retry_at = 0, 0.0
                following = None if self.is_crowded else next_plan(cold, self._clock.now_ms())
                if following is None:
                    break
                plan = following
        except (HotlogError, OSError) as failure:
            await self._owner.copy_failed(cold, failure)
        except Exception as bug:  # told, and tried again as late as anything else that failed
            LOG.exception("copying %s-%d failed", cold.topic, cold.pid.partition)
            self._owner.fail(cold, bug)

    async def _close_gap(self, cold: ColdPartition, lease: Lease) -> None:
        """Say so in the manifest now, not with the next copy: until then readers would stand at the gap."""
        try:
            await self._copier.claim(cold.target)
            lease.check()
            await self._copier.record_hole(cold.target, cold.log.local_log_start_offset, "given up with the disk that had them")
            cold.failures, cold.retry_at = 0, 0.0
        except (HotlogError, OSError) as failure:
            await self._owner.copy_failed(cold, failure)
        except Exception as bug:
            LOG.exception("closing the gap of %s-%d failed", cold.topic, cold.pid.partition)
            self._owner.fail(cold, bug)

    # -- what ends it

    def _ended(self, flight: Flight) -> None:
        if self.under_way.get(flight.cold.pid) is flight:
            del self.under_way[flight.cold.pid]
        self._owner.ended(flight.cold)

    def abandon_overdue(self) -> None:
        """Give the slots of copies that overstayed to others."""
        for pid, flight in list(self.under_way.items()):
            left = flight.lease.seconds_left
            if left is not None and left <= 0 and not flight.task.done():
                self.drop(pid)
                self._metrics.remote_copy_errors.labels(flight.cold.topic).inc()
                self._owner.fail(flight.cold, TimeoutError("a copy overstayed its lease and was abandoned"))

    def drop(self, pid: PartitionId) -> None:
        """Give a partition's copy up: no commit of it will count."""
        self._line.pop(pid, None)
        flight = self.under_way.pop(pid, None)
        if flight is not None:
            flight.lease.revoke()
            flight.task.cancel()  # nobody waits for it: it may hang

    def drop_all(self) -> None:
        for pid in [*self._line, *self.under_way]:
            self.drop(pid)

    def revoke_all(self) -> None:
        """The process is about to end."""
        for flight in self.under_way.values():
            flight.lease.revoke()
