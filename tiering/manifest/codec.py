"""The bytes of a root manifest: a 24-byte header, then zstd-compressed JSON.  Drawn in docs/formats/manifest.md.

    0   8   magic "HOTLMAN\\n"
    8   2   format version (big endian), 3
    10  2   reserved, 0
    12  4   length of the body
    16  4   length of the JSON text
    20  4   CRC-32C of bytes 0 to 19 and the body

Rows and references are stored by column, which is what keeps them small.  A release writes one version and reads it and those before
that have a step here (hotlog.kernel.versions); within a version fields are only added, with a default for their absence.

Invariants: decode(encode(m)) == m; a manifest that breaks its invariants is neither written (assert) nor accepted (Corrupt); every bit
flip is Corrupt; encoded size <= MANIFEST_ROOT_BYTES_MAX.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import zstandard
from crc32c import crc32c

from hotlog.kernel.errors import Corrupt, Retry
from hotlog.kernel.limits import MANIFEST_ROOT_BYTES_MAX, MiB
from hotlog.kernel.versions import StoredFormat
from tiering.manifest.invariants import check
from tiering.manifest.root import Entry, GarbageObject, GarbageRange, Manifest, PageRef, Totals

MAGIC = b"HOTLMAN\n"


def _from_version_1(root: dict[str, Any]) -> dict[str, Any]:
    """Every segment was an object of its own."""
    entries = {name: column for name, column in root["entries"].items() if name != "size"}
    sizes, garbage = root["entries"]["size"], root["garbage"]
    entries |= {"object": [""] * len(sizes), "object_start": [0] * len(sizes), "object_end": sizes}
    return {**root, "entries": entries, "garbage": {**garbage, "object_start": [0] * len(garbage["name"])}}


def _from_version_2(root: dict[str, Any]) -> dict[str, Any]:
    """Every page had rows, whatever its level."""
    archive, ranges = root["archive"], root["garbage_ranges"]
    pages = ranges["pages"]
    return {
        **root,
        "archive": {**archive, "height": [0] * len(archive["level"])},
        "garbage_ranges": {**ranges, "pages": {**pages, "height": [0] * len(pages["level"])}},
    }


FORMAT: StoredFormat[dict[str, Any]] = StoredFormat("manifest", 3, {1: _from_version_1, 2: _from_version_2})
_HEADER = struct.Struct(">8sHHII")
_CRC = struct.Struct(">I")
HEADER_BYTES = _HEADER.size + _CRC.size
_TEXT_BYTES_MAX = 4 * MiB
_REF_FIELDS = tuple(name for name in PageRef._fields if name != "totals")
_TOTALS_AT = PageRef._fields.index("totals")


class ManifestCodec:
    """hotlog.world.register.Codec of Manifest."""

    def encode(self, value: Manifest) -> bytes:
        return encode(value)

    def decode(self, raw: bytes) -> Manifest:
        return decode(raw)

    def nonces_of(self, value: Manifest) -> tuple[str, ...]:
        return value.nonces


def encode(manifest: Manifest) -> bytes:
    """Bytes of a root.

    Raises:
        Retry: it would be larger than MANIFEST_ROOT_BYTES_MAX (rows must be spilled first).
    """
    try:
        check(manifest)
    except Corrupt as bug:
        raise AssertionError(f"refusing to write: {bug}") from bug
    text = json.dumps(_to_json(manifest), separators=(",", ":"), ensure_ascii=True).encode()
    body = zstandard.ZstdCompressor(level=9).compress(text)
    head = _HEADER.pack(MAGIC, FORMAT.version, 0, len(body), len(text))
    raw = head + _CRC.pack(crc32c(body, crc32c(head))) + body
    if len(raw) > MANIFEST_ROOT_BYTES_MAX:
        raise Retry(f"manifest of {manifest.pid} would have {len(raw)} bytes; at most {MANIFEST_ROOT_BYTES_MAX} are allowed")
    return raw


def decode(raw: bytes) -> Manifest:
    """A root from its bytes.

    Raises:
        Corrupt: wrong magic, length or CRC-32C, or content that breaks an invariant of manifests.
        UnknownVersion: a newer release wrote it.
    """
    if len(raw) < HEADER_BYTES or raw[:8] != MAGIC:
        raise Corrupt(f"manifest of {len(raw)} bytes does not begin with its magic {MAGIC!r}")
    _, version, _, body_bytes, text_bytes = _HEADER.unpack_from(raw)
    if len(raw) != HEADER_BYTES + body_bytes or text_bytes > _TEXT_BYTES_MAX:
        raise Corrupt(f"manifest has {len(raw)} bytes, its header says {HEADER_BYTES + body_bytes} ({text_bytes} of text)")
    if crc32c(raw[HEADER_BYTES:], crc32c(raw[: _HEADER.size])) != _CRC.unpack_from(raw, _HEADER.size)[0]:
        raise Corrupt("manifest fails its CRC-32C")
    FORMAT.require(version)
    try:
        text = zstandard.ZstdDecompressor().decompress(raw[HEADER_BYTES:], max_output_size=text_bytes)
        manifest = _from_json(FORMAT.upgraded(version, json.loads(text)))
    except (zstandard.ZstdError, ValueError, KeyError, TypeError, AttributeError) as failure:
        raise Corrupt(f"manifest does not parse: {failure!r}") from None
    check(manifest)
    return manifest


def _columns(rows: Sequence[tuple[Any, ...]], fields: Sequence[str]) -> dict[str, list[Any]]:
    return {name: [row[index] for row in rows] for index, name in enumerate(fields)}


def _rows(columns: dict[str, list[Any]], fields: Sequence[str]) -> list[tuple[Any, ...]]:
    return list(zip(*(columns[name] for name in fields), strict=True))


def _refs_to_json(refs: Sequence[PageRef]) -> dict[str, Any]:
    plain = [ref[:_TOTALS_AT] + ref[_TOTALS_AT + 1 :] for ref in refs]
    return _columns(plain, _REF_FIELDS) | {"totals": _columns([ref.totals for ref in refs], Totals._fields)}


def _refs_from_json(raw: dict[str, Any]) -> tuple[PageRef, ...]:
    totals = [Totals(*row) for row in _rows(raw["totals"], Totals._fields)]
    plain = _rows(raw, _REF_FIELDS)
    return tuple(PageRef._make((*row[:_TOTALS_AT], total, *row[_TOTALS_AT:])) for row, total in zip(plain, totals, strict=True))


def _to_json(m: Manifest) -> dict[str, Any]:
    return {
        "topic_id": str(m.topic_id), "partition": m.partition, "topic": m.topic, "epoch": m.epoch, "generation": m.generation,
        "nonces": list(m.nonces), "created_ms": m.created_ms, "deleted_ms": m.deleted_ms, "log_start_offset": m.log_start_offset,
        "end_offset": m.end_offset, "totals": m.totals._asdict(), "entries": _columns(m.entries, Entry._fields),
        "archive": _refs_to_json(m.archive), "garbage": _columns(m.garbage, GarbageObject._fields),
        "garbage_ranges": {"pages": _refs_to_json([part.page for part in m.garbage_ranges])}
        | _columns([part[1:] for part in m.garbage_ranges], GarbageRange._fields[1:]),
        **({"cleaned_end": m.cleaned_end} if m.cleaned_end else {}),
    }  # fmt: skip


def _from_json(raw: dict[str, Any]) -> Manifest:
    entries = [Entry(*row) for row in _rows(raw["entries"], Entry._fields)]
    ranges = raw["garbage_ranges"]
    pages = _refs_from_json(ranges["pages"])
    return Manifest(
        topic_id=UUID(raw["topic_id"]), partition=raw["partition"], topic=raw["topic"], epoch=raw["epoch"],
        generation=raw["generation"], nonces=tuple(raw["nonces"]), created_ms=raw["created_ms"], deleted_ms=raw["deleted_ms"],
        log_start_offset=raw["log_start_offset"], end_offset=raw["end_offset"], totals=Totals(**raw["totals"]),
        entries=tuple(row._replace(epochs=tuple((epoch, start) for epoch, start in row.epochs)) for row in entries),
        archive=_refs_from_json(raw["archive"]),
        garbage=tuple(GarbageObject(*row) for row in _rows(raw["garbage"], GarbageObject._fields)),
        garbage_ranges=tuple(
            GarbageRange(page, *row) for page, row in zip(pages, _rows(ranges, GarbageRange._fields[1:]), strict=True)
        ),
        cleaned_end=raw.get("cleaned_end", 0),
    )  # fmt: skip
