"""Rot in the header fields that no CRC covers is not uploaded either: neither from the batches nor from the leader epoch checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from hotlog.wire.batch import walk
from tests.tiering.support import fill, node

FIELDS = {"base offset": 7, "length": 11, "leader epoch": 15, "magic": 16}


@pytest.mark.parametrize("which", [0, 3, -1], ids=["first", "middle", "last"])
@pytest.mark.parametrize("field", FIELDS)
async def test_a_flipped_bit_outside_the_crc_is_never_uploaded(tmp_path: Path, field: str, which: int) -> None:
    async with node(tmp_path) as here:
        log = await here.create()
        log.set_leader_epoch(4)
        await fill(log, 40, records=1, value_bytes=150)
        victim = Path(log.segments()[1].log_path)
        raw = bytearray(victim.read_bytes())
        raw[list(walk(raw))[which][0] + FIELDS[field]] ^= 1
        victim.write_bytes(raw)
        cold = await here.attach(log)
        await here.copy_all()
        assert cold.end_offset == log.segments()[1].base_offset
        assert here.metrics.corruption.labels("copy")._value.get() >= 1
        assert len([key for key in await here.objects() if key.endswith(".seg")]) == 1


async def test_a_rotten_leader_epoch_checkpoint_is_never_uploaded(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        log = await here.create()
        log.set_leader_epoch(4)
        await fill(log, 30)
        await log.flush()
        log.epochs.assign(5, log.segments()[0].base_offset)
        cold = await here.attach(log)
        await here.copy_all()
        assert cold.view is None or cold.view.end_offset <= 0
        assert here.metrics.corruption.labels("copy")._value.get() >= 1


async def test_segments_of_many_leaders_are_uploaded(tmp_path: Path) -> None:
    async with node(tmp_path) as here:
        log = await here.create()
        for epoch in range(1, 12):
            log.set_leader_epoch(epoch)
            await fill(log, 3, start=epoch * 10)
        log.roll(here.clock.now_ms())
        await log.flush()
        log.advance_log_start(40)  # the checkpoint forgets the epochs below
        cold = await here.attach(log)
        await here.copy_all()
        assert cold.end_offset == log.active.base_offset
        assert here.metrics.corruption.labels("copy")._value.get() == 0


async def test_a_flipped_leader_epoch_is_found_where_the_checkpoint_says_nothing(tmp_path: Path) -> None:
    """Below the log start: the batches must still not go back to an older leader."""
    async with node(tmp_path) as here:
        log = await here.create()
        log.set_leader_epoch(4)
        await fill(log, 40, records=1, value_bytes=150)
        victim = Path(log.segments()[0].log_path)
        raw = bytearray(victim.read_bytes())
        raw[list(walk(raw))[1][0] + FIELDS["leader epoch"]] ^= 1
        victim.write_bytes(raw)
        log.advance_log_start(3)
        cold = await here.attach(log)
        await here.copy_all()
        assert cold.view is None or cold.view.end_offset <= 0
        assert here.metrics.corruption.labels("copy")._value.get() >= 1
