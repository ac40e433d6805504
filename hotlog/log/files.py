"""Every local path of the hot log, built and parsed: Kafka's names, byte for byte.

Invariants: nothing else in the house spells a file name of the hot log; a name that does not parse is not ours and is left alone.
"""

from __future__ import annotations

import re
from uuid import UUID

from hotlog.kernel.ids import TOPIC_NAME_CHARS_MAX, TopicPartition

LOG, INDEX, TIME_INDEX, TXN_INDEX, SNAPSHOT = ".log", ".index", ".timeindex", ".txnindex", ".snapshot"
DELETED, CLEANED, SWAP = ".deleted", ".cleaned", ".swap"
EPOCHS_FILE = "leader-epoch-checkpoint"
METADATA_FILE = "partition.metadata"
META_PROPERTIES = "meta.properties"
RECOVERY_POINTS = "recovery-point-offset-checkpoint"
LOG_STARTS = "log-start-offset-checkpoint"
HIGH_WATERMARKS = "replication-offset-checkpoint"
CLEANER_OFFSETS = "cleaner-offset-checkpoint"
CHECKPOINT_CRCS = "checkpoint-crcs"
DAMAGED_SEGMENTS = "damaged-segments"
CLEAN_SHUTDOWN = ".kafka_cleanshutdown"
LOCK = ".lock"

_NAME_CHARS_MAX = 255
_SEGMENT = re.compile(r"(\d{20})(\.log|\.index|\.timeindex|\.txnindex|\.snapshot)")
_DIRECTORY = re.compile(r"([a-zA-Z0-9._-]+)-(\d{1,10})")
_CONDEMNED = re.compile(r".+\.[0-9a-f]{32}-delete")
assert TOPIC_NAME_CHARS_MAX < _NAME_CHARS_MAX


def segment_path(directory: str, base_offset: int, suffix: str) -> str:
    return f"{directory}/{base_offset:020d}{suffix}"


def parse_segment_name(name: str) -> tuple[int, str] | None:
    """(base offset, suffix) of a segment's file, or None."""
    found = _SEGMENT.fullmatch(name)
    return (int(found[1]), found[2]) if found else None


def partition_directory(tp: TopicPartition) -> str:
    return f"{tp.topic}-{tp.partition}"


def parse_partition_directory(name: str) -> TopicPartition | None:
    """The partition whose directory is `name`, or None."""
    found = _DIRECTORY.fullmatch(name)
    if not found or len(found[1]) > TOPIC_NAME_CHARS_MAX or found[1] in (".", ".."):
        return None
    return TopicPartition(found[1], int(found[2]))


def condemned_directory(tp: TopicPartition, nonce: UUID) -> str:
    """Name of a deleted partition's directory until it is removed; the topic is cut to keep the name within 255 characters."""
    suffix = f"-{tp.partition}.{nonce.hex}-delete"
    return tp.topic[: _NAME_CHARS_MAX - len(suffix)] + suffix


def is_condemned_directory(name: str) -> bool:
    return _CONDEMNED.fullmatch(name) is not None
