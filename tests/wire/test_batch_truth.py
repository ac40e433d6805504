"""The door's look into a batch: what its header claims is held against its records, with every codec, in every room."""

from __future__ import annotations

import os
import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotlog.kernel.errors import CrcMismatch, InvalidRecord, InvalidTimestamp, TooLarge
from hotlog.wire.batch import CRC_INLINE_BYTES_MAX, crc_ok, header_at
from hotlog.wire.inspect import FAULTS_MAX, INLINE, THREAD, Room, alone, inspect
from hotlog.wire.record_walk import LARGE_RECORD_BYTES, Walk, walk_by_decoder
from hotlog.wire.records import decode_batch
from tests.fixtures.raw_batch import CODEC_NUMBERS, RawRecord, raw_batch, zstd
from tests.fixtures.walks import walk
from tests.wire.test_records import ALONE, ANY, Rules, look

MiB = 1024 * 1024
NOW = 1_700_000_000_000
__all__ = ["walk"]  # a fixture
pytestmark = pytest.mark.usefixtures("walk")
codecs = pytest.mark.parametrize("codec", CODEC_NUMBERS)


@codecs
@pytest.mark.parametrize("claim", [-1, 0, 1, NOW - 1, NOW + 10**9, 2**62])
def test_the_largest_timestamp_is_what_the_records_say(codec: str, claim: int) -> None:
    batch = raw_batch([RawRecord(NOW - 3), RawRecord(NOW), RawRecord(NOW - 9)], codec, max_timestamp=claim)
    header = look(batch)
    assert header is not None
    assert header == header_at(batch)
    assert header.max_timestamp == NOW
    assert crc_ok(memoryview(batch))
    assert [r.timestamp for r in decode_batch(batch)] == [NOW - 3, NOW, NOW - 9]


@codecs
def test_what_clients_say_of_records_without_a_timestamp(codec: str) -> None:
    """librdkafka sends base timestamp -1 and largest 0, Sarama up to 1.45 a largest of -1."""
    header = look(raw_batch([RawRecord(-1)] * 5, codec, max_timestamp=0))
    assert header is not None
    assert header.max_timestamp == -1
    header = look(raw_batch([RawRecord(NOW)] * 5, codec, max_timestamp=-1))
    assert header is not None
    assert header.max_timestamp == NOW


def test_an_honest_batch_is_left_as_it_is() -> None:
    batch = raw_batch([RawRecord(NOW)])
    before, header = bytes(batch), header_at(batch)
    assert inspect(memoryview(batch), header, ANY, 0, INLINE) is header
    assert bytes(batch) == before


@codecs
@pytest.mark.parametrize("room", [INLINE, THREAD, ALONE])
@pytest.mark.parametrize("count", [1, 40, 61, 1000])
def test_a_count_that_is_not_the_records_is_refused(codec: str, room: Room, count: int) -> None:
    with pytest.raises(InvalidRecord, match=r"records|malformed record"):
        look(raw_batch([RawRecord(value=b"x" * 40)] * 60, codec, count=count), room)


@codecs
@pytest.mark.parametrize("deltas", [(0, 0, 1), (0, 2, 3), (1, 2, 3), (0, 2, 1), (0, 1, -1)])
def test_offsets_that_do_not_follow_each_other_are_refused(codec: str, deltas: tuple[int, ...]) -> None:
    with pytest.raises(InvalidRecord, match="says that its offset is"):
        look(raw_batch([RawRecord(delta=delta) for delta in deltas], codec))


@codecs
@pytest.mark.parametrize("is_refused", [False, True])
def test_many_headers_are_not_read_in_plain_python_on_the_loop(codec: str, is_refused: bool) -> None:
    """Half a million of them fit in a batch of the size that a topic takes by default, and took a second."""
    rules = Rules(NOW - 1000, NOW + 100, False, False)
    time = NOW - 1001 if is_refused else NOW
    batch = raw_batch([RawRecord(time, headers=((b"", None),) * 200)] * 2, codec, base_timestamp=NOW, max_timestamp=NOW)
    if is_refused:
        assert look(batch, INLINE, rules) is None
        with pytest.raises(InvalidTimestamp):
            look(batch, THREAD, rules)
    else:
        assert look(batch, INLINE, rules) is not None, "a walk reads them"


