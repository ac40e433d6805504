"""Configurations: what topics and brokers are told to have, which values are taken, how they change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from controller.config_rules import APPEND, DELETE, SET, SUBTRACT
from hotlog.kernel.configdef import KIND_CODES
from hotlog.kernel.kafka_keys import KAFKA_KEYS
from hotlog.kernel.settings import BROKER_KEYS, broker_key
from tests.twin.keys import Key
from tests.twin.stories.topics import new
from tests.twin.telling import Side, story

TOPIC, BROKER, LOGGER, CLIENT_METRICS, GROUP = 2, 4, 8, 16, 32
DEFAULT, TYPES_FROM = 5, 3
Change = tuple[str, int, str | None]


async def describe(
    at: Side,
    what: str,
    *resources: tuple[int, str],
    keys: Sequence[str] | None = None,
    synonyms: bool = True,
    words: bool = False,
) -> Any:
    asked = [dict(resource_type=kind, resource_name=name, configuration_keys=keys) for kind, name in resources]
    return await at.ask(Key.DESCRIBE_CONFIGS, what, resources=asked, include_synonyms=synonyms, include_documentation=words)


@story(Key.DESCRIBE_CONFIGS)
async def what_a_topic_has(at: Side) -> None:
    await at.topic("t", segment_ms="100000", cleanup_policy="compact")
    t = at.name("t")
    await describe(at, "all", (TOPIC, t))
    await describe(at, "without synonyms", (TOPIC, t), synonyms=False)
    await describe(at, "in words", (TOPIC, t), words=True)
    await describe(at, "some", (TOPIC, t), keys=["segment.ms", "retention.ms"])
    await describe(at, "some that nobody knows", (TOPIC, t), keys=["no.such.key", "segment.ms"])
    await describe(at, "none", (TOPIC, t), keys=[])
    await describe(at, "unknown", (TOPIC, at.name("unknown")))
    await describe(at, "no name", (TOPIC, ""))
    await describe(at, "no name of a topic", (TOPIC, "a b"))
    await describe(at, "twice", (TOPIC, t), (TOPIC, t), keys=["segment.ms"])
    await describe(at, "two, one unknown", (TOPIC, t), (TOPIC, at.name("unknown")), keys=["segment.ms"])
    await describe(at, "nothing")


@story(Key.DESCRIBE_CONFIGS)
async def what_a_broker_has(at: Side) -> None:
    answer = await describe(at, "all", (BROKER, "1"))
    if at.broker == "kafka" and at.version(Key.DESCRIBE_CONFIGS) >= TYPES_FROM:
        _hold_table(answer.results[0].configs)
    await describe(at, "some", (BROKER, "1"), keys=["log.roll.ms", "num.io.threads", "no.such.key"], words=True)
    await describe(at, "what all brokers have", (BROKER, ""))
    for name in ("7", "x", "-1", "1 "):
        await describe(at, f"broker {name!r}", (BROKER, name), keys=["num.io.threads"])


def _hold_table(told: Sequence[Any]) -> None:
    """That the table of Kafka's keys that do not act in Hotlog says what Kafka says of them, and leaves none out."""
    kafka = {config.name: config for config in told}
    known = {name: key for name, key in KAFKA_KEYS.items() if not name.endswith((".throttled.rate", ".io.max.bytes.per.second"))}
    theirs = {
        name: (config.config_type, [each.value for each in config.synonyms if (each.name, each.source) == (name, DEFAULT)])
        for name, config in kafka.items()
        if name not in BROKER_KEYS and config.config_type
    }
    ours = {
        name: (KIND_CODES[key.kind], [key.text(key.default)] if key.default is not None else []) for name, key in known.items()
    }
    assert {name: theirs[name] for name in ours if name in theirs} == ours
    assert {name for name in theirs if broker_key(name) is None} == set()


async def step(at: Side, what: str, kind: int, name: str, *changes: Change, validate_only: bool = False) -> Any:
    given = [dict(name=key, config_operation=how, value=value) for key, how, value in changes]
    resources = [dict(resource_type=kind, resource_name=name, configs=given)]
    return await at.ask(Key.INCREMENTAL_ALTER_CONFIGS, what, resources=resources, validate_only=validate_only)


async def alter(at: Side, what: str, kind: int, name: str, *values: tuple[str, str | None], validate_only: bool = False) -> Any:
    resources = [dict(resource_type=kind, resource_name=name, configs=[dict(name=key, value=value) for key, value in values])]
    return await at.ask(Key.ALTER_CONFIGS, what, resources=resources, validate_only=validate_only)


async def settled(at: Side, kind: int, name: str) -> None:
    """Until the last of these changes can be seen: a mark behind them can."""
    mark = "flush.messages" if kind == TOPIC else "log.flush.interval.messages"
    resource = dict(resource_type=kind, resource_name=name)
    changes = dict(configs=[dict(name=mark, config_operation=SET, value="777777")])
    await at.ask_quietly(Key.INCREMENTAL_ALTER_CONFIGS, resources=[resource | changes], validate_only=False)
    await at.until(
        lambda answer: [config.value for config in answer.results[0].configs] == ["777777"],
        Key.DESCRIBE_CONFIGS, resources=[resource | dict(configuration_keys=[mark])],
    )  # fmt: skip


