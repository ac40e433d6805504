"""Names and numbers that identify things, parsed once at the door and trusted afterwards.

Invariants: a TopicPartition never holds an illegal topic name when built by `parse_topic_name`; a topic's UUID, never its
name, is used to build object keys.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from uuid import UUID

from hotlog.kernel.errors import Invalid

TOPIC_NAME_CHARS_MAX = 249
_TOPIC_NAME = re.compile(r"[a-zA-Z0-9._-]+")
ZERO_UUID = UUID(int=0)


class TopicPartition(NamedTuple):
    """A partition as clients name it."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}"


class PartitionId(NamedTuple):
    """A partition as the object store knows it: by topic id, so that a re-created topic never meets old objects."""

    topic_id: UUID
    partition: int

    def __str__(self) -> str:
        return f"{self.topic_id}/{self.partition}"


def parse_topic_name(name: str | None) -> str:
    """Return `name` if it is a legal Kafka topic name.

    Kafka's rule (org.apache.kafka.common.internals.Topic): 1 to 249 characters of [a-zA-Z0-9._-], not "." or "..".

    Raises:
        Invalid: with the reason, naming the value.
    """
    if not name:
        raise Invalid("topic name is empty; allowed are 1 to 249 characters of [a-zA-Z0-9._-]")
    if name in (".", ".."):
        raise Invalid(f"topic name {name!r} is not allowed: it is a path element")
    if len(name) > TOPIC_NAME_CHARS_MAX:
        raise Invalid(f"topic name has {len(name)} characters; at most {TOPIC_NAME_CHARS_MAX} are allowed")
    if not _TOPIC_NAME.fullmatch(name):
        raise Invalid(f"topic name {name!r} holds a character other than [a-zA-Z0-9._-]")
    return name
