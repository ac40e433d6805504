"""Topics: made, widened, described, deleted."""

from __future__ import annotations

import uuid
from typing import Any

from tests.twin.keys import Key
from tests.twin.telling import Side, story

UNKNOWN_ID = uuid.UUID("00000000-0000-4000-8000-00000000cafe")


def new(name: str, partitions: int = 1, replicas: int = 1, **more: Any) -> dict[str, Any]:
    return dict(name=name, num_partitions=partitions, replication_factor=replicas) | more


def assigned(**brokers: list[int]) -> list[dict[str, Any]]:
    """`assigned(p0=[1], p1=[1])`."""
    return [dict(partition_index=int(name.removeprefix("p")), broker_ids=ids) for name, ids in brokers.items()]


async def create(at: Side, what: str, *topics: dict[str, Any], validate_only: bool = False) -> Any:
    return await at.ask(Key.CREATE_TOPICS, what, topics=topics, timeout=60_000, validate_only=validate_only)


@story(Key.CREATE_TOPICS)
async def topics_are_created(at: Side) -> None:
    name = at.name
    await create(at, "one", new(name("one")))
    await create(at, "two at once", new(name("two"), 3), new(name("three"), 2))
    await create(at, "as a trial", new(name("trial"), 2), validate_only=True)
    await create(at, "after the trial", new(name("trial"), 2))
    await create(at, "once more", new(name("one")), new(name("four")))
    await create(at, "once more, as a trial", new(name("one")), validate_only=True)
    await create(at, "the same twice", new(name("five")), new(name("five")), new(name("six")))
    await create(at, "none")
    for partitions in (0, -2, -1):
        await create(at, f"{partitions} partitions", new(name(f"p{partitions}"), partitions))
    for replicas in (0, -2, 2, -1):
        await create(at, f"{replicas} replicas", new(name(f"r{replicas}"), 1, replicas))
    await create(at, "everything by default", new(name("default"), -1, -1))


@story(Key.CREATE_TOPICS)
async def names_of_topics(at: Side) -> None:
    await create(at, "a name with dots", new(at.name("a.b")))
    await create(at, "one that is the same in metrics", new(at.name("a_b")))
    for word in ("", ".", "..", "a b", "a/b", "é", "a" * 250, "a\n", "__twin"):
        await create(at, f"name {word[:9]!r}", new(word), validate_only=True)
    await create(at, "the longest name", new("a" * 249), validate_only=True)
    await create(at, "an internal topic", new("__consumer_offsets"), validate_only=True)


@story(Key.CREATE_TOPICS)
async def replicas_are_assigned(at: Side) -> None:
    for what, assignments in {
        "one": assigned(p0=[1]), "two": assigned(p0=[1], p1=[1]), "in any order": assigned(p1=[1], p0=[1]), "a gap": assigned(p0=[1], p2=[1]),
        "not from 0": assigned(p1=[1]), "an unknown broker": assigned(p0=[7]), "no broker": assigned(p0=[]), "twice on one": assigned(p0=[1, 1]),
        "more than there are": assigned(p0=[1, 2]), "of different length": assigned(p0=[1], p1=[]), "a negative one": assigned(p0=[-1]),
        "a partition twice": assigned(p0=[1]) + assigned(p0=[1]), "a negative partition": [dict(partition_index=-1, broker_ids=[1])],
    }.items():  # fmt: skip
        word = at.name(what.replace(" ", "-"))
        await create(at, what, new(word, -1, -1, assignments=assignments))
        await create(at, f"{what}, and a number of partitions", new(f"{word}-n", 1, -1, assignments=assignments))
        if what in ("one", "two", "a gap", "an unknown broker"):
            await create(at, f"{what}, as a trial", new(f"{word}-t", -1, -1, assignments=assignments), validate_only=True)
    await create(at, "and a number of replicas", new(at.name("replicas"), -1, 1, assignments=assigned(p0=[1])))


