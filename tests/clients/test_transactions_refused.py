"""A transactional producer is refused once and for all while there are no transactions: no client asks for ever.

Invariants: each client as it is, with its own patience; it gives up because of the answer, not because of its timeout.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import TransactionalIdAuthorizationFailed
from confluent_kafka import KafkaError, KafkaException, Producer
from kafka import KafkaProducer
from kafka.errors import TransactionalIdAuthorizationFailedError

from tests.clients.conftest import get_client
from tests.tools.clients import FOREIGN_CLIENTS, ClientFailed, CommandClient
from tests.tools.hotlog_server import HotlogServer
from tests.tools.kafka_server import KafkaServer
from tests.tools.patience import PATIENCE_S


def confluent(bootstrap: str, name: str) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": name, "log_level": 0, "log.queue": True})
    with pytest.raises(KafkaException) as refused:
        producer.init_transactions(PATIENCE_S)
    error: KafkaError = refused.value.args[0]
    assert error.fatal(), "librdkafka would ask again for ever"
    assert error.code() == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED


def kafka_python(bootstrap: str, name: str) -> None:
    producer = KafkaProducer(bootstrap_servers=bootstrap, transactional_id=name, max_block_ms=int(PATIENCE_S * 1000))
    try:
        with pytest.raises(TransactionalIdAuthorizationFailedError):
            producer.init_transactions()
    finally:
        producer.close(timeout=0)


def aiokafka(bootstrap: str, name: str) -> None:
    async def begin() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id=name)
        try:
            async with asyncio.timeout(PATIENCE_S):
                with pytest.raises(TransactionalIdAuthorizationFailed):
                    await producer.start()
        finally:
            await producer.stop()

    asyncio.run(begin())


def foreign(name: str) -> Callable[[str, str], None]:
    def begin(bootstrap: str, transactional_id: str) -> None:
        client = get_client(name)
        assert isinstance(client, CommandClient)
        with pytest.raises(ClientFailed, match=r"(?i)transactional.?id"):
            client.begin(bootstrap, transactional_id)

    return begin


BEGINS = {"confluent-kafka": confluent, "kafka-python": kafka_python, "aiokafka": aiokafka}
BEGINS |= {name: foreign(name) for name in FOREIGN_CLIENTS}


@pytest.mark.parametrize("name", BEGINS)
def test_a_transactional_producer_is_told_at_once(broker: HotlogServer | KafkaServer, name: str) -> None:
    if isinstance(broker, KafkaServer):
        pytest.skip("Kafka has transactions")
    BEGINS[name](broker.bootstrap, f"transactions-{uuid.uuid4().hex[:8]}")
    assert "not built yet" in broker.errors.read_text(), "and the log says why"
