"""Rot in the offset checkpoints: a digit that becomes another digit is not believed."""

from __future__ import annotations

from pathlib import Path

import pytest

from hotlog.kernel.errors import Corrupt
from hotlog.log.checkpoint_crcs import before_writing, is_known, parse_crcs, print_crcs
from tests.log.support import TP, append, batch, config, kill, manager, new_log, opened


def test_a_list_is_parsed_as_it_was_printed_and_any_flipped_bit_of_it_is_found() -> None:
    crcs = {"b": (1, 0xFFFFFFFF), "a": (0,)}
    raw = print_crcs(crcs)
    assert parse_crcs(raw) == crcs
    assert parse_crcs(print_crcs({})) == {}
    for bit in range(len(raw) * 8):
        body = bytearray(raw)
        body[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Corrupt):
            parse_crcs(bytes(body))
    for cut in range(len(raw)):
        with pytest.raises(Corrupt):
            parse_crcs(raw[:cut])


def test_a_stop_between_the_two_writes_is_no_damage() -> None:
    first = before_writing({}, "a", b"one")
    assert is_known({}, "a", b"anything") and is_known(first, "other", b"anything")
    assert is_known(first, "a", b"one") and not is_known(first, "a", b"two")
    second = before_writing(first, "a", b"two")
    assert is_known(second, "a", b"one") and is_known(second, "a", b"two")
    third = before_writing(second, "a", b"three")
    assert is_known(third, "a", b"two") and not is_known(third, "a", b"one")


async def deleted_up_to_7(directory: Path) -> None:
    async with opened(directory) as logs:
        log = await new_log(logs)
        for _ in range(10):
            append(log, batch(b"x"))
        await log.flush()
        log.advance_log_start(7)
        await log.wait_log_start_saved()


@pytest.mark.parametrize("name", ["log-start-offset-checkpoint", "recovery-point-offset-checkpoint"])
async def test_any_flipped_bit_of_a_checkpoint_is_found(tmp_path: Path, name: str) -> None:
    """A log start that went up by itself would delete records, in the store too."""
    await deleted_up_to_7(tmp_path)
    path = tmp_path / name
    good = path.read_bytes()
    for bit in range(len(good) * 8):
        body = bytearray(good)
        body[bit // 8] ^= 1 << bit % 8
        path.write_bytes(body)
        logs = manager(tmp_path)
        await logs.open(config_of=lambda tp: config())
        try:
            log = logs.get(TP)
            assert log is not None
            assert (log.failed, log.log_end_offset) == (None, 10)
            assert log.log_start_offset == (0 if name.startswith("log-start") else 7)
            assert [where for where, _ in logs.damage] == [name]
        finally:
            await kill(logs)


async def test_a_rotten_or_missing_list_is_told_and_does_no_harm(tmp_path: Path) -> None:
    await deleted_up_to_7(tmp_path)
    path = tmp_path / "checkpoint-crcs"
    good = path.read_bytes()
    path.write_bytes(good.replace(b" ", b"  ", 1))
    async with opened(tmp_path) as logs:
        log = logs.get(TP)
        assert log is not None
        assert log.log_start_offset == 7
        assert [where for where, _ in logs.damage] == ["checkpoint-crcs"]
    path.unlink()
    async with opened(tmp_path) as logs:
        log = logs.get(TP)
        assert log is not None
        assert log.log_start_offset == 7
        assert logs.damage == []
        log.advance_log_start(8)
        await log.wait_log_start_saved()
    assert b"log-start-offset-checkpoint" in path.read_bytes()
