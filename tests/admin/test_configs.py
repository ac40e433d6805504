"""Configurations: what is told, what may change, what is refused; dynamic broker settings; DeleteRecords."""

from __future__ import annotations

from datetime import timedelta
from itertools import chain
from pathlib import Path

import pytest
from kio.schema.errors import ErrorCode

from controller.config_rules import APPEND, DELETE, SET, SUBTRACT
from hotlog.broker.broker import Broker
from hotlog.kernel.settings import BROKER_KEYS, KEY_FAMILIES
from hotlog.kernel.topic_config import TOPIC_KEYS
from hotlog.wire.batch import header_at
from hotlog.wire.records import NewRecord, encode_batch
from tests.admin.node import Door, coordinator_made, request, running

TOPIC, BROKER = 2, 4


async def describe(
    broker: Broker, kind: int, name: str, *, version: int = 4, keys=None, synonyms: bool = True, docs: bool = True
):
    shapes = request(32, version)
    resource = shapes.DescribeConfigsResource(resource_type=kind, resource_name=name, configuration_keys=keys)
    wanted = shapes.DescribeConfigsRequest(resources=(resource,), include_synonyms=synonyms, include_documentation=docs)
    return (await Door(broker).call(32, version, wanted)).results[0]


async def entry(broker: Broker, kind: int, name: str, key: str):
    return next(found for found in (await describe(broker, kind, name)).configs if found.name == key)


async def alter(
    broker: Broker, kind: int, name: str, configs: dict[str, str | None], *, version: int = 2, validate_only: bool = False
):
    shapes = request(33, version)
    given = tuple(shapes.AlterableConfig(name=key, value=value) for key, value in configs.items())
    resource = shapes.AlterConfigsResource(resource_type=kind, resource_name=name, configs=given)
    reply = await Door(broker).call(33, version, shapes.AlterConfigsRequest(resources=(resource,), validate_only=validate_only))
    return reply.responses[0]


async def step(
    broker: Broker, kind: int, name: str, *changes: tuple[str, int, str | None], version: int = 1, validate_only=False
):
    shapes = request(44, version)
    given = tuple(shapes.AlterableConfig(name=key, config_operation=how, value=value) for key, how, value in changes)
    resource = shapes.AlterConfigsResource(resource_type=kind, resource_name=name, configs=given)
    wanted = shapes.IncrementalAlterConfigsRequest(resources=(resource,), validate_only=validate_only)
    return (await Door(broker).call(44, version, wanted)).responses[0]


@pytest.mark.parametrize("version", range(1, 5))
async def test_topic_configs_in_every_version(tmp_path: Path, version: int) -> None:
    async with running(tmp_path, {"log.segment.bytes": "1000000"}) as broker:
        await broker.create_topic("clicks", 1, {"retention.ms": "60000"})
        result = await describe(broker, TOPIC, "clicks", version=version)
        assert result.error_code is ErrorCode.none
        told = {config.name: config for config in result.configs}
        assert list(told) == sorted(TOPIC_KEYS)
        assert (told["retention.ms"].value, told["retention.ms"].config_source) == ("60000", 1)
        assert (told["segment.bytes"].value, told["segment.bytes"].config_source) == ("1000000", 4)
        assert (told["flush.ms"].value, told["flush.ms"].config_source) == (str(2**63 - 1), 5)
        sources = [(s.name, s.value, s.source) for s in told["retention.ms"].synonyms]
        assert sources == [("retention.ms", "60000", 1)]
        sources = [(s.name, s.value, s.source) for s in told["segment.bytes"].synonyms]
        assert sources == [("log.segment.bytes", "1000000", 4), ("log.segment.bytes", "1073741824", 5)]
        assert not any(config.read_only or config.is_sensitive for config in told.values())
        if version >= 3:
            assert told["retention.ms"].config_type == 5
            assert told["cleanup.policy"].config_type == 7
            assert "Age" in told["retention.ms"].documentation
        few = await describe(
            broker, TOPIC, "clicks", version=version, keys=("segment.ms", "nonsense"), synonyms=False, docs=False
        )
        assert [(config.name, config.synonyms) for config in few.configs] == [("segment.ms", ())]


