"""The bytes of metadata objects: cluster marker, head, page, snapshot and ends.  Drawn in docs/formats/metadata.md.

    magic "HLMD" (4) | kind (u16) | version (u16) | body length (u32) | CRC-32C of the body (u32) | body: UTF-8 JSON, sorted keys

Invariants: pure; what `encode_*` gives, `decode_*` returns equal; bytes that fail magic, kind, length or CRC are Corrupt; this
program writes one version of each kind and reads it and the one before (FORMATS); whole bytes of a newer version are UnknownVersion, never used and
never taken for damaged; a head never exceeds HEAD_BYTES_MAX.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

from crc32c import crc32c

from controller.forms import Json
from controller.image import BrokerImage, ClusterImage, PartitionImage, TopicImage
from controller.records import NamedKind, Record, form, parse
from hotlog.kernel.errors import Corrupt
from hotlog.kernel.limits import KiB, MiB
from hotlog.kernel.versions import StoredFormat

MAGIC = b"HLMD"
MARKER, HEAD, PAGE, SNAPSHOT, ENDS = 1, 2, 3, 4, 5
CHANGE, ANSWER = 6, 7  # never stored: they go from node to node (controller.change_codec)
# What is written and read of each kind.  Records within have versions of their own (controller.records).
FORMATS: dict[int, StoredFormat[Json]] = {
    MARKER: StoredFormat("cluster marker", 1),
    HEAD: StoredFormat("metadata head", 1),
    PAGE: StoredFormat("metadata page", 1),
    SNAPSHOT: StoredFormat("metadata snapshot", 2, {1: lambda body: {**body, "features": [0, {}], "named_configs": []}}),
    ENDS: StoredFormat("metadata note of ends", 1),
    CHANGE: StoredFormat("change of metadata", 1),
    ANSWER: StoredFormat("answer to a change of metadata", 1),
}
_PREFIX = struct.Struct(">4sHHII")
PREFIX_BYTES = _PREFIX.size

HEAD_BYTES_MAX = 64 * KiB
INLINE_BYTES_MAX = 24 * KiB
PAGE_BYTES_MAX = 1 * MiB
PAGES_MAX = 32
RETIRED_MAX = 96
NO_LINEAGE = "0" * 32

T = TypeVar("T")


class Ref(NamedTuple):
    """An immutable object: records [start, end), or an image at `end` (start is 0)."""

    key: str
    start: int
    end: int


class Retired(NamedTuple):
    """An object that nothing refers to any more; deleted after `not_before_ms` (wall clock: it only delays)."""

    key: str
    not_before_ms: int


@dataclass(frozen=True, kw_only=True)
class Head:
    """The register: replacing it is the commit of whatever records it newly covers.

    Records [0, snapshot.end) are in the snapshot, then follow the pages without a gap, then `inline` up to `next_offset`.
    `lineage` is a hash chain over all records, so that a copy of another history is told from an older copy of this one.
    """

    cluster_id: str
    controller_epoch: int
    controller_id: int
    next_offset: int
    lineage: str
    inline: tuple[Record, ...]
    pages: tuple[Ref, ...]
    snapshot: Ref | None
    retired: tuple[Retired, ...]
    nonces: tuple[str, ...]

    @property
    def inline_start(self) -> int:
        return self.next_offset - len(self.inline)

    @property
    def refs(self) -> tuple[Ref, ...]:
        """All objects that this head needs."""
        return (*((self.snapshot,) if self.snapshot else ()), *self.pages)


@dataclass(frozen=True, kw_only=True)
class Ends:
    """How far the logs of one life of a node had come when it last said so (`noted_ms`: wall clock, for people).

    `directory_id` is that of its data directory; `is_final`: it stopped cleanly after that and gave out no more offsets.
    """

    directory_id: str
    incarnation: UUID
    is_final: bool
    noted_ms: int
    ends: Mapping[UUID, Mapping[int, int]]


def chained(lineage: str, records: Sequence[Record]) -> str:
    """The lineage after `records`."""
    for record in records:
        lineage = blake2b(bytes.fromhex(lineage) + _json(form(record)), digest_size=16).hexdigest()
    return lineage


def _json(body: Any) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def inline_bytes(records: Sequence[Record]) -> int:
    """What these records take in a head, in bytes."""
    return sum(len(_json(form(record))) + 1 for record in records)


def seal(kind: int, body: Json) -> bytes:
    raw = _json(body)
    return _PREFIX.pack(MAGIC, kind, FORMATS[kind].version, len(raw), crc32c(raw)) + raw


def unseal(kind: int, raw: bytes) -> Json:
    """The body of sealed bytes, as the newest version of that kind has it.

    Raises:
        Corrupt: saying which check failed.  UnknownVersion: a newer program wrote it.
    """
    stored = FORMATS[kind]
    name = stored.name
    if len(raw) < PREFIX_BYTES:
        raise Corrupt(f"{name} has {len(raw)} bytes; at least {PREFIX_BYTES} are needed")
    magic, found, version, length, crc = _PREFIX.unpack_from(raw)
    if magic != MAGIC:
        raise Corrupt(f"{name} begins with {magic!r}, not {MAGIC!r}")
    if found != kind:
        raise Corrupt(f"{name} expected, kind {found} found")
    if len(raw) != PREFIX_BYTES + length:
        raise Corrupt(f"{name} has a body of {len(raw) - PREFIX_BYTES} bytes; its prefix says {length}")
    body = raw[PREFIX_BYTES:]
    if crc32c(body) != crc:
        raise Corrupt(f"{name} fails its CRC: {crc32c(body):#010x}, prefix says {crc:#010x}")
    stored.require(version)
    try:
        parsed = json.loads(body)
    except ValueError as problem:
        raise Corrupt(f"{name} is not JSON: {problem}") from None
    if not isinstance(parsed, dict):
        raise Corrupt(f"{name} is not a JSON object")
    return stored.upgraded(version, parsed)


class HeadCodec:
    """For hotlog.world.register.Register."""

    def encode(self, value: Head) -> bytes:
        raw = encode_head(value)
        assert len(raw) <= HEAD_BYTES_MAX, f"metadata head of {len(raw)} bytes; at most {HEAD_BYTES_MAX} are allowed"
        return raw

    def decode(self, raw: bytes) -> Head:
        return decode_head(raw)

    def nonces_of(self, value: Head) -> tuple[str, ...]:
        return value.nonces


def encode_head(head: Head) -> bytes:
    return seal(
        HEAD,
        {
            "cluster_id": head.cluster_id,
            "controller_epoch": head.controller_epoch,
            "controller_id": head.controller_id,
            "next_offset": head.next_offset,
            "lineage": head.lineage,
            "records": [form(record) for record in head.inline],
            "pages": [list(ref) for ref in head.pages],
            "snapshot": list(head.snapshot) if head.snapshot else None,
            "retired": [list(retired) for retired in head.retired],
            "nonces": list(head.nonces),
        },
    )


def decode_head(raw: bytes) -> Head:
    body = unseal(HEAD, raw)
    try:
        head = Head(
            cluster_id=str(body["cluster_id"]),
            controller_epoch=int(body["controller_epoch"]),
            controller_id=int(body["controller_id"]),
            next_offset=int(body["next_offset"]),
            lineage=str(body["lineage"]),
            inline=tuple(parse(record) for record in body["records"]),
            pages=tuple(Ref(*page) for page in body["pages"]),
            snapshot=Ref(*body["snapshot"]) if body["snapshot"] else None,
            retired=tuple(Retired(*retired) for retired in body["retired"]),
            nonces=tuple(body["nonces"]),
        )
    except (KeyError, TypeError, ValueError) as problem:
        raise Corrupt(f"metadata head cannot be read: {problem!r}") from None
    _check_cover(head)
    return head


def _check_cover(head: Head) -> None:
    """Snapshot, pages and inline records follow each other without a gap."""
    end = head.snapshot.end if head.snapshot else 0
    for page in head.pages:
        if page.start != end:
            raise Corrupt(f"metadata head has a gap: page {page.key} starts at {page.start}, {end} is expected")
        end = page.end
    if end != head.inline_start:
        raise Corrupt(f"metadata head has a gap: inline records start at {head.inline_start}, {end} is expected")


def encode_page(start: int, records: Sequence[Record]) -> bytes:
    return seal(PAGE, {"start": start, "records": [form(record) for record in records]})


def decode_page(raw: bytes, ref: Ref) -> tuple[Record, ...]:
    """The records of the page that `ref` names; Corrupt if it is another page."""
    body = unseal(PAGE, raw)
    records = tuple(parse(record) for record in body.get("records", ()))
    if (body.get("start"), body.get("start", 0) + len(records)) != (ref.start, ref.end):
        raise Corrupt(f"metadata page {ref.key} holds {len(records)} records from {body.get('start')}")
    return records


def encode_snapshot(image: ClusterImage, lineage: str) -> bytes:
    return seal(
        SNAPSHOT,
        {
            "offset": image.offset,
            "lineage": lineage,
            "controller": [image.controller_epoch, image.controller_id],
            "topics": [_topic_form(topic) for topic in image.topics.values()],
            "doomed": [_topic_form(topic) for topic in image.doomed.values()],
            "brokers": [[broker.node_id, str(broker.incarnation), broker.rack] for broker in image.brokers.values()],
            "broker_configs": [[node, dict(configs)] for node, configs in sorted(image.broker_configs.items())],
            "features": [image.features_epoch, dict(image.features)],
            "named_configs": [
                [kind.value, name, dict(configs)]
                for kind in NamedKind
                for name, configs in sorted(image.named_configs(kind).items())
            ],
            "producer_id_next": image.producer_id_next,
        },
    )


def decode_snapshot(raw: bytes, ref: Ref) -> tuple[ClusterImage, str]:
    """The image and its lineage."""
    body = unseal(SNAPSHOT, raw)
    try:
        topics = [_topic_parse(topic) for topic in body["topics"]]
        doomed = [_topic_parse(topic) for topic in body["doomed"]]
        named: dict[NamedKind, dict[str, dict[str, str]]] = {kind: {} for kind in NamedKind}
        for kind, name, configs in body["named_configs"]:
            named[NamedKind(kind)][str(name)] = dict(configs)
        image = ClusterImage(
            offset=int(body["offset"]),
            controller_epoch=int(body["controller"][0]),
            controller_id=int(body["controller"][1]),
            topics={topic.name: topic for topic in topics},
            doomed={topic.topic_id: topic for topic in doomed},
            brokers={b[0]: BrokerImage(node_id=b[0], incarnation=UUID(b[1]), rack=b[2]) for b in body["brokers"]},
            broker_configs={int(node): dict(configs) for node, configs in body["broker_configs"]},
            features={str(name): int(level) for name, level in body["features"][1].items()},
            features_epoch=int(body["features"][0]),
            group_configs=named[NamedKind.GROUP],
            client_metrics_configs=named[NamedKind.CLIENT_METRICS],
            producer_id_next=int(body["producer_id_next"]),
        )
        lineage = str(body["lineage"])
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as problem:
        raise Corrupt(f"metadata snapshot {ref.key} cannot be read: {problem!r}") from None
    if image.offset != ref.end:
        raise Corrupt(f"metadata snapshot {ref.key} is of offset {image.offset}; {ref.end} is expected")
    return image, lineage


def encode_ends(note: Ends) -> bytes:
    return seal(
        ENDS,
        {
            "directory_id": note.directory_id,
            "incarnation": str(note.incarnation),
            "is_final": note.is_final,
            "noted_ms": note.noted_ms,
            "ends": [[str(topic_id), sorted(map(list, parts.items()))] for topic_id, parts in note.ends.items()],
        },
    )


def decode_ends(raw: bytes) -> Ends:
    body = unseal(ENDS, raw)
    try:
        return Ends(
            directory_id=str(body["directory_id"]),
            incarnation=UUID(body["incarnation"]),
            is_final=bool(body["is_final"]),
            noted_ms=int(body["noted_ms"]),
            ends={UUID(topic_id): {int(index): int(end) for index, end in parts} for topic_id, parts in body["ends"]},
        )
    except (KeyError, TypeError, ValueError) as problem:
        raise Corrupt(f"metadata note of ends cannot be read: {problem!r}") from None


def _topic_form(topic: TopicImage) -> Json:
    return {
        "topic_id": str(topic.topic_id),
        "name": topic.name,
        "configs": dict(topic.configs),
        "created_ms": topic.created_ms,
        "partitions": [[list(part.replicas), part.leader, part.leader_epoch] for part in topic.partitions],
    }


def _topic_parse(body: Json) -> TopicImage:
    return TopicImage(
        topic_id=UUID(body["topic_id"]),
        name=str(body["name"]),
        configs=dict(body["configs"]),
        created_ms=int(body["created_ms"]),
        partitions=tuple(
            PartitionImage(replicas=tuple(replicas), leader=leader, leader_epoch=epoch)
            for replicas, leader, epoch in body["partitions"]
        ),
    )
