"""Configurations of groups, of client metrics and of loggers, and the list of what has configurations (KIP-412, KIP-714, KIP-848, KIP-1142)."""

from __future__ import annotations

import dataclasses
from typing import Any

from controller.config_rules import APPEND, DELETE, SET, SUBTRACT
from tests.twin.groups import Groups
from tests.twin.keys import Key
from tests.twin.stories.configs import BROKER, CLIENT_METRICS, GROUP, LOGGER, TOPIC, alter, describe, step
from tests.twin.telling import Side, story

SESSION, BEAT = "consumer.session.timeout.ms", "consumer.heartbeat.interval.ms"
GROUP_VALUES: list[tuple[str, str | None]] = [
    *((SESSION, text) for text in ("0", "999", "1000", "60000", "60001", " 5000 ", "x", "")),
    *((BEAT, text) for text in ("0", "99", "100", "15000", "15001")),
    *(("consumer.assignment.interval.ms", text) for text in ("-1", "0", "15000", "15001")),
    *(("share.session.timeout.ms", text) for text in ("44999", "45000", "60000", "60001")),
    *(("share.heartbeat.interval.ms", text) for text in ("4999", "5000", "15001")),
    *(("share.record.lock.duration.ms", text) for text in ("999", "14999", "15000", "60001")),
    *(("share.delivery.count.limit", text) for text in ("1", "2", "10", "11")),
    *(("share.partition.max.record.locks", text) for text in ("99", "100", "4000", "4001")),
    *(("share.assignment.interval.ms", text) for text in ("-1", "0", "15001")),
    *(("share.auto.offset.reset", text) for text in ("latest", "EARLIEST", "by_duration:PT1H", "by_duration:-PT1H", "by_duration:", "none")),
    *(("share.isolation.level", text) for text in ("read_committed", "READ_COMMITTED", "x")),
    *(("share.renew.acknowledge.enable", text) for text in ("false", "FALSE", "no")),
    *(("streams.session.timeout.ms", text) for text in ("44999", "60000", "60001")),
    *(("streams.heartbeat.interval.ms", text) for text in ("4999", "15000", "15001")),
    *(("streams.num.standby.replicas", text) for text in ("-1", "0", "2", "3")),
    *(("streams.initial.rebalance.delay.ms", text) for text in ("-1", "0", "100000")),
    *(("streams.assignment.interval.ms", text) for text in ("-1", "15000", "15001")),
    ("consumer.assignor.offload.enable", "true"),
    ("session.timeout.ms", "5000"),
    ("no.such.key", "1"),
    (SESSION, None),
]  # fmt: skip
METRICS_VALUES: list[tuple[str, str | None]] = [
    *(("metrics", text) for text in ("", "*", "org.apache.kafka.", "a, b", "a,a", "a,,b")),
    *(("interval.ms", text) for text in ("99", "100", "3600000", "3600001", "x", "")),
    *(("match", text) for text in (
        "", "client_id=a", "client_id = a.*, client_software_name=java", "client_id", "client_id=", "=a", "x=a", "client_id=a=b", "client_id=(", "client_id=a,client_id=b",
    )),
    ("no.such.key", "1"),
    ("metrics", None),
]  # fmt: skip


async def until_told(at: Side, kind: int, name: str, **values: str) -> None:
    """Until these can be seen; dots in names are written `_`."""
    wanted = {key.replace("_", "."): value for key, value in values.items()}
    asked = dict(resource_type=kind, resource_name=name, configuration_keys=sorted(wanted))
    await at.until(
        lambda answer: {config.name: config.value for config in answer.results[0].configs} == wanted,
        Key.DESCRIBE_CONFIGS, resources=[asked],
    )  # fmt: skip


async def without_client_metrics(at: Side) -> None:
    """Nobody's metrics are asked for, whatever other stories have left."""
    listed = await at.ask_quietly(Key.LIST_CONFIG_RESOURCES, version=1, resource_types=[CLIENT_METRICS])
    keys = [dict(name=key, config_operation=DELETE, value=None) for key in ("interval.ms", "match", "metrics")]
    for each in listed.config_resources:
        resource = dict(resource_type=CLIENT_METRICS, resource_name=each.resource_name, configs=keys)
        await at.ask_quietly(Key.INCREMENTAL_ALTER_CONFIGS, validate_only=False, resources=[resource])
    await at.until(
        lambda answer: not answer.config_resources, Key.LIST_CONFIG_RESOURCES, version=1, resource_types=[CLIENT_METRICS]
    )


