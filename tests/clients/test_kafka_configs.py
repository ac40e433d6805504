"""kafka-configs.sh (kafka.admin.ConfigCommand), as administrators use it, against Hotlog: topics, brokers, loggers, groups and client metrics.

The same holds of Kafka itself (HOTLOG_CLIENTS_AGAINST=kafka), but for the name of a logger.
"""

from __future__ import annotations

import os

from confluent_kafka.admin import AdminClient, NewTopic

from tests.tools.kafka_jars import KafkaJars
from tests.tools.kafka_tools import ToolRun, run_tools
from tests.tools.patience import PATIENCE_S

LOGGER = "kafka.server.KafkaApis" if os.environ.get("HOTLOG_CLIENTS_AGAINST") == "kafka" else "hotlog.broker.broker"
DEFAULTS = "--entity-default"


def test_what_administrators_do_with_configurations(bootstrap: str, topic: str, jars: KafkaJars) -> None:
    """Set, told, listed, deleted; what is wrong ends with 1 and Kafka's words."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(PATIENCE_S)
    group, metrics = f"{topic}-group", f"{topic}-metrics"

    def command(kind: str, *words: str, name: str = "") -> list[str]:
        named = [] if not name else [DEFAULTS] if name == DEFAULTS else ["--entity-name", name]
        return ["kafka.admin.ConfigCommand", "--bootstrap-server", bootstrap, "--entity-type", kind, *named, *words]

    def given(kind: str, name: str, values: str) -> list[str]:
        return command(kind, "--alter", "--add-config", values, name=name)

    def taken(kind: str, name: str, keys: str) -> list[str]:
        return command(kind, "--alter", "--delete-config", keys, name=name)

    commands = {
        "topic": given("topics", topic, "retention.ms=70000,cleanup.policy=[compact,delete]"),
        "topic told": command("topics", "--describe", name=topic),
        "topic taken": taken("topics", topic, "cleanup.policy"),
        "topic told again": command("topics", "--describe", name=topic),
        "topic wrong": given("topics", topic, "retention.ms=x"),
        "broker": given("brokers", "1", "message.max.bytes=2000000"),
        "all brokers": given("brokers", DEFAULTS, "log.flush.interval.messages=99999"),
        "broker told": command("brokers", "--describe", name="1"),
        "all brokers told": command("brokers", "--describe", name=DEFAULTS),
        "broker in full": command("brokers", "--describe", "--all", name="1"),
        "broker read-only": given("brokers", "1", "node.id=7"),
        "broker taken": taken("brokers", "1", "message.max.bytes"),
        "all brokers taken": taken("brokers", DEFAULTS, "log.flush.interval.messages"),
        "group": given("groups", group, "consumer.session.timeout.ms=50000"),
        "group told": command("groups", "--describe", name=group),
        "groups told": command("groups", "--describe"),
        "group wrong": given("groups", group, "consumer.session.timeout.ms=1"),
        "group taken": taken("groups", group, "consumer.session.timeout.ms"),
        "metrics": given("client-metrics", metrics, "metrics=[a.,b.],interval.ms=1000,match=[client_id=x]"),
        "metrics told": command("client-metrics", "--describe"),
        "metrics taken": taken("client-metrics", metrics, "metrics,interval.ms,match"),
        "metrics told again": command("client-metrics", "--describe"),
        "logger": given("broker-loggers", "1", f"{LOGGER}=DEBUG"),
        "logger told": command("broker-loggers", "--describe", name="1"),
        "logger taken": taken("broker-loggers", "1", LOGGER),
        "logger unknown": given("broker-loggers", "1", "no.such.logger=DEBUG"),
    }
    done: dict[str, ToolRun] = dict(zip(commands, run_tools(jars, *commands.values()), strict=True))
    wrong = {"topic wrong", "broker read-only", "group wrong", "logger unknown"}
    assert {what for what, run in done.items() if run.exit_code} == wrong, {
        what: run for what, run in done.items() if run.exit_code
    }
    text = {what: run.text for what, run in done.items()}
    assert f"Completed updating config for topic {topic}." in text["topic"]
    assert "retention.ms=70000 " in text["topic told"]
    assert "DYNAMIC_TOPIC_CONFIG:cleanup.policy=compact,delete" in text["topic told"]
    assert "cleanup.policy" not in text["topic told again"]
    assert "message.max.bytes=2000000" in text["broker told"]
    assert "log.flush.interval.messages=99999" in text["all brokers told"]
    assert "DYNAMIC_DEFAULT_BROKER_CONFIG:log.flush.interval.messages=99999" in text["broker in full"]
    assert "consumer.session.timeout.ms=50000" in text["group told"]
    assert f"Dynamic configs for group {group} are:" in text["groups told"]
    assert "metrics=a.,b." in text["metrics told"]
    assert metrics in text["metrics told"]
    assert metrics not in text["metrics told again"]
    assert f"{LOGGER}=DEBUG" in text["logger told"]
    assert "no.such.logger" in text["logger unknown"]
