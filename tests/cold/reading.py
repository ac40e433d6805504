"""A cold reader over a lake, and a lake that is read from one end to the other."""

from __future__ import annotations

import asyncio
from pathlib import Path

from hotlog.kernel.metrics import Metrics
from hotlog.kernel.settings import Settings
from hotlog.wire.records import NewRecord
from hotlog.world.posix import PosixDisk
from tests.cold.lake import Lake
from tests.support.clocks import HandClock
from tests.support.scripted_store import ScriptedStore
from tests.tools.patience import PATIENCE_S
from tiering.read.reader import ColdReader

FOREVER_MS = int(PATIENCE_S * 1000)


def reader_of(lake: Lake, metrics: Metrics | None = None, cache_dir: Path | None = None, **given: str) -> ColdReader:
    return ColdReader(
        store=lake.store,  # type: ignore[arg-type]
        clock=HandClock(),
        disk=PosixDisk(),
        settings=Settings.resolve(given),
        metrics=metrics or Metrics(),
        cache_dir=str(cache_dir) if cache_dir else None,
    )


def sequential_lake(segments: int = 8, batches: int = 40, chunk_bytes: int = 4096) -> Lake:
    lake = Lake(ScriptedStore(), chunk_bytes=chunk_bytes)
    for _ in range(segments):
        lake.segment([lake.batch([NewRecord(1000, None, bytes(1000))]) for _ in range(batches)])
    lake.commit()
    return lake


async def drained(reader: ColdReader) -> None:
    """Until nothing is read ahead or fetched any more."""
    while reader.sequential.ahead._scope._tasks or reader.chunks._scope._tasks:
        await asyncio.sleep(0)
