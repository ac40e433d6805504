"""Whatever a door takes is decoded: header names that are not UTF-8, missing timestamps, Java's large zstd windows."""

from __future__ import annotations

import contextlib
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotlog.kernel.errors import InvalidRecord
from hotlog.wire import patient_records
from hotlog.wire.batch import BATCH_HEADER_BYTES, header_at
from hotlog.wire.records import decode_batch, name_bytes, name_text
from tests.fixtures.raw_batch import CODEC_NUMBERS, RawRecord, raw_batch, zstd
from tiering.export.columns import headers_array
from tiering.replay.sinks import json_line

LATIN = b"caf\xe9"
MiB = 1024 * 1024


@pytest.mark.parametrize("codec", CODEC_NUMBERS)
def test_a_header_name_that_is_not_utf8_is_decoded_and_keeps_its_bytes(codec: str) -> None:
    records = [RawRecord(5, b"k", None), RawRecord(7, None, b"v", ((LATIN, b"1"), ("é".encode(), None)))]
    found = decode_batch(raw_batch(records, codec, base_offset=40))
    assert [(r.offset, r.timestamp, r.key, r.value) for r in found] == [(40, 5, b"k", None), (41, 7, None, b"v")]
    assert [(name_bytes(name), value) for name, value in found[1].headers] == [(LATIN, b"1"), ("é".encode(), None)]


def test_such_a_name_is_base64_where_only_text_can_be() -> None:
    (record,) = decode_batch(raw_batch([RawRecord(headers=((LATIN, b"1"), (b"plain", b"\xff")))]))
    assert json.loads(json_line(0, record))["headers"] == [[{"base64": "Y2Fm6Q=="}, "1"], ["plain", {"base64": "/w=="}]]
    assert headers_array([record.headers]).to_pylist() == [
        [{"key": "base64:Y2Fm6Q==", "value": b"1"}, {"key": "plain", "value": b"\xff"}]
    ]
    assert name_text("é") == "é"


def test_a_record_without_a_timestamp_says_minus_one() -> None:
    """The compiled decoder says None, which no search by time can compare."""
    assert [r.timestamp for r in decode_batch(raw_batch([RawRecord(-1), RawRecord(9), RawRecord(-1)]))] == [-1, 9, -1]


def test_a_zstd_window_of_javas_highest_levels_is_read() -> None:
    value = os.urandom(MiB)
    batch = raw_batch([RawRecord(value=value)], "zstd", compress=lambda data: zstd(data, window_log=27, level=1))
    assert decode_batch(batch)[0].value == value


_RAW = st.builds(
    RawRecord,
    timestamp=st.integers(-1, 2**62),
    key=st.none() | st.binary(max_size=9),
    value=st.none() | st.binary(max_size=200),
    attributes=st.integers(0, 127),
    delta=st.none(),
    headers=st.lists(st.tuples(st.text(max_size=4).map(str.encode), st.none() | st.binary(max_size=5)), max_size=3),
)


@given(records=st.lists(_RAW, min_size=1, max_size=6))
def test_both_decoders_say_the_same(records: list[RawRecord]) -> None:
    batch = raw_batch(records, base_offset=3)
    patient = patient_records.decode(header_at(batch), memoryview(batch)[BATCH_HEADER_BYTES:])
    assert [(r.offset, r.timestamp, r.key, r.value, r.headers) for r in decode_batch(batch)] == [
        (r.offset, r.timestamp, r.key, r.value, r.headers) for r in patient
    ]


@given(records=st.lists(_RAW, min_size=1, max_size=3), position=st.integers(0, 300), byte=st.integers(0, 255))
def test_the_patient_decoder_takes_it_or_says_what_is_wrong(records: list[RawRecord], position: int, byte: int) -> None:
    batch = raw_batch(records)
    batch[BATCH_HEADER_BYTES + position % (len(batch) - BATCH_HEADER_BYTES)] = byte
    with contextlib.suppress(InvalidRecord):
        assert len(patient_records.decode(header_at(batch), memoryview(batch)[BATCH_HEADER_BYTES:])) == len(records)
