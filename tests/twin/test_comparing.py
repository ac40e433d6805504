"""The comparer is not blind: whatever is changed in an answer is found, and what differs by nature is not."""

from __future__ import annotations

import dataclasses
import uuid
from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hotlog.wire import apis
from tests.twin.batches import batch, patched
from tests.twin.comparing import MISSING, compare
from tests.twin.differences import ANY, Row
from tests.twin.keys import Key
from tests.twin.telling import Closed, Told
from tests.wire.strategies import entities

IDS = [uuid.UUID(int=number) for number in range(1, 9)]


def different(key: int, hotlog: Any, kafka: Any) -> list[tuple[str, Any, Any]]:
    found = compare([Told("q", key, 0, hotlog)], [Told("q", key, 0, kafka)])
    return [(each.path, each.hotlog, each.kafka) for each in found]


def metadata(*topics: tuple[str, Any, int], port: int = 1) -> Any:
    shapes = apis.responses(Key.METADATA, 10)
    parts = [
        shapes.MetadataResponseTopic(
            error_code=0, name=name, topic_id=topic_id, topic_authorized_operations=0,
            partitions=tuple(
                shapes.MetadataResponsePartition(
                    error_code=0, partition_index=index, leader_id=1, leader_epoch=0, replica_nodes=(1,), isr_nodes=(1,), offline_replicas=()
                )
                for index in range(count)
            ),
        )
        for name, topic_id, count in topics
    ]  # fmt: skip
    brokers = (shapes.MetadataResponseBroker(node_id=1, host="h", port=port, rack=None),)
    return shapes.MetadataResponse(
        throttle_time=timedelta(0),
        brokers=brokers,
        cluster_id="x",
        controller_id=1,
        topics=tuple(parts),
        cluster_authorized_operations=0,
    )


def test_ids_and_ports_are_those_of_each_broker() -> None:
    a, b, c, d = IDS[:4]
    assert different(3, metadata(("t", a, 1), ("u", b, 1), port=5), metadata(("u", d, 1), ("t", c, 1), port=6)) == []


def test_two_topics_do_not_share_an_id() -> None:
    a, b, c = IDS[:3]
    assert different(3, metadata(("t", a, 1), ("u", a, 1)), metadata(("t", b, 1), ("u", c, 1))) == [("topics[u].topic_id", a, c)]


def test_an_id_is_not_nobodys() -> None:
    assert different(3, metadata(("t", None, 1)), metadata(("t", IDS[0], 1))) == [("topics[t].topic_id", None, IDS[0])]


def test_what_one_side_has_alone_is_told_with_its_path() -> None:
    ours, theirs = metadata(("t", IDS[0], 2)), metadata(("t", IDS[0], 1), ("u", IDS[1], 1))
    assert [(path, hotlog is MISSING, kafka is MISSING) for path, hotlog, kafka in different(3, ours, theirs)] == [
        ("topics[t].partitions[1]", False, True), ("topics[u]", True, False)
    ]  # fmt: skip


def test_a_closed_connection_is_no_answer() -> None:
    assert [path for path, *_ in different(3, Closed(), metadata())] == [""]
    assert different(3, Closed(), Closed()) == []


def test_a_question_that_only_one_was_asked_is_told() -> None:
    found = compare([Told("q", 3, 0, 1), Told("r", 3, 0, 1)], [Told("q", 3, 0, 1)])
    assert [(each.what, each.hotlog, each.kafka) for each in found] == [("r", "asked", MISSING)]


@given(st.data())
def test_whatever_is_changed_is_found(data: st.DataObject) -> None:
    """In any answer of some APIs; fields that each broker has of its own are left as they are."""
    key, version = data.draw(st.sampled_from([(3, 9), (2, 6), (16, 5), (60, 1), (37, 2)]))
    kind = apis.response_type(key, version)
    ours, theirs = data.draw(entities(kind)), data.draw(entities(kind))
    found = different(key, ours, theirs)
    plain_fields = [
        field.name for field in dataclasses.fields(kind) if field.name in ("controller_id", "error_code", "throttle_time")
    ]
    for name in plain_fields:
        is_other = getattr(ours, name) != getattr(theirs, name)
        assert any(path == name for path, *_ in found) == is_other
    assert different(key, ours, ours) == []


def fetched(data: bytes) -> Any:
    shapes = apis.responses(Key.FETCH, 4)
    part = shapes.PartitionData(
        partition_index=0, error_code=0, high_watermark=0, last_stable_offset=0, aborted_transactions=(), records=data
    )
    return shapes.FetchResponse(
        throttle_time=timedelta(0), responses=(shapes.FetchableTopicResponse(topic="t", partitions=(part,)),)
    )


def test_batches_are_compared_field_by_field() -> None:
    good = batch(b"a", b"b")
    at = "responses[t].partitions[0].records"
    assert different(1, fetched(good), fetched(good)) == []
    assert different(1, fetched(patched(good, 12, ">i", 7)), fetched(good)) == [(f"{at}.batches[0].leader_epoch", 7, -1)]
    assert different(1, fetched(patched(good, 17, ">I", 7, is_sound=False)), fetched(good)) == [
        (f"{at}.batches[0].is_sound", False, True)
    ]
    assert [path for path, *_ in different(1, fetched(batch(b"a", b"c")), fetched(good))] == [f"{at}.batches[0].payload"]
    assert different(1, fetched(good), fetched(good + good[:30])) == [(f"{at}.rest", 0, 30)]


def test_rows_fit_what_they_name() -> None:
    (seen,) = compare([Told("q", 32, 0, Closed())], [Told("q", 32, 0, 1)])
    for path, field, fits in (
        ("results[t].configs[a.b].value", "results.configs.value", True), ("results[t].configs[a.b].value", "results.configs[a.b].value", True),
        ("results[t].configs[a.b].value", "results.configs[a.*].*", True), ("results[t].configs[a.b].value", "results.configs[b.*].*", False),
        ("results[t].configs[a.b].value", "results.configs", False), ("results[t].configs[a.b]", "results.configs[a.b]", True),
        ("results[t].configs[a.b].values", "results.configs.val*", True), ("xresults", "results", False), ("", "", True),
    ):  # fmt: skip
        row = Row(Key.DESCRIBE_CONFIGS, field, "because")
        assert row.allows("story", seen._replace(path=path)) is fits, (path, field)
    assert not Row(Key.METADATA, "", "because").allows("story", seen)
    assert not Row(Key.DESCRIBE_CONFIGS, "", "because", kafka=2).allows("story", seen)
    assert not Row(Key.DESCRIBE_CONFIGS, "", "because", ANY, 1, stories="other*").allows("story", seen)
    assert Row(Key.DESCRIBE_CONFIGS, "", "because", kafka=1, stories="sto*", what="?").allows("story", seen)
