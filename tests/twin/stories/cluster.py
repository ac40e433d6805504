"""What administrators ask of the cluster: elections, reassignments, directories, the quorum, quotas, brokers that are gone."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable
from typing import Any

from tests.twin.keys import Key
from tests.twin.stories.named_configs import without_client_metrics
from tests.twin.telling import Side, story

DIRECTORY_ID = uuid.UUID("00000000-0000-4000-8000-00000000d1d1")
METADATA = "__cluster_metadata"


def parts(topic: str, *indexes: int) -> dict[str, Any]:
    return dict(topic=topic, partitions=indexes)


def only_of(at: Side) -> Callable[[Any], Any]:
    """An answer about elections without topics of other stories."""

    def only(answer: Any) -> Any:
        ours = tuple(each for each in answer.replica_election_results if each.topic.startswith(f"{at.name()}-"))
        return dataclasses.replace(answer, replica_election_results=ours)

    return only


@story(Key.ELECT_LEADERS)
async def leaders_are_elected(at: Side) -> None:
    await at.topic("a", partitions=2)
    a, unknown = at.name("a"), at.name("unknown")
    kinds = (0, 1, 2, -1) if at.version(Key.ELECT_LEADERS) > 0 else (0,)
    for kind in kinds:

        async def elect(what: str, topics: list[dict[str, Any]] | None, kind: int = kind) -> None:
            await at.ask(
                Key.ELECT_LEADERS, f"{what}, type {kind}", election_type=kind, topic_partitions=topics, timeout=60_000
            )  # fmt: skip

        await elect("some", [parts(a, 0, 1), parts(unknown, 0)])
        await elect("one that is not there", [parts(a, 0, 7, -1)])
        await elect("the same twice", [parts(a, 0, 0), parts(a, 0)])
        await elect("no partitions", [parts(a)])
        await elect("none", [])
        await elect("no name", [parts("", 0)])
        await at.ask(
            Key.ELECT_LEADERS, f"all, type {kind}", only=only_of(at), election_type=kind, topic_partitions=None, timeout=60_000
        )  # fmt: skip


@story(Key.ALTER_PARTITION_REASSIGNMENTS, Key.LIST_PARTITION_REASSIGNMENTS)
async def partitions_are_reassigned(at: Side) -> None:
    await at.topic("a", partitions=2)
    a, unknown = at.name("a"), at.name("unknown")

    async def alter(what: str, *topics: tuple[str, dict[int, list[int] | None]], **more: Any) -> None:
        asked = [
            dict(name=name, partitions=[dict(partition_index=index, replicas=ids) for index, ids in found.items()])
            for name, found in topics
        ]
        await at.ask(Key.ALTER_PARTITION_REASSIGNMENTS, what, topics=asked, timeout=60_000, **more)

    async def look(what: str, *topics: tuple[str, list[int]]) -> None:
        asked = [dict(name=name, partition_indexes=indexes) for name, indexes in topics]
        await at.ask(Key.LIST_PARTITION_REASSIGNMENTS, what, topics=asked or None, timeout=60_000)

    await alter("to where they are", (a, {0: [1], 1: [1]}))
    await alter("to nobody", (a, {0: []}))
    await alter("to an unknown broker", (a, {0: [7]}))
    await alter("to an unknown one too", (a, {0: [1, 7]}))
    await alter("twice to the same", (a, {0: [1, 1]}))
    await alter("to a negative one", (a, {0: [-1]}))
    await alter("cancelled", (a, {0: None}))
    await alter("partitions and topics that are not there", (a, {7: [1], -1: [1]}), (unknown, {0: [1], 1: None}))
    await alter("one good, one bad", (a, {0: [1], 1: [7]}))
    await alter("no partitions", (a, {}))
    await alter("none")
    await alter("no name", ("", {0: [1]}))
    await alter("the same topic twice", (a, {0: [1]}), (a, {0: [7]}))
    if at.version(Key.ALTER_PARTITION_REASSIGNMENTS) > 0:
        for ids in ([1], [], [1, 7]):
            await alter(f"to {ids} without a change of their number", (a, {0: ids}), allow_replication_factor_change=False)
    await look("all")
    await look("some", (a, [0, 1, 7]), (unknown, [0]))
    await look("none of one", (a, []))
    await at.ask(Key.LIST_PARTITION_REASSIGNMENTS, "none", topics=[], timeout=60_000)


@story(Key.ALTER_REPLICA_LOG_DIRS)
async def directories_are_changed(at: Side) -> None:
    await at.topic("a", partitions=2)
    long = "l" * 220
    await at.ask_quietly(
        Key.CREATE_TOPICS, version=7, topics=[dict(name=long, num_partitions=1, replication_factor=1)], timeout=60_000
    )  # fmt: skip
    a, unknown = at.name("a"), at.name("unknown")
    told = await at.until(
        lambda answer: any(topic.name == a and len(topic.partitions) == 2 for one in answer.results for topic in one.topics),
        Key.DESCRIBE_LOG_DIRS, topics=None,
    )  # fmt: skip
    (own,) = [one.log_dir for one in told.results if not one.log_dir.startswith("remote:")]

    async def move(what: str, *dirs: tuple[str, list[tuple[str, list[int]]]]) -> None:
        asked = [dict(path=path, topics=[dict(name=name, partitions=ids) for name, ids in topics]) for path, topics in dirs]
        await at.ask(Key.ALTER_REPLICA_LOG_DIRS, what, dirs=asked)

    await move("to where they are", (own, [(a, [0, 1])]))
    await move("to nowhere", ("/no/such/directory", [(a, [0, 1])]))
    await move("to no name", ("", [(a, [0])]))
    await move("to a path that is not written so", (own + "/", [(a, [0])]))
    await move("what is not there", (own, [(unknown, [0]), (a, [7, -1])]))
    await move("what is not there, to nowhere", ("/no/such/directory", [(unknown, [0])]))
    await move("here and there", (own, [(a, [0])]), ("/no/such/directory", [(a, [1])]))
    await move("one here and there", ("/no/such/directory", [(a, [0])]), (own, [(a, [0])]))
    await move("a name that is too long", (own, [(long, [0])]), ("/no/such/directory", [("x" * 300, [0])]))
    await move("the same twice", (own, [(a, [0, 0])]))
    await move("no partitions", (own, [(a, [])]))
    await move("no topics", (own, []))
    await move("none")


@story(Key.DESCRIBE_QUORUM)
async def the_quorum(at: Side) -> None:
    async def look(what: str, *topics: tuple[str, list[int]]) -> None:
        asked = [dict(topic_name=name, partitions=[dict(partition_index=index) for index in ids]) for name, ids in topics]
        await at.ask(Key.DESCRIBE_QUORUM, what, topics=asked)

    await look("of the metadata", (METADATA, [0]))
    await look("another partition", (METADATA, [1]))
    await look("two partitions", (METADATA, [0, 1]))
    await look("no partitions", (METADATA, []))
    await look("another topic", ("twin", [0]))
    await look("and another topic", (METADATA, [0]), ("twin", [0, 3]))
    await look("the same twice", (METADATA, [0]), (METADATA, [0]))
    await look("none")


@story(Key.DESCRIBE_CLIENT_QUOTAS)
async def there_are_no_quotas(at: Side) -> None:
    async def look(what: str, *components: tuple[str, int, str | None], strict: bool = False) -> None:
        asked = [dict(entity_type=kind, match_type=how, match=name) for kind, how, name in components]
        await at.ask(Key.DESCRIBE_CLIENT_QUOTAS, what, components=asked, strict=strict)

    for strict in (False, True):
        await look(f"all, strict {strict}", strict=strict)
    for kind in ("user", "client-id", "ip", "", "group", "User"):
        await look(f"one of type {kind!r}", (kind, 0, "somebody"))
        await look(f"the default of type {kind!r}", (kind, 1, None))
        await look(f"any of type {kind!r}", (kind, 2, None), strict=True)
    await look("an address", ("ip", 0, "127.0.0.1"))
    await look("no name", ("user", 0, None))
    await look("an empty name", ("user", 0, ""))
    for how in (1, 2, 3, -1):
        await look(f"type of match {how} with a name", ("user", how, "somebody"))
        await look(f"type of match {how}", ("user", how, None))
    await look("a user's client", ("user", 0, "somebody"), ("client-id", 2, None))
    await look("a user's address", ("user", 0, "somebody"), ("ip", 2, None))
    await look("an address of a client", ("ip", 2, None), ("client-id", 1, None))
    await look("a type twice", ("user", 0, "a"), ("user", 0, "b"))
    await look("a type twice in two ways", ("user", 0, "a"), ("user", 1, None))
    await look("a wrong one behind a good one", ("user", 0, "a"), ("", 0, "b"))


@story(Key.UNREGISTER_BROKER)
async def brokers_are_forgotten(at: Side) -> None:
    for number in (7, 0, -1, 2**31 - 1):
        await at.ask(Key.UNREGISTER_BROKER, f"broker {number}", broker_id=number)


@story(Key.ADD_RAFT_VOTER, Key.REMOVE_RAFT_VOTER)
async def voters_stay(at: Side) -> None:
    cluster = await at.ask_quietly(Key.DESCRIBE_CLUSTER)
    listener = dict(name="CONTROLLER", host="localhost", port=9093)
    for what, fields in {
        "one more": {},
        "of no cluster": dict(cluster_id=None),
        "of another cluster": dict(cluster_id="another"),
        "of no name": dict(cluster_id=""),
        "with a negative id": dict(voter_id=-1),
        "itself": dict(voter_id=1),
        "without a directory": dict(voter_directory_id=None),
        "without listeners": dict(listeners=[]),
        "with a strange listener": dict(listeners=[listener | dict(name="STRANGE")]),
        "with a negative id, of another cluster": dict(voter_id=-1, cluster_id="another"),
    }.items():
        asked: dict[str, Any] = {
            "cluster_id": cluster.cluster_id, "voter_id": 7, "voter_directory_id": DIRECTORY_ID, "listeners": [listener],
            "timeout": 60_000, **fields,
        }  # fmt: skip
        await at.ask(Key.ADD_RAFT_VOTER, what, **asked)
        for name in ("listeners", "timeout"):
            asked.pop(name)
        if "listener" not in what:
            await at.ask(Key.REMOVE_RAFT_VOTER, what, **asked)


@story(Key.GET_TELEMETRY_SUBSCRIPTIONS, Key.PUSH_TELEMETRY, alone=True)
async def telemetry_of_clients(at: Side) -> None:
    await without_client_metrics(at)
    wire = await at.connect()
    numbers = iter(range(1, 100))

    def an_id() -> uuid.UUID:
        return uuid.UUID(int=(0xA000 + next(numbers)) << 80 | 0x4000 << 64 | 0x8000 << 48 | 7)

    async def look(what: str, instance: uuid.UUID | None) -> Any:
        return await at.ask(Key.GET_TELEMETRY_SUBSCRIPTIONS, what, on=wire, client_instance_id=instance)

    async def push(what: str, told: Any, **other: Any) -> None:
        said = {"client_instance_id": told.client_instance_id, "subscription_id": told.subscription_id, "terminating": False}
        await at.ask(Key.PUSH_TELEMETRY, what, on=wire, **{**said, "compression_type": 0, "metrics": b"", **other})

    new = await look("by a new client", None)
    assert new.client_instance_id is not None
    await look("too soon", new.client_instance_id)
    await push("nothing", new)
    await push("too soon", new)
    await look("after a push", new.client_instance_id)
    await push("at its end", new, terminating=True)
    await push("behind its end", new, terminating=True)
    await push("behind its end, as if it went on", new)
    await look("behind its end", new.client_instance_id)
    known = await look("by a client with an id", an_id())
    await push("something", known, metrics=b"something")
    for codec in (1, 4, 5, -1):
        told = await look(f"before codec {codec}", an_id())
        await push(f"in codec {codec}", told, metrics=b"x", compression_type=codec)
        await look(f"after codec {codec}", told.client_instance_id)
    told = await look("before a strange subscription", an_id())
    await push("of a strange subscription", told, subscription_id=told.subscription_id ^ 1)
    await look("after a strange subscription", told.client_instance_id)
    await push("of the right one then", told)
    told = await look("before too much", an_id())
    await push("too much", told, metrics=bytes(1_048_577))
    await look("after too much", told.client_instance_id)
    told = await look("before just enough", an_id())
    await push("just enough", told, metrics=bytes(1_048_576))
    await push("without a question", told, client_instance_id=an_id())
    for number in (0, 1):
        await push(f"by client {number}", told, client_instance_id=uuid.UUID(int=number))
    await look("by client 1", uuid.UUID(int=1))


@story(Key.UPDATE_FEATURES, alone=True)
async def features_are_finalized(at: Side) -> None:
    upgrade, safe, unsafe = 1, 2, 3

    async def update(what: str, *wanted: tuple[str, int, int], validate_only: bool = False) -> None:
        asked = [
            dict(feature=name, max_version_level=level, upgrade_type=kind, allow_downgrade=kind in (safe, unsafe))
            for name, level, kind in wanted
        ]
        await at.ask(Key.UPDATE_FEATURES, what, feature_updates=asked, timeout=60_000, validate_only=validate_only)

    def finalized(answer: Any) -> dict[str, int]:
        told = {one.name: one.max_version_level for one in answer.finalized_features}
        return {name: told.get(name, 0) for name in ("group.version", "transaction.version")}

    async def settled(groups: int, transactions: int) -> None:
        """Until clients are told so."""
        wanted = {"group.version": groups, "transaction.version": transactions}
        await at.until(
            lambda answer: finalized(answer) == wanted,
            Key.API_VERSIONS, version=4, client_software_name="twin", client_software_version="1",
        )  # fmt: skip

    async def heartbeat(what: str) -> None:
        await at.ask(Key.CONSUMER_GROUP_DESCRIBE, what, version=1, group_ids=[at.name("g")])
        await at.ask(
            Key.CONSUMER_GROUP_HEARTBEAT, what, version=1, group_id=at.name("g"), member_id="m", member_epoch=7,
            rebalance_timeout=-1, subscribed_topic_names=None, topic_partitions=None,
        )  # fmt: skip

    try:
        await update("none")
        await update("unknown", ("no.such.feature", 1, upgrade))
        await update("unknown, to nothing", ("no.such.feature", 0, safe))
        await update("no name", ("", 1, upgrade))
        await update("as it is", ("transaction.version", 2, upgrade), ("group.version", 1, upgrade))
        await update("as it is, as a downgrade", ("transaction.version", 2, safe))
        await update("too high", ("transaction.version", 3, upgrade))
        await update("below nothing", ("transaction.version", -1, unsafe))
        await update("lower as an upgrade", ("transaction.version", 1, upgrade))
        if at.version(Key.UPDATE_FEATURES) > 0:
            for kind in (0, 4, -1):
                await update(f"kind {kind}", ("transaction.version", 1, kind))
            await update("lower as a trial", ("transaction.version", 1, safe), validate_only=True)
            await update("too high as a trial", ("transaction.version", 3, upgrade), validate_only=True)
            await settled(1, 2)
            await update("one good, one bad", ("group.version", 0, safe), ("transaction.version", 7, upgrade))
            await settled(1, 2)
            await update("lower", ("transaction.version", 1, safe))
            await settled(1, 1)
            await update("higher as a downgrade", ("transaction.version", 2, safe))
            await update("higher", ("transaction.version", 2, upgrade))
            await settled(1, 2)
            await update("both to nothing", ("transaction.version", 0, unsafe), ("group.version", 0, unsafe))
            await settled(0, 0)
            await heartbeat("without groups of the new protocol")
            await update("nothing to nothing", ("group.version", 0, safe))
            await update("a step of two", ("transaction.version", 2, upgrade))
            await update("and the other", ("group.version", 1, upgrade))
            await settled(1, 2)
            await update("a feature twice", ("transaction.version", 2, upgrade), ("transaction.version", 7, upgrade))
        else:
            await update("lower", ("transaction.version", 1, safe))
        await heartbeat("with groups of the new protocol")
    finally:
        for name, level in (("transaction.version", 2), ("group.version", 1)):
            asked = [dict(feature=name, max_version_level=level, upgrade_type=upgrade, allow_downgrade=False)]
            await at.ask_quietly(Key.UPDATE_FEATURES, version=1, feature_updates=asked, timeout=60_000, validate_only=False)


@story(Key.DESCRIBE_USER_SCRAM_CREDENTIALS)
async def nobody_has_credentials(at: Side) -> None:
    for what, users in {
        "all": None, "none": [], "one": ["a"], "several, one twice": ["a", "b", "a"], "no name": [""],
    }.items():  # fmt: skip
        asked = None if users is None else [dict(name=user) for user in users]
        await at.ask(Key.DESCRIBE_USER_SCRAM_CREDENTIALS, what, users=asked)
