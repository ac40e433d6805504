"""Changes as values: their bytes, their plans, and that asking twice does it once."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kio.schema.errors import ErrorCode

from controller.change_codec import (
    Answer,
    NotDone,
    Reason,
    Sent,
    decode_answer,
    decode_change,
    encode_answer,
    encode_change,
)
from controller.changes import (
    CHANGES,
    PRODUCER_ID_BLOCK,
    Accepted,
    AllocateProducerIds,
    AlterConfigs,
    AlterNamedConfigs,
    BrokerConfigs,
    BrokerSteps,
    Change,
    CreatePartitions,
    CreateTopics,
    DeleteTopics,
    IdsAllocated,
    IncrementalAlterConfigs,
    MorePartitions,
    NamedConfigs,
    NamedSteps,
    PurgeTopics,
    Refusal,
    RegisterBroker,
    StepNamedConfigs,
    TopicConfigs,
    TopicSteps,
    UpdateFeatures,
)
from controller.codec import CHANGE, seal
from controller.config_rules import APPEND, DELETE, SET, SUBTRACT, ConfigChange, DynamicSettings, Scope
from controller.features import FEATURES, SAFE_DOWNGRADE, UNSAFE_DOWNGRADE, UPGRADE, FeatureUpdate, level_of
from controller.image import ClusterImage, fold
from controller.records import BrokerConfigsChanged, BrokerStarted, NamedKind, Record, TopicCreated, TopicDeleted
from controller.topic_rules import NewTopic
from hotlog.kernel.errors import Corrupt, UnknownVersion
from hotlog.kernel.settings import Settings
from tests.controller.samples import IMAGE, STORY

SETTINGS = Settings.resolve({})
SCOPE = Scope(SETTINGS, 1, 1_700_000_000_000)

# What topics are called, in the image and beside it, good names and bad ones.
ids = st.integers(1, 9).map(lambda number: UUID(int=number))
names = st.sampled_from(["clicks", "views", "old", "a.b", "a_b", "new", "", "..", "__consumer_offsets", "bad name"])
replicas = st.lists(st.integers(0, 2), max_size=2).map(tuple)
keys = st.sampled_from(
    [
        "retention.ms",
        "segment.bytes",
        "cleanup.policy",
        "remote.storage.enable",
        "num.partitions",
        "fetch.max.bytes",
        "nobody.knows",
    ]
)
texts = st.sampled_from(["-1", "1048576", "compact", "delete", "true", "x", ""])
configs = st.dictionaries(keys, st.none() | texts, max_size=3)
new_topics = st.builds(
    NewTopic,
    names,
    st.integers(-1, 4),
    st.integers(-1, 2),
    configs,
    st.lists(st.tuples(st.integers(0, 2), replicas), max_size=2).map(tuple),
)
steps = st.lists(
    st.builds(ConfigChange, keys, st.sampled_from([SET, DELETE, APPEND, SUBTRACT, 9]), st.none() | texts), max_size=3
).map(tuple)

group_names = st.sampled_from(["g", "h", ""])
group_keys = st.sampled_from(["consumer.session.timeout.ms", "consumer.heartbeat.interval.ms", "metrics", "interval.ms", "match"])
group_texts = st.sampled_from(["45000", "60000", "5000", "100", "client_id=a", "x", ""])
group_configs = st.dictionaries(group_keys, st.none() | group_texts, max_size=3)
group_steps = st.lists(
    st.builds(ConfigChange, group_keys, st.sampled_from([SET, DELETE, APPEND, SUBTRACT, 9]), st.none() | group_texts), max_size=3
).map(tuple)


def several(items: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(items, max_size=3).map(tuple)


features = st.builds(
    FeatureUpdate,
    st.sampled_from(["group.version", "transaction.version", "metadata.version"]),
    st.integers(-1, 3),
    st.integers(0, 4),
)
changes: st.SearchStrategy[Change] = st.one_of(
    st.builds(CreateTopics, topics=several(st.tuples(ids, new_topics))),
    st.builds(DeleteTopics, topic_ids=several(ids)),
    st.builds(PurgeTopics, topic_ids=several(ids)),
    st.builds(
        CreatePartitions, topics=several(st.builds(MorePartitions, names, st.integers(-1, 5), st.none() | several(replicas)))
    ),
    st.builds(
        AlterConfigs,
        topics=several(st.builds(TopicConfigs, names, configs)),
        brokers=several(st.builds(BrokerConfigs, st.integers(-1, 2), configs)),
    ),
    st.builds(
        IncrementalAlterConfigs,
        topics=several(st.builds(TopicSteps, names, steps)),
        brokers=several(st.builds(BrokerSteps, st.integers(-1, 2), steps)),
    ),
    st.builds(
        RegisterBroker,
        node_id=st.integers(0, 2),
        incarnation=ids,
        rack=st.text(max_size=3),
        raises_epochs=st.booleans(),
        own=several(ids),
    ),
    st.builds(UpdateFeatures, updates=several(features)),
    st.builds(
        AlterNamedConfigs, resources=several(st.builds(NamedConfigs, st.sampled_from(NamedKind), group_names, group_configs))
    ),
    st.builds(StepNamedConfigs, resources=several(st.builds(NamedSteps, st.sampled_from(NamedKind), group_names, group_steps))),
    st.builds(AllocateProducerIds, node_id=st.integers(0, 2)),
)
images = st.integers(0, len(STORY)).map(lambda end: fold(ClusterImage(), STORY[:end]))
results = st.one_of(
    st.builds(Accepted),
    st.builds(IdsAllocated, st.integers(0, 2**53), st.integers(0, 2**53)),
    st.builds(Refusal, st.sampled_from(list(ErrorCode)), st.text(max_size=20)),
)
answers = st.builds(Answer, st.integers(0, 2**53), several(results)) | st.builds(
    NotDone, st.sampled_from(list(Reason)), st.text(max_size=20)
)


@given(changes, st.text(max_size=22))
def test_a_change_survives_its_bytes(change: Change, cluster_id: str) -> None:
    assert decode_change(encode_change(Sent(cluster_id, change))) == Sent(cluster_id, change)


@given(answers)
def test_an_answer_survives_its_bytes(answer: Answer | NotDone) -> None:
    assert decode_answer(encode_answer(answer)) == answer


def test_every_change_can_be_sent() -> None:
    assert set(CHANGES.values()) == {kind for kind in Change.__subclasses__() if kind.__module__ == "controller.changes"}


@given(images, changes)
def test_a_plan_has_a_result_for_each_item_and_records_that_can_follow(image: ClusterImage, change: Change) -> None:
    plan = change.plan(image, SCOPE)
    after = fold(image, plan.records)  # raises if they cannot
    assert plan == change.plan(image, SCOPE), "pure"
    items = [getattr(change, name) for name in ("topics", "topic_ids", "brokers", "resources") if hasattr(change, name)]
    assert len(plan.results) == (sum(map(len, items)) if items else 1)
    assert len(plan.records) <= sum(not isinstance(result, Refusal) for result in plan.results)
    assert after.offset == image.offset + len(plan.records)


@given(images, changes)
def test_a_change_that_names_what_it_makes_may_be_submitted_again(image: ClusterImage, change: Change) -> None:
    """An answer may be lost: what was accepted is accepted again, and done once."""
    plan = change.plan(image, SCOPE)
    after = fold(image, plan.records)
    again = change.plan(after, SCOPE)
    if isinstance(change, CreateTopics | RegisterBroker | PurgeTopics | AlterConfigs | AlterNamedConfigs | UpdateFeatures):
        for first, second in zip(plan.results, again.results, strict=True):
            if isinstance(first, Accepted) and len(plan.results) == 1:
                assert (second, again.records) == (Accepted(), ())
    elif isinstance(change, DeleteTopics):
        assert again.records == ()
    elif isinstance(change, AllocateProducerIds):
        assert again.results[0].start == plan.results[0].end  # type: ignore[union-attr]


def create(*wanted: tuple[int, NewTopic]) -> CreateTopics:
    return CreateTopics(topics=tuple((UUID(int=number), topic) for number, topic in wanted))


def codes(change: Change, image: ClusterImage = IMAGE) -> list[ErrorCode]:
    return [result.code if isinstance(result, Refusal) else ErrorCode.none for result in change.plan(image, SCOPE).results]


def test_items_are_judged_with_those_before_them_in_place_and_a_refused_one_spares_the_rest() -> None:
    change = create(
        (51, NewTopic("new")), (52, NewTopic("new")), (53, NewTopic("n.w")), (54, NewTopic("n_w")), (55, NewTopic("last"))
    )
    assert codes(change) == [
        ErrorCode.none, ErrorCode.topic_already_exists, ErrorCode.none, ErrorCode.invalid_topic_exception, ErrorCode.none,
    ]  # fmt: skip
    records = change.plan(IMAGE, SCOPE).records
    assert [record.name for record in records if isinstance(record, TopicCreated)] == ["new", "n.w", "last"]


def test_an_id_is_given_to_one_topic_ever_seen() -> None:
    """As by a change that is submitted again when its topic was deleted meanwhile."""
    refused = ErrorCode.invalid_request
    assert codes(create((1, NewTopic("new")), (3, NewTopic("old")), (9, NewTopic("new")), (9, NewTopic("newer")))) == [
        refused, ErrorCode.none, ErrorCode.none, refused,
    ], "clicks has 1; old (3) was purged; 9 is new"  # fmt: skip
    assert codes(create((2, NewTopic("views")))) == [refused], "views is deleted and not purged yet"


def test_growing_a_topic_twice_in_one_change_counts_from_the_first() -> None:
    change = CreatePartitions(topics=(MorePartitions("clicks", 4), MorePartitions("clicks", 3), MorePartitions("clicks", 6)))
    assert codes(change) == [ErrorCode.none, ErrorCode.invalid_partitions, ErrorCode.none]
    assert len(fold(IMAGE, change.plan(IMAGE, SCOPE).records).topics["clicks"].partitions) == 6


def test_a_topic_named_twice_is_deleted_once() -> None:
    change = DeleteTopics(topic_ids=(UUID(int=1), UUID(int=1), UUID(int=77)))
    assert codes(change) == [ErrorCode.none, ErrorCode.none, ErrorCode.unknown_topic_or_partition]
    assert change.plan(IMAGE, SCOPE).records == (TopicDeleted(topic_id=UUID(int=1)),)


def registration(incarnation: int, *own: int) -> RegisterBroker:
    return RegisterBroker(
        node_id=1, incarnation=UUID(int=incarnation), rack="", raises_epochs=True, own=tuple(UUID(int=one) for one in own)
    )


def test_a_place_is_taken_from_ones_own_lives_only() -> None:
    assert codes(registration(11, 9)) == [ErrorCode.duplicate_broker_registration], "life 10 has it"
    assert codes(registration(11, 9, 10)) == [ErrorCode.none]
    assert registration(10).plan(IMAGE, SCOPE).records == (), "it is registered"
    (record,) = registration(11, 10).plan(IMAGE, SCOPE).records
    assert record == BrokerStarted(node_id=1, incarnation=UUID(int=11), rack="", raises_epochs=True)


def test_blocks_of_producer_ids_follow_each_other() -> None:
    image, blocks = IMAGE, []
    for node in (1, 2, 1):
        plan = AllocateProducerIds(node_id=node).plan(image, SCOPE)
        image = fold(image, plan.records)
        blocks += plan.results
    start = IMAGE.producer_id_next
    assert blocks == [IdsAllocated(start + step * PRODUCER_ID_BLOCK, start + (step + 1) * PRODUCER_ID_BLOCK) for step in range(3)]


def test_settings_of_a_broker_that_is_not_registered_are_refused() -> None:
    assert codes(AlterConfigs(brokers=(BrokerConfigs(1, {"num.partitions": "2"}), BrokerConfigs(8, {})))) == [
        ErrorCode.none,
        ErrorCode.invalid_request,
    ]


def test_dynamic_settings_are_the_same_object_until_something_of_them_changes() -> None:
    def told(node_id: int, name: str, text: str) -> list[Record]:
        return [BrokerConfigsChanged(node_id=node_id, configs={name: text})]

    dynamic = DynamicSettings(Settings.resolve({"node.id": "1", "num.partitions": "5"}), 1)
    empty = ClusterImage()
    assert dynamic.at(empty).number("num.partitions") == 5
    assert dynamic.at(fold(empty, told(2, "num.partitions", "7"))) is dynamic.at(empty), "another broker's"
    assert dynamic.at(fold(empty, told(1, "nobody.knows", "7"))) is dynamic.at(empty)
    default = fold(empty, told(-1, "num.partitions", "7"))
    assert dynamic.at(default).number("num.partitions") == 7
    assert dynamic.at(fold(default, told(1, "num.partitions", "8"))).number("num.partitions") == 8
    assert dynamic.at(empty).number("num.partitions") == 5


def test_a_stored_setting_that_cannot_hold_any_more_counts_as_not_said() -> None:
    """An older release took any grace; the file may say other deadlines than it did.  The broker has to start to be told another value."""
    dynamic = DynamicSettings(Settings.resolve({"node.id": "1"}), 1)
    said = {"hotlog.garbage.grace.ms": "0", "num.partitions": "7"}
    image = fold(ClusterImage(), [BrokerConfigsChanged(node_id=-1, configs=said)])
    assert dynamic.at(image) is dynamic.at(image)
    assert dynamic.at(image).number("num.partitions") == 7
    assert dynamic.at(image).number("hotlog.garbage.grace.ms") == 24 * 60 * 60 * 1000
    assert set(dynamic.refused) == {"hotlog.garbage.grace.ms"}
    short = Settings.resolve({"node.id": "1", "hotlog.store.attempt.timeout.ms": "10", "hotlog.store.total.timeout.ms": "1000"})
    relation = DynamicSettings(short, 1)
    assert relation.at(fold(image, [BrokerConfigsChanged(node_id=1, configs={"hotlog.garbage.grace.ms": "999"})])) is not short
    assert "must not be below" in relation.refused["hotlog.garbage.grace.ms"]
    mended = fold(image, [BrokerConfigsChanged(node_id=-1, configs={"hotlog.garbage.grace.ms": "200000"})])
    assert dynamic.at(mended).number("hotlog.garbage.grace.ms") == 200_000
    assert not dynamic.refused


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"cluster_id": "c", "change": {"type": "drop-cluster", "version": 1}}, UnknownVersion),
        ({"cluster_id": "c", "change": {"type": "delete-topics", "version": 2, "topic_ids": []}}, UnknownVersion),
        ({"cluster_id": "c", "change": {"type": "delete-topics", "version": 1, "topic_ids": ["x"]}}, Corrupt),
        ({"cluster_id": "c", "change": {"type": "delete-topics", "version": 1, "topic_ids": "x"}}, Corrupt),
        ({"cluster_id": "c", "change": {"type": "delete-topics", "version": 1}}, Corrupt),
        ({"cluster_id": "c", "change": {"type": "create-topics", "version": 1, "topics": [["x"]]}}, Corrupt),
        ({"cluster_id": "c"}, Corrupt),
    ],
)
def test_changes_that_cannot_be_understood_are_refused(body: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        decode_change(seal(CHANGE, body))


def test_features_are_changed_together_or_not_at_all() -> None:
    def update(image: ClusterImage, *updates: tuple[str, int, int]) -> tuple[ErrorCode, ClusterImage]:
        change = UpdateFeatures(updates=tuple(FeatureUpdate(*one) for one in updates))
        plan = change.plan(image, SCOPE)
        (result,) = plan.results
        return (result.code if isinstance(result, Refusal) else ErrorCode.none), fold(image, plan.records)

    refused, done = ErrorCode.invalid_update_version, ErrorCode.none
    new = ClusterImage()
    assert {feature.name: level_of(new, feature.name) for feature in FEATURES} == {"group.version": 1, "transaction.version": 2}
    for wrong in (("nobody.knows", 1, UPGRADE), ("group.version", 2, UPGRADE), ("group.version", -1, SAFE_DOWNGRADE),
                  ("group.version", 0, UPGRADE), ("group.version", 0, 0), ("group.version", 1, 4)):  # fmt: skip
        assert update(new, ("transaction.version", 1, SAFE_DOWNGRADE), wrong) == (refused, new)
    code, lower = update(new, ("group.version", 0, UNSAFE_DOWNGRADE), ("transaction.version", 1, SAFE_DOWNGRADE))
    assert (code, lower.features, lower.features_epoch) == (done, {"group.version": 0, "transaction.version": 1}, 1)
    assert update(lower, ("transaction.version", 2, SAFE_DOWNGRADE)) == (refused, lower)
    assert update(lower, ("transaction.version", 1, SAFE_DOWNGRADE)) == (done, lower), "as it is"
    assert update(lower, ("transaction.version", 2, UPGRADE))[1].features == {"group.version": 0, "transaction.version": 2}
