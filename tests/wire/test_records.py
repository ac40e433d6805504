"""Records inside a batch: every codec both ways, decompression within limits, garbage refused."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc
from typing import NamedTuple

import cramjam
import lz4.frame
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from hotlog.kernel.errors import Corrupt, InvalidRecord, TooLarge
from hotlog.wire import batch as batches
from hotlog.wire.batch import CODECS, BatchHeader, check_produced, header_at
from hotlog.wire.inspect import INLINE, THREAD, Room, alone, inspect
from hotlog.wire.records import NewRecord, decode_batch, decompress, encode_batch

MiB = 1024 * 1024
RECORDS = [
    NewRecord(1_000 + i, b"k%d" % i if i % 3 else None, b"v%d" % i * 9 if i % 5 else None, (("h", b"x"),)) for i in range(90)
]


class Rules(NamedTuple):
    """What a topic asks of records, its limits on timestamps as they are at time 0."""

    earliest: int
    latest: int
    is_log_append_time: bool
    is_compacted: bool

    @property
    def timestamp_before_max_ms(self) -> int:
        return -self.earliest

    @property
    def timestamp_after_max_ms(self) -> int:
        return self.latest


ANY = Rules(-(2**63), 2**63, False, False)
ALONE = alone(128 * MiB)


def look(batch: bytearray, room: Room = ALONE, rules: Rules = ANY) -> BatchHeader | None:
    """What the door makes of a batch."""
    return inspect(memoryview(batch), header_at(batch), rules, 0, room)


def resealed(batch: bytearray) -> bytearray:
    """The batch with length and CRC as they are now."""
    struct.pack_into(">i", batch, 8, len(batch) - 12)
    struct.pack_into(">I", batch, 17, batches.crc32c(bytes(batch[21:])))
    return batch


def with_body(codec: int, body: bytes, count: int) -> bytearray:
    """A batch of `codec` whose records section is `body`, sealed, saying it has `count` records."""
    batch = encode_batch([NewRecord(1, None, b"x")])[:61]
    struct.pack_into(">h", batch, 21, codec)
    struct.pack_into(">i", batch, 23, count - 1)
    struct.pack_into(">i", batch, 57, count)
    return resealed(bytearray(batch + body))


@pytest.mark.parametrize("codec", CODECS.values())
def test_what_is_encoded_is_decoded(codec: str) -> None:
    batch = encode_batch(RECORDS, codec, base_offset=500, leader_epoch=3)
    found = decode_batch(memoryview(batch))
    assert [(r.offset, r.timestamp, r.key, r.value, tuple(r.headers)) for r in found] == [
        (500 + i, r.timestamp, r.key, r.value, r.headers) for i, r in enumerate(RECORDS)
    ]
    header = header_at(batch)
    assert CODECS[header.codec] == codec
    assert header.leader_epoch == 3
    assert look(batch) == header
    struct.pack_into(">q", batch, 0, 0)
    assert check_produced(memoryview(batch), batch_bytes_max=MiB) == [header._replace(base_offset=0)]


def test_offset_deltas_may_leave_gaps() -> None:
    batch = encode_batch([NewRecord(5, None, b"a", offset_delta=3), NewRecord(6, None, b"b", offset_delta=9)], base_offset=10)
    assert [record.offset for record in decode_batch(batch)] == [13, 19]


@pytest.mark.parametrize("codec", CODECS.values())
@settings(max_examples=60, deadline=None)
@given(position=st.integers(0, 2000), bit=st.integers(0, 7))
def test_a_flipped_bit_in_the_records_is_refused_or_harmless(codec: str, position: int, bit: int) -> None:
    batch = encode_batch(RECORDS, codec)
    batch[61 + position % (len(batch) - 61)] ^= 1 << bit
    with contextlib.suppress(InvalidRecord, TooLarge):
        assert len(decode_batch(batch)) == len(RECORDS)


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
@pytest.mark.parametrize("cut", [1, 4, 40])
def test_a_cut_off_stream_is_refused(codec: str, cut: int) -> None:
    batch = resealed(encode_batch(RECORDS, codec)[:-cut])
    with pytest.raises(InvalidRecord):
        decode_batch(batch)
    with pytest.raises(InvalidRecord):
        look(batch)


@given(junk=st.binary(min_size=61, max_size=200))
def test_junk_is_refused(junk: bytes) -> None:
    with contextlib.suppress(Corrupt, TooLarge):
        decode_batch(junk)


def bomb(codec: int, size: int) -> bytes:
    zeros = bytes(size)
    if codec == 1:
        return bytes(cramjam.gzip.compress(zeros, level=9))
    if codec == 2:
        return bytes(cramjam.snappy.compress_raw(zeros))
    if codec == 3:
        return bytes(lz4.frame.compress(zeros))
    return zstandard.ZstdCompressor(19).compress(zeros)


@pytest.mark.parametrize("codec", [1, 2, 3, 4])
def test_a_bomb_is_stopped_without_its_memory(codec: int) -> None:
    body = bomb(codec, 160 * MiB)
    batch = with_body(codec, body, 10)
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge, match=r"decompresses to more|says it holds"):
            look(batch, alone(16 * MiB))
        assert tracemalloc.get_traced_memory()[1] < 70 * MiB
        assert look(batch, THREAD) is None
        assert tracemalloc.get_traced_memory()[1] < 70 * MiB
    finally:
        tracemalloc.stop()


def test_a_bomb_is_handed_off_the_loop_early() -> None:
    batch = with_body(4, bomb(4, 64 * MiB), 10)
    assert len(batch) < 32 * 1024
    tracemalloc.start()
    try:
        assert look(batch, INLINE) is None
        assert tracemalloc.get_traced_memory()[1] < 34 * MiB + INLINE.output_bytes
    finally:
        tracemalloc.stop()


def test_a_zstd_window_above_the_limit_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=28, compression_level=1)
    frame = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    body = frame.compress(b"x" * MiB) + frame.flush()
    with pytest.raises(InvalidRecord, match=r"memory|window"):
        decompress(4, body)


def test_snappy_blocks_of_the_java_framing_are_read() -> None:
    blocks = [cramjam.snappy.compress_raw(b"a" * 1000), cramjam.snappy.compress_raw(b"b" * 10)]
    framed = b"\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01" + b"".join(struct.pack(">i", len(b)) + bytes(b) for b in blocks)
    assert bytes(decompress(2, framed)) == b"a" * 1000 + b"b" * 10


@pytest.mark.parametrize("codec", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("count", [1_000_000, 2])
def test_counts_that_cannot_be_are_refused(codec: int, count: int) -> None:
    one = encode_batch([NewRecord(1, None, b"value")])
    body = bytes(one[61:])
    if codec:
        body = bytes(encode_batch([NewRecord(1, None, b"value")], codec)[61:])
    batch = with_body(codec, body, count)
    with pytest.raises(InvalidRecord, match=r"records|malformed record"):
        look(batch)


def test_a_record_that_says_another_length_is_refused() -> None:
    batch = with_body(0, b"\x7f" + bytes(20), 1)
    with pytest.raises(InvalidRecord, match=r"malformed record"):
        look(batch)
