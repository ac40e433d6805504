"""One history twice: whole in a local log, and cut in two, its older part in a store.

Invariants: both partitions are real (logs on a directory, a cold reader over objects); only the home and the manifest's register are stand-ins.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from hotlog.kernel.ids import TopicPartition
from hotlog.log.manager import LogManager
from hotlog.log.partition_log import PartitionLog
from hotlog.partitions.partition import Partition
from hotlog.wire.records import NewRecord, encode_batch
from tests.cold.lake import TOPIC_ID, Lake
from tests.cold.reading import drained, reader_of
from tests.log.support import append, config, opened
from tests.partitions.hosted import hosted
from tests.support.scripted_store import ScriptedStore
from tiering.cold_partition import ColdPartition

WHOLE, SPLIT = TopicPartition("whole", 0), TopicPartition("clicks", 0)


class Batch(NamedTuple):
    """One batch of one record for each of its timestamps (ms)."""

    epoch: int
    timestamps: tuple[int, ...]

    @property
    def records(self) -> list[NewRecord]:
        return [NewRecord(time, None, b"%d" % time) for time in self.timestamps]


class TwoTiers(NamedTuple):
    """`whole` has all of it in its local log; of `split`, the store has what is below `stored_end`, the local log what is from `local_start` on."""

    whole: Partition
    split: Partition
    lake: Lake
    local_start: int
    stored_end: int


def fill(log: PartitionLog, batches: Sequence[Batch]) -> None:
    for batch in batches:
        log.set_leader_epoch(batch.epoch)
        append(log, encode_batch(batch.records))


def lake_of(batches: Sequence[Batch], per_segment: int = 2) -> Lake:
    lake = Lake(ScriptedStore())
    for at in range(0, len(batches), per_segment):
        made = []
        for batch in batches[at : at + per_segment]:
            lake.epoch = batch.epoch
            made.append(lake.batch(batch.records))
        lake.segment(made)
    lake.commit()
    return lake


async def new_log(logs: LogManager, tp: TopicPartition, batches: Sequence[Batch], start: int = 0) -> PartitionLog:
    settings = config(remote_storage_enable="true", hotlog_durability="page-cache")
    epoch = batches[0].epoch if batches else 0
    log = await logs.create(tp, TOPIC_ID, settings, start_offset=start, leader_epoch=epoch, log_start_offset=0)
    fill(log, batches)
    return log


@asynccontextmanager
async def two_tiers(path: Path, batches: Sequence[Batch], *, stored: int, local: int) -> AsyncIterator[TwoTiers]:
    """The first `stored` batches are in the store, those from number `local` (<= stored) on in the local log."""
    ends = [0]
    for batch in batches:
        ends.append(ends[-1] + len(batch.timestamps))
    lake = lake_of(batches[:stored])
    reader = reader_of(lake)
    async with opened(path) as logs:
        whole = hosted(await new_log(logs, WHOLE, batches))
        split = hosted(await new_log(logs, SPLIT, batches[local:], ends[local]))
        split.cold = cold_over(lake, reader, split.log)
        try:
            yield TwoTiers(whole, split, lake, ends[local], ends[stored])
        finally:
            await drained(reader)
            await reader.close()


def cold_over(lake: Lake, reader: Any, log: PartitionLog) -> ColdPartition:
    manifest: Any = SimpleNamespace(view=lake.manifest)
    target: Any = SimpleNamespace(keys=lake.keys, topic=lake.topic, log=log, leader_epoch=0, manifest=manifest)
    cold = ColdPartition(SimpleNamespace(reader=reader, stir=lambda cold: None), target)  # type: ignore[arg-type]
    cold.ready = True
    return cold