VALUES = [
    *(("compression.gzip.level", text) for text in ("-2", "-1", "0", "1", "9", "10", "x", "")),
    *(("compression.lz4.level", text) for text in ("-1", "0", "1", "17", "18")),
    *(("compression.zstd.level", text) for text in ("-131073", "-131072", "0", "22", "23")),
    *(("leader.replication.throttled.replicas", text) for text in ("*", "", "0:1", "0:1, 1:1", "0", "x", "none", "*,0:1")),
    *(("follower.replication.throttled.replicas", text) for text in ("*", "0:1,1:2", "0:", "0:1:2")),
    *(("cleanup.policy", text) for text in ("", "delete", "compact", "compact,delete", "delete,delete", "burn", "Compact")),
    *(("min.insync.replicas", text) for text in ("0", "1", "2", "100")),
    *(("retention.ms", text) for text in ("-2", "-1", "0", " 5 ", "1_0", "1.0", "9223372036854775808")),
    *(("retention.bytes", text) for text in ("-2", "-1", "0")),
    *(("segment.bytes", text) for text in ("0", "1048576", "2147483648")),  # below 1 MiB Hotlog takes what Kafka does not
    *(("segment.ms", text) for text in ("0", "1")),
    *(("segment.index.bytes", text) for text in ("3", "4")),
    *(("segment.jitter.ms", text) for text in ("-1", "0")),
    *(("index.interval.bytes", text) for text in ("-1", "0")),
    *(("max.message.bytes", text) for text in ("-1", "0")),
    *(("flush.messages", text) for text in ("0", "1")),
    *(("flush.ms", text) for text in ("-1", "0")),
    *(("file.delete.delay.ms", text) for text in ("-1", "0")),
    *(("delete.retention.ms", text) for text in ("-1", "0")),
    *(("min.cleanable.dirty.ratio", text) for text in ("-0.1", "0", "1", "1.1")),  # NaN is a ratio for Kafka
    *(("min.compaction.lag.ms", text) for text in ("-1", "0")),
    *(("max.compaction.lag.ms", text) for text in ("0", "1")),
    *(("message.timestamp.type", text) for text in ("CreateTime", "LogAppendTime", "createtime")),
    *(("message.timestamp.before.max.ms", text) for text in ("-1", "0")),
    *(("message.timestamp.after.max.ms", text) for text in ("-1", "0")),
    *(("compression.type", text) for text in ("none", "uncompressed", "zstd", "producer")),
    *(("preallocate", text) for text in ("true", "TRUE", "yes")),
    *(("unclean.leader.election.enable", text) for text in ("true", "1")),
    *(("local.retention.ms", text) for text in ("-3", "-2", "5")),
    *(("local.retention.bytes", text) for text in ("-3", "-2")),
    ("no.such.key", "1"),
    ("retention.ms", None),
]


@story(Key.INCREMENTAL_ALTER_CONFIGS)
async def every_value_is_judged(at: Side) -> None:
    """Set as a trial, and created with it as a trial."""
    await at.topic("judged")
    for key, value in VALUES:
        await step(at, f"{key}={value}", TOPIC, at.name("judged"), (key, SET, value), validate_only=True)
        made = new(at.name("made"), configs=[dict(name=key, value=value)])
        await at.ask(Key.CREATE_TOPICS, f"created with {key}={value}", topics=[made], timeout=60_000, validate_only=True)