@codecs
def test_limits_hold_for_every_record_and_say_which(codec: str) -> None:
    rules = Rules(NOW - 1000, NOW + 100, False, False)
    times = [NOW - 1000, NOW - 1001, NOW, -1, NOW + 101, NOW + 100]
    batch = raw_batch([RawRecord(each) for each in times], codec, base_timestamp=NOW, max_timestamp=NOW)
    with pytest.raises(InvalidTimestamp) as caught:
        look(batch, rules=rules)
    assert [index for index, _ in caught.value.faults] == [1, 4]
    assert str(NOW + 101) in caught.value.faults[1][1]
    assert look(batch, rules=rules._replace(is_log_append_time=True)) is not None


@codecs
@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("wrong", [NOW - 1001, NOW + 101, 0, 2**62])
def test_one_record_outside_the_limits_is_enough(codec: str, at: int, wrong: int) -> None:
    rules = Rules(NOW - 1000, NOW + 100, False, False)
    times = [NOW, NOW, NOW]
    times[at] = wrong
    batch = raw_batch([RawRecord(each) for each in times], codec, base_timestamp=NOW, max_timestamp=NOW)
    with pytest.raises(InvalidTimestamp) as caught:
        look(batch, rules=rules)
    assert [index for index, _ in caught.value.faults] == [at]


@codecs
def test_a_producers_word_that_the_broker_has_set_the_time_is_not_taken(codec: str) -> None:
    """With CreateTime Kafka takes the mark away and the records' own timestamps count."""
    batch = raw_batch([RawRecord(NOW - 3), RawRecord(NOW - 1)], codec, attributes=8, max_timestamp=NOW + 99)
    header = look(batch)
    assert header == header_at(batch)
    assert header is not None
    assert (header.is_log_append_time, header.max_timestamp, crc_ok(memoryview(batch))) == (False, NOW - 1, True)
    batch = raw_batch([RawRecord(NOW)] * 2, codec, attributes=8)
    with pytest.raises(InvalidTimestamp) as caught:
        look(batch, rules=ANY._replace(is_log_append_time=True))
    assert [index for index, _ in caught.value.faults] == [0, 1]


@codecs
def test_a_record_without_a_key_is_named_where_keys_are_needed(codec: str) -> None:
    batch = raw_batch([RawRecord(), RawRecord(key=None), RawRecord(key=b""), RawRecord(key=None)], codec)
    with pytest.raises(InvalidRecord, match="compacted") as caught:
        look(batch, rules=ANY._replace(is_compacted=True))
    assert [index for index, _ in caught.value.faults] == [1, 3]
    assert look(batch) is not None
    batch = raw_batch([RawRecord(key=None), RawRecord(NOW)], codec)
    with pytest.raises(InvalidTimestamp) as late:
        look(batch, rules=ANY._replace(is_compacted=True, latest=NOW - 1))
    assert [index for index, _ in late.value.faults] == [0, 1]


def test_no_more_records_are_named_than_an_answer_has_room_for() -> None:
    with pytest.raises(InvalidRecord) as caught:
        look(raw_batch([RawRecord(key=None)] * 3000), rules=ANY._replace(is_compacted=True))
    assert len(caught.value.faults) == FAULTS_MAX


@codecs
def test_odd_but_right_batches_pass(codec: str, walk: Walk) -> None:
    """What the compiled decoder refuses and Kafka takes."""
    batch = raw_batch([RawRecord(NOW, headers=((b"caf\xe9", b"1"),)), RawRecord(NOW + 5, attributes=127)], codec, max_timestamp=3)
    header = look(batch, INLINE)
    assert header is not None
    assert header.max_timestamp == NOW + 5
    with pytest.raises(InvalidRecord, match="attributes"):  # two decoders would read two records
        look(raw_batch([RawRecord(NOW, attributes=-1)], codec))
    long = look(raw_batch([RawRecord(NOW, headers=((b"caf\xe9", None),))] * 100, codec), INLINE)
    assert (long is None) == (walk is walk_by_decoder), "too long in plain Python; the native walk needs none"


