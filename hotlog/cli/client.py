"""The verbs that talk to a broker do so as any Kafka client: librdkafka through confluent-kafka.

Invariants: a client error leaves as HotlogError with the broker's own words; nothing here knows Hotlog's internals.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from confluent_kafka import Consumer, KafkaException
from confluent_kafka.admin import AdminClient

from hotlog.cli.exact_producer import ExactProducer
from hotlog.kernel.errors import HotlogError, NotFound, Retry

T = TypeVar("T")
WAIT_SECONDS = 30


class ClientError(HotlogError):
    """What the broker (or the way to it) answered."""


class ClientRecord(NamedTuple):
    """A consumed record in the shape of hotlog.wire.records.Record."""

    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


def record_of(message: Any) -> ClientRecord:
    """A librdkafka message as a record."""
    kind, timestamp = message.timestamp()
    return ClientRecord(message.offset(), timestamp, int(kind == 2), message.key(), message.value(), message.headers() or [])


def admin(bootstrap: str) -> AdminClient:
    config: dict[str, Any] = {"bootstrap.servers": bootstrap, "logger": _quiet(), "socket.connection.setup.timeout.ms": 5000}
    return AdminClient(config)


def producer(bootstrap: str, extra: Mapping[str, Any] | None = None) -> ExactProducer:
    """An idempotent producer with batches up to 1 MB; `extra` are librdkafka properties."""
    base: dict[str, Any] = {
        "bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 20, "batch.size": 1_000_000,
        "queue.buffering.max.messages": 500_000, "compression.type": "zstd", "logger": _quiet(),
    }  # fmt: skip
    return ExactProducer(base | dict(extra or {}))


def consumer(bootstrap: str, extra: Mapping[str, Any] | None = None) -> Consumer:
    base: dict[str, Any] = {
        "bootstrap.servers": bootstrap, "group.id": "hotlog-cli", "enable.auto.commit": False, "auto.offset.reset": "earliest",
        "enable.partition.eof": True, "fetch.message.max.bytes": 8 << 20, "logger": _quiet(),
    }  # fmt: skip
    return Consumer(base | dict(extra or {}))


def answered(call: Callable[[], T]) -> T:
    """Run a client call; its KafkaException becomes a ClientError (or NotFound, Retry) with the broker's message."""
    try:
        return call()
    except KafkaException as failure:
        error = failure.args[0]
        name, text = error.name(), error.str()
        if name in ("UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_TOPIC", "_UNKNOWN_PARTITION"):
            raise NotFound(text) from None
        if name in ("_TRANSPORT", "_ALL_BROKERS_DOWN", "_TIMED_OUT", "_RESOLVE"):
            raise Retry(f"no broker answered: {text} (is `hotlog serve` running? --bootstrap names another address)") from None
        raise ClientError(f"{name}: {text}") from None


def _quiet() -> logging.Logger:
    """librdkafka's log lines go to a logger of their own, silent unless HOTLOG_LOG asks for more."""
    logger = logging.getLogger("hotlog.client")
    logger.propagate = bool(os.environ.get("HOTLOG_LOG"))
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    return logger
