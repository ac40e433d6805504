"""Manifests as bytes: golden files, round trips, bit flips, junk."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard
from crc32c import crc32c

from hotlog.kernel.errors import Corrupt, UnknownVersion
from tests.log.support import T0
from tests.tiering.built import Built
from tiering.manifest.codec import FORMAT, HEADER_BYTES, decode, encode
from tiering.manifest.edits import (
    advance_start,
    claim,
    mark_garbage,
    stamped,
)
from tiering.manifest.invariants import check
from tiering.manifest.root import Entry, GarbageObject, Manifest, PageRef, totals_of
from tiering.manifest.spill import apply_spill, plan_spill

GOLDEN = Path(__file__).parent / "golden"
DAY_MS = 24 * 3_600_000


def golden_manifest() -> Manifest:
    built = Built(3)
    built.append(4)
    built.append(1, hole=True)
    built.append(2)
    m = claim(built.manifest, 7, "clicks")
    plan_rows = m.entries[:3]
    ref = PageRef(0, 0, plan_rows[-1].end_offset, "ab" * 16, 0, 777, 123456, totals_of(plan_rows))
    m = apply_spill(m, plan_spill(m) or _plan(plan_rows), ref, not_before_ms=T0)
    m = mark_garbage(m, [GarbageObject("00000000000000000009-1-" + "ee" * 16 + ".seg", 55, T0 + 1)])
    m = advance_start(m, ref.end_offset + 1, {}, not_before_ms=T0 + DAY_MS)
    return stamped(stamped(m, "11" * 16), "22" * 16)


def _plan(rows: tuple[Entry, ...]):  # type: ignore[no-untyped-def]
    from tiering.manifest.spill import SpillPlan

    return SpillPlan(rows, (), 0)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_golden_roots(version: int) -> None:
    """What a release wrote, and the one before it, stays readable and means the same."""
    raw = (GOLDEN / f"manifest-v{version}.bin").read_bytes()
    assert raw[8:10] == bytes([0, version])
    manifest = decode(raw)
    assert manifest == golden_manifest()
    assert manifest.nonces == ("22" * 16, "11" * 16)
    assert (manifest.epoch, manifest.generation, manifest.totals.holes) == (7, 2, 1)
    assert len(manifest.garbage_ranges) == 1


def test_every_single_bit_flip_is_detected() -> None:
    raw = encode(golden_manifest())
    for position in range(len(raw)):
        for bit in range(8):
            flipped = bytearray(raw)
            flipped[position] ^= 1 << bit
            with pytest.raises(Corrupt):
                decode(bytes(flipped))


def test_truncations_and_junk_are_corrupt() -> None:
    raw = encode(golden_manifest())
    for length in range(len(raw)):
        with pytest.raises(Corrupt):
            decode(raw[:length])
    with pytest.raises(Corrupt):
        decode(raw + b"\0")


def _resealed(change: Callable[[dict[str, object]], object]) -> bytes:
    """The golden root with its JSON changed and all sums right again: a writer's bug, not a flipped bit."""
    raw = encode(golden_manifest())
    value = json.loads(zstandard.ZstdDecompressor().decompress(raw[HEADER_BYTES:]))
    change(value)
    text = json.dumps(value).encode()
    body = zstandard.ZstdCompressor().compress(text)
    head = struct.pack(">8sHHII", b"HOTLMAN\n", FORMAT.version, 0, len(body), len(text))
    return head + struct.pack(">I", crc32c(body, crc32c(head))) + body


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v["entries"]["base_offset"].__setitem__(1, 10**9), "gap|overlap"),
        (lambda v: v.update(end_offset=5), "rows end"),
        (lambda v: v["totals"].update(records=1), "totals"),
        (lambda v: v.pop("entries"), "does not parse"),
        (lambda v: v["entries"]["nonce"].pop(), "does not parse"),
        (lambda v: v.update(topic_id="x"), "does not parse"),
        (lambda v: v.update(deleted_ms=5), "marked deleted"),
        (lambda v: v["garbage"]["name"].__setitem__(0, golden_manifest().entries[-1].name), "garbage and in use"),
        (lambda v: v.update(log_start_offset=-3), "log start"),
    ],
)  # fmt: skip
def test_content_that_breaks_an_invariant_is_corrupt(change: Callable[[dict[str, object]], object], message: str) -> None:
    assert decode(_resealed(lambda value: None)) == golden_manifest()
    with pytest.raises(Corrupt, match=message):
        decode(_resealed(change))


def _with_header(raw: bytes, position: int, value: int) -> bytes:
    changed = bytearray(raw)
    changed[position] = value
    struct.pack_into(">I", changed, 20, crc32c(bytes(changed[24:]), crc32c(bytes(changed[:20]))))
    return bytes(changed)


def test_a_newer_version_is_refused_by_name() -> None:
    """It is whole, so it is not damaged: nobody may take it for damage and write over it."""
    newer = FORMAT.version + 1
    with pytest.raises(UnknownVersion, match=f"manifest has format version {newer}; .* up to version {FORMAT.version}"):
        decode(_with_header(encode(golden_manifest()), 9, newer))


def test_versions_that_never_were_and_bombs_are_refused() -> None:
    raw = bytearray(encode(golden_manifest()))
    for position, value in ((9, 0), (15, 255)):
        with pytest.raises(Corrupt):
            decode(_with_header(bytes(raw), position, value))
    struct.pack_into(">I", raw, 16, 2**31)
    with pytest.raises(Corrupt, match="header says"):
        decode(bytes(raw))


def test_a_broken_manifest_is_not_written() -> None:
    broken = replace(golden_manifest(), end_offset=1)
    with pytest.raises(AssertionError, match="refusing to write"):
        encode(broken)
    with pytest.raises(Corrupt):
        check(broken)
