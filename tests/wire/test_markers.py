"""Control batches: Kafka's bytes, and back."""

from __future__ import annotations

import struct

import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from hotlog.kernel.errors import Corrupt
from hotlog.wire.batch import crc_ok, header_at
from hotlog.wire.markers import MARKER_BYTES, Marker, encode_marker, marker_of

MARKERS = st.builds(Marker, st.integers(0, 2**63 - 1), st.integers(0, 2**15 - 1), st.integers(0, 2**31 - 1), st.booleans())

# MemoryRecords.withEndTransactionMarker(1700000000000, 7, 3, new EndTransactionMarker(COMMIT, 9)) of Kafka 4.3
KAFKAS = bytes.fromhex(
    "0000000000000000" "00000042" "ffffffff" "02" "00000000" "0030" "00000000" "0000018bcfe56800" "0000018bcfe56800"
    "0000000000000007" "0003" "ffffffff" "00000001" "200000000800000001" "0c000000000009" "00"
)  # fmt: skip


def test_a_marker_is_kafkas() -> None:
    made = encode_marker(Marker(7, 3, 9, is_commit=True), 1_700_000_000_000)
    assert crc_ok(memoryview(made))
    struct.pack_into(">I", made, 17, 0)
    assert bytes(made) == KAFKAS


@given(MARKERS, st.integers(0, 2**48))
def test_what_is_written_is_read(marker: Marker, at_ms: int) -> None:
    batch = encode_marker(marker, at_ms)
    header = header_at(batch)
    assert (len(batch), header.size) == (MARKER_BYTES, MARKER_BYTES)
    assert (header.is_control, header.is_transactional, header.max_timestamp) == (True, True, at_ms)
    assert crc_ok(memoryview(batch))
    assert marker_of(batch) == marker


def test_a_control_batch_without_its_record_says_nothing() -> None:
    batch = encode_marker(Marker(7, 3, 9, is_commit=False), 0)[:61]
    struct.pack_into(">i", batch, 8, 49)
    struct.pack_into(">i", batch, 57, 0)
    assert marker_of(batch) is None


@given(st.integers(61, MARKER_BYTES - 1), st.integers(0, 255))
def test_a_damaged_marker_is_told_or_read_as_it_is(at: int, byte: int) -> None:
    batch = encode_marker(Marker(7, 3, 9, is_commit=False), 0)
    batch[at] = byte
    struct.pack_into(">I", batch, 17, crc32c(bytes(batch[21:])))
    try:
        found = marker_of(batch)
    except Corrupt:
        return
    assert found is None or found.producer_id == 7


def test_a_marker_that_is_cut_off_is_corrupt() -> None:
    with pytest.raises(Corrupt):
        marker_of(encode_marker(Marker(7, 3, 9, is_commit=False), 0)[:70])
