"""Metadata answers as bytes: a topic is encoded once, and the answer to a request that comes again is kept whole.

Encoding costs about 40 microseconds of Python per partition: 4,000 partitions would hold the event loop for more than 0.1 s at every full
Metadata.  A topic's bytes depend on its image and on which of its partitions are served, and change rarely.  The list of all topics is kept
as its pieces, so that one topic more is one piece more.

Invariants: what comes out is byte for byte what kio would write (a test compares every version); kept bytes are bounded and counted; a topic's
bytes are used only for the very image and hosting that they were made of, a whole answer only while nothing has changed at all.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar
from uuid import UUID

from controller.image import ClusterImage, TopicImage
from hotlog.kernel.limits import MiB
from hotlog.partitions.hosting import Partitions
from hotlog.wire.apis import encoded, is_flexible
from hotlog.wire.bounds import uvarint

KEY = 3
TOPICS_BYTES_MAX, ANSWERS_BYTES_MAX = 16 * MiB, 16 * MiB
LISTS_MAX, LIST_BYTES_MAX = 4, 4 * MiB  # lists of all topics: of so many versions, and the size of one
ENTRY_BYTES = 250  # what an entry takes beside its bytes, about
# What follows the topics: cluster_authorized_operations (8 to 10), error_code (13), tags (flexible versions)
_SUFFIX_BYTES = {8: 4, 9: 5, 10: 5, 11: 1, 12: 1, 13: 3}

V = TypeVar("V")


class Stamp(NamedTuple):
    """What an answer was made of."""

    image: ClusterImage
    hosting: int
    settings: object
    advertised: object


class _Recent(Generic[V]):
    """Values with their sizes, up to a number of bytes; those that were used last."""

    def __init__(self, bytes_max: int) -> None:
        self.size = 0
        self._bytes_max = bytes_max
        self._kept: OrderedDict[Hashable, tuple[V, int]] = OrderedDict()

    def get(self, key: Hashable) -> V | None:
        found = self._kept.get(key)
        if found is None:
            return None
        self._kept.move_to_end(key)
        return found[0]

    def put(self, key: Hashable, value: V, size: int) -> None:
        self.drop(key)
        if size > self._bytes_max // 4:
            return
        self._kept[key] = (value, size)
        self.size += size
        while self.size > self._bytes_max:
            self.size -= self._kept.popitem(last=False)[1][1]

    def drop(self, key: Hashable) -> None:
        self.size -= self._kept.pop(key, (None, 0))[1]


class _Topic(NamedTuple):
    """A topic's bytes and what they were made of."""

    image: TopicImage
    hosting: int
    data: bytes


class _List:
    """The bytes of all topics, by name in the order of the image, and what they were made of."""

    __slots__ = ("hosting", "offset", "pieces", "size")

    def __init__(self) -> None:
        self.offset = self.hosting = -1
        self.pieces: dict[str, _Topic] = {}
        self.size = 0

    def put(self, name: str, piece: _Topic | None) -> None:
        before = self.pieces.get(name)
        if before is not None:
            self.size -= len(before.data) + ENTRY_BYTES
            if piece is None or before.image.topic_id != piece.image.topic_id:  # made anew: it stands at the end of the image
                del self.pieces[name]
        if piece is not None:
            self.pieces[name] = piece
            self.size += len(piece.data) + ENTRY_BYTES