@story(Key.DESCRIBE_CONFIGS)
async def what_a_group_has(at: Side) -> None:
    g = at.name("g")
    await describe(at, "all, of a group that is not there", (GROUP, g))
    await describe(at, "without synonyms", (GROUP, g), synonyms=False)
    await describe(at, "in words", (GROUP, g), words=True)
    await describe(at, "some", (GROUP, g), keys=[SESSION, "no.such.key"])
    changes = [
        dict(name=SESSION, config_operation=SET, value=" 5000 "),
        dict(name="share.isolation.level", config_operation=SET, value="read_committed"),
    ]
    await at.ask_quietly(
        Key.INCREMENTAL_ALTER_CONFIGS,
        validate_only=False,
        resources=[dict(resource_type=GROUP, resource_name=g, configs=changes)],
    )
    await until_told(at, GROUP, g, consumer_session_timeout_ms="5000", share_isolation_level="read_committed")
    await describe(at, "all", (GROUP, g))
    await describe(at, "no name", (GROUP, ""))


@story(Key.DESCRIBE_CONFIGS)
async def what_client_metrics_have(at: Side) -> None:
    m = at.name("m")
    await describe(at, "all, of a subscription that is not there", (CLIENT_METRICS, m))
    await describe(at, "in words", (CLIENT_METRICS, m), words=True)
    changes = [
        dict(name="metrics", config_operation=SET, value="a, b, a"),
        dict(name="interval.ms", config_operation=SET, value="1000"),
    ]
    await at.ask_quietly(
        Key.INCREMENTAL_ALTER_CONFIGS, validate_only=False,
        resources=[dict(resource_type=CLIENT_METRICS, resource_name=m, configs=changes)],
    )  # fmt: skip
    await until_told(at, CLIENT_METRICS, m, interval_ms="1000")
    await describe(at, "all", (CLIENT_METRICS, m))
    await describe(at, "without synonyms", (CLIENT_METRICS, m), synonyms=False)
    await describe(at, "some", (CLIENT_METRICS, m), keys=["match"])
    await describe(at, "no name", (CLIENT_METRICS, ""))


@story(Key.DESCRIBE_CONFIGS)
async def what_loggers_have(at: Side) -> None:
    """Every broker has loggers of its own; the root is everybody's."""
    await describe(at, "the root", (LOGGER, "1"), keys=["root"])
    await describe(at, "the root, in words", (LOGGER, "1"), keys=["root"], words=True)
    await describe(at, "one that nobody knows", (LOGGER, "1"), keys=["no.such.logger"])
    for name in ("7", "x", "", "-1"):
        await describe(at, f"of {name!r}", (LOGGER, name), keys=["root"])


@story(Key.DESCRIBE_CONFIGS)
async def kinds_that_nobody_knows(at: Side) -> None:
    for kind in (0, 1, 3, 64, 99, -1):
        await describe(at, f"type {kind}", (kind, "x"))


@story(Key.INCREMENTAL_ALTER_CONFIGS, Key.ALTER_CONFIGS)
async def every_value_of_groups_and_client_metrics_is_judged(at: Side) -> None:
    for kind, values in ((GROUP, GROUP_VALUES), (CLIENT_METRICS, METRICS_VALUES)):
        for key, value in values:
            await step(at, f"{kind}: {key}={value}", kind, at.name("x"), (key, SET, value), validate_only=True)
    for heartbeat, session in (("5000", "5000"), ("5001", "5000"), ("4999", "5000"), ("15000", "20001")):
        given = ((BEAT, heartbeat), (SESSION, session))
        await alter(at, f"both: {given}", GROUP, at.name("x"), *given, validate_only=True)
    await step(
        at,
        "a heartbeat above the broker's session",
        GROUP,
        at.name("x"),
        (BEAT, SET, "15000"),
        (SESSION, SET, "10000"),
        validate_only=True,
    )
    await alter(
        at, "client metrics at once", CLIENT_METRICS, at.name("x"), ("metrics", "*"), ("interval.ms", "5"), validate_only=True
    )