@story(Key.CREATE_TOPICS)
async def topics_have_configurations(at: Side) -> None:
    def with_configs(word: str, *given: tuple[str, str | None]) -> dict[str, Any]:
        return new(at.name(word), configs=[dict(name=key, value=value) for key, value in given])

    await create(at, "some", with_configs("some", ("retention.ms", "1000"), ("cleanup.policy", "compact")))
    await create(at, "one at its default", with_configs("default", ("cleanup.policy", "delete")))
    await create(at, "unknown", with_configs("unknown", ("no.such.key", "1")))
    await create(at, "a wrong value", with_configs("wrong", ("retention.ms", "soon")))
    await create(at, "a null value", with_configs("null", ("retention.ms", None)))
    await create(at, "an empty value", with_configs("empty", ("retention.ms", "")))
    await create(at, "twice the same key", with_configs("twice", ("retention.ms", "1"), ("retention.ms", "2")))
    await create(
        at, "wrong and as a trial", new(at.name("trial"), configs=[dict(name="segment.ms", value="0")]), validate_only=True
    )
    await create(at, "one wrong, one right", with_configs("bad", ("flush.ms", "-1")), with_configs("good", ("flush.ms", "1")))
    await create(at, "a name of a broker's key", with_configs("broker", ("log.retention.ms", "1")))


@story(Key.DELETE_TOPICS)
async def topics_are_deleted(at: Side) -> None:
    async def delete(what: str, *topics: tuple[str | None, Any]) -> None:
        states = [dict(name=name, topic_id=topic_id) for name, topic_id in topics]
        names = [name or "" for name, _ in topics]
        by_name = at.version(Key.DELETE_TOPICS) < 6
        await at.ask(Key.DELETE_TOPICS, what, topic_names=names, timeout=60_000, **({} if by_name else {"topics": states}))

    ids = {word: await at.topic(word) for word in "abcd"}
    await delete("one", (at.name("a"), None))
    await delete("gone already", (at.name("a"), None))
    await delete("one that was never there, and one that is", (at.name("never"), None), (at.name("b"), None))
    await delete("twice the same", (at.name("c"), None), (at.name("c"), None))
    await delete("none")
    await delete("no name", ("", None))
    await delete("no name that a topic may have", ("a b", None))
    if at.version(Key.DELETE_TOPICS) >= 6:
        await delete("by its id", (None, ids["d"]))
        await delete("by the id of one that is gone", (None, ids["a"]))
        await delete("by an unknown id", (None, UNKNOWN_ID))
        await at.topic("e")
        await delete("by name and id", (at.name("e"), ids["a"]))
        await delete("by neither", (None, None))
        await delete("twice the same id", (None, UNKNOWN_ID), (None, UNKNOWN_ID))
        await delete("by its name", (at.name("e"), None))


@story(Key.CREATE_PARTITIONS)
async def topics_are_widened(at: Side) -> None:
    async def widen(what: str, *topics: tuple[str, int, list[list[int]] | None], validate_only: bool = False) -> None:
        asked = [
            dict(name=name, count=count, assignments=None if ids is None else [dict(broker_ids=each) for each in ids])
            for name, count, ids in topics
        ]
        await at.ask(Key.CREATE_PARTITIONS, what, topics=asked, timeout=60_000, validate_only=validate_only)

    for word in "ab":
        await at.topic(word, partitions=2)
    a, b = at.name("a"), at.name("b")
    await widen("as a trial", (a, 4, None), validate_only=True)
    await widen("to three", (a, 3, None))
    await at.ready("a", 3)
    await widen("to as many as there are", (a, 3, None))
    await widen("to fewer", (a, 1, None))
    for count in (0, -1):
        await widen(f"to {count}", (a, count, None))
    await widen("to fewer as a trial", (a, 1, None), validate_only=True)
    await widen("where, as a trial", (b, 3, [[1]]), validate_only=True)
    await widen("on an unknown broker, as a trial", (b, 3, [[7]]), validate_only=True)
    await widen("where", (b, 3, [[1]]))
    await at.ready("b", 3)
    await widen("on an unknown broker", (b, 4, [[7]]))
    await widen("on too few", (b, 5, [[1]]))
    await widen("on too many", (b, 4, [[1], [1]]))
    await widen("on none", (b, 4, [[]]))
    await widen("without any", (b, 4, []))
    await widen("twice on the same", (b, 4, [[1, 1]]))
    await widen("one unknown, one known", (at.name("unknown"), 2, None), (b, 4, None))
    await widen("the same twice", (a, 5, None), (a, 6, None))
    await widen("none")
    await widen("no name", ("", 2, None))