class MetadataBytes:
    """One for each broker (`broker.kept`)."""

    def __init__(self, _: object = None) -> None:
        self._topics: _Recent[_Topic] = _Recent(TOPICS_BYTES_MAX)
        self._answers: _Recent[bytes] = _Recent(ANSWERS_BYTES_MAX)
        self._stamp: Stamp | None = None  # of all answers: one that was made of something else is never true again
        self._lists: OrderedDict[int, _List] = OrderedDict()

    @property
    def size(self) -> int:
        """Bytes of memory that are kept here, about."""
        return self._topics.size + self._answers.size + sum(each.size for each in self._lists.values())

    # Whole answers

    def answer(self, key: Hashable) -> bytes | None:
        """The answer to the request `key`; only where `is_current`."""
        return self._answers.get(key)

    def keep_answer(self, key: Hashable, stamp: Stamp, data: bytes, key_bytes: int) -> None:
        """Answer `key` so as long as nothing in `stamp` has changed."""
        if not self.is_current(*stamp):
            self._answers, self._stamp = _Recent(ANSWERS_BYTES_MAX), stamp
        self._answers.put(key, data, len(data) + key_bytes + ENTRY_BYTES)

    def is_current(self, image: ClusterImage, hosting: int, settings: object, advertised: object) -> bool:
        """Whether the answers that are kept were made of these (a Stamp's fields: nothing is made at each request to compare it)."""
        kept = self._stamp
        return kept is not None and kept[0] is image and kept[1] == hosting and kept[2] is settings and kept[3] is advertised

    # Topics

    def get(self, version: int, topic: TopicImage, hosting: int, build: Callable[[], Any]) -> bytes:
        """The bytes of `topic`; `build` makes the entity if they are not kept.  `hosting` says when its partitions changed last."""
        return self._topic(version, topic, hosting, build).data

    def _topic(self, version: int, topic: TopicImage, hosting: int, build: Callable[[], Any]) -> _Topic:
        kept = self._topics.get((version, topic.topic_id))
        if kept is None or kept.image is not topic or kept.hosting != hosting:
            kept = self.keep(version, topic, hosting, encoded(build()))
        return kept

    def has(self, version: int, topic: TopicImage, hosting: int) -> bool:
        """Whether `get` need not encode."""
        kept = self._topics.get((version, topic.topic_id))
        return kept is not None and kept.image is topic and kept.hosting == hosting

    def keep(self, version: int, topic: TopicImage, hosting: int, data: bytes) -> _Topic:
        """The bytes of `topic`, encoded elsewhere."""
        made = _Topic(topic, hosting, data)
        key: tuple[int, UUID] = (version, topic.topic_id)
        self._topics.put(key, made, len(data) + ENTRY_BYTES)
        return made

    # All topics

    def moved(self, version: int, image: ClusterImage, places: Partitions) -> Iterable[str]:
        """Names of the topics that may not be as in the list of `version`, those that are gone too: all, if there is no list."""
        listed = self._lists.get(version)
        if listed is None:
            return image.topics
        touched, changed = image.touched_since(listed.offset), places.changed_since(listed.hosting)
        if touched is None or changed is None:
            del self._lists[version]
            return image.topics
        return touched | changed

    def every(self, version: int, image: ClusterImage, places: Partitions, build: Callable[[TopicImage], Any]) -> list[bytes]:
        """The bytes of all topics in the order of the image; `build` makes the entity of one that is not kept."""
        names = self.moved(version, image, places)
        listed = self._lists.pop(version, None) or _List()
        for name in names if names is image.topics else _in_order(names, listed.pieces, image):
            topic = image.topics.get(name)
            if topic is None:
                listed.put(name, None)
            else:
                listed.put(name, self._topic(version, topic, places.changed_at(name), partial(build, topic)))
        listed.offset, listed.hosting = image.offset, places.version
        if listed.size <= LIST_BYTES_MAX:
            self._lists[version] = listed
            if len(self._lists) > LISTS_MAX:
                self._lists.popitem(last=False)
        return [piece.data for piece in listed.pieces.values()]


def _in_order(names: Iterable[str], pieces: Mapping[str, _Topic], image: ClusterImage) -> list[str]:
    """`names` with those that are new in the order of the image: they are its last."""
    known, new = [], set()
    for name in names:
        topic, piece = image.topics.get(name), pieces.get(name)
        if topic is None or (piece is not None and piece.image.topic_id == topic.topic_id):
            known.append(name)
        else:
            new.add(name)
    last: list[str] = []
    for name in reversed(list(image.topics)):
        if len(last) == len(new):
            break
        if name in new:
            last.append(name)
    return known + last[::-1]


def spliced(version: int, without_topics: Any, topics: Sequence[bytes]) -> bytes:
    """The response `without_topics` (a kio entity whose topics are empty) with `topics` in their place."""
    frame = encoded(without_topics)
    flexible = is_flexible(KEY, version)
    suffix = _SUFFIX_BYTES.get(version, 0)
    end = len(frame) - suffix
    head = frame[: end - (1 if flexible else 4)]
    count = uvarint(len(topics) + 1) if flexible else struct.pack(">i", len(topics))
    return b"".join((head, count, *topics, frame[end:]))
