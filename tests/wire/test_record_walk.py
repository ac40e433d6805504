"""Two walks over a batch's records, the native one and the one that stands in for it, held against plain Python."""

from __future__ import annotations

import struct
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hotlog.kernel.errors import InvalidRecord
from hotlog.kernel.limits import BATCH_HEADER_BYTES
from hotlog.wire import patient_records, record_walk
from hotlog.wire.batch import header_at
from hotlog.wire.inspect import INLINE
from hotlog.wire.record_walk import LARGE_RECORD_BYTES, NEWEST_OF_NONE, OLDEST_OF_NONE, walk_by_decoder
from tests.fixtures.raw_batch import RawRecord, raw_batch, varint
from tests.fixtures.walks import native_or_skip, walk

__all__ = ["walk"]  # a fixture
NOW = 1_700_000_000_000
Said = tuple[int, int, bool] | None


def patiently(batch: bytes | bytearray) -> Said:
    """What plain Python says of the same records."""
    header = header_at(batch)
    try:
        found = list(patient_records.outlines(memoryview(batch)[BATCH_HEADER_BYTES:], header.record_count))
    except InvalidRecord:
        return None
    if [each.offset_delta for each in found] != list(range(len(found))):
        return None
    times = [patient_records.time_after(header.base_timestamp, each.timestamp_delta) for each in found]
    times = [time for time in times if time != -1]
    lacks_key = any(each.key is None for each in found)
    return min(times, default=OLDEST_OF_NONE), max(times, default=NEWEST_OF_NONE), lacks_key


def said_by(walk: record_walk.Walk, batch: bytes | bytearray) -> Said:
    header = header_at(batch)
    return walk(memoryview(batch), header.record_count, header.base_timestamp)


def padded(value: int, width: int) -> bytes:
    """A zigzag varint in more bytes than it needs."""
    number = varint(value)
    if width <= len(number):
        return number
    return bytes(byte | 0x80 for byte in number) + b"\x80" * (width - len(number) - 1) + b"\x00"


_VALUE = st.none() | st.binary(max_size=90)
_RAW = st.builds(
    RawRecord,
    timestamp=st.integers(-3, 3) | st.integers(-(2**62), 2**62),
    key=_VALUE,
    value=_VALUE,
    headers=st.lists(st.tuples(st.binary(max_size=4), _VALUE), max_size=3),
    delta=st.none() | st.integers(-1, 3),
    attributes=st.integers(-128, 127),
)


@st.composite
def _odd_sections(draw: st.DrawFn) -> tuple[int, bytes]:
    """A section as nobody writes it: numbers wider than need be or too wide, sizes that are wrong, bytes that mean nothing."""
    widths = st.integers(1, 11)
    off = st.sampled_from([0] * 12 + [-1, 1, 2**31, 2**34])

    def number(value: int) -> bytes:
        return padded(value + draw(off), draw(widths))

    section = b""
    count = draw(st.integers(1, 4))
    for index in range(count):
        body = bytes([draw(st.integers(0, 127))]) + number(draw(st.integers(-(2**63), 2**63 - 1))) + number(index)
        for _ in range(2):
            part = draw(st.binary(max_size=5))
            body += number(len(part)) + part
        headers = draw(st.integers(0, 2))
        body += number(headers) + (number(1) + b"h" + number(-1)) * headers
        section += number(len(body)) + body
    return count, section + draw(st.sampled_from([b"", b"", b"\x00", b"\xff"]))


@settings(max_examples=400)
@given(records=st.lists(_RAW, min_size=1, max_size=6), base=st.integers(-(2**62), 2**62))
def test_the_native_walk_says_what_plain_python_says(records: list[RawRecord], base: int) -> None:
    batch = raw_batch(records, base_timestamp=base)
    assert said_by(native_or_skip(), batch) == patiently(batch)


@settings(max_examples=400)
@given(
    records=st.lists(_RAW, min_size=1, max_size=4), position=st.integers(0, 900), byte=st.integers(0, 255), cut=st.integers(0, 9)
)
def test_so_it_does_of_bytes_that_are_wrong(records: list[RawRecord], position: int, byte: int, cut: int) -> None:
    batch = raw_batch(records)
    batch[BATCH_HEADER_BYTES + position % (len(batch) - BATCH_HEADER_BYTES)] = byte
    del batch[max(len(batch) - cut, BATCH_HEADER_BYTES) :]
    assert said_by(native_or_skip(), batch) == patiently(batch)


@settings(max_examples=600)
@given(odd=_odd_sections(), base=st.integers(-(2**63), 2**63 - 1))
@example(odd=(1, b"\x20" + b"\x00" + b"\x80" * 9 + b"\x7f" + b"\x00\x01\x01\x00"), base=5)  # a tenth byte of more bits than 64
@example(odd=(1, b"\x0e\x00\x00\x00\x01\x01\x00\x00"), base=0)  # a byte behind the headers
@example(odd=(1, b"\x00"), base=0)
@example(odd=(1, b""), base=0)
def test_so_it_does_of_numbers_that_nobody_writes(odd: tuple[int, bytes], base: int) -> None:
    count, section = odd
    batch = raw_batch([RawRecord()])[:BATCH_HEADER_BYTES] + section
    struct.pack_into(">i", batch, 57, count)
    struct.pack_into(">q", batch, 27, base)
    assert said_by(native_or_skip(), batch) == patiently(batch)