STEPS: list[tuple[int, str, tuple[Change, ...]]] = [
    (TOPIC, "stepped", (("cleanup.policy", APPEND, "compact"),)),
    (TOPIC, "stepped", (("cleanup.policy", APPEND, "compact"),)),
    (TOPIC, "stepped", (("cleanup.policy", SUBTRACT, "delete,compact"),)),
    (TOPIC, "stepped", (("cleanup.policy", SUBTRACT, "nothing"),)),
    (TOPIC, "stepped", (("cleanup.policy", SET, "compact"),)),
    (TOPIC, "stepped", (("leader.replication.throttled.replicas", APPEND, "0:1"),)),
    (TOPIC, "stepped", (("leader.replication.throttled.replicas", APPEND, "0:1,0:2"),)),
    (TOPIC, "stepped", (("leader.replication.throttled.replicas", SUBTRACT, "0:1"),)),
    (TOPIC, "stepped", (("min.insync.replicas", SET, "3"),)),
    (TOPIC, "stepped", (("retention.ms", APPEND, "5"),)),
    (TOPIC, "stepped", (("retention.ms", SET, None),)),
    (TOPIC, "stepped", (("retention.ms", DELETE, None), ("no.such.key", DELETE, None))),
    (TOPIC, "stepped", (("no.such.key", APPEND, "1"),)),
    (TOPIC, "stepped", (("retention.ms", SET, "1"), ("retention.ms", SET, "2"))),
    (TOPIC, "stepped", ()),
    (TOPIC, "missing", (("retention.ms", SET, "1"),)),
    (TOPIC, "", (("retention.ms", SET, "1"),)),
    *(
        (BROKER, node, changes)
        for node in ("1", "")
        for changes in (
            (("foo.bar", SET, "1"),),
            (("node.id", SET, "7"),),
            (("node.id", SET, "1"),),
            (("broker.id", SET, "3"),),
            (("log.dirs", SET, "/elsewhere"),),
            (("authorizer.class.name", SET, "x"),),
            (("super.users", SET, "User:me"),),
            (("advertised.listeners", SET, "PLAINTEXT://a:1"),),
            (("log.retention.hours", SET, "1"),),
            (("log.segment.bytes", SET, "0"),),
            (("message.max.bytes", SET, "x"),),
            (("min.insync.replicas", SET, "0"),),
            (("metric.reporters", SET, "com.example.Evil"),),
            (("log.cleaner.threads", SET, "1"), ("num.io.threads", SET, "4"), ("leader.replication.throttled.rate", SET, "5")),
            (("log.retention.ms", SET, "60000"), ("log.cleanup.policy", SET, "compact")),
            (("log.cleanup.policy", APPEND, "delete"),),
            (("log.retention.ms", APPEND, "5"),),
            (("foo.bar", APPEND, "5"),),
            (("foo.bar", DELETE, None), ("never.was", DELETE, None), ("node.id", DELETE, None)),
        )
    ),
    (BROKER, "7", (("log.retention.ms", SET, "1"),)),
    (BROKER, "x", (("log.retention.ms", SET, "1"),)),
]


@story(Key.INCREMENTAL_ALTER_CONFIGS, alone=True)
async def changes_step_by_step(at: Side) -> None:
    """Of a topic, of a broker and of all brokers; then what they have, and everything as it was."""
    await at.topic("stepped")
    for number, (kind, name, changes) in enumerate(STEPS):
        named = at.name(name) if kind == TOPIC and name else name
        await step(at, f"{number}: {kind} {name!r} {changes}", kind, named, *changes)
        await step(at, f"{number} as a trial: {kind} {name!r} {changes}", kind, named, *changes, validate_only=True)
    for kind, name in ((TOPIC, at.name("stepped")), (BROKER, "1"), (BROKER, "")):
        await settled(at, kind, name)
        await describe(at, f"then, of {kind} {name!r}", (kind, name))
    await alter(at, "everything as it was on one", BROKER, "1")
    everywhere = await at.ask_quietly(
        Key.DESCRIBE_CONFIGS, resources=[dict(resource_type=BROKER, resource_name="", configuration_keys=None)]
    )
    kept = "min.insync.replicas"
    changed = [config.name for config in everywhere.results[0].configs if config.name != kept]
    await step(at, "everything as it was on all", BROKER, "", *((key, DELETE, None) for key in sorted(changed)))
    await at.until(
        lambda answer: {config.name for config in answer.results[0].configs} <= {kept},
        Key.DESCRIBE_CONFIGS, resources=[dict(resource_type=BROKER, resource_name="", configuration_keys=None)],
    )  # fmt: skip


@story(Key.ALTER_CONFIGS, alone=True)
async def changes_all_at_once(at: Side) -> None:
    await at.topic("t", retention_ms="1000")
    t = at.name("t")
    await alter(at, "as a trial", TOPIC, t, ("flush.ms", "5"), validate_only=True)
    await alter(at, "one", TOPIC, t, ("flush.ms", "5"))
    await alter(at, "an unknown key", TOPIC, t, ("no.such.key", "1"))
    await alter(at, "a wrong value", TOPIC, t, ("flush.ms", "-1"))
    await alter(at, "a null value", TOPIC, t, ("flush.ms", None))
    await alter(at, "twice the same key", TOPIC, t, ("flush.ms", "1"), ("flush.ms", "2"))
    await alter(at, "unknown", TOPIC, at.name("unknown"))
    await alter(at, "no name", TOPIC, "", ("flush.ms", "1"))
    await alter(at, "another broker", BROKER, "7", ("log.retention.ms", "1"))
    await alter(at, "no broker", BROKER, "x", ("log.retention.ms", "1"))
    await alter(at, "a broker's unknown key", BROKER, "1", ("foo.bar", "1"))
    await alter(at, "a broker's key that stays", BROKER, "1", ("node.id", "7"))
    for kind in (0, 1, 99):
        await alter(at, f"type {kind}", kind, t, ("flush.ms", "1"))
    await settled(at, TOPIC, t)
    await describe(at, "then", (TOPIC, t), keys=["flush.ms", "retention.ms"])
    await alter(at, "everything as it was", TOPIC, t)
    await alter(at, "everything as it was on one", BROKER, "1")
    await settled(at, TOPIC, t)
    await describe(at, "at last", (TOPIC, t), keys=["flush.ms", "retention.ms"])
