"""Seven Kafka clients, as released, do what people do with them; what one writes, librdkafka reads, and back.

Invariants:
- Everything a record has is compared: key, value, headers, timestamp, partition, offset.
- Topics are made with explicit partitions, so nothing leans on automatic creation.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import pytest
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from tests.clients.conftest import CLIENT_NAMES, get_client
from tests.clients.python_clients import KEEP
from tests.tools.clients import ALL_CODECS, CODECS_OF, Client, Record
from tests.tools.patience import PATIENCE_S

BASE_MS = 1_357_000_000_000  # New Year 2013
PARTITIONS = 3
LONG_BYTES = 100_000
CODEC_CASES = [(name, codec) for name in CLIENT_NAMES for codec in CODECS_OF.get(name, ALL_CODECS)]


def sample_records(client: Client) -> list[Record]:
    """Ordinary and odd records over three partitions, within what the client's own format can say."""
    odd: list[tuple[bytes | None, bytes | None, tuple[tuple[str, bytes | None], ...]]] = [
        (b"key", b"value", (("origin", b"EWR"), ("empty", b""))),
        (None, b"no key", ()),
        (b"no value", None, ()),
        (b"", b"", ()),
        (bytes(range(256)), b"\x00\xff" * 100, (("bytes", bytes(range(256))),)),
        ("ключ".encode(), "значение ✈".encode(), (("заголовок", "✓".encode()),)),
        (b"long", b"0123456789" * (LONG_BYTES // 10), ()),
    ]
    if client.null_headers:
        odd.append((b"null header", b"v", (("null", None), ("twice", b"1"), ("twice", b"2"))))
    plain: list[tuple[bytes | None, bytes | None, tuple[tuple[str, bytes | None], ...]]] = [
        (f"k{number}".encode(), f"v{number}".encode() * 10, (("n", str(number).encode()),)) for number in range(50)
    ]
    return [
        Record(partition=number % PARTITIONS, key=key, value=value, headers=headers, timestamp=BASE_MS + 1_000 * number)
        for number, (key, value, headers) in enumerate(odd + plain)
    ]


def with_offsets(records: Sequence[Record], offsets: Sequence[int]) -> list[Record]:
    """The records as they must be read: with the offsets the producer was told, by partition and offset."""
    told = [
        Record(
            partition=each.partition,
            key=each.key,
            value=each.value,
            headers=each.headers,
            timestamp=each.timestamp,
            offset=offset,
        )
        for each, offset in zip(records, offsets, strict=True)
    ]
    return in_order(told)


def in_order(records: Sequence[Record]) -> list[Record]:
    return sorted(records, key=lambda each: (each.partition, each.offset))


def assert_dense(records: Sequence[Record]) -> None:
    """Offsets of each partition count up from 0 without a hole."""
    for partition in {each.partition for each in records}:
        offsets = [each.offset for each in in_order(records) if each.partition == partition]
        assert offsets == list(range(len(offsets)))


@pytest.mark.parametrize(("name", "codec"), CODEC_CASES)
def test_what_a_client_produces_is_what_everybody_reads(
    name: str, codec: str, bootstrap: str, topic: str, reference: Client
) -> None:
    client = get_client(name)
    reference.create_topic(bootstrap, topic, partitions=PARTITIONS, configs=KEEP)
    records = sample_records(client)
    expected = with_offsets(records, client.produce(bootstrap, topic, records, codec=codec))
    assert_dense(expected)
    assert in_order(reference.consume(bootstrap, topic, count=len(records))) == expected
    assert in_order(client.consume(bootstrap, topic, count=len(records))) == expected


@pytest.mark.parametrize(("name", "codec"), CODEC_CASES)
def test_a_client_reads_what_librdkafka_produced(name: str, codec: str, bootstrap: str, topic: str, reference: Client) -> None:
    client = get_client(name)
    reference.create_topic(bootstrap, topic, partitions=PARTITIONS, configs=KEEP)
    records = sample_records(client)
    expected = with_offsets(records, reference.produce(bootstrap, topic, records, codec=codec))
    assert in_order(client.consume(bootstrap, topic, count=len(records))) == expected


def test_a_group_joins_commits_resumes_and_leaves(client: Client, bootstrap: str, topic: str, reference: Client) -> None:
    reference.create_topic(bootstrap, topic, partitions=PARTITIONS, configs=KEEP)
    records = sample_records(client)
    expected = with_offsets(records, reference.produce(bootstrap, topic, records))
    group = f"group-{uuid.uuid4().hex[:8]}"
    first = client.consume_group(bootstrap, topic, group=group, count=20)
    second = client.consume_group(bootstrap, topic, group=group, count=len(records) - 20)
    assert len(first) == 20
    assert in_order(first + second) == expected


def test_a_seek_by_timestamp_lands_on_the_first_record_at_or_after_it(
    client: Client, bootstrap: str, topic: str, reference: Client
) -> None:
    reference.create_topic(bootstrap, topic, partitions=PARTITIONS, configs=KEEP)
    records = sample_records(client)
    expected = with_offsets(records, reference.produce(bootstrap, topic, records))
    start_ms = BASE_MS + 30_500  # between two records
    wanted = [each for each in expected if each.timestamp >= start_ms]
    assert in_order(client.consume(bootstrap, topic, count=len(wanted), from_ms=start_ms)) == wanted


def test_an_idempotent_producer_is_accepted(client: Client, bootstrap: str, topic: str, reference: Client) -> None:
    reference.create_topic(bootstrap, topic, partitions=PARTITIONS, configs=KEEP)
    records = sample_records(client)
    expected = with_offsets(records, client.produce(bootstrap, topic, records, idempotent=True))
    assert_dense(expected)
    assert in_order(reference.consume(bootstrap, topic, count=len(records))) == expected


def test_an_admin_client_creates_a_topic_with_configs(client: Client, bootstrap: str, topic: str) -> None:
    client.create_topic(bootstrap, topic, partitions=5, configs={"retention.ms": "123456789"})
    admin = AdminClient({"bootstrap.servers": bootstrap})
    assert sorted(admin.list_topics(topic, timeout=PATIENCE_S).topics[topic].partitions) == [0, 1, 2, 3, 4]
    resource = ConfigResource(ResourceType.TOPIC, topic)
    found = admin.describe_configs([resource])[resource].result(PATIENCE_S)
    assert found["retention.ms"].value == "123456789"
