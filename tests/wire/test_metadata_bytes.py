"""Metadata that is kept as bytes: what is put together of kept pieces is what all pieces made anew would be, and only what changed is made."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kio.schema.errors import ErrorCode

from controller.image import ClusterImage, TopicImage, fold
from hotlog.answers import metadata_bytes
from hotlog.answers.metadata_bytes import MetadataBytes, Stamp
from hotlog.partitions.hosting import CHANGES_KEPT_MIN, Partitions
from hotlog.wire.apis import responses
from tests.controller.test_image import MOVES, NAMES, records_of

VERSION = 12
HOSTED: Any = Mock()


class Scene:
    """An image and what is hosted, and how a topic is encoded: with its number of partitions, and those that are hosted."""

    def __init__(self) -> None:
        self.image = ClusterImage()
        self.places = Partitions()
        self.made: list[str] = []
        self._serial = [0]

    def change(self, moves: list[tuple[str, str]]) -> None:
        self.image = fold(self.image, records_of(self.image, moves, self._serial))

    def flip(self, name: str) -> None:
        """The topic's first partition begins or ends to be served."""
        if (name, 0) in self.places:
            del self.places[name, 0]
        else:
            self.places[name, 0] = HOSTED

    def entity(self, topic: TopicImage) -> Any:
        self.made.append(topic.name)
        return responses(3, VERSION).MetadataResponseTopic(
            error_code=ErrorCode.none if (topic.name, 0) in self.places else ErrorCode.leader_not_available, name=topic.name, topic_id=topic.topic_id, is_internal=False,
            partitions=(), topic_authorized_operations=len(topic.partitions),
        )  # fmt: skip

    def every(self, kept: MetadataBytes) -> list[bytes]:
        return kept.every(VERSION, self.image, self.places, self.entity)


@given(st.lists(st.tuples(MOVES, st.lists(st.sampled_from(NAMES), max_size=3), st.booleans()), max_size=10))
def test_a_list_that_follows_changes_is_what_it_would_be_made_anew(steps: list[tuple[Any, list[str], bool]]) -> None:
    scene, kept = Scene(), MetadataBytes()
    for moves, flips, is_asked in steps:
        scene.change(moves)
        for name in flips:
            scene.flip(name)
        if is_asked:
            assert scene.every(kept) == scene.every(MetadataBytes())


def test_only_the_topic_that_changed_is_encoded() -> None:
    scene, kept = Scene(), MetadataBytes()
    scene.change([("topic", name) for name in NAMES[1:]])
    scene.every(kept)
    scene.made.clear()
    scene.change([("topic", NAMES[0])])
    scene.every(kept)
    scene.flip(NAMES[2])
    scene.every(kept)
    scene.change([("ids", "")])
    scene.every(kept)
    assert scene.made == [NAMES[0], NAMES[2]]


def test_what_is_kept_is_bounded_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata_bytes, "LIST_BYTES_MAX", 700)
    kept = MetadataBytes()
    assert kept.size == 0
    scene = Scene()
    scene.change([("topic", name) for name in NAMES])
    scene.every(kept)
    assert set(kept._lists) == set(), "a list that is too large is not kept"
    assert 4 * metadata_bytes.ENTRY_BYTES < kept.size < 4 * metadata_bytes.ENTRY_BYTES + 400
    stamp = Stamp(scene.image, 0, None, None)
    for number in range(40):
        kept.keep_answer(number, stamp, bytes(1024 * 1024), 10)
    assert asked(kept, 39, stamp) is not None
    assert asked(kept, 0, stamp) is None
    assert kept.size <= metadata_bytes.ANSWERS_BYTES_MAX + 2000
    kept.keep_answer("large", stamp, bytes(metadata_bytes.ANSWERS_BYTES_MAX), 10)
    assert asked(kept, "large", stamp) is None


def asked(kept: MetadataBytes, key: Hashable, stamp: Stamp) -> bytes | None:
    return kept.answer(key) if kept.is_current(*stamp) else None


def test_an_answer_is_used_only_for_what_it_was_made_of() -> None:
    kept, image, settings, advertised = MetadataBytes(), ClusterImage(), object(), object()
    kept.keep_answer("k", Stamp(image, 7, settings, advertised), b"answer", 1)
    assert asked(kept, "k", Stamp(image, 7, settings, advertised)) == b"answer"
    assert asked(kept, "k", Stamp(ClusterImage(), 7, settings, advertised)) is None
    assert asked(kept, "k", Stamp(image, 8, settings, advertised)) is None
    assert asked(kept, "k", Stamp(image, 7, object(), advertised)) is None
    assert asked(kept, "k", Stamp(image, 7, settings, object())) is None


def test_changes_of_topics_that_are_long_gone_are_forgotten() -> None:
    places = Partitions()
    places["stays", 0] = HOSTED
    start = places.version
    for number in range(2 * CHANGES_KEPT_MIN):
        places[f"t{number}", 0] = HOSTED
        del places[f"t{number}", 0]
    assert len(places._changes) <= CHANGES_KEPT_MIN + 2
    assert places.changed_at("stays") == 1
    assert places.changed_since(start) is None, "what is forgotten is not said to be unchanged"
    assert places.changed_since(places.version) == set()
    before = places.version
    del places["stays", 0]
    assert places.changed_since(before) == {"stays"}


def test_answers_of_what_has_changed_are_not_kept() -> None:
    """Each would keep a whole image of the cluster alive, however little it counts for."""
    kept, images = MetadataBytes(), [ClusterImage() for _ in range(30)]
    stamps = [Stamp(image, 0, None, None) for image in images]
    for number, stamp in enumerate(stamps):
        kept.keep_answer(number, stamp, b"answer", 10)
        assert asked(kept, number, stamp) == b"answer"
        assert len(kept._answers._kept) == 1
    assert asked(kept, 29, stamps[0]) is None
