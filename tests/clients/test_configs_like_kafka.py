"""Configurations as a real Apache Kafka has them, asked of both in the same words: keys, types, defaults, synonyms, what is refused and how.

Invariants: both brokers have the same settings; where Hotlog differs on purpose the key stands here with the reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from controller.config_rules import APPEND, DELETE, SET, SUBTRACT
from hotlog.kernel.configdef import KIND_CODES
from hotlog.kernel.kafka_keys import KAFKA_KEYS
from hotlog.kernel.settings import BROKER_KEYS, broker_key
from hotlog.wire import apis
from tests.clients.conftest import not_here
from tests.tools.cache import ToolMissing
from tests.tools.hotlog_server import HotlogServer
from tests.tools.kafka_jars import kafka_jars
from tests.tools.kafka_server import KafkaServer
from tests.wire.serving import Client

TOPIC, BROKER = 2, 4
STATIC, DEFAULT = 4, 5
# Each kind of source: a coarse form, one key of two names, a value equal to the default, one that nobody acts on, one nobody knows.
SETTINGS = {
    "log.retention.hours": "5", "log.roll.hours": "2", "log.flush.interval.ms": "1000", "log.segment.bytes": "1073741824",
    "log.cleaner.delete.retention.ms": "1000", "num.partitions": "3", "num.io.threads": "4", "foo.bar": "baz", "broker.rack": "r1",
    "compression.gzip.level": "5",
}  # fmt: skip

OTHER_TOPIC_DEFAULTS = {
    "remote.storage.enable",  # Hotlog tiers unless it is told not to
    "min.insync.replicas",  # a new Kafka stores this as a dynamic default of the cluster (KIP-966)
}
OTHER_BROKER_DEFAULTS = OTHER_TOPIC_DEFAULTS | {
    "advertised.listeners", "node.id",  # Kafka was given them, Hotlog was not
    "listeners", "log.dirs",  # their own
    "max.connections", "queued.max.request.bytes",  # bounded here (docs/faults.md)
    "num.recovery.threads.per.data.dir", "offsets.topic.num.partitions", "remote.log.index.file.cache.total.size.bytes",
    "remote.log.manager.copier.thread.pool.size", "remote.log.reader.max.pending.tasks", "remote.log.storage.system.enable",
    "group.initial.rebalance.delay.ms", "transaction.state.log.num.partitions",
}  # fmt: skip


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Addresses of a Kafka and a Hotlog with SETTINGS."""
    folder = tmp_path_factory.mktemp("configs")
    try:
        kafka = KafkaServer(jars=kafka_jars(), folder=folder / "kafka", properties=SETTINGS)
        kafka.format()
        kafka.start()
        kafka.wait_ready()
    except ToolMissing as why:
        not_here("Apache Kafka", why)
    hotlog = HotlogServer(folder=folder / "hotlog", settings=SETTINGS)
    try:
        hotlog.start()
        yield {"kafka": kafka.bootstrap, "hotlog": hotlog.bootstrap}
    finally:
        hotlog.stop()
        kafka.stop()


def ask(bootstrap: str, *requests: Any) -> list[Any]:
    """The answers to some requests, one after the other."""

    async def talk() -> list[Any]:
        host, _, port = bootstrap.rpartition(":")
        client = Client(*await asyncio.open_connection(host, int(port)))
        try:
            return [await client.call(request) for request in requests]
        finally:
            await client.close()

    return asyncio.run(talk())


def describe(bootstrap: str, kind: int, name: str) -> dict[str, Any]:
    shapes = apis.requests(32, 4)
    resource = shapes.DescribeConfigsResource(resource_type=kind, resource_name=name, configuration_keys=None)
    (answer,) = ask(bootstrap, shapes.DescribeConfigsRequest(resources=(resource,), include_synonyms=True))
    assert answer.results[0].error_code == 0, answer
    return {config.name: config for config in answer.results[0].configs}


def create(bootstrap: str, name: str, configs: dict[str, str | None], partitions: int = 1) -> str:
    shapes = apis.requests(19, 7)
    given = tuple(shapes.CreatableTopicConfig(name=key, value=value) for key, value in configs.items())
    topic = shapes.CreatableTopic(name=name, num_partitions=partitions, replication_factor=1, assignments=(), configs=given)
    (answer,) = ask(bootstrap, shapes.CreateTopicsRequest(topics=(topic,), timeout=timedelta(seconds=60)))
    return answer.topics[0].error_code.name


def step(bootstrap: str, kind: int, name: str, *changes: tuple[str, int, str | None], validate_only: bool = False) -> str:
    shapes = apis.requests(44, 1)
    given = tuple(shapes.AlterableConfig(name=key, config_operation=how, value=value) for key, how, value in changes)
    resource = shapes.AlterConfigsResource(resource_type=kind, resource_name=name, configs=given)
    (answer,) = ask(bootstrap, shapes.IncrementalAlterConfigsRequest(resources=(resource,), validate_only=validate_only))
    return answer.responses[0].error_code.name


def alter(bootstrap: str, kind: int, name: str, configs: dict[str, str | None]) -> str:
    shapes = apis.requests(33, 2)
    given = tuple(shapes.AlterableConfig(name=key, value=value) for key, value in configs.items())
    resource = shapes.AlterConfigsResource(resource_type=kind, resource_name=name, configs=given)
    (answer,) = ask(bootstrap, shapes.AlterConfigsRequest(resources=(resource,), validate_only=False))
    return answer.responses[0].error_code.name