@pytest.mark.parametrize("size", [LARGE_RECORD_BYTES // 2, LARGE_RECORD_BYTES * 2])
@pytest.mark.parametrize("last", [b"\x00", b"\xff"])
def test_large_records_and_odd_endings_are_looked_into(size: int, last: bytes) -> None:
    batch = raw_batch([RawRecord(NOW + i, value=bytes(size), headers=((b"h", last),)) for i in range(3)], max_timestamp=1)
    header = look(batch)
    assert header is not None
    assert header.max_timestamp == NOW + 2
    batch[-1] ^= 1
    struct.pack_into(">i", batch, 57, 2)
    struct.pack_into(">i", batch, 23, 1)
    with pytest.raises(InvalidRecord):
        look(batch)


def test_what_is_too_much_for_a_room_is_left_to_a_larger_one() -> None:
    noise = random.Random(3).randbytes(MiB)
    packed = raw_batch([RawRecord(value=noise)], "lz4")
    assert look(packed, INLINE) is None
    assert look(packed, THREAD) is not None
    swollen = raw_batch([RawRecord(value=bytes(2 * MiB))], "zstd")
    assert look(swollen, INLINE) is None
    assert look(swollen, THREAD) is not None
    for codec in ("gzip", "snappy", "lz4", "zstd"):
        huge = raw_batch([RawRecord(value=bytes(17 * MiB))], codec)
        assert look(huge, THREAD) is None
        assert look(huge, ALONE) is not None
        with pytest.raises(TooLarge):
            look(huge, alone(16 * MiB))


def test_javas_large_zstd_windows_pass_alone() -> None:
    for window_log in (24, 27):
        batch = raw_batch([RawRecord(value=b"x" * MiB)], "zstd", compress=lambda data, log=window_log: zstd(data, log))  # type: ignore[misc]
        assert look(batch, INLINE) is None
        assert look(batch, THREAD) is None
        assert look(batch, ALONE) is not None
    with pytest.raises(InvalidRecord, match="window"):
        look(raw_batch([RawRecord()], "zstd", compress=lambda data: zstd(data, 28)))


def test_a_large_batch_has_its_crc_checked_with_the_rest() -> None:
    batch = raw_batch([RawRecord(value=os.urandom(CRC_INLINE_BYTES_MAX))])
    assert look(batch, INLINE) is None
    assert look(batch, THREAD) is not None
    batch[-100] ^= 1
    with pytest.raises(CrcMismatch):
        look(batch, THREAD)


_RAW = st.builds(
    RawRecord,
    timestamp=st.integers(-5, 5) | st.integers(-(2**62), 2**62),
    key=st.none() | st.binary(max_size=9),
    value=st.none() | st.binary(max_size=200),
    headers=st.lists(st.tuples(st.binary(max_size=4), st.none() | st.binary(max_size=5)), max_size=3),
    delta=st.none(),
    attributes=st.integers(0, 127),
)


@given(
    records=st.lists(_RAW, min_size=1, max_size=9),
    codec=st.sampled_from(list(CODEC_NUMBERS)),
    claim=st.integers(-(2**63), 2**63 - 1),
    base=st.none() | st.integers(-(2**62), 2**62),
)
def test_any_batch_of_records_passes_and_then_says_the_truth(
    records: list[RawRecord], codec: str, claim: int, base: int | None
) -> None:
    batch = raw_batch(records, codec, max_timestamp=claim, base_timestamp=base)
    header = look(batch)
    assert header == header_at(batch)
    assert header is not None
    assert header.max_timestamp == max(-1, *(r.timestamp for r in records))
    assert crc_ok(memoryview(batch))
    assert [(r.timestamp, r.key, r.value) for r in decode_batch(batch)] == [(r.timestamp, r.key, r.value) for r in records]


@given(records=st.lists(_RAW, min_size=1, max_size=5), position=st.integers(0, 900), byte=st.integers(0, 255))
def test_whatever_passes_is_decoded_to_what_the_header_says(records: list[RawRecord], position: int, byte: int) -> None:
    batch = raw_batch(records)
    batch[61 + position % (len(batch) - 61)] = byte
    try:
        header = look(batch)
    except InvalidRecord:
        return
    assert header is not None
    found = decode_batch(batch)
    assert [r.offset for r in found] == list(range(len(records)))
    assert header.max_timestamp == max(-1, *(r.timestamp for r in found))
