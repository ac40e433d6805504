"""Kafka's small text files, printed and parsed.  Pure.

Checkpoints: a version line (0), a count line, then the entries, one a line.  partition.metadata: `version: 0` and `topic_id:` in
URL-safe base64 without padding.  meta.properties: Java properties.

Invariants: what is printed here parses to the same value; anything else raises Corrupt naming the line, never a guess.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from itertools import pairwise
from uuid import UUID

import javaproperties

from hotlog.kernel.errors import Corrupt
from hotlog.kernel.ids import TopicPartition


def _print(lines: Iterable[str]) -> bytes:
    entries = list(lines)
    return "\n".join(["0", str(len(entries)), *entries, ""]).encode()


def _parse(raw: bytes, columns: int) -> list[list[str]]:
    try:
        lines = raw.decode("ascii").splitlines()
        version, count = int(lines[0]), int(lines[1])
    except (UnicodeDecodeError, ValueError, IndexError):
        raise Corrupt(f"checkpoint does not start with a version and a count: {raw[:40]!r}") from None
    if version != 0:
        raise Corrupt(f"checkpoint has version {version}; only 0 is known")
    entries = [line.split(" ") for line in lines[2:]]
    if len(entries) != count or any(len(entry) != columns for entry in entries):
        raise Corrupt(f"checkpoint says {count} entries of {columns} fields; {len(entries)} lines are there")
    return entries


def _int(text: str) -> int:
    if not text.isascii() or not text.removeprefix("-").isdigit():
        raise Corrupt(f"checkpoint holds {text!r} where a number is expected")
    return int(text)


def print_epochs(entries: Iterable[tuple[int, int]]) -> bytes:
    """leader-epoch-checkpoint: (epoch, start offset) lines (LeaderEpochCheckpointFile)."""
    return _print(f"{epoch} {start}" for epoch, start in entries)


def parse_epochs(raw: bytes) -> list[tuple[int, int]]:
    """Raises Corrupt also when epochs or offsets do not ascend."""
    entries = [(_int(epoch), _int(start)) for epoch, start in _parse(raw, 2)]
    for before, after in pairwise(entries):
        if after[0] <= before[0] or after[1] < before[1]:
            raise Corrupt(f"leader epochs do not ascend: {before} before {after}")
    if entries and (entries[0][0] < 0 or entries[0][1] < 0):
        raise Corrupt(f"leader epoch entry {entries[0]} is negative")
    return entries


def print_offsets(offsets: Mapping[TopicPartition, int]) -> bytes:
    """recovery-point-, log-start- and replication-offset-checkpoint: `topic partition offset` lines (OffsetCheckpointFile)."""
    return _print(f"{tp.topic} {tp.partition} {offset}" for tp, offset in sorted(offsets.items()))


def parse_offsets(raw: bytes) -> dict[TopicPartition, int]:
    offsets: dict[TopicPartition, int] = {}
    for topic, partition, text in _parse(raw, 3):
        offset = _int(text)
        if offset < 0:
            raise Corrupt(f"checkpoint has offset {offset} for {topic}-{partition}; at least 0 is expected")
        offsets[TopicPartition(topic, _int(partition))] = offset
    return offsets


def print_metadata(topic_id: UUID) -> bytes:
    """partition.metadata."""
    return f"version: 0\ntopic_id: {print_uuid(topic_id)}\n".encode()


def parse_metadata(raw: bytes) -> UUID:
    try:
        fields = dict(line.split(": ", 1) for line in raw.decode("ascii").splitlines() if line)
        version, text = fields["version"], fields["topic_id"]
    except (UnicodeDecodeError, ValueError, KeyError):
        raise Corrupt(f"partition.metadata needs `version:` and `topic_id:`: {raw[:60]!r}") from None
    if version != "0":
        raise Corrupt(f"partition.metadata has version {version}; only 0 is known")
    return parse_uuid(text)


def print_uuid(value: UUID) -> str:
    """Kafka's form of a uuid: 22 characters of URL-safe base64."""
    return base64.urlsafe_b64encode(value.bytes).decode().rstrip("=")


def parse_uuid(text: str) -> UUID:
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        return UUID(bytes=raw)
    except (binascii.Error, ValueError):
        raise Corrupt(f"{text!r} is not a uuid in URL-safe base64 (22 characters)") from None


def print_properties(values: Mapping[str, str]) -> bytes:
    """meta.properties, without a date comment so that equal content has equal bytes."""
    text: str = javaproperties.dumps(values, timestamp=False)
    return text.encode("latin-1")


def parse_properties(raw: bytes) -> dict[str, str]:
    try:
        values: dict[str, str] = javaproperties.loads(raw.decode("latin-1"))
    except ValueError as error:
        raise Corrupt(f"meta.properties cannot be read: {error}") from None
    return values


def print_clean_shutdown() -> bytes:
    """.kafka_cleanshutdown (CleanShutdownFileHandler)."""
    return json.dumps({"version": 0, "brokerEpoch": -1}, separators=(",", ":")).encode()