@story(Key.INCREMENTAL_ALTER_CONFIGS)
async def groups_and_client_metrics_change_step_by_step(at: Side) -> None:
    g, m = at.name("g"), at.name("m")
    steps: list[tuple[int, str, tuple[tuple[str, int, str | None], ...]]] = [
        (GROUP, g, ((SESSION, SET, "5000"), (BEAT, SET, "2000"))),
        (GROUP, g, ((SESSION, SET, "5000"),)),
        (GROUP, g, ((BEAT, SET, "5000"),)),
        (GROUP, g, ((SESSION, APPEND, "1"),)),
        (GROUP, g, ((SESSION, SUBTRACT, "1"),)),
        (GROUP, g, ((SESSION, 9, "1"),)),
        (GROUP, g, ((SESSION, SET, "6000"), (SESSION, SET, "7000"))),
        (GROUP, g, (("no.such.key", DELETE, None),)),
        (GROUP, g, (("no.such.key", APPEND, "1"),)),
        (GROUP, g, ((BEAT, DELETE, None),)),
        (GROUP, g, ()),
        (GROUP, "", ((SESSION, SET, "5000"),)),
        (CLIENT_METRICS, m, (("metrics", SET, "a"), ("match", SET, "client_id=a"))),
        (CLIENT_METRICS, m, (("metrics", APPEND, "b"),)),
        (CLIENT_METRICS, m, (("metrics", SUBTRACT, "a"),)),
        (CLIENT_METRICS, m, (("interval.ms", SET, "1"), ("metrics", SET, "c"))),
        (CLIENT_METRICS, m, (("interval.ms", SET, "1000"),)),
        (CLIENT_METRICS, m, (("match", DELETE, None), ("no.such.key", DELETE, None))),
        (CLIENT_METRICS, "", (("metrics", SET, "a"),)),
    ]
    for number, (kind, name, changes) in enumerate(steps):
        await step(at, f"{number}: {kind} {changes}", kind, name, *changes)
    twice = [dict(resource_type=GROUP, resource_name=g, configs=[dict(name=BEAT, config_operation=SET, value="1000")])] * 2
    await at.ask(Key.INCREMENTAL_ALTER_CONFIGS, "the same group twice", resources=twice, validate_only=False)
    await until_told(at, CLIENT_METRICS, m, interval_ms="1000")
    await describe(at, "then, of the group", (GROUP, g))
    await describe(at, "then, of the metrics", (CLIENT_METRICS, m))


@story(Key.ALTER_CONFIGS)
async def groups_and_client_metrics_change_all_at_once(at: Side) -> None:
    """None is named twice: Kafka never answers that."""
    g, m = at.name("g"), at.name("m")
    await alter(at, "a group", GROUP, g, (SESSION, "5000"), (BEAT, "2000"))
    await alter(at, "as a trial", GROUP, g, (SESSION, "6000"), validate_only=True)
    await alter(at, "another key", GROUP, g, (BEAT, "3000"))
    await alter(at, "a key that nobody knows", GROUP, g, ("no.such.key", "1"))
    await alter(at, "no name of a group", GROUP, "", (SESSION, "5000"))
    await alter(at, "client metrics", CLIENT_METRICS, m, ("interval.ms", "1000"))
    await alter(at, "a metric that nobody knows", CLIENT_METRICS, m, ("no.such.key", "1"))
    await alter(at, "no name of client metrics", CLIENT_METRICS, "", ("metrics", "a"))
    await alter(at, "loggers", LOGGER, "1", ("root", "WARN"))
    await until_told(at, CLIENT_METRICS, m, interval_ms="1000")
    await describe(at, "then, of the group", (GROUP, g))
    await alter(at, "the group as it was", GROUP, g)
    await until_told(at, GROUP, g, consumer_heartbeat_interval_ms="500")
    await describe(at, "at last", (GROUP, g))


