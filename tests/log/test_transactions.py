"""Transactions of one log: the last stable offset, what readers of committed records are told, and all of it again after a stop of any kind."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from hotlog.kernel.errors import CoordinatorFenced, InvalidProducerEpoch, InvalidTxnState, OutOfOrderSequence
from hotlog.log.manager import LogManager
from hotlog.log.partition_log import PartitionLog
from hotlog.log.producers import NO_TRANSACTION, Producers
from hotlog.wire.batch import header_at, walk
from hotlog.wire.markers import Marker
from tests.log.support import T0, TP, Ear, append, batch, config, kill, manager, new_log, opened

PAGE_CACHE = config(hotlog_durability="page-cache")
SMALL = config(hotlog_durability="page-cache", segment_bytes=1024, file_delete_delay_ms=0)


def write(log: PartitionLog, producer: int, sequence: int, epoch: int = 0, value: bytes = b"x" * 50) -> int:
    return append(log, batch(value, producer=(producer, epoch, sequence), is_transactional=True)).base_offset


def end(log: PartitionLog, producer: int, *, is_commit: bool, epoch: int = 0, coordinator: int = 0, version: int = 0) -> int:
    return log.append_marker(Marker(producer, epoch, coordinator, is_commit), now_ms=T0, version=version) - 1


def test_the_oldest_open_one_holds_the_last_stable_offset() -> None:
    known = Producers(1000)

    def note(producer: int, offset: int) -> None:
        known.note(producer, 0, 0, offset, 0, T0, 0x10, T0)

    note(1, 10)
    note(2, 20)
    note(3, 30)
    assert known.first_open_transaction == 10
    aborted = known.end_transaction(Marker(2, 0, 0, is_commit=False), 40, T0, T0)
    assert aborted is not None
    assert tuple(aborted) == (2, 20, 40, 10)
    known.settle(41)
    assert known.first_open_transaction == 10
    assert known.end_transaction(Marker(1, 0, 0, is_commit=True), 41, T0, T0) is None
    assert known.first_open_transaction == 10, "its marker is not committed"
    known.settle(42)
    assert known.first_open_transaction == 30
    last = known.end_transaction(Marker(3, 0, 0, is_commit=False), 42, T0, T0)
    assert last is not None
    assert last.last_stable_offset == 43
    known.settle(43)
    assert known.first_open_transaction == NO_TRANSACTION
    assert known.end_transaction(Marker(9, 0, 0, is_commit=False), 50, T0, T0) is None, "it had no records here"


def test_to_settle_one_of_many_costs_the_same() -> None:
    known = Producers(1000)
    count = 20_000
    for producer in range(count):
        known.note(producer, 0, 0, producer, 0, T0, 0x10, T0)
    for producer in range(count):  # each move asks for the first of those that are left
        known.end_transaction(Marker(producer, 0, 0, is_commit=True), count + producer, T0, T0)
        known.settle(count + producer + 1)
        assert known.first_open_transaction == (producer + 1 if producer + 1 < count else NO_TRANSACTION)


async def test_who_waits_for_committed_records_hears_of_the_end(tmp_path: Path) -> None:
    async with opened(tmp_path) as logs:
        log = await new_log(logs)
        write(log, 1, 0)
        await log.wait_durable(1)
        heard: list[tuple[int, int]] = []
        log.add_ear(Ear(lambda: heard.append((log.high_watermark, log.last_stable_offset))))
        end(log, 1, is_commit=True)
        assert not heard
        await log.wait_durable(2)
        assert heard == [(2, 2)], "both ends move at once"


async def test_only_a_transaction_goes_on_where_one_is_open(tmp_path: Path) -> None:
    async with opened(tmp_path, PAGE_CACHE) as logs:
        log = await new_log(logs, PAGE_CACHE)
        write(log, 1, 0)
        with pytest.raises(InvalidTxnState):
            append(log, batch(b"x", producer=(1, 0, 1)))
        plain = memoryview(batch(b"x", producer=(1, 0, 1)))
        assert log.append_plain(plain, tuple(header_at(plain)), T0) == -1, "the short way leaves it to the long one"
        write(log, 1, 1)
        end(log, 1, is_commit=True)
        append(log, batch(b"x", producer=(1, 0, 2)))


async def test_markers_are_held_against_newer_epochs(tmp_path: Path) -> None:
    async with opened(tmp_path, PAGE_CACHE) as logs:
        log = await new_log(logs, PAGE_CACHE)
        write(log, 1, 0, epoch=5)
        with pytest.raises(InvalidProducerEpoch):
            end(log, 1, is_commit=False, epoch=4)
        with pytest.raises(InvalidProducerEpoch):
            end(log, 1, is_commit=False, epoch=5, version=2)
        end(log, 1, is_commit=True, epoch=6, coordinator=3, version=2)
        end(log, 1, is_commit=True, epoch=6, coordinator=3, version=2)
        with pytest.raises(CoordinatorFenced):
            end(log, 1, is_commit=True, epoch=6, coordinator=2)
        with pytest.raises(InvalidProducerEpoch):
            write(log, 1, 1, epoch=5)
        with pytest.raises(OutOfOrderSequence):
            write(log, 1, 1, epoch=6)
        write(log, 1, 0, epoch=6)


def test_a_marker_takes_the_guard_away() -> None:
    known = Producers(1000)
    guard = known.guard(1, 0, 5, T0)
    assert known.guard(1, 0, 7, T0) is guard
    with pytest.raises(OutOfOrderSequence):
        known.require(guard, 7)
    known.require(guard, 5)
    known.end_transaction(Marker(1, 0, 0, is_commit=False), 0, T0, T0)
    with pytest.raises(InvalidTxnState):
        known.require(guard, 5)
    again = known.guard(1, 0, 5, T0)
    known.note(1, 0, 5, 1, 0, T0, 0x10, T0)
    known.require(again, 6)  # begun by another one of the same producer


async def read_committed(log: PartitionLog) -> list[int]:
    """Offsets of data batches as a consumer of committed records sees them."""
    found: list[int] = []
    offset = log.local_log_start_offset
    while True:
        piece = await log.read_blocking(offset, 500, min_one=True, committed_only=True)
        headers = [header for _, header in walk(memoryview(piece.data))]  # type: ignore[arg-type]
        if not headers:
            return found
        waiting = sorted(piece.aborted or (), key=lambda each: each[1])
        ended = await _markers(log)
        for header in headers:
            is_aborted = any(
                producer == header.producer_id and first <= header.base_offset < _end_of(ended, producer, first)
                for producer, first in waiting
            )
            if not header.is_control and not is_aborted:
                found.append(header.base_offset)
        offset = headers[-1].next_offset


async def _markers(log: PartitionLog) -> list[tuple[int, int]]:
    piece = await log.read_blocking(log.local_log_start_offset, 1 << 20, min_one=True)
    found = []
    at = log.local_log_start_offset
    while len(piece.data):
        headers = [header for _, header in walk(memoryview(piece.data))]  # type: ignore[arg-type]
        found += [(header.producer_id, header.base_offset) for header in headers if header.is_control]
        at = headers[-1].next_offset
        piece = await log.read_blocking(at, 1 << 20, min_one=True)
    return found


def _end_of(markers: list[tuple[int, int]], producer: int, first: int) -> int:
    return min(offset for one, offset in markers if one == producer and offset > first)


class Story:
    """Random transactions, and what must be seen of them."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.open: dict[int, list[int]] = {}
        self.sequences: dict[int, int] = {}
        self.committed: list[int] = []

    def write(self, log: PartitionLog, steps: int) -> None:
        for _ in range(steps):
            producer = self.chance.randrange(4)
            if producer in self.open and self.chance.random() < 0.4:
                is_commit = self.chance.random() < 0.5
                end(log, producer, is_commit=is_commit)
                offsets = self.open.pop(producer)
                self.committed += offsets if is_commit else []
            else:
                sequence = self.sequences.get(producer, 0)
                self.open.setdefault(producer, []).append(write(log, producer, sequence))
                self.sequences[producer] = sequence + 1

    def visible(self) -> list[int]:
        stable = min((offsets[0] for offsets in self.open.values()), default=1 << 60)
        return sorted(offset for offset in self.committed if offset < stable)