@story(Key.METADATA)
async def topics_are_found(at: Side) -> None:
    async def look(what: str, *topics: dict[str, Any], **more: Any) -> Any:
        return await at.ask(Key.METADATA, what, topics=topics, **{"allow_auto_topic_creation": False, **more})

    ids = {word: await at.topic(word, partitions=count) for word, count in (("a", 1), ("b", 3))}
    a, b = dict(name=at.name("a")), dict(name=at.name("b"))
    await look("one", a)
    await look("several", a, b)
    await look("the same twice", a, b, a)
    if at.version(Key.METADATA) >= 1:  # null is all of them, and no topics are none
        await look("none")
    if at.version(Key.METADATA) >= 4:  # before, asking was creating
        await look("unknown", dict(name=at.name("unknown")), a)
    for word in ("a b", "a" * 250, ".."):
        await look(f"name {word[:9]!r}", dict(name=word))
    await look("what may be done", a, include_topic_authorized_operations=True, include_cluster_authorized_operations=True)
    if at.version(Key.METADATA) >= 12:
        await look("by id", dict(name=None, topic_id=ids["b"]))
        await look("by ids, one unknown", dict(name=None, topic_id=ids["a"]), dict(name=None, topic_id=UNKNOWN_ID))
        await look("by name and id", dict(name=at.name("b"), topic_id=ids["b"]))
        await look("by neither", dict(name=None))


@story(Key.METADATA, alone=True)
async def every_topic(at: Side) -> None:
    await at.ask(Key.METADATA, "all", topics=None if at.version(Key.METADATA) >= 1 else [])


@story(Key.METADATA)
async def asking_creates(at: Side) -> None:
    topics = [dict(name=at.name("new"))]
    await at.ask(Key.METADATA, "at first", topics=topics, allow_auto_topic_creation=True)
    await at.until(
        lambda answer: answer.topics[0].error_code.name == "none",
        Key.METADATA,
        version=8,
        topics=topics,
        allow_auto_topic_creation=True,
    )
    await at.ready("new", 3)
    await at.ask(Key.METADATA, "then", topics=topics, allow_auto_topic_creation=True)
    if at.version(Key.METADATA) >= 12:
        await at.ask(
            Key.METADATA, "by an unknown id", topics=[dict(name=None, topic_id=UNKNOWN_ID)], allow_auto_topic_creation=True
        )


@story(Key.DESCRIBE_TOPIC_PARTITIONS)
async def partitions_page_by_page(at: Side) -> None:
    async def look(what: str, *words: str, limit: int = 2_000, cursor: tuple[str, int] | None = None) -> Any:
        place = None if cursor is None else dict(topic_name=at.name(cursor[0]), partition_index=cursor[1])
        topics = [dict(name=at.name(word)) for word in words]
        return await at.ask(Key.DESCRIBE_TOPIC_PARTITIONS, what, topics=topics, response_partition_limit=limit, cursor=place)

    for word, count in (("b", 3), ("a", 2), ("c", 1)):
        await at.topic(word, partitions=count)
    await look("one", "b")
    await look("all of ours", "c", "b", "a")
    await look("the same twice", "b", "b")
    await look("unknown", "unknown", "a")
    for limit in (1, 2, 3, 4, 6, 7, 0, -1):
        await look(f"at most {limit}", "a", "b", "c", limit=limit)
    for place in (("a", 0), ("a", 1), ("a", 2), ("a", 9), ("b", 1), ("aa", 1), ("d", 0), ("c", 1)):
        await look(f"from {place}", "a", "b", "c", cursor=place)
        await look(f"two from {place}", "a", "b", "c", cursor=place, limit=2)
    await look("a cursor before the first", "a", cursor=("a", -1))
    await look("a cursor at a topic that was not asked for", "a", "c", cursor=("b", 1))
    await at.ask(Key.DESCRIBE_TOPIC_PARTITIONS, "no name", topics=[dict(name="")])
    await at.ask(Key.DESCRIBE_TOPIC_PARTITIONS, "no name of a topic", topics=[dict(name="a b")])


@story(Key.DESCRIBE_LOG_DIRS)
async def bytes_of_partitions(at: Side) -> None:
    await at.topic("a", partitions=2)
    await at.ask(Key.DESCRIBE_LOG_DIRS, "empty", topics=[dict(topic=at.name("a"), partitions=[0, 1])])
    await at.ask(Key.DESCRIBE_LOG_DIRS, "unknown", topics=[dict(topic=at.name("unknown"), partitions=[0])])
    await at.ask(Key.DESCRIBE_LOG_DIRS, "an unknown partition", topics=[dict(topic=at.name("a"), partitions=[0, 7])])
    await at.ask(Key.DESCRIBE_LOG_DIRS, "no partitions", topics=[dict(topic=at.name("a"), partitions=[])])
    await at.ask(Key.DESCRIBE_LOG_DIRS, "no topics", topics=[])