@story(Key.INCREMENTAL_ALTER_CONFIGS, alone=True)
async def levels_of_loggers_change(at: Side) -> None:
    own = "hotlog.broker.broker" if at.broker == "hotlog" else "kafka.server.KafkaApis"
    await step(at, "the root", LOGGER, "1", ("root", SET, "ERROR"))
    await describe(at, "then", (LOGGER, "1"), keys=["root"])
    await step(at, "one of its own, as a trial", LOGGER, "1", (own, SET, "FATAL"), validate_only=True)
    await step(at, "one of its own", LOGGER, "1", (own, SET, "FATAL"))
    await step(at, "one of its own loses its level", LOGGER, "1", (own, DELETE, None))
    await step(at, "the root loses its level", LOGGER, "1", ("root", DELETE, None))
    for level in ("TRACE", "DEBUG", "INFO", "WARN", "FATAL", "OFF", "warn", "WARNING", "", None):
        await step(at, f"level {level}", LOGGER, "1", ("root", SET, level), validate_only=True)
    for how in (APPEND, SUBTRACT, 9):
        await step(at, f"operation {how}", LOGGER, "1", ("root", how, "INFO"))
    await step(at, "one that nobody knows", LOGGER, "1", ("no.such.logger", SET, "INFO"))
    await step(at, "one that nobody knows loses its level", LOGGER, "1", ("no.such.logger", DELETE, None))
    await step(at, "twice the same", LOGGER, "1", ("root", SET, "INFO"), ("root", SET, "WARN"))
    await step(at, "one right, one wrong", LOGGER, "1", ("root", SET, "FATAL"), ("no.such.logger", SET, "INFO"))
    for name in ("7", "x", ""):
        await step(at, f"of {name!r}", LOGGER, name, ("root", SET, "WARN"))
    await describe(at, "nothing came of it", (LOGGER, "1"), keys=["root"])
    await step(at, "the root as it was", LOGGER, "1", ("root", SET, "WARN"))


@story(Key.LIST_CONFIG_RESOURCES)
async def what_has_configurations(at: Side) -> None:
    def ours(answer: Any) -> Any:
        mine = (each for each in answer.config_resources if each.resource_name.startswith(at.name()) or each.resource_name == "1")
        return dataclasses.replace(answer, config_resources=tuple(mine))

    await at.topic("t")
    for kind, key, value in ((GROUP, SESSION, "5000"), (CLIENT_METRICS, "interval.ms", "1000")):
        changes = [dict(name=key, config_operation=SET, value=value)]
        resource = dict(resource_type=kind, resource_name=at.name(f"kind-{kind}"), configs=changes)
        await at.ask_quietly(Key.INCREMENTAL_ALTER_CONFIGS, validate_only=False, resources=[resource])
    await until_told(at, GROUP, at.name(f"kind-{GROUP}"), consumer_session_timeout_ms="5000")
    await until_told(at, CLIENT_METRICS, at.name(f"kind-{CLIENT_METRICS}"), interval_ms="1000")
    await at.until(
        lambda answer: len(ours(answer).config_resources) == 2,
        Key.LIST_CONFIG_RESOURCES,
        version=1,
        resource_types=(GROUP, CLIENT_METRICS),
    )
    asked: tuple[tuple[int, ...], ...] = (
        (), (GROUP,), (CLIENT_METRICS,), (LOGGER,), (BROKER,), (TOPIC,), (TOPIC, GROUP), (0,), (1,), (GROUP, 99),
    )  # fmt: skip
    for kinds in asked:
        await at.ask(Key.LIST_CONFIG_RESOURCES, f"types {kinds}", resource_types=kinds, only=ours)


@story(Key.CONSUMER_GROUP_HEARTBEAT, Key.INCREMENTAL_ALTER_CONFIGS, once=True)
async def what_a_group_was_given_takes_effect(side: Side) -> None:
    """At the members' next heartbeats."""
    at, g = Groups(side), side.name("g")
    at.ids["t"] = await side.topic("t")
    await at.until_assignable()
    epoch = (await at.beat("joins", g)).member_epoch
    await step(side, "shorter", GROUP, g, (BEAT, SET, "100"), (SESSION, SET, "1000"))
    await side.until(
        lambda answer: round(answer.heartbeat_interval.total_seconds() * 1000) == 100,
        Key.CONSUMER_GROUP_HEARTBEAT, group_id=g, member_id="m", member_epoch=epoch, rebalance_timeout=-1,
        subscribed_topic_names=None, topic_partitions=None,
    )  # fmt: skip
    await at.beat("is told", g, epoch=epoch)
    await at.until_new(g, 0)
    await at.beat("its session has ended", g, epoch=epoch)