@given(st.binary(max_size=60), st.integers(-1, 5))
def test_so_it_does_of_noise(section: bytes, count: int) -> None:
    batch = raw_batch([RawRecord()])[:BATCH_HEADER_BYTES] + section
    struct.pack_into(">i", batch, 57, count)
    assert said_by(native_or_skip(), batch) == patiently(batch)


@given(records=st.lists(_RAW, min_size=1, max_size=6), codec_mark=st.sampled_from([0, 8]))
def test_the_other_walk_says_the_same_or_nothing(records: list[RawRecord], codec_mark: int) -> None:
    batch = raw_batch(records, attributes=codec_mark)
    assert said_by(walk_by_decoder, batch) in (patiently(batch), None)


@pytest.mark.parametrize("count", [1, 2, 255, 256, 257, 600])
def test_both_take_what_is_right(walk: record_walk.Walk, count: int) -> None:
    """And neither needs plain Python for it."""
    times = [NOW - 5, NOW + 9, *[NOW] * count][:count]
    batch = raw_batch([RawRecord(each, None if i == 0 else b"k", headers=((b"h", b"\xff"),)) for i, each in enumerate(times)])
    assert said_by(walk, batch) == (min(times), max(times), True)
    assert said_by(walk, raw_batch([RawRecord(-1)] * count)) == (OLDEST_OF_NONE, NEWEST_OF_NONE, False)
    struct.pack_into(">i", batch, 57, count + 1)
    assert said_by(walk, batch) is None


def test_only_the_native_one_takes_names_that_are_not_utf8_and_large_records() -> None:
    named = raw_batch([RawRecord(NOW, headers=((b"caf\xe9", None),))] * 100)
    large = raw_batch([RawRecord(NOW, value=bytes(LARGE_RECORD_BYTES))])
    for batch in (named, large):
        assert said_by(walk_by_decoder, batch) is None
        assert said_by(native_or_skip(), batch) == patiently(batch) != None  # noqa: E711


@pytest.mark.parametrize("count", [500_000, 1])
def test_the_native_walk_lets_the_interpreter_go_for_a_large_batch(count: int) -> None:
    """Nobody else would run while it holds it, since nobody is ever told to give it up here."""
    native = native_or_skip()
    headers = ((b"", None),) * (500_000 // count - 1)  # many records, or one of many headers
    batch = memoryview(raw_batch([RawRecord(NOW, None, b"x", headers)] * count))

    def another_ran_meanwhile() -> bool:
        begun, others_turn, seen = threading.Event(), threading.Event(), []

        def walks() -> None:
            begun.set()
            assert native(batch, count, NOW) is not None
            seen.append(others_turn.is_set())

        thread = threading.Thread(target=walks)
        thread.start()
        begun.wait()
        others_turn.set()
        thread.join()
        return seen == [True]

    interval = sys.getswitchinterval()
    try:
        sys.setswitchinterval(60)
        # A busy machine may be slower to give the other a core than the walk is, so it is asked again: who holds on never says yes.
        assert any(another_ran_meanwhile() for _ in range(1000))
    finally:
        sys.setswitchinterval(interval)


def test_the_other_leaves_it_to_others_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred thousand records in one piece would hold it for tens of milliseconds."""
    pauses: list[float] = []
    monkeypatch.setattr(record_walk, "time", SimpleNamespace(sleep=pauses.append))
    said_by(walk_by_decoder, raw_batch([RawRecord(NOW, None, b"x")] * 100_000))
    assert len(pauses) > 10
    pauses.clear()
    said_by(walk_by_decoder, raw_batch([RawRecord(NOW, None, b"x")] * INLINE.records))
    assert not pauses


_FENCED = """
import ctypes, mmap, sys
from tests.fixtures.raw_batch import RawRecord, raw_batch
from tests.fixtures.walks import native_walk
walk, page = native_walk(), mmap.PAGESIZE
pages = mmap.mmap(-1, 2 * page)
at = ctypes.addressof(ctypes.c_char.from_buffer(pages))
assert ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(at + page), page, 0) == 0
records = [RawRecord(2**40, b"key", b"value" * 30, ((b"name", b"v" * 70),))] * 2 + [RawRecord(2**40)]
batch = raw_batch(records, base_timestamp=0)
for end in range(len(batch) + 1):
    for last in (batch[end - 1] if end else 0, 0x80, 0xFF):
        cut = batch[: max(end - 1, 0)] + bytes([last]) * min(end, 1)
        pages[page - len(cut) : page] = bytes(cut)
        view = memoryview(pages)[page - len(cut) : page]
        assert walk(view, 3, 0) == ((2**40, 2**40, False) if cut == batch else None), end
print("never beyond")
"""


def test_no_byte_beyond_the_batch_is_read() -> None:
    """A batch that ends where the next page may not be touched: cut off after every byte, the last one a number that goes on."""
    native_or_skip()
    done = subprocess.run([sys.executable, "-c", _FENCED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    assert done.stdout == "never beyond\n"


def test_wrong_arguments_raise() -> None:
    native = native_or_skip()
    for wrong in ((b"", 1), (b"", "1", 0), (b"", 1, 2**64), ("text", 1, 0)):
        with pytest.raises((TypeError, OverflowError)):
            native(*wrong)  # type: ignore[arg-type]
    assert native(memoryview(b"short"), 1, 0) is None
