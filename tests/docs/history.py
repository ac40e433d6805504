"""`python -m tests.docs.history TOPIC FROM UNTIL`: a record a day, and all of them moved into the store, so that there is history to read."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime, timedelta

from confluent_kafka import Producer

from tests.tools.patience import PATIENCE_S

BOOTSTRAP, PARTITIONS = "127.0.0.1:9092", 8


def main(topic: str, first: date, end: date) -> None:
    producer = Producer({"bootstrap.servers": BOOTSTRAP})
    for number in range((end - first).days):
        when = datetime.combine(first + timedelta(days=number), datetime.min.time(), UTC) + timedelta(hours=12)
        producer.produce(topic, b'{"n": %d}' % number, partition=number % PARTITIONS, timestamp=int(when.timestamp() * 1000))
    assert producer.flush(PATIENCE_S) == 0
    subprocess.run([sys.executable, "-m", "hotlog", "topic", "roll", topic, "--wait"], check=True)


if __name__ == "__main__":
    main(sys.argv[1], date.fromisoformat(sys.argv[2]), date.fromisoformat(sys.argv[3]))
