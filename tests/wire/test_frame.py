"""Framing: however bytes are cut, the same frames come out; sizes that cannot be close the connection."""

from __future__ import annotations

import errno
import mmap
import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotlog.kernel.errors import Invalid, TooLarge
from hotlog.wire.frame import FRAME_BYTES_FIRST, FRAME_BYTES_LEAP, GROWTH, SCRATCH_BYTES, SLACK_BYTES, FrameReader

LIMIT = 100_000


def feed(reader: FrameReader, data: bytes, cuts: list[int]) -> list[bytes]:
    """Put `data` into the reader's buffers, at most cuts[i] bytes at a time."""
    frames: list[bytes] = []
    position = turn = 0
    while position < len(data):
        target = reader.buffer()
        size = min(len(target), cuts[turn % len(cuts)], len(data) - position)
        target[:size] = data[position : position + size]
        frames += [bytes(frame) for frame in reader.received(size)]
        position += size
        turn += 1
    return frames


@given(
    bodies=st.lists(st.binary(min_size=8, max_size=40) | st.integers(100, 30_000).map(lambda n: b"x" * n), max_size=8),
    cuts=st.lists(st.integers(1, 5000), min_size=1, max_size=5),
    scratch=st.integers(1, 64),
)
def test_frames_do_not_depend_on_how_bytes_arrive(bodies: list[bytes], cuts: list[int], scratch: int) -> None:
    reader = FrameReader(memoryview(bytearray(scratch)), LIMIT)
    stream = b"".join(struct.pack(">i", len(body)) + body for body in bodies)
    assert feed(reader, stream, cuts) == bodies
    assert reader.held == 0


def test_a_shared_scratch_may_be_overwritten_between_receives() -> None:
    scratch = memoryview(bytearray(16))
    one, two = FrameReader(scratch, LIMIT), FrameReader(scratch, LIMIT)
    first, second = b"a" * 20, b"b" * 20
    ours, theirs = struct.pack(">i", 20) + first, struct.pack(">i", 20) + second
    got: dict[int, list[bytes]] = {1: [], 2: []}
    for at in range(0, 24, 3):
        got[1] += feed(one, ours[at : at + 3], [3])
        got[2] += feed(two, theirs[at : at + 3], [3])
    assert got == {1: [first], 2: [second]}


def test_a_frame_is_writable_and_its_own() -> None:
    reader = FrameReader(memoryview(bytearray(64)), LIMIT)
    reader.buffer()[:24] = struct.pack(">i", 8) + b"frame--1" + struct.pack(">i", 8) + b"frame--2"
    first, second = reader.received(24)
    first[:] = b"changed!"
    assert bytes(second) == b"frame--2"


@pytest.mark.parametrize("size", [0, -1, 7, -(2**31)])
def test_a_size_that_cannot_be_is_invalid(size: int) -> None:
    reader = FrameReader(memoryview(bytearray(64)), LIMIT)
    assert feed(reader, struct.pack(">i", 8) + b"before!!" + struct.pack(">i", size), [1]) == [b"before!!"]
    assert isinstance(reader.failure, Invalid)
    assert "is not possible" in str(reader.failure)


@pytest.mark.parametrize("size", [LIMIT + 1, 2**31 - 1])
def test_a_size_above_the_limit_is_too_large(size: int) -> None:
    reader = FrameReader(memoryview(bytearray(64)), LIMIT)
    assert feed(reader, struct.pack(">i", size), [4]) == []
    assert isinstance(reader.failure, TooLarge)
    assert "socket.request.max.bytes" in str(reader.failure)


@pytest.mark.parametrize("came", [0, 12, 100, 5_000, 40_000, 300_000, 3_000_000])
def test_memory_follows_what_came_not_what_was_claimed(came: int) -> None:
    """As the reader comes: with the bounds and the scratch that a listener gives it."""
    reader = FrameReader(memoryview(bytearray(SCRATCH_BYTES)), 2**31 - 1)
    tracemalloc.start()
    try:
        feed(reader, struct.pack(">i", 2**30) + b"x" * came, [65_536])
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    bound = max(FRAME_BYTES_FIRST, min(GROWTH * came, FRAME_BYTES_LEAP), came)
    assert came <= reader.held <= bound
    assert held <= bound + 1024


def test_a_large_frame_is_never_copied_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Growing by copies held up the event loop for a tenth of a second; a mapping takes memory as it is written."""
    made: list[int] = []
    mapped = mmap.mmap

    def counted(number: int, size: int) -> mmap.mmap:
        made.append(size)
        return mapped(number, size)

    monkeypatch.setattr("hotlog.wire.frame.mmap.mmap", counted)
    body = bytes(range(256)) * 80_000
    reader = FrameReader(memoryview(bytearray(SCRATCH_BYTES)), 2**31 - 1)
    frames = feed(reader, struct.pack(">i", len(body)) + body, [SCRATCH_BYTES])
    assert [bytes(frame) == body for frame in frames] == [True]
    assert made == [len(body) + SLACK_BYTES]
    assert reader.held == 0


def test_a_large_frame_is_received_where_no_mapping_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(number: int, size: int) -> mmap.mmap:
        raise OSError(errno.ENOMEM, "no address space")

    monkeypatch.setattr("hotlog.wire.frame.mmap.mmap", refused)
    body = bytes(range(256)) * 40_000
    reader = FrameReader(memoryview(bytearray(SCRATCH_BYTES)), 2**31 - 1)
    assert [bytes(each) == body for each in feed(reader, struct.pack(">i", len(body)) + body, [SCRATCH_BYTES])] == [True]


@pytest.mark.parametrize("size", [1_000_000, 2_000_000])
def test_a_usual_produce_request_is_received_into_place(size: int) -> None:
    """A scratch full of it came: then it has its buffer, and nothing is copied again."""
    reader = FrameReader(memoryview(bytearray(SCRATCH_BYTES)), 2**31 - 1)
    data = struct.pack(">i", size) + b"x" * (SCRATCH_BYTES - 4)
    assert feed(reader, data, [SCRATCH_BYTES]) == []
    assert reader.held == size
