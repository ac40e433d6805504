"""A Kafka server.properties: what is mapped, what is refused because silence would be worse, what is named in one line."""

from __future__ import annotations

import pytest

from hotlog.kernel.addresses import Endpoint
from hotlog.kernel.errors import Invalid, InvalidConfig
from hotlog.kernel.server_properties import nearest, told, understood
from tiering.store import parse_store_url

# The properties of a new Kafka 4.x as it is shipped (config/server.properties), comments left out.
SHIPPED = {
    "process.roles": "broker,controller", "node.id": "1", "controller.quorum.bootstrap.servers": "localhost:9093",
    "listeners": "PLAINTEXT://:9092,CONTROLLER://:9093", "inter.broker.listener.name": "PLAINTEXT",
    "advertised.listeners": "PLAINTEXT://localhost:9092,CONTROLLER://localhost:9093", "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL",
    "num.network.threads": "3", "num.io.threads": "8", "socket.send.buffer.bytes": "102400", "socket.receive.buffer.bytes": "102400",
    "socket.request.max.bytes": "104857600", "log.dirs": "/tmp/kraft-combined-logs", "num.partitions": "1",
    "num.recovery.threads.per.data.dir": "2", "offsets.topic.replication.factor": "1",
    "share.coordinator.state.topic.replication.factor": "1", "share.coordinator.state.topic.min.isr": "1",
    "transaction.state.log.replication.factor": "1", "transaction.state.log.min.isr": "1", "log.retention.hours": "168",
    "log.segment.bytes": "1073741824", "log.retention.check.interval.ms": "300000",
}  # fmt: skip


def test_the_file_that_kafka_ships_is_understood() -> None:
    asked = understood(SHIPPED)
    assert (asked.listeners, asked.data_dir, asked.store_url) == (
        (Endpoint("PLAINTEXT", "0.0.0.0", 9092),),
        "/tmp/kraft-combined-logs",
        None,
    )
    assert asked.settings.number("num.recovery.threads.per.data.dir") == 2
    assert "num.io.threads" in asked.without_effect
    assert not {"listeners", "log.dirs", "node.id", "process.roles"} & set(asked.without_effect)
    seen = told(asked.settings, listeners=[Endpoint("PLAINTEXT", "::1", 9092)], data_dir="/data").others
    assert (seen["log.dirs"], seen["listeners"]) == ("/data", "PLAINTEXT://[::1]:9092")


def test_keys_of_older_kafkas_and_of_others_plugins_do_nothing_and_are_named() -> None:
    given = [
        "zookeeper.connect", "zookeeper.session.timeout.ms", "inter.broker.protocol.version", "log.message.format.version", "port",
        "log.message.timestamp.difference.max.ms", "control.plane.listener.name", "host.name", "quota.producer.default",
        "confluent.metrics.reporter.bootstrap.servers", "cruise.control.metrics.topic", "offsets.commit.required.acks",
        "metric.reporters", "replica.selector.class", "leader.imbalance.per.broker.percentage", "rlmm.config.remote.log.metadata.topic",
    ]  # fmt: skip
    assert understood(dict.fromkeys(given, "x")).without_effect == tuple(sorted(given))


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("log.retention.hour", "log.retention.hours"), ("num.partition", "num.partitions"), ("log.dris", "log.dirs"),
        ("log_retention_hours", "log.retention.hours"), ("Log.Retention.Hours", "log.retention.hours"), ("listener", "listeners"),
        ("retention.ms", "log.retention.ms"), ("cleanup.policy", "log.cleanup.policy"), ("num.io.thread", "num.io.threads"),
        ("auto.create.topic.enable", "auto.create.topics.enable"), ("super.user", "super.users"),
        ("hotlog.durabilty", "hotlog.durability"), ("hotlog.cache.memory", "hotlog.cache.memory.bytes"),
    ],
)  # fmt: skip
def test_a_near_miss_is_refused_with_the_name_that_is_meant(name: str, near: str) -> None:
    assert nearest(name) == near
    with pytest.raises(InvalidConfig, match=rf"{name}: there is no such key; {near} is meant"):
        understood({name: "1"})


def test_an_unknown_key_of_ours_is_refused_without_a_near_one_too_and_all_are_told_at_once() -> None:
    with pytest.raises(InvalidConfig) as refused:
        understood({"hotlog.zebra": "1", "num.partition": "1", "num.partitions": "2", "super.users": "User:a"})
    for name in ("hotlog.zebra", "num.partition: ", "super.users"):
        assert name in str(refused.value)
    assert "num.partitions: " not in str(refused.value)


def test_an_unknown_key_of_ours_that_is_near_to_none_is_refused_too() -> None:
    with pytest.raises(InvalidConfig, match=r"hotlog\.x: there is no such key$"):
        understood({"hotlog.x": "1"})


@pytest.mark.parametrize(
    "name",
    [
        "authorizer.class.name", "super.users", "allow.everyone.if.no.acl.found", "principal.builder.class", "config.providers",
        "ssl.keystore.location", "ssl.keystore.password", "ssl.principal.mapping.rules", "sasl.jaas.config", "listener.name.a.ssl.client.auth",
        "security.inter.broker.protocol", "create.topic.policy.class.name", "alter.config.policy.class.name",
        "client.quota.callback.class", "max.connections.per.ip.overrides", "password.encoder.secret", "delegation.token.secret.key",
    ],
)  # fmt: skip
def test_what_would_open_a_door_is_refused_with_what_to_do_and_without_its_value(name: str) -> None:
    with pytest.raises(InvalidConfig, match=rf"{name}: .*take the key out|set max.connections.per.ip|write them out") as refused:
        understood({name: "hush-hush"})
    assert "hush-hush" not in str(refused.value)
    assert understood({name: " "}).settings.others == {name: " "}, "empty it protects nothing in Kafka either"


