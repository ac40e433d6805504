"""What batches of a Produce wait for before they are appended: a look at their records, their transaction's coordinator, room in the log.

Small things are looked at on the event loop, the rest off it; the connection's next request waits, so that order is kept.

Invariants: a batch is appended only after its records were held against its header; what is found against it is noted in its plan.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kio.schema.errors import ErrorCode

from hotlog.answers.api import RequestContext
from hotlog.apis.produce.plan import Plan
from hotlog.broker.admission import Admitted, Asks, Guard, Wanted, admitted
from hotlog.coordinators.transaction_types import Place
from hotlog.kernel.limits import MiB
from hotlog.log.large_appends import INLINE_APPEND_BYTES_MAX
from hotlog.wire.error_codes import Refused, kept
from hotlog.wire.inspect import INLINE, THREAD, Room, alone, inspect
from hotlog.wire.produce import ProduceRequest

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker
    from hotlog.partitions.partition import Partition

ABORTABLE_FROM, ADDS_FROM = 11, 12  # KIP-1050, KIP-890
INLINE_LOOK_BYTES_MAX = 4 * MiB  # of one request, on the event loop

At = tuple[Plan, int]  # a batch: its plan, and which one of it


def look_inline(broker: Broker, plans: list[Plan]) -> list[At]:
    """Hold every batch against its records that the event loop may; those that it may not."""
    now_ms = broker.clock.now_ms()
    rest: list[At] = []
    size = 0
    for plan in plans:
        for at, batch in enumerate(plan.batches):
            if batch.refusal is None and batch.records is not None:
                size += len(batch.records)
                if size > INLINE_LOOK_BYTES_MAX or not _look(plan, at, now_ms, INLINE):
                    rest.append((plan, at))
    return rest


def _look(plan: Plan, at: int, now_ms: int, room: Room) -> bool:
    """Hold a batch against its records, and note what they say or why it is refused.  False: it needs a larger room."""
    batch = plan.batches[at]
    assert batch.records is not None
    assert batch.partition is not None
    try:
        header = inspect(batch.records, batch.headers[0], batch.partition.config, now_ms, room)
    except Exception as error:
        plan.batches[at] = batch._replace(refusal=kept(error))
        return True
    if header is None:
        return False
    if header is not batch.headers[0]:
        plan.batches[at] = batch._replace(headers=[header])
    return True


def _look_through(places: list[At], now_ms: int, room: Room) -> list[At]:
    """Look into each; those that need a larger room."""
    return [(plan, at) for plan, at in places if not _look(plan, at, now_ms, room)]


async def make_ready(broker: Broker, context: RequestContext, request: ProduceRequest, plans: list[Plan], rest: list[At]) -> None:
    """Look into the rest off the loop, ask for transactions, wait for room, and write off the loop what the loop must not."""
    now_ms = broker.clock.now_ms()
    if rest:
        async with broker.looks:
            rest = await broker.disk.run(_look_through, rest, now_ms, THREAD)
    if rest:
        async with broker.large_batches:
            room = alone(broker.settings.number("hotlog.batch.decompressed.bytes.max"))
            await broker.disk.run(_look_through, rest, now_ms, room)
    if request.transactional_id is not None and (must_ask(plans) or must_wait(plans)):
        await _ask(broker, context.version, request.transactional_id, plans)
    if must_wait(plans):
        await _wait_room(plans, request.timeout_ms)
        if must_wait(plans):
            await _append_in_turn(broker, plans)


def must_ask(plans: list[Plan]) -> bool:
    """Whether a batch begins a transaction in its partition."""
    for plan in plans:
        for batch in plan.batches:
            header = batch.header
            if header is not None and batch.partition is not None:
                producers = batch.partition.marks.producers
                if not producers.is_open(header.producer_id, header.producer_epoch):
                    return True
    return False


async def _ask(broker: Broker, version: int, transactional_id: str, plans: list[Plan]) -> None:
    """Ask the coordinator about batches that begin a transaction in their partition, and note what all are held against once they are appended."""
    found: dict[Place, Wanted] = {}
    where: dict[Place, list[At]] = {}
    owners: set[tuple[int, int]] = set()
    for plan in plans:
        for at, batch in enumerate(plan.batches):
            header = batch.header
            if header is not None and batch.partition is not None:
                owners.add((header.producer_id, header.producer_epoch))
                place = batch.partition.tp.topic, batch.partition.tp.partition
                found.setdefault(place, Wanted(batch.partition.marks.producers, header.base_sequence))
                where.setdefault(place, []).append((plan, at))
    outcome: dict[Place, Admitted] = {}
    if len(owners) == 1:
        ((producer_id, epoch),) = owners
        asks = Asks.ADD if version >= ADDS_FROM else Asks.CONFIRM if version >= ABORTABLE_FROM else Asks.CONFIRM_OLD
        outcome = await admitted(
            broker, transactional_id, producer_id, epoch, found, asks, unavailable=ErrorCode.not_enough_replicas
        )
    elif owners:
        mixed = Refused(ErrorCode.invalid_producer_id_mapping, "records of one transaction come from more than one producer")
        outcome = dict.fromkeys(found, mixed)
    for place, answer in outcome.items():
        for plan, at in where[place]:
            refusal = answer if isinstance(answer, Exception) else None
            guard = answer if isinstance(answer, Guard) else None
            plan.batches[at] = plan.batches[at]._replace(refusal=refusal, guard=guard)


def must_wait(plans: list[Plan]) -> bool:
    """Whether they cannot be written here and now: too many bytes, a thread writes to one of the logs, or one has too many files open."""
    size = 0
    for plan in plans:
        for batch in plan.batches:
            if batch.refusal is None and batch.records is not None and batch.partition is not None:
                size += len(batch.records)
                if size > INLINE_APPEND_BYTES_MAX or batch.partition.is_busy:
                    return True
    return False


async def _wait_room(plans: list[Plan], timeout_ms: int) -> None:
    """Until every log may open what an append needs: segments that roll faster than the disk takes them hold up who fills them."""
    try:
        async with asyncio.timeout(max(timeout_ms, 1) / 1000):
            while crowded := _crowded(plans):
                await crowded[0][2].wait_room()
    except TimeoutError:
        for plan, at, partition in _crowded(plans):
            refusal = Refused(
                ErrorCode.request_timed_out, f"{partition.tp} waits for the disk: its segments roll faster than they are synced"
            )
            plan.batches[at] = plan.batches[at]._replace(refusal=refusal)


def _crowded(plans: list[Plan]) -> list[tuple[Plan, int, Partition]]:
    return [
        (plan, at, batch.partition)
        for plan in plans
        for at, batch in enumerate(plan.batches)
        if batch.refusal is None and batch.partition is not None and batch.partition.is_crowded
    ]


async def _append_in_turn(broker: Broker, plans: list[Plan]) -> None:
    """Append off the loop; the connection's next request waits."""
    for plan in plans:
        for at, batch in enumerate(plan.batches):
            if batch.refusal is None and batch.records is not None and batch.partition is not None:
                append = batch.partition.append_in_turn
                try:
                    appended = await append(batch.records, batch.headers, now_ms=broker.clock.now_ms(), guard=batch.guard)
                except Exception as error:
                    plan.batches[at] = batch._replace(refusal=kept(error))
                else:
                    plan.batches[at] = batch._replace(appended=appended)
