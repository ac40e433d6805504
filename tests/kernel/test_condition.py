"""What goes wrong is told once, and once when it is right again."""

from __future__ import annotations

import logging

import pytest

from hotlog.kernel.condition import Condition


def test_a_condition_is_told_when_it_begins_and_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    disk = Condition(logging.getLogger("test"), logging.ERROR)
    disk.ends("never told: it was right")
    disk.begins("the disk is full: 3 bytes")
    disk.begins("the disk is full: 2 bytes")
    assert disk
    assert disk.reason == "the disk is full: 2 bytes", "looked at, it says how it is now"
    disk.ends("the disk has room again")
    disk.ends("the disk has room again")
    assert not disk
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("ERROR", "the disk is full: 3 bytes"),
        ("INFO", "the disk has room again"),
    ]
