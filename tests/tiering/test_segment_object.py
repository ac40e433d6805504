"""Segment objects: golden bytes, round trips, every bit flip, identity, look-ups; and the scan that makes them."""

from __future__ import annotations

from pathlib import Path
from random import Random
from uuid import UUID

import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from hotlog.kernel.errors import Corrupt, PreconditionFailed, UnknownVersion
from hotlog.kernel.ids import PartitionId
from hotlog.kernel.limits import CHUNK_BYTES
from hotlog.wire.batch import header_at, stamp, walk
from hotlog.wire.records import decode_batch
from hotlog.world.posix import PosixDisk
from tests.log.support import T0, batch
from tests.tiering.support import PID
from tiering.objects.segment import (
    FORMAT,
    TRAILER_BYTES,
    AbortedTransaction,
    Footer,
    FooterParts,
    Trailer,
    build_footer,
    check_identity,
    pack_aborted,
    pack_offset_index,
    pack_time_index,
    parse_footer,
    parse_leader_epochs,
    parse_trailer,
)
from tiering.upload.scan import ScanRange, SegmentSource, scan_segment

GOLDEN = Path(__file__).parent / "golden"
NONCE = "0f" * 16
LOG = bytes(range(200)) * 3


def footer_of(log: bytes = LOG, *, chunk_bytes: int = 256) -> bytes:
    crcs = [crc32c(log[at : at + chunk_bytes]) for at in range(0, len(log), chunk_bytes)]
    parts = FooterParts(
        pack_offset_index([(9, 100), (19, 300)]), pack_time_index([(T0, 3), (T0 + 70, 15)]),
        pack_aborted([AbortedTransaction(5, 100, 104, 105)]), b"snapshot bytes", b"0\n1\n7 100\n", crcs,
    )  # fmt: skip
    about = Trailer(
        pid=PID, base_offset=100, end_offset=130, epoch=7, nonce=NONCE, log_bytes=len(log), log_crc=crc32c(log), records=30,
        created_ms=T0 + 5, chunk_bytes=chunk_bytes,
    )  # fmt: skip
    return build_footer(parts, about)


def test_golden_footer_version_1() -> None:
    """The bytes of format version 1: written the same and read for ever."""
    golden = (GOLDEN / "segment-footer-v1.bin").read_bytes()
    assert footer_of() == golden
    footer = parse_footer(golden)
    assert footer.trailer.pid == PID
    assert (footer.trailer.base_offset, footer.trailer.end_offset, footer.trailer.epoch) == (100, 130, 7)
    assert (footer.trailer.nonce, footer.trailer.records, footer.trailer.created_ms) == (NONCE, 30, T0 + 5)
    assert footer.aborted == (AbortedTransaction(5, 100, 104, 105),)
    assert footer.producer_snapshot == b"snapshot bytes"
    assert parse_leader_epochs(footer.leader_epochs) == ((7, 100),)
    assert len(footer.chunk_crcs) == 3


def test_every_single_bit_flip_is_detected() -> None:
    raw = footer_of()
    for position in range(len(raw)):
        for bit in range(8):
            flipped = bytearray(raw)
            flipped[position] ^= 1 << bit
            with pytest.raises(Corrupt):
                parse_footer(bytes(flipped))


def test_a_newer_version_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    newer = FORMAT.version + 1
    with monkeypatch.context() as patch:
        patch.setattr(FORMAT, "version", newer)
        raw = footer_of()
    with pytest.raises(UnknownVersion, match=f"some/key: segment object has format version {newer}"):
        parse_footer(raw, where="some/key")


def test_every_truncation_is_detected() -> None:
    raw = footer_of()
    for length in range(len(raw)):
        with pytest.raises(Corrupt):
            parse_footer(raw[:length])
        with pytest.raises(Corrupt):
            parse_footer(raw[len(raw) - length :])


def is_chunk(footer: Footer, index: int, data: bytes) -> bool:
    try:
        footer.check_chunk(index, data)
    except Corrupt:
        return False
    return True


def test_every_bit_flip_of_the_log_fails_its_chunk() -> None:
    footer = parse_footer(LOG + footer_of())
    for index in range(3):
        chunk = LOG[index * 256 : (index + 1) * 256]
        assert is_chunk(footer, index, chunk)
        for position in range(0, len(chunk), 7):
            flipped = bytearray(chunk)
            flipped[position] ^= 1
            assert not is_chunk(footer, index, bytes(flipped))
        assert not is_chunk(footer, index, chunk[:-1])
    assert not is_chunk(footer, 3, b"")
    assert not is_chunk(footer, -1, LOG[:256])
    with pytest.raises(Corrupt, match="chunk 0"):
        footer.check_chunk(0, LOG[1:257])


@pytest.mark.parametrize(
    ("pid", "base", "end", "nonce"),
    [
        (PartitionId(UUID(int=1), 0), 100, 130, NONCE), (PartitionId(PID.topic_id, 1), 100, 130, NONCE),
        (PID, 99, 130, NONCE), (PID, 100, 131, NONCE), (PID, 100, 130, "1f" * 16),
    ],
)  # fmt: skip
def test_another_objects_bytes_are_recognised(pid: PartitionId, base: int, end: int, nonce: str) -> None:
    trailer = parse_trailer(footer_of())
    check_identity(trailer, PID, 100, 130, NONCE, where="it")
    with pytest.raises(Corrupt, match="the bytes are those of"):
        check_identity(trailer, pid, base, end, nonce, where="it")


