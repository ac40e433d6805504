"""What an append and its fsync cost, counted: calls of our own Python functions, which do not depend on the machine.

As in tests/wire/test_calls.py: who makes it cheaper lowers the ceiling.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import hotlog
from hotlog.kernel.ids import TopicPartition
from hotlog.wire.batch import check_produced
from hotlog.world.ports import Due
from hotlog.world.posix import PosixDisk
from tests.log.support import T0, append, batch, config, new_log, opened
from tests.support.disks import FastDisk
from tests.tools.patience import SOON_S

HOUSE = str(Path(hotlog.__file__).parent)


class Calls:
    """Counts those that are made while it is entered."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __enter__(self) -> list[str]:
        sys.setprofile(self._look)
        return self.names

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)

    def _look(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(HOUSE):
            self.names.append(frame.f_code.co_qualname)


@pytest.mark.parametrize(("producer", "ceiling"), [(-1, 7), (5, 9)])
async def test_an_append_of_one_batch(tmp_path: Path, producer: int, ceiling: int) -> None:
    topic = config(hotlog_durability="page-cache")
    async with opened(tmp_path, topic) as logs:
        log = await new_log(logs, topic)
        for number in range(3):
            made = memoryview(batch(b"x" * 100, producer=(producer, 0 if producer >= 0 else -1, number if producer >= 0 else -1)))
            headers = check_produced(made, batch_bytes_max=1 << 20)
            with Calls() as calls:
                log.append(made, headers, now_ms=T0)
        assert len(calls) <= ceiling, calls


async def test_what_producers_are_known_costs_an_append_nothing(tmp_path: Path) -> None:
    topic = config(hotlog_durability="page-cache")
    async with opened(tmp_path, topic) as logs:
        log = await new_log(logs, topic)
        counts = []
        for number in range(400):
            made = memoryview(batch(b"x", producer=(number, 0, 0)))
            headers = check_produced(made, batch_bytes_max=1 << 20)
            with Calls() as calls:
                log.append(made, headers, now_ms=T0)
            counts.append(len(calls))
        assert max(counts[300:]) <= max(counts[1:100]), "the same for the last as for the first"


class CountedDisk(PosixDisk):
    """Notes how many files each round of syncs had."""

    def __init__(self) -> None:
        super().__init__(2)
        self.rounds: list[int] = []

    def begin_syncs(self, syncs: Sequence[Due]) -> None:
        self.rounds.append(len(syncs))
        super().begin_syncs(syncs)


async def all_committed(logs: Sequence[Any]) -> None:
    """One append to each, until each is told."""
    left, done = len(logs), asyncio.Event()

    def told(error: Exception | None) -> None:
        nonlocal left
        assert error is None
        left -= 1
        if not left:
            done.set()

    for log in logs:
        end = append(log, batch(b"x")).end_offset
        log.when_committed(end, told, 30)
    await asyncio.wait_for(done.wait(), SOON_S)


async def test_one_round_syncs_what_is_due_in_all_logs(tmp_path: Path) -> None:
    disk = CountedDisk()
    async with opened(tmp_path, disk=disk) as manager:
        logs = [await new_log(manager, None, TopicPartition("t", number)) for number in range(50)]
        await all_committed(logs)  # with their first leader epochs, which are small files
        for log in logs:
            await log.flush()
        disk.rounds.clear()
        await all_committed(logs)
        assert disk.rounds == [50]
    disk.close()


async def test_a_sync_costs_few_calls_and_no_task(tmp_path: Path) -> None:
    async with opened(tmp_path, disk=FastDisk(1)) as manager:
        logs = [await new_log(manager, None, TopicPartition("t", number)) for number in range(50)]
        await all_committed(logs)
        for log in logs:
            await log.flush()
        loop, made = asyncio.get_running_loop(), list[Callable[[], Any]]()
        loop.set_task_factory(
            lambda loop, coroutine, **more: made.append(coroutine) or asyncio.Task(coroutine, loop=loop, **more)
        )
        with Calls() as calls:
            await all_committed(logs)
        loop.set_task_factory(None)
        syncs = [name for name in calls if name.startswith(("Flusher", "Syncer", "SyncRounds", "Marks", "OffsetWaiters"))]
        assert len(syncs) <= 50 * 17 + 5, "of one append each, the ack included"
        assert len(made) <= 1, "wait_for's own, at most"