def sources(config: Any) -> list[tuple[str, str | None, int]]:
    return [(synonym.name, synonym.value, synonym.source) for synonym in config.synonyms]


def told(config: Any) -> tuple[Any, ...]:
    return config.value, config.config_source, config.config_type, config.is_sensitive, sources(config)


def test_every_topic_key_of_kafka_is_told_alike(brokers: dict[str, str]) -> None:
    for bootstrap in brokers.values():
        assert create(bootstrap, "alike", {"segment.ms": "100000"}) == "none"
    kafka, hotlog = (describe(brokers[name], TOPIC, "alike") for name in ("kafka", "hotlog"))
    assert set(kafka) - set(hotlog) == set()
    assert {name: told(hotlog[name]) for name in kafka if name not in OTHER_TOPIC_DEFAULTS} == {
        name: told(config) for name, config in kafka.items() if name not in OTHER_TOPIC_DEFAULTS
    }
    assert {name: (hotlog[name].config_type, hotlog[name].read_only) for name in kafka} == {
        name: (config.config_type, config.read_only) for name, config in kafka.items()
    }


def test_every_broker_key_of_kafka_is_told_alike(brokers: dict[str, str]) -> None:
    kafka, hotlog = (describe(brokers[name], BROKER, "1") for name in ("kafka", "hotlog"))
    assert {name for name in SETTINGS if hotlog[name].config_source != STATIC} == set()
    both = set(kafka) & set(hotlog) - OTHER_BROKER_DEFAULTS
    assert set(SETTINGS) <= both
    assert {name: told(hotlog[name]) for name in both} == {name: told(kafka[name]) for name in both}
    assert describe(brokers["hotlog"], BROKER, "") == {}, "what is in a file is no dynamic default"


def test_the_table_of_keys_that_do_not_act_is_kafkas(brokers: dict[str, str]) -> None:
    kafka = describe(brokers["kafka"], BROKER, "1")
    known = {name: key for name, key in KAFKA_KEYS.items() if not name.endswith((".throttled.rate", ".io.max.bytes.per.second"))}
    theirs = {
        name: (config.config_type, [value for other, value, source in sources(config) if (other, source) == (name, DEFAULT)])
        for name, config in kafka.items()
        if name not in BROKER_KEYS and config.config_type
    }
    ours = {
        name: (KIND_CODES[key.kind], [key.text(key.default)] if key.default is not None else []) for name, key in known.items()
    }
    assert {name: theirs[name] for name in ours if name in theirs} == ours
    assert {name for name in theirs if broker_key(name) is None} == set()


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


def test_every_value_of_a_topic_key_is_judged_alike(brokers: dict[str, str]) -> None:
    """Created, and set as a trial: the same code from both."""
    outcomes: dict[str, list[tuple[Any, ...]]] = {}
    for name, bootstrap in brokers.items():
        assert create(bootstrap, "judged", {}) == "none"
        outcomes[name] = [
            (key, text, step(bootstrap, TOPIC, "judged", (key, SET, text), validate_only=True)) for key, text in VALUES
        ]
        outcomes[name] += [(key, text, create(bootstrap, f"made-{at}", {key: text})) for at, (key, text) in enumerate(VALUES)]
    assert [pair for pair in zip(outcomes["hotlog"], outcomes["kafka"], strict=True) if pair[0] != pair[1]] == []


STEPS: list[tuple[int, str, tuple[tuple[str, int, str | None], ...]]] = [
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


def test_changes_are_judged_alike_and_end_alike(brokers: dict[str, str]) -> None:
    """Step by step; then what topic and broker tell of what was changed."""
    outcomes: dict[str, list[Any]] = {}
    for name, bootstrap in brokers.items():
        assert create(bootstrap, "stepped", {}) == "none"
        outcomes[name] = [(kind, of, changes, step(bootstrap, kind, of, *changes)) for kind, of, changes in STEPS]
        outcomes[name] += [alter(bootstrap, BROKER, "1", {"foo.bar": "1"}), alter(bootstrap, BROKER, "1", {"node.id": "7"})]
        outcomes[name] += [alter(bootstrap, TOPIC, "stepped", {"no.such.key": "1"}), alter(bootstrap, TOPIC, "missing", {})]
        topic = describe(bootstrap, TOPIC, "stepped")
        outcomes[name] += [
            told(topic[key]) for key in ("retention.ms", "leader.replication.throttled.replicas", "cleanup.policy")
        ]
        node = describe(bootstrap, BROKER, "1")
        changed = ("foo.bar", "super.users", "log.retention.ms", "log.cleanup.policy", "num.io.threads")
        outcomes[name] += [told(node[key]) for key in changed]
        everywhere = describe(bootstrap, BROKER, "")
        outcomes[name].append({key: told(config) for key, config in everywhere.items() if key not in OTHER_BROKER_DEFAULTS})
        assert alter(bootstrap, BROKER, "1", {}) == "none"  # for other tests
        assert step(bootstrap, BROKER, "", *((key, DELETE, None) for key in everywhere if key != "min.insync.replicas")) == "none"
    assert [pair for pair in zip(outcomes["hotlog"], outcomes["kafka"], strict=True) if pair[0] != pair[1]] == []