@settings(max_examples=60, deadline=None)
@given(
    offsets=st.lists(st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1)), max_size=20),
    times=st.lists(st.tuples(st.integers(0, 2**62), st.integers(0, 2**31 - 1)), max_size=20),
    snapshot=st.binary(max_size=300),
    base=st.integers(0, 2**62),
    length=st.integers(1, 2**31),
    log=st.binary(min_size=1, max_size=900),
    before=st.binary(max_size=50),
)
def test_footers_go_round(
    offsets: list[tuple[int, int]],
    times: list[tuple[int, int]],
    snapshot: bytes,
    base: int,
    length: int,
    log: bytes,
    before: bytes,
) -> None:
    crcs = [crc32c(log[at : at + 128]) for at in range(0, len(log), 128)]
    parts = FooterParts(pack_offset_index(offsets), pack_time_index(times), b"", snapshot, b"", crcs)
    about = Trailer(
        pid=PID, base_offset=base, end_offset=base + length, epoch=0, nonce=NONCE, log_bytes=len(log), log_crc=crc32c(log),
        records=1, created_ms=0, chunk_bytes=128,
    )  # fmt: skip
    raw = build_footer(parts, about)
    alone, whole = parse_footer(raw), parse_footer(log[-len(before) :] + raw if before else log + raw)
    assert alone.trailer == whole.trailer
    assert (bytes(whole.offset_index), bytes(whole.time_index)) == (parts.offset_index, parts.time_index)
    assert (whole.producer_snapshot, whole.chunk_crcs) == (snapshot, tuple(crcs))
    assert whole.trailer.object_bytes == len(log) + len(raw)
    assert len(raw) >= TRAILER_BYTES


@given(data=st.binary(max_size=600))
def test_junk_is_corrupt(data: bytes) -> None:
    with pytest.raises(Corrupt):
        parse_footer(data)


@pytest.mark.parametrize("text", [b"x", b"0\n2\n1 2\n", b"1\n0\n", b"0\n1\n1 2 3\n", b"0\n1\n\xff 2\n"])
def test_leader_epochs_that_lie_are_corrupt(text: bytes) -> None:
    with pytest.raises(Corrupt):
        parse_leader_epochs(text)


# -- scan


