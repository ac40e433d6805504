"""The two brokers of the twin test: Hotlog and Apache Kafka, each a process of its own on loopback, with the same settings.

Invariants: both have answered for all they coordinate before a story begins; both are stopped however the stories end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.tools.hotlog_server import HotlogServer
from tests.tools.kafka_jars import kafka_jars
from tests.tools.kafka_server import KafkaServer
from tests.twin.keys import Key
from tests.twin.telling import Side, Story

SETTINGS = {
    "group.initial.rebalance.delay.ms": "0", "group.min.session.timeout.ms": "1000", "group.max.size": "4",
    "group.consumer.assignment.interval.ms": "0", "group.consumer.max.size": "4", "group.consumer.min.session.timeout.ms": "1000",
    "group.consumer.session.timeout.ms": "20000", "group.consumer.min.heartbeat.interval.ms": "100",
    "group.consumer.heartbeat.interval.ms": "500",
    "offsets.topic.num.partitions": "1", "transaction.state.log.num.partitions": "1", "log.retention.ms": "-1",
    # each kind of source: a coarse form, one key of two names, a value equal to the default, one that nobody acts on, one nobody knows
    "log.retention.hours": "5", "log.roll.hours": "2", "log.flush.interval.ms": "1000", "log.segment.bytes": "1073741824",
    "log.cleaner.delete.retention.ms": "1000", "num.partitions": "3", "num.io.threads": "4", "foo.bar": "baz", "broker.rack": "r1",
    "compression.gzip.level": "5",
    # a machine that is busy is not a broker that is gone
    "broker.session.timeout.ms": "600000",
    # little memory and few threads for Kafka
    "log.cleaner.dedupe.buffer.size": "2097152", "num.network.threads": "2", "background.threads": "2",
}  # fmt: skip
SMALL_JVM = ("-Xmx320m", "-Xms128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-Djava.awt.headless=true")


class Addresses(NamedTuple):
    """Where they listen."""

    hotlog: tuple[str, int]
    kafka: tuple[str, int]


@contextmanager
def running(folder: Path) -> Iterator[Addresses]:
    """Both, ready.  Raises ToolMissing if there can be no Kafka here."""
    kafka = KafkaServer(jars=kafka_jars(), folder=folder / "kafka", properties=SETTINGS, jvm_options=SMALL_JVM)
    hotlog = HotlogServer(folder=folder / "hotlog", settings=SETTINGS)
    with ExitStack() as stack:
        stack.callback(kafka.stop)
        kafka.format()
        kafka.start()
        stack.callback(hotlog.stop)
        hotlog.start()
        kafka.wait_ready()
        twins = Addresses(("127.0.0.1", hotlog.port), ("127.0.0.1", kafka.port))
        asyncio.run(_both_ready(twins))
        yield twins


async def _both_ready(twins: Addresses) -> None:
    await asyncio.gather(_ready("hotlog", twins.hotlog), _ready("kafka", twins.kafka))


async def _ready(broker: str, address: tuple[str, int]) -> None:
    """Until groups and transactions are coordinated and producers have ids: being named as a coordinator is not being ready yet."""
    side = Side(broker, address, Story("ready", (), _nothing), {}, 0)
    try:
        for kind in (0, 1):
            await side.until(
                lambda answer: answer.coordinators[0].error_code.name == "none",
                Key.FIND_COORDINATOR, key_type=kind, coordinator_keys=["ready"],
            )  # fmt: skip
        await side.until(
            lambda answer: answer.groups[0].error_code.name == "none",
            Key.OFFSET_FETCH, version=9, groups=[dict(group_id="ready", topics=None)],
        )  # fmt: skip
        for transactional_id in (None, "ready"):
            await side.until(
                lambda answer: answer.error_code.name == "none",
                Key.INIT_PRODUCER_ID, transactional_id=transactional_id, transaction_timeout=60_000,
            )  # fmt: skip
    finally:
        await side.close()


async def _nothing(at: Side) -> None:
    """A story in which nothing is told."""
    await asyncio.sleep(0)