def states(log: PartitionLog) -> dict[int, tuple[int, int, int]]:
    return {
        producer: (state.epoch, state.batches[-1].last_sequence if state.batches else -1, state.transaction_start)
        for producer, state in log.producers.known()
    }


Stop = Callable[[LogManager], Awaitable[None]]


@pytest.mark.parametrize("stop", [LogManager.close, kill], ids=["clean", "kill"])
@pytest.mark.parametrize("seed", range(4))
async def test_a_restart_changes_nothing(tmp_path: Path, stop: Stop, seed: int) -> None:
    story = Story(seed)
    logs = manager(tmp_path)
    await logs.open(config_of=lambda tp: SMALL)
    log = await new_log(logs, SMALL)
    for _ in range(4):
        story.write(log, 25)
        before = states(log), log.last_stable_offset
        assert await read_committed(log) == story.visible()
        await stop(logs)
        logs = manager(tmp_path)
        await logs.open(config_of=lambda tp: SMALL)
        log = logs.get(TP)  # type: ignore[assignment]
        assert (states(log), log.last_stable_offset) == before
        assert await read_committed(log) == story.visible()
    assert log.segment_count > 3
    await logs.close()


@pytest.mark.parametrize("seed", range(6))
async def test_a_cut_log_has_the_transactions_of_what_is_left(tmp_path: Path, seed: int) -> None:
    """A log that was cut is as one to which only what is left was ever written."""
    chance = random.Random(seed)
    async with opened(tmp_path / "cut", SMALL) as logs, opened(tmp_path / "short", SMALL) as others:
        log, other = await new_log(logs, SMALL), await new_log(others, SMALL)
        Story(seed).write(log, 60)
        at = await log.truncate(chance.randrange(log.log_end_offset))
        whole = Story(seed)
        while other.log_end_offset < at:
            whole.write(other, 1)
        assert other.log_end_offset == at
        assert states(log) == states(other)
        assert log.last_stable_offset == other.last_stable_offset
        assert await read_committed(log) == await read_committed(other)


