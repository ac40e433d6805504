"""kcat, the tool people reach for first: produce, consume, seek by time, group."""

from __future__ import annotations

import uuid

import pytest

from tests.clients.python_clients import KEEP
from tests.tools.clients import ALL_CODECS, Client, Kcat, Record


@pytest.mark.parametrize("codec", ALL_CODECS)
def test_kcat_writes_and_reads(codec: str, kcat_client: Kcat, bootstrap: str, topic: str, reference: Client) -> None:
    reference.create_topic(bootstrap, topic, partitions=2, configs=KEEP)
    sent = [
        Record(partition=1, key=b"k", value=b"hello", headers=(("a", b"1"), ("b", b"2")), timestamp=0),
        Record(partition=1, key=b"gone", value=None, timestamp=0),
        Record(partition=1, key=None, value=b"no key", timestamp=0),
    ]
    for each in sent:
        kcat_client.produce(bootstrap, topic, 1, each, codec=codec)
    read = kcat_client.consume(bootstrap, topic)
    assert [(each.partition, each.offset) for each in read] == [(1, 0), (1, 1), (1, 2)]
    assert [(each.key, each.value, each.headers) for each in read] == [(each.key, each.value, each.headers) for each in sent]
    assert reference.consume(bootstrap, topic, count=3) == read


def test_kcat_seeks_by_timestamp(kcat_client: Kcat, bootstrap: str, topic: str, reference: Client) -> None:
    reference.create_topic(bootstrap, topic, partitions=1, configs=KEEP)
    start_ms = 1_357_000_000_000
    records = [Record(partition=0, key=None, value=b"%d" % n, timestamp=start_ms + n * 1_000) for n in range(10)]
    reference.produce(bootstrap, topic, records)
    read = kcat_client.consume(bootstrap, topic, start=f"s@{start_ms + 6_500}")
    assert [each.value for each in read] == [b"7", b"8", b"9"]
    assert [each.timestamp for each in read] == [start_ms + n * 1_000 for n in (7, 8, 9)]


def test_kcat_in_a_group_resumes(kcat_client: Kcat, bootstrap: str, topic: str, reference: Client) -> None:
    reference.create_topic(bootstrap, topic, partitions=1, configs=KEEP)
    group = f"kcat-{uuid.uuid4().hex[:8]}"
    for value in (b"first", b"second"):
        reference.produce(bootstrap, topic, [Record(partition=0, key=None, value=value, timestamp=1_357_000_000_000)])
        assert [each.value for each in kcat_client.consume_group(bootstrap, topic, group=group)] == [value]