def segment_file(path: Path, sizes: list[tuple[int, int]], *, seed: int = 1, base: int = 1000) -> list[bytes]:
    """A segment of batches of (records, value bytes); timestamps wander.  Returns the batches."""
    random, batches, offset = Random(seed), [], base
    for number, (records, value_bytes) in enumerate(sizes):
        data = batch(
            *[random.randbytes(value_bytes) for _ in range(records)],
            timestamps=[T0 + random.randrange(10**6) for _ in range(records)],
        )
        stamp(memoryview(data), [header_at(data)], offset, 3 + number // 10)
        offset += records
        batches.append(bytes(data))
    path.write_bytes(b"".join(batches))
    return batches


async def test_scan_finds_what_a_slow_reader_finds(tmp_path: Path) -> None:
    path = tmp_path / "00000000000000001000.log"
    batches = segment_file(path, [(1 + n % 4, 700 * (n % 9)) for n in range(200)])
    disk = PosixDisk(1)
    headers = [header_at(one) for one in batches]
    raw = path.read_bytes()
    scan = await scan_segment(disk, str(path), ScanRange(1000, 1000, headers[-1].next_offset, len(raw)))
    records = [(record.offset, record.timestamp) for one in batches for record in decode_batch(memoryview(bytearray(one)))]
    assert (scan.base_offset, scan.end_offset, scan.log_bytes, scan.batches) == (1000, records[-1][0] + 1, len(raw), 200)
    assert (scan.records, scan.log_crc) == (len(records), crc32c(raw))
    assert scan.max_timestamp == max(time for _, time in records)
    holder = next(header for header in headers if header.max_timestamp == scan.max_timestamp)
    assert scan.max_timestamp_offset == holder.last_offset
    assert scan.min_timestamp >= min(time for _, time in records)
    assert (
        scan.epochs
        == tuple((epoch, next(h.base_offset for h in headers if h.leader_epoch == epoch)) for epoch in range(3, 23))[-16:]
    )
    footer = parse_footer(_footer(scan))
    positions, at = {}, 0
    for header in headers:
        positions.update(dict.fromkeys(range(header.base_offset, header.next_offset), at))
        at += header.size
    for offset, position in positions.items():
        start = footer.position_for(offset)
        assert start <= position
        assert start in positions.values()
        assert position - start <= 64 * 1024 + 2 * 7000, "a short walk"
    for wanted in range(T0 - 1, T0 + 10**6, 997):
        found = next((offset for offset, time in records if time >= wanted), None)
        if found is not None:
            assert positions[footer.offset_before_timestamp(wanted)] <= positions[found]
    disk.close()


def _footer(scan) -> bytes:  # type: ignore[no-untyped-def]
    parts = FooterParts(scan.offset_index, scan.time_index, b"", b"", b"", scan.chunk_crcs)
    about = Trailer(
        pid=PID, base_offset=scan.base_offset, end_offset=scan.end_offset, epoch=0, nonce=NONCE, log_bytes=scan.log_bytes,
        log_crc=scan.log_crc, records=scan.records, created_ms=0,
    )  # fmt: skip
    return build_footer(parts, about)


async def test_scan_of_a_tail_begins_at_a_batch(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    batches = segment_file(path, [(3, 50)] * 10)
    disk, size = PosixDisk(1), path.stat().st_size
    scan = await scan_segment(disk, str(path), ScanRange(1000, 1012, 1030, size))
    assert (scan.base_offset, scan.records, scan.position) == (1012, 18, sum(map(len, batches[:4])))
    assert scan.log_crc == crc32c(b"".join(batches[4:]))
    source = SegmentSource(disk, scan, b"FOOTER")
    assert bytes(await source.read(0, source.size)) == b"".join(batches[4:]) + b"FOOTER"
    assert bytes(await source.read(scan.log_bytes + 2, source.size)) == b"OTER"
    with pytest.raises(PreconditionFailed, match="across offset 1013"):
        await scan_segment(disk, str(path), ScanRange(1000, 1013, 1030, size))
    disk.close()


@pytest.mark.parametrize("damage", ["body", "length", "offset", "short", "end"])
async def test_damaged_segments_are_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.log"
    batches = segment_file(path, [(3, 50)] * 10)
    raw, size, end = bytearray(path.read_bytes()), path.stat().st_size, 1030
    at = sum(map(len, batches[:5]))
    if damage == "body":
        raw[at + 100] ^= 1
    elif damage == "length":
        raw[at + 11] ^= 0x40
    elif damage == "offset":
        raw[at + 7] ^= 1
    elif damage == "short":
        raw = raw[:-1]
    else:
        end = 1031
    path.write_bytes(raw)
    disk = PosixDisk(1)
    with pytest.raises(Corrupt):
        await scan_segment(disk, str(path), ScanRange(1000, 1000, end, size))
    disk.close()


async def test_gaps_are_allowed_only_where_compaction_makes_them(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    batches = segment_file(path, [(3, 50)] * 10)
    path.write_bytes(b"".join(batches[:4] + batches[6:]))
    disk, size = PosixDisk(1), path.stat().st_size
    with pytest.raises(Corrupt, match=r"batch \[1018, 1021\)"):
        await scan_segment(disk, str(path), ScanRange(1000, 1000, 1030, size))
    scan = await scan_segment(disk, str(path), ScanRange(1000, 1000, 1030, size, has_gaps=True))
    assert scan.records == 24
    disk.close()


async def test_every_bit_of_a_small_segment_is_guarded(tmp_path: Path) -> None:
    """Fault 12: a flip on the local disk is found by the scan, or (offset and epoch fields) by offsets that do not fit."""
    path = tmp_path / "a.log"
    segment_file(path, [(1, 10)] * 3)
    raw, disk = path.read_bytes(), PosixDisk(1)
    epoch_bytes = {at + i for at, _ in walk(raw) for i in range(12, 16)}  # a leader epoch is free to be anything
    missed = []
    for position in set(range(len(raw))) - epoch_bytes:
        flipped = bytearray(raw)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(flipped)
        try:
            await scan_segment(disk, str(path), ScanRange(1000, 1000, 1003, len(raw)))
        except (Corrupt, PreconditionFailed):
            continue
        missed.append(position)
    assert missed == []
    disk.close()


async def test_bit_that_flips_between_scan_and_upload_stops_it(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    segment_file(path, [(1, 300_000)] * 30)
    size, disk = path.stat().st_size, PosixDisk(1)
    assert size > 2 * CHUNK_BYTES
    scan = await scan_segment(disk, str(path), ScanRange(1000, 1000, 1030, size))
    source = SegmentSource(disk, scan, b"F" * 100)
    with path.open("r+b") as file:
        file.seek(CHUNK_BYTES + 1234)
        byte = file.read(1)
        file.seek(CHUNK_BYTES + 1234)
        file.write(bytes([byte[0] ^ 4]))
    assert len(await source.read(0, 1000)) == 1000
    with pytest.raises(Corrupt, match="changed under the upload"):
        await source.read(CHUNK_BYTES, 2 * CHUNK_BYTES)
    with pytest.raises(Corrupt, match="changed under the upload"):
        await source.read(1000, source.size)
    disk.close()


async def test_a_batch_larger_than_a_slice_is_walked(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    segment_file(path, [(1, 100), (1, 9 * 1024 * 1024), (1, 100)])
    disk, size = PosixDisk(1), path.stat().st_size
    scan = await scan_segment(disk, str(path), ScanRange(1000, 1000, 1003, size))
    assert (scan.batches, len(scan.chunk_crcs)) == (3, 3)
    disk.close()
