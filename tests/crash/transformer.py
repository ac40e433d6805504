"""A consume-transform-produce loop as a process of its own, to be killed: reads committed records, writes each once more, and commits what it has read
with what it wrote.

    python -m tests.crash.transformer BOOTSTRAP SOURCE SINK GROUP TRANSACTIONAL-ID PARTITIONS

Invariants: an error that a transaction cannot go on after ends the process; whoever started it starts it again.
"""

from __future__ import annotations

import os
import sys

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from tests.tools.patience import PATIENCE_S

AT_ONCE = 25
STEP_SECONDS = (
    8  # librdkafka 2.16 may wait for ever for a group's coordinator whose broker came back: who waits so long begins anew
)


def main(bootstrap: str, source: str, sink: str, group: str, name: str, partitions: int) -> None:
    quick = {
        "bootstrap.servers": bootstrap, "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 100, "retry.backoff.ms": 20,
        "log_level": 0,
        # As it begins anew (KIP-899), librdkafka 2.16 forgets who waits for a group's coordinator: TxnOffsetCommit is never sent.
        "metadata.recovery.strategy": "none",
    }  # fmt: skip
    producer = Producer({**quick, "transactional.id": name, "linger.ms": 1})
    producer.init_transactions(PATIENCE_S)  # what a predecessor left is aborted before offsets are asked for
    consumer = Consumer(
        {
            **quick, "group.id": group, "isolation.level": "read_committed", "enable.auto.commit": False,
            "auto.offset.reset": "earliest", "fetch.wait.max.ms": 50,
        }
    )  # fmt: skip
    consumer.assign([TopicPartition(source, index) for index in range(partitions)])
    while True:
        messages = [message for message in consumer.consume(AT_ONCE, 0.1) if not _is_weather(message.error())]
        if not messages:
            continue
        producer.begin_transaction()
        for message in messages:
            producer.produce(sink, message.value(), partition=message.partition())
        positions = [position for position in consumer.position(consumer.assignment()) if position.offset >= 0]
        producer.send_offsets_to_transaction(positions, consumer.consumer_group_metadata(), STEP_SECONDS)
        producer.commit_transaction(STEP_SECONDS)
        sys.stdout.write(f"{len(messages)}\n")
        sys.stdout.flush()


def _is_weather(error: KafkaError | None) -> bool:
    if error is None:
        return False
    if error.code() in (KafkaError._PARTITION_EOF, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN) or error.retriable():
        return True
    raise KafkaException(error)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:6], int(sys.argv[6]))
    except KafkaException as failure:
        sys.stderr.write(f"{failure}\n")
        os._exit(1)  # librdkafka would wait for what it still has in hand