async def test_a_full_answer_needs_only_the_index_entries_that_overlap(tmp_path: Path) -> None:
    async with opened(tmp_path, SMALL) as logs:
        log = await new_log(logs, SMALL)
        for number in range(40):
            write(log, 1, number)
            end(log, 1, is_commit=False)
        assert log._reader.aborted_transactions(0, 80, wait=True) == [(1, 2 * number) for number in range(40)]
        assert log._reader.aborted_transactions(41, 43, wait=True) == [(1, 40), (1, 42)]
        assert log._reader.aborted_transactions(42, 43, wait=True) == [(1, 42)]


async def test_a_block_does_not_hold_an_end_up(tmp_path: Path) -> None:
    async with opened(tmp_path, PAGE_CACHE) as logs:
        log = await new_log(logs, PAGE_CACHE)
        write(log, 1, 0)
        log.block_appends("the store is away")
        end(log, 1, is_commit=False)
        assert log.last_stable_offset == 2


async def test_records_that_are_deleted_leave_the_last_stable_offset_in_the_log(tmp_path: Path) -> None:
    async with opened(tmp_path, PAGE_CACHE) as logs:
        log = await new_log(logs, PAGE_CACHE)
        for number in range(4):
            write(log, 1, number)
        log.advance_log_start(3)
        assert log.last_stable_offset == 3
        end(log, 1, is_commit=False)
        assert log.last_stable_offset == 5