@pytest.mark.parametrize(
    ("name", "text"),
    [("ssl.client.auth", "none"), ("security.inter.broker.protocol", "PLAINTEXT"), ("sasl.enabled.mechanisms", "GSSAPI"), ("ssl.protocol", "TLSv1.3")],
)  # fmt: skip
def test_what_is_kafkas_default_closes_no_door(name: str, text: str) -> None:
    assert understood({name: text}).without_effect == (name,)


def test_one_folder_is_the_data_dir_and_several_are_refused() -> None:
    assert understood({"log.dirs": "/one"}).data_dir == "/one"
    assert understood({"log.dir": "/two"}).data_dir == "/two"
    assert understood({"log.dir": "/two", "log.dirs": "/one"}).said_by["data dir"] == "log.dirs"
    with pytest.raises(InvalidConfig, match=r"log.dirs: one folder"):
        understood({"log.dirs": "/one,/two"})


def test_the_brokers_number_by_its_older_name() -> None:
    assert understood({"broker.id": "7"}).settings.number("node.id") == 7
    assert understood({"broker.id": "7", "node.id": "7"}).settings.number("node.id") == 7
    with pytest.raises(InvalidConfig, match=r"broker.id=7 and node.id=8"):
        understood({"broker.id": "7", "node.id": "8"})
    with pytest.raises(InvalidConfig, match=r"process.roles: .*controller"):
        understood({"process.roles": "controller"})


PLUGIN = {
    "remote.log.storage.manager.class.name": "io.aiven.kafka.tieredstorage.RemoteStorageManager",
    "remote.log.storage.system.enable": "true",
    "rsm.config.chunk.size": "4194304",
    "rsm.config.storage.backend.class": "io.aiven.kafka.tieredstorage.storage.s3.S3Storage",
    "rsm.config.storage.s3.bucket.name": "logs",
    "rsm.config.storage.s3.region": "eu-central-1",
    "rsm.config.key.prefix": "kafka/",
}


def test_the_bucket_of_aivens_plugin_is_the_store() -> None:
    asked = understood(PLUGIN)
    assert str(parse_store_url(asked.store_url)) == "s3://logs/kafka?region=eu-central-1"
    assert "rsm.config.storage.s3.bucket.name" in asked.said_by["store"]
    assert "rsm.config.chunk.size" in asked.without_effect
    assert "rsm.config.storage.s3.bucket.name" not in asked.without_effect
    here = {
        "rsm.config.storage.s3.endpoint.url": "http://127.0.0.1:9000",
        "rsm.config.storage.s3.path.style.access.enabled": "true",
    }
    found = parse_store_url(understood({**PLUGIN, **here}).store_url)
    assert (found.endpoint, found.addressing, found.prefix) == ("http://127.0.0.1:9000", "path", "kafka")
    moved = {name.replace("rsm.config.", "x."): text for name, text in PLUGIN.items()}
    assert understood({**moved, "remote.log.storage.manager.impl.prefix": "x."}).store_url == asked.store_url
    folder = {"rsm.config.storage.backend.class": "a.b.FileSystemStorage", "rsm.config.storage.root": "/cold"}
    assert understood(folder).store_url == "file:///cold"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"rsm.config.encryption.enabled": "true"}, "encryption.enabled: .*SSE"),
        ({"rsm.config.storage.aws.secret.access.key": "hush-hush"}, "AWS chain"),
        ({"rsm.config.storage.backend.class": "io.aiven.kafka.tieredstorage.storage.gcs.GcsStorage"}, "--store"),
        ({"rsm.config.storage.s3.bucket.name": ""}, "bucket.name is missing"),
    ],
)
def test_a_plugin_whose_data_would_lie_elsewhere_or_in_the_clear_is_refused(more: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidConfig, match=words) as refused:
        understood({**PLUGIN, **more})
    assert "hush-hush" not in str(refused.value)


def test_a_store_that_is_said_makes_the_plugin_not_count_but_not_its_encryption() -> None:
    asked = understood({"remote.log.storage.manager.class.name": "com.example.Own", "rsm.config.a": "b"}, has_store=True)
    assert asked.store_url is None
    assert "rsm.config.a" in asked.without_effect
    with pytest.raises(InvalidConfig, match="--store"):
        understood({"remote.log.storage.manager.class.name": "com.example.Own"})
    with pytest.raises(InvalidConfig, match="not encrypted"):
        understood({**PLUGIN, "rsm.config.encryption.enabled": "TRUE"}, has_store=True)


def test_a_listener_that_asks_for_protection_is_refused() -> None:
    with pytest.raises(Invalid, match="only PLAINTEXT"):
        understood({"listeners": "SASL_SSL://:9093"})


def test_every_listener_for_clients_is_opened() -> None:
    asked = understood({"listeners": "INSIDE://:1,PLAINTEXT://:2,CONTROLLER://:3", "controller.listener.names": "CONTROLLER",
                        "listener.security.protocol.map": "INSIDE:PLAINTEXT"})  # fmt: skip
    assert asked.listeners == (Endpoint("INSIDE", "0.0.0.0", 1), Endpoint("PLAINTEXT", "0.0.0.0", 2))
    assert asked.without_effect == ()
