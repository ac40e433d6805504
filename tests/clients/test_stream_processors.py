"""Stream processors with exactly-once and a changelog count words: killed at work, and begun anew on nothing but the changelog.

Each counts every word one by one, so what it tells of a word is 1, 2, 3 and so on: a number that is missing was lost, one that comes again was
counted twice or committed twice, and a count that begins anew at 1 was restored from nothing.

Invariants: local state is deleted before the second life; by then the changelog was cleaned, so what is restored is what the cleaner left.
The broker is killed at work too, where the processor outlives that; quixstreams gives up after some seconds without it, and is left alone.
"""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.clients.conftest import not_here, started_broker
from tests.clients.python_clients import PYTHON_CLIENTS
from tests.tools.applications import Application, quix_word_count, streams_word_count
from tests.tools.cache import ToolMissing
from tests.tools.hotlog_server import HotlogServer
from tests.tools.kafka_server import KafkaServer
from tests.tools.patience import PATIENCE_S

SOURCE, SINK, GROUP = "lines", "counts", "word-count"
PARTITIONS = 2
WORDS = tuple(f"word-{number}" for number in range(40))
SETTINGS = {
    "group.initial.rebalance.delay.ms": "0", "offsets.topic.num.partitions": "2", "transaction.state.log.num.partitions": "2",
    "log.cleaner.backoff.ms": "100", "log.cleaner.min.cleanable.ratio": "0.01", "log.roll.ms": "500",
}  # fmt: skip
PROCESSORS: Mapping[str, Callable[[Path, Mapping[str, str | int]], Application]] = {
    "kafka-streams": streams_word_count,
    "quixstreams": quix_word_count,
}
OUTLIVE_BROKERS = {"kafka-streams"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HotlogServer | KafkaServer]:
    server = started_broker(tmp_path / "broker", SETTINGS)
    yield server
    server.stop()


class Feed:
    """Lines of words, and how often each word was said."""

    def __init__(self, bootstrap: str) -> None:
        self.producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 1, "log_level": 0})
        self.chance = random.Random(8)
        self.said: Counter[str] = Counter()

    def write(self, lines: int) -> None:
        """So many lines, acknowledged."""
        for number in range(lines):
            words = self.chance.choices(WORDS, k=5)
            self.said.update(words)
            self.producer.produce(SOURCE, " ".join(words), partition=number % PARTITIONS)
        assert self.producer.flush(PATIENCE_S) == 0


class Told:
    """The counts of each word in order, as a reader of committed records sees them."""

    def __init__(self, bootstrap: str) -> None:
        self.consumer = Consumer(
            {"bootstrap.servers": bootstrap, "group.id": "reader", "isolation.level": "read_committed", "log_level": 0}
        )
        self.consumer.assign([TopicPartition(SINK, number, OFFSET_BEGINNING) for number in range(PARTITIONS)])
        self.counts: defaultdict[str, list[int]] = defaultdict(list)

    def read_until(self, said: Counter[str], application: Application) -> None:
        """Until each word was told as often as it was said."""
        give_up = time.monotonic() + PATIENCE_S
        while self.total() < said.total():
            assert time.monotonic() < give_up and application.is_alive(), (
                f"{self.total()} of {said.total()}; {application.said()}"
            )
            self.read(0.2)

    def read(self, wait_s: float) -> None:
        for message in self.consumer.consume(1000, wait_s):
            if message.error() is None:
                self.counts[message.key().decode()].append(int(message.value()))

    def close(self) -> None:
        self.consumer.close()

    def total(self) -> int:
        return sum(map(len, self.counts.values()))


def records_of(bootstrap: str, topic: str) -> int:
    """How many committed records a topic has."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap, "group.id": "counter", "isolation.level": "read_committed", "enable.partition.eof": True,
            "enable.auto.commit": False, "log_level": 0,
        }
    )  # fmt: skip
    found, left = 0, PARTITIONS
    try:
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in range(PARTITIONS)])
        while left:
            message = consumer.poll(PATIENCE_S)
            assert message is not None, f"no end of {topic} came"
            if message.error() is None:
                found += 1
            else:
                assert message.error().code() == KafkaError._PARTITION_EOF
                left -= 1
    finally:
        consumer.close()
    return found


def wait_cleaned(bootstrap: str, updates: int) -> None:
    """Until the changelog has lost most of what was written to it."""
    topics = AdminClient({"bootstrap.servers": bootstrap}).list_topics(timeout=PATIENCE_S).topics
    (changelog,) = [name for name in topics if "changelog" in name]
    give_up = time.monotonic() + PATIENCE_S
    while (left := records_of(bootstrap, changelog)) > updates / 2:
        assert time.monotonic() < give_up, f"{left} of {updates} records are left in {changelog}"


@pytest.mark.parametrize("name", PROCESSORS)
def test_words_are_counted_once_through_deaths(name: str, server: HotlogServer | KafkaServer, tmp_path: Path) -> None:
    reference, state = PYTHON_CLIENTS["confluent-kafka"], tmp_path / "state"
    for topic in (SOURCE, SINK):
        reference.create_topic(server.bootstrap, topic, partitions=PARTITIONS, configs={})
    wanted: dict[str, str | int] = {
        "bootstrap": server.bootstrap, "source": SOURCE, "sink": SINK, "group": GROUP, "state": str(state), "session_ms": 6000,
        "transaction_ms": 5000,
    }  # fmt: skip
    try:
        application = PROCESSORS[name](tmp_path / name, wanted)
    except ToolMissing as missing:
        not_here(name, missing)
    feed, told = Feed(server.bootstrap), Told(server.bootstrap)
    application.start()
    try:
        for _ in range(4):
            feed.write(100)
            told.read_until(feed.said, application)
        for _ in range(10):  # it is at work when it dies
            feed.write(20)
            told.read(0.05)
        application.kill()
        feed.write(100)
        wait_cleaned(server.bootstrap, 2000)
        shutil.rmtree(state)
        application.start()
        told.read_until(feed.said, application)
        if name in OUTLIVE_BROKERS:
            feed.write(50)
            server.kill()
            server.start()
            feed.write(50)
            told.read_until(feed.said, application)
        assert told.counts == {word: list(range(1, often + 1)) for word, often in feed.said.items()}
    finally:
        application.kill()
        told.close()