async def test_a_compacted_topic_tells_that_it_is_not_tiered(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        await broker.create_topic("table", 1, {"cleanup.policy": "compact"})
        assert (await entry(broker, TOPIC, "table", "remote.storage.enable")).value == "false"
        assert broker.partition("table", 0).cold is None
        await broker.create_topic("plain", 1)
        assert (await entry(broker, TOPIC, "plain", "remote.storage.enable")).value == "true"
        assert broker.partition("plain", 0).cold is not None


async def test_tiering_that_is_off_for_the_broker_is_off_for_topics(tmp_path: Path) -> None:
    async with running(tmp_path, {"remote.log.storage.system.enable": "false"}) as broker:
        await broker.create_topic("clicks", 1)
        assert broker.partition("clicks", 0).cold is None
        assert (await entry(broker, TOPIC, "clicks", "remote.storage.enable")).value == "false"
        refused = await step(broker, TOPIC, "clicks", ("remote.storage.enable", SET, "true"))
        assert refused.error_code is ErrorCode.invalid_config


async def test_broker_configs(tmp_path: Path) -> None:
    async with running(tmp_path, {"num.partitions": "3"}) as broker:
        result = await describe(broker, BROKER, "1")
        told = {config.name: config for config in result.configs}
        assert list(told) == sorted({*BROKER_KEYS, *chain.from_iterable(KEY_FAMILIES.values())})
        assert (told["num.partitions"].value, told["num.partitions"].config_source) == ("3", 4)
        assert told["node.id"].read_only
        assert not told["num.partitions"].read_only
        assert (await describe(broker, BROKER, "")).configs == ()
        assert (await describe(broker, BROKER, "2")).error_code is ErrorCode.invalid_request
        assert (await describe(broker, TOPIC, "nobody")).error_code is ErrorCode.unknown_topic_or_partition
        assert (await describe(broker, 77, "x")).error_code is ErrorCode.invalid_request


@pytest.mark.parametrize("version", range(3))
async def test_alter_replaces_everything(tmp_path: Path, version: int) -> None:
    async with running(tmp_path) as broker:
        await broker.create_topic("clicks", 1, {"retention.ms": "60000", "segment.ms": "1000"})
        dry = await alter(broker, TOPIC, "clicks", {"flush.ms": "5"}, version=version, validate_only=True)
        assert dry.error_code is ErrorCode.none
        assert broker.topic("clicks").configs == {"retention.ms": "60000", "segment.ms": "1000"}
        assert (await alter(broker, TOPIC, "clicks", {"segment.ms": "2000"}, version=version)).error_code is ErrorCode.none
        assert broker.topic("clicks").configs == {"segment.ms": "2000"}
        config = broker.partition("clicks", 0).log.config
        assert (config.segment_ms, config.retention_ms) == (2000, 604_800_000)
    async with running(tmp_path) as broker:
        assert broker.partition("clicks", 0).log.config.segment_ms == 2000


@pytest.mark.parametrize("version", range(2))
async def test_incremental_steps(tmp_path: Path, version: int) -> None:
    async with running(tmp_path) as broker:
        await broker.create_topic("clicks", 1, {"retention.ms": "60000"})
        changes = (("segment.ms", SET, "1000"), ("cleanup.policy", APPEND, "compact"))
        assert (await step(broker, TOPIC, "clicks", *changes, version=version)).error_code is ErrorCode.none
        assert broker.topic("clicks").configs == {
            "cleanup.policy": "delete,compact", "remote.storage.enable": "true", "retention.ms": "60000", "segment.ms": "1000",
        }  # fmt: skip
        back = (("cleanup.policy", SUBTRACT, "compact"), ("retention.ms", DELETE, None))
        assert (await step(broker, TOPIC, "clicks", *back, version=version, validate_only=True)).error_code is ErrorCode.none
        assert broker.topic("clicks").configs["retention.ms"] == "60000"
        assert (await step(broker, TOPIC, "clicks", *back, version=version)).error_code is ErrorCode.none
        assert broker.topic("clicks").configs["cleanup.policy"] == "delete"
        assert "retention.ms" not in broker.topic("clicks").configs


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ([("no.such.key", SET, "1")], ErrorCode.invalid_config, "no.such.key"),
        ([("no.such.key", APPEND, "1")], ErrorCode.invalid_config, "no.such.key"),
        ([("retention.ms", APPEND, "1")], ErrorCode.invalid_config, "retention.ms"),
        ([("retention.ms", 9, "1")], ErrorCode.invalid_request, "retention.ms"),
        ([("retention.ms", SET, "-2")], ErrorCode.invalid_config, "retention.ms"),
        ([("retention.ms", SET, None)], ErrorCode.invalid_request, "retention.ms"),
        ([("compression.gzip.level", SET, "0")], ErrorCode.invalid_config, "compression.gzip.level"),
        ([("leader.replication.throttled.replicas", SET, "all")], ErrorCode.invalid_config, "PARTITION:BROKER"),
        ([("cleanup.policy", SET, "burn")], ErrorCode.invalid_config, "cleanup.policy"),
        ([("retention.ms", SET, "1"), ("retention.ms", SET, "2")], ErrorCode.invalid_request, "twice"),
        ([("local.retention.ms", SET, "9999999999")], ErrorCode.invalid_config, "local.retention.ms"),
        ([("remote.storage.enable", SET, "false")], ErrorCode.invalid_config, "delete.on.disable"),
    ],
)
async def test_refused_steps_name_the_key_and_change_nothing(tmp_path: Path, changes: list, code: ErrorCode, words: str) -> None:
    async with running(tmp_path) as broker:
        await broker.create_topic("clicks", 1, {"segment.ms": "1000"})
        refused = await step(broker, TOPIC, "clicks", *changes)
        assert refused.error_code is code, refused.error_message
        assert words in refused.error_message
        assert broker.topic("clicks").configs == {"segment.ms": "1000"}


