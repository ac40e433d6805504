"""Rot in the header fields that no CRC covers is not uploaded either: neither from the batches nor from the leader epoch checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from hotlog.log.partition_log import PartitionLog
from hotlog.wire.batch import walk
from tests.tiering.support import Node, fill, node
from tiering.cold_partition import ColdPartition

FIELDS = {"base offset": 7, "length": 11, "leader epoch": 15, "magic": 16}


def flip(log: PartitionLog, *, segment: int, batch: int, field: str) -> None:
    """One bit of a batch's header on disk."""
    victim = Path(log.segments()[segment].log_path)
    raw = bytearray(victim.read_bytes())
    raw[list(walk(raw))[batch][0] + FIELDS[field]] ^= 1
    victim.write_bytes(raw)


async def uploaded(here: Node, log: PartitionLog) -> tuple[ColdPartition, float]:
    """The tier of the log once nothing more is due, and how often damage was met."""
    cold = await here.attach(log)
    await here.copy_all()
    return cold, here.metrics.corruption.labels("copy")._value.get()


@pytest.mark.parametrize("which", [0, 3, -1], ids=["first", "middle", "last"])
@pytest.mark.parametrize("field", FIELDS)
async def test_a_flipped_bit_outside_the_crc_is_never_uploaded(tmp_path: Path, field: str, which: int) -> None:
    async with node(tmp_path) as here:
        log = await here.create()
        log.set_leader_epoch(4)
        await fill(log, 40, records=1, value_bytes=150)
        flip(log, segment=1, batch=which, field=field)
        cold, found = await uploaded(here, log)
        assert cold.end_offset == log.segments()[1].base_offset
        assert found >= 1
        assert len([key for key in await here.objects() if key.endswith(".seg")]) == 1


async def test_a_rotten_leader_epoch_checkpoint_is_never_uploaded(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        log = await here.create()
        log.set_leader_epoch(4)
        await fill(log, 30)
        await log.flush()
        log.epochs.assign(5, log.segments()[0].base_offset)
        cold, found = await uploaded(here, log)
        assert cold.view is None or cold.view.end_offset <= 0
        assert found >= 1


async def test_segments_of_many_leaders_are_uploaded(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        log = await here.create()
        for epoch in range(1, 12):
            log.set_leader_epoch(epoch)
            await fill(log, 3, start=epoch * 10)
        log.roll(here.clock.now_ms())
        await log.flush()
        log.advance_log_start(40)  # the checkpoint forgets the epochs below
        cold, found = await uploaded(here, log)
        assert cold.end_offset == log.active.base_offset
        assert found == 0


async def test_a_flipped_leader_epoch_is_found_where_the_checkpoint_says_nothing(tmp_path: Path) -> None:
    """Below the log start: the batches must still not go back to an older leader."""
    async with node(tmp_path) as here:
        log = await here.create()
        log.set_leader_epoch(4)
        await fill(log, 40, records=1, value_bytes=150)
        flip(log, segment=0, batch=1, field="leader epoch")
        log.advance_log_start(3)
        cold, found = await uploaded(here, log)
        assert cold.view is None or cold.view.end_offset <= 0
        assert found >= 1
