"""`python -m tests.docs.history TOPIC FROM UNTIL`: a record a day, and all of them moved into the store, so that there is history to read."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import UTC, date, datetime, timedelta

from confluent_kafka import Producer

from hotlog.cli.raw import LATEST, LATEST_TIERED, tier_borders
from tests.tools.patience import PATIENCE_S

BOOTSTRAP, PARTITIONS = "127.0.0.1:9092", 8


def main(topic: str, first: date, end: date) -> None:
    producer = Producer({"bootstrap.servers": BOOTSTRAP})
    for number in range((end - first).days):
        when = datetime.combine(first + timedelta(days=number), datetime.min.time(), UTC) + timedelta(hours=12)
        producer.produce(topic, b'{"n": %d}' % number, partition=number % PARTITIONS, timestamp=int(when.timestamp() * 1000))
    assert producer.flush(PATIENCE_S) == 0
    subprocess.run([sys.executable, "-m", "hotlog", "topic", "alter", topic, "-c", "segment.ms=1000"], check=True)
    wait_tiered(topic)


def wait_tiered(topic: str) -> None:
    """Until all that was produced is in the store."""
    give_up, partitions = time.monotonic() + PATIENCE_S, list(range(PARTITIONS))
    while True:
        ends = tier_borders(BOOTSTRAP, topic, partitions, LATEST)
        tiered = tier_borders(BOOTSTRAP, topic, partitions, LATEST_TIERED)
        if all(tiered[each] + 1 == ends[each] for each in partitions):
            return
        assert time.monotonic() < give_up, f"tiered up to {tiered} of {ends}"
        time.sleep(0.2)


if __name__ == "__main__":
    main(sys.argv[1], date.fromisoformat(sys.argv[2]), date.fromisoformat(sys.argv[3]))