async def test_dynamic_broker_settings_act_survive_and_give_topics_their_defaults(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        await broker.create_topic("clicks", 1)
        assert (await step(broker, BROKER, "", ("log.segment.bytes", SET, "5000000"))).error_code is ErrorCode.none
        assert (await step(broker, BROKER, "1", ("num.partitions", SET, "4"))).error_code is ErrorCode.none
        assert broker.partition("clicks", 0).log.config.segment_bytes == 5_000_000
        assert len((await broker.create_topic("wide")).partitions) == 4
    async with running(tmp_path) as broker:
        assert broker.partition("clicks", 0).log.config.segment_bytes == 5_000_000
        told = await entry(broker, TOPIC, "clicks", "segment.bytes")
        assert (told.value, told.config_source) == ("5000000", 3)
        mine = await entry(broker, BROKER, "1", "num.partitions")
        assert [(s.value, s.source) for s in mine.synonyms] == [("4", 2), ("1", 5)]
        assert [c.name for c in (await describe(broker, BROKER, "")).configs] == ["log.segment.bytes"]
        assert (await alter(broker, BROKER, "1", {})).error_code is ErrorCode.none
        assert broker.settings.number("num.partitions") == 1
        assert (await step(broker, BROKER, "", ("log.segment.bytes", DELETE, None))).error_code is ErrorCode.none
        assert broker.partition("clicks", 0).log.config.segment_bytes == 1024**3


async def test_a_replay_can_be_slowed_and_let_go_while_the_broker_runs(tmp_path: Path) -> None:
    key = "remote.log.manager.fetch.max.bytes.per.second"
    async with running(tmp_path) as broker:
        rate = broker.tier.reader.chunks.rate
        assert rate.bytes_per_second > 10**9
        assert (await step(broker, BROKER, "", (key, SET, "1000"))).error_code is ErrorCode.none
        assert rate.bytes_per_second == 1000
        assert (await step(broker, BROKER, "", (key, DELETE, None))).error_code is ErrorCode.none
        assert rate.bytes_per_second > 10**9


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("node.id", "7"),
        ("listener.name.x.plain.sasl.jaas.config", "com.example.Module required;"),
        ("ssl.keystore.location", "/etc/keys"),
        ("authorizer.class.name", "com.example.Evil"),
        ("metric.reporters", "com.example.Evil"),
        ("num.partitions", "0"),
        ("num.io.threads", "many"),
        ("remote.log.reader.threads", "20"),  # known, and read at start only
        ("group.min.session.timeout.ms", "9999999"),
    ],
)
async def test_broker_settings_that_are_refused(tmp_path: Path, name: str, value: str) -> None:
    code = ErrorCode.invalid_request
    async with running(tmp_path) as broker:
        for resource in ("", "1"):
            refused = await step(broker, BROKER, resource, (name, SET, value))
            assert refused.error_code is code
            assert name.split(".")[0] in refused.error_message
            assert (await alter(broker, BROKER, resource, {name: value})).error_code is code
        assert broker.image.broker_configs == {}


