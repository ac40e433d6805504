"""A producer that sends the timestamps it is given, 0 too.

librdkafka takes timestamp 0 for "none was given" and stamps the record with the current time.  Records of that timestamp go by aiokafka, in
runs; what librdkafka holds is acknowledged first, and the other way round, so that order is kept.

Invariants: records reach a partition in the order of `produce`; a key's partition is librdkafka's (`consistent_random`) whichever client sends.
"""

from __future__ import annotations

import asyncio
import random
import zlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError as AioError
from confluent_kafka import KafkaError, Producer

HELD_MAX = 20_000  # records
Done = Callable[[Any, Any], None]


class _Held(NamedTuple):
    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    done: Done | None


class ExactProducer(Producer):
    """librdkafka's producer, for any timestamp from -1 (none) up.  `on_delivery` gets no message for a record that went by aiokafka."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self._bootstrap = str(config["bootstrap.servers"])
        self._held: list[_Held] = []

    def produce(  # type: ignore[override]
        self, topic: str, value: Any = None, key: Any = None, partition: int = -1, on_delivery: Done | None = None,
        timestamp: int | None = None, headers: Any = None,
    ) -> None:  # fmt: skip
        """As librdkafka's; `timestamp` in ms since the epoch, -1: the record has none, None: now.

        Raises UnicodeEncodeError for a header's name that is not UTF-8: neither client sends such.
        """
        for name, _ in headers.items() if isinstance(headers, dict) else headers or ():
            name.encode()  # UnicodeEncodeError; librdkafka's binding would end the process
        if timestamp == 0:
            if not self._held:
                super().flush()
            pairs = headers.items() if isinstance(headers, dict) else headers or []
            named = [(name, _bytes(part)) for name, part in pairs]
            self._held.append(_Held(topic, partition, _bytes(key), _bytes(value), named, on_delivery))
            if len(self._held) >= HELD_MAX:
                self._send_held()
            return
        self._send_held()
        more: dict[str, Any] = {} if timestamp is None else {"timestamp": timestamp}
        if headers:
            more["headers"] = headers
        super().produce(topic, value, key, partition, on_delivery=on_delivery, **more)

    def flush(self, timeout: float = -1) -> int:
        """Send what is held; the number of records without an answer after `timeout` seconds."""
        self._send_held()
        return int(super().flush(timeout))

    def _send_held(self) -> None:
        held, self._held = self._held, []
        if not held:
            return
        try:
            asyncio.run(_send(self._bootstrap, held))
            failure = None
        except AioError as wrong:
            failure = KafkaError(KafkaError._FAIL, str(wrong) or type(wrong).__name__)
        for record in held:
            if record.done is not None:
                record.done(failure, None)


def _bytes(text: Any) -> bytes | None:
    return text.encode() if isinstance(text, str) else text


async def _send(bootstrap: str, held: Iterable[_Held]) -> None:
    """All of it acknowledged, or an AioError (some of it may have been written then)."""
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True, request_timeout_ms=30_000) as client:
        counts: dict[str, int] = {}
        parts: dict[tuple[str, int], list[_Held]] = {}
        for record in held:
            if record.topic not in counts:
                counts[record.topic] = len(await client.partitions_for(record.topic))
            parts.setdefault((record.topic, _partition(record, counts[record.topic])), []).append(record)
        for (topic, partition), records in parts.items():
            await _send_part(client, topic, partition, records)


def _partition(record: _Held, count: int) -> int:
    if record.partition >= 0:
        return record.partition
    return zlib.crc32(record.key) % count if record.key else random.randrange(count)


async def _send_part(client: AIOKafkaProducer, topic: str, partition: int, records: list[_Held]) -> None:
    batch = client.create_batch()
    for record in records:
        fields = {"key": record.key, "value": record.value, "headers": record.headers}
        if batch.append(timestamp=0, **fields) is not None:
            continue
        await (await client.send_batch(batch, topic, partition=partition))
        batch = client.create_batch()
        if batch.append(timestamp=0, **fields) is None:  # larger than a batch may be: librdkafka's own words for that
            raise AioError(f"a record of {len(record.value or b'')} bytes is larger than a batch may be")
    await (await client.send_batch(batch, topic, partition=partition))
