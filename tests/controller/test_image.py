"""What an image hands on to the next one, against what is counted anew."""

from __future__ import annotations

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from controller.image import RECENT_FOLDS_MAX, RECENT_NAMES_MAX, ClusterImage, flat_name, fold
from controller.records import (
    BrokerStarted,
    PartitionsAdded,
    ProducerIdsAllocated,
    Record,
    TopicConfigsChanged,
    TopicCreated,
    TopicDeleted,
)

NAMES = ("a.b", "a_c", "clicks", "views")
MOVES = st.lists(
    st.tuples(st.sampled_from(["topic", "grow", "configs", "delete", "start", "ids"]), st.sampled_from(NAMES)), max_size=8
)


def records_of(image: ClusterImage, moves: list[tuple[str, str]], serial: list[int]) -> list[Record]:
    """Records that may follow `image`."""
    made: list[Record] = []
    for move, name in moves:
        topic = image.topics.get(name)
        serial[0] += 1
        if move == "ids":
            made.append(ProducerIdsAllocated(node_id=1, start=serial[0] * 10, end=serial[0] * 10 + 1))
        elif move == "start":
            made.append(BrokerStarted(node_id=1, incarnation=UUID(int=serial[0]), rack="", raises_epochs=True))
        elif topic is None:
            made.append(TopicCreated(topic_id=UUID(int=serial[0]), name=name, partitions=((1,), (2,)), configs={}, created_ms=0))
        elif move == "grow":
            made.append(PartitionsAdded(topic_id=topic.topic_id, partitions=((1,),)))
        elif move == "delete":
            made.append(TopicDeleted(topic_id=topic.topic_id))
        else:
            made.append(TopicConfigsChanged(topic_id=topic.topic_id, configs={"retention.ms": str(serial[0])}))
        image = fold(image, made[-1:])
    return made


@given(st.lists(MOVES, max_size=12), st.data())
def test_what_is_handed_on_is_what_would_be_counted(folds: list[list[tuple[str, str]]], data: st.DataObject) -> None:
    serial, images = [0], [ClusterImage()]
    for moves in folds:
        images.append(fold(images[-1], records_of(images[-1], moves, serial)))
    image = images[-1]
    assert image.topics_by_id == {topic.topic_id: topic for topic in image.topics.values()}
    assert image.partition_count == sum(len(topic.partitions) for topic in image.topics.values())
    assert image.flat_names == {flat_name(name): name for name in image.topics}
    before = data.draw(st.sampled_from(images))
    touched = image.touched_since(before.offset)
    assert touched is not None
    changed = {name for name in {*image.topics, *before.topics} if image.topics.get(name) is not before.topics.get(name)}
    assert changed <= touched <= set(NAMES)
    assert image.touched_since(image.offset) == set()


def test_an_image_remembers_a_bounded_part_of_how_it_was_made() -> None:
    image = ClusterImage()
    for number in range(RECENT_FOLDS_MAX + 5):
        record = TopicCreated(topic_id=UUID(int=number), name=f"t{number}", partitions=((1,),), configs={}, created_ms=0)
        image = fold(image, [record])
    assert len(image.recent) == RECENT_FOLDS_MAX
    assert image.touched_since(image.offset - RECENT_FOLDS_MAX) is not None
    assert image.touched_since(image.offset - RECENT_FOLDS_MAX - 1) is None, "what is not remembered is not said to be unchanged"
    many: list[Record] = [
        TopicCreated(topic_id=UUID(int=1000 + n), name=f"m{n}", partitions=((1,),), configs={}, created_ms=0)
        for n in range(RECENT_NAMES_MAX + 1)
    ]
    assert fold(image, many).touched_since(image.offset) is None