async def test_what_nobody_knows_is_kept_as_kafka_keeps_it_and_its_value_is_told_to_nobody(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        for resource in ("", "1"):
            changes = (("foo.password", SET, "hush"), ("num.io.threads", SET, "4"))
            assert (await step(broker, BROKER, resource, *changes)).error_code is ErrorCode.none
            told = await entry(broker, BROKER, resource, "foo.password")
            assert (told.value, told.is_sensitive, told.config_type, [s.value for s in told.synonyms][:1]) == (
                None,
                True,
                0,
                [None],
            )
            assert (await entry(broker, BROKER, resource, "num.io.threads")).value == "4"
        settings = broker.settings
        await broker.tick()
        assert broker.settings is settings, "what does not act is no change of what does"
        assert (
            await step(broker, BROKER, "", ("foo.password", DELETE, None), ("never.set", DELETE, None))
        ).error_code is ErrorCode.none
        assert broker.image.broker_configs[-1] == {"num.io.threads": "4"}


async def test_the_groups_topic_stays_compacted(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        await coordinator_made(broker)
        assert broker.partition("__consumer_offsets", 0).cold is None
        refused = await step(broker, TOPIC, "__consumer_offsets", ("cleanup.policy", SET, "delete"))
        assert refused.error_code is ErrorCode.invalid_config


async def test_turning_tiering_off_gives_up_the_remote_part(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        await broker.create_topic("clicks", 1)
        off = (("remote.storage.enable", SET, "false"), ("remote.log.delete.on.disable", SET, "true"))
        assert (await step(broker, TOPIC, "clicks", *off)).error_code is ErrorCode.none
        assert broker.partition("clicks", 0).cold is None
        on = (("remote.storage.enable", SET, "true"),)
        assert (await step(broker, TOPIC, "clicks", *on)).error_code is ErrorCode.none
        assert broker.partition("clicks", 0).cold is not None


def fill(broker: Broker, count: int) -> None:
    log = broker.partition("clicks", 0).log
    for number in range(count):
        data = encode_batch([NewRecord(broker.clock.now_ms(), b"k", str(number).encode())])
        log.append(memoryview(data), [header_at(data)], now_ms=broker.clock.now_ms())


async def delete_records(broker: Broker, offset: int, *, version: int = 2, partition: int = 0, topic: str = "clicks"):
    shapes = request(21, version)
    part = shapes.DeleteRecordsPartition(partition_index=partition, offset=offset)
    wanted = shapes.DeleteRecordsRequest(
        topics=(shapes.DeleteRecordsTopic(name=topic, partitions=(part,)),), timeout=timedelta(seconds=5)
    )
    found = (await Door(broker).call(21, version, wanted)).topics[0].partitions[0]
    return found.low_watermark, found.error_code


@pytest.mark.parametrize("version", range(3))
async def test_delete_records_moves_the_start_for_good(tmp_path: Path, version: int) -> None:
    async with running(tmp_path) as broker:
        await broker.create_topic("clicks", 1)
        fill(broker, 10)
        await broker.partition("clicks", 0).log.wait_durable(10)
        assert await delete_records(broker, 4, version=version) == (4, ErrorCode.none)
        assert await delete_records(broker, 2, version=version) == (4, ErrorCode.none)
        assert await delete_records(broker, 11, version=version) == (-1, ErrorCode.offset_out_of_range)
        assert await delete_records(broker, -2, version=version) == (-1, ErrorCode.offset_out_of_range)
        assert await delete_records(broker, 1, version=version, partition=5) == (-1, ErrorCode.unknown_topic_or_partition)
        assert broker.partition("clicks", 0).log_start_offset == 4
    async with running(tmp_path) as broker:
        assert broker.partition("clicks", 0).log_start_offset == 4
        assert await delete_records(broker, -1, version=version) == (10, ErrorCode.none)


async def test_delete_records_needs_a_policy_that_deletes(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        await broker.create_topic("clicks", 1, {"cleanup.policy": "compact"})
        assert await delete_records(broker, 0) == (-1, ErrorCode.policy_violation)


async def test_what_cannot_be_cleaned_is_told_to_who_asks_for_it_by_name(tmp_path: Path) -> None:
    async with running(tmp_path) as broker:
        await broker.create_topic("changes", 2, {"cleanup.policy": "compact"})
        key = "hotlog.uncleanable"
        assert key not in {found.name for found in (await describe(broker, TOPIC, "changes")).configs}
        partition = broker.partition("changes", 1)
        assert partition is not None
        for trouble, told in (("", "{}"), ("a batch that cannot be read", '{"1": "a batch that cannot be read"}')):
            partition.log.clean.trouble = trouble
            (found,) = (await describe(broker, TOPIC, "changes", keys=(key,))).configs
            assert (found.value, found.read_only) == (told, True)
        assert (await describe(broker, BROKER, str(broker.node_id), keys=(key,))).configs == ()
