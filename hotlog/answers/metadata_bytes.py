"""Metadata responses put together from topics that are encoded once and kept.

Encoding costs about 40 microseconds of Python per partition: 4,000 partitions would hold the event loop for more than 0.1 s at every full
Metadata.  A topic's bytes depend on its image and on which of its partitions are served, and change rarely.

Invariants: what comes out is byte for byte what kio would write (a test compares every version); kept bytes are bounded; an entry is used
only for the very image and hosting it was made of.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from cachetools import LRUCache

from controller.image import TopicImage
from hotlog.answers.api import Spliced
from hotlog.kernel.limits import MiB
from hotlog.wire.apis import encoded, is_flexible
from hotlog.wire.bounds import uvarint

KEY = 3
KEPT_BYTES_MAX = 16 * MiB
# What follows the topics: cluster_authorized_operations (8 to 10), error_code (13), tags (flexible versions)
_SUFFIX_BYTES = {8: 4, 9: 5, 10: 5, 11: 1, 12: 1, 13: 3}


class _Kept(NamedTuple):
    """A topic's bytes and what they were made of."""

    topic: TopicImage
    hosting: int
    data: bytes


class TopicBytes:
    """Encoded topics by version and id; one for each broker (`broker.kept`)."""

    def __init__(self, _: object = None) -> None:
        self._kept: LRUCache[tuple[int, UUID], _Kept] = LRUCache(KEPT_BYTES_MAX, getsizeof=lambda kept: len(kept.data) + 200)

    def get(self, version: int, topic: TopicImage, hosting: int, build: Callable[[], Any]) -> bytes:
        """The bytes of `topic`; `build` makes the entity if they are not kept.  `hosting` counts changes of what is hosted."""
        kept = self._kept.get((version, topic.topic_id))
        if kept is not None and kept.topic is topic and kept.hosting == hosting:
            return kept.data
        data = encoded(build())
        self.keep(version, topic, hosting, data)
        return data

    def has(self, version: int, topic: TopicImage, hosting: int) -> bool:
        """Whether `get` need not encode."""
        kept = self._kept.get((version, topic.topic_id))
        return kept is not None and kept.topic is topic and kept.hosting == hosting

    def keep(self, version: int, topic: TopicImage, hosting: int, data: bytes) -> None:
        """The bytes of `topic`, encoded elsewhere."""
        if len(data) < KEPT_BYTES_MAX // 4:
            self._kept[version, topic.topic_id] = _Kept(topic, hosting, data)


def spliced(version: int, without_topics: Any, topics: Sequence[bytes]) -> Spliced:
    """The response `without_topics` (a kio entity whose topics are empty) with `topics` in their place."""
    frame = encoded(without_topics)
    flexible = is_flexible(KEY, version)
    suffix = _SUFFIX_BYTES.get(version, 0)
    end = len(frame) - suffix
    head = frame[: end - (1 if flexible else 4)]
    count = uvarint(len(topics) + 1) if flexible else struct.pack(">i", len(topics))
    body = b"".join((head, count, *topics, frame[end:]))
    return Spliced([body], len(body))
