"""A changelog of a million updates over ten thousand keys, compacted and tiered, on a real broker with a real client (`make changelog`).

    python -m tests.compaction.changelog [UPDATES [KEYS [STORE]]]

A reader goes over all of it again and again while it is written. In the end one value of each key is left in both tiers together,
tombstones are gone, and the bucket holds less than it did.

Invariants: a pass of the reader that begins after an update was acknowledged ends with that update of its key, or with a newer one.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType

from hotlog.cli.raw import tier_sizes
from tests.tools.hotlog_server import HotlogServer
from tests.tools.patience import PATIENCE_S

TOPIC, GONE_PER = "changelog", 20  # for so many keys that stay there is one that is deleted in the end
AT_ONCE = 20_000
DELETE_RETENTION_S, SETTLE_S_MAX, LOOK_S = 20, 1200, 5
SETTINGS = {
    "log.cleaner.backoff.ms": "500", "remote.log.manager.task.interval.ms": "500", "log.retention.check.interval.ms": "500",
    "log.segment.delete.delay.ms": "500", "hotlog.garbage.grace.ms": "10000", "hotlog.store.total.timeout.ms": "10000", "hotlog.store.attempt.timeout.ms": "5000", "hotlog.compaction.prices": "minio-own-disks",
}  # fmt: skip
CONFIGS = {
    "cleanup.policy": "compact", "remote.storage.enable": "true", "segment.bytes": str(4 << 20), "min.cleanable.dirty.ratio": "0.3",
    "local.retention.ms": "2000", "delete.retention.ms": str(DELETE_RETENTION_S * 1000),
}  # fmt: skip


class Changelog:
    """Writer and reader of one topic.  A key's value begins with the number of its update; a number is never used again."""

    def __init__(self, bootstrap: str, keys: int) -> None:
        self.bootstrap = bootstrap
        self.kept = [b"key-%06d" % number for number in range(keys)]
        self.keys = self.kept + [b"gone-%06d" % number for number in range(keys // GONE_PER)]
        self.acked: dict[bytes, int] = {}
        self.gone: set[bytes] = set()  # their newest update is a tombstone
        self.written = self.passes = 0
        self._chance = random.Random(3)
        self._producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5, "enable.idempotence": True})

    def write(self, keys: list[bytes], *, is_deleted: bool = False) -> None:
        """One update of each, acknowledged."""
        said = {}
        for key in keys:
            self.written += 1
            said[key] = self.written
            value = None if is_deleted else b"%d:" % self.written + b"." * self._chance.randrange(60, 140)
            while True:
                try:
                    self._producer.produce(TOPIC, value, key, partition=0)
                    break
                except BufferError:
                    self._producer.poll(0.1)
        assert self._producer.flush(PATIENCE_S) == 0
        (self.gone.update if is_deleted else self.gone.difference_update)(keys)
        self.acked.update(said)

    def write_many(self, count: int) -> None:
        for _ in range(0, count, AT_ONCE):
            self.write(self._chance.choices(self.keys, k=min(AT_ONCE, count)))

    def read(self) -> int:
        """One pass over all of it, held against what was acknowledged before it began; how many records it saw."""
        acked, gone = dict(self.acked), set(self.gone)
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": uuid.uuid4().hex, "enable.partition.eof": True})
        consumer.assign([TopicPartition(TOPIC, 0, OFFSET_BEGINNING)])
        seen: dict[bytes, int] = {}
        count, is_over = 0, False
        while not is_over:
            messages = consumer.consume(5000, 1.0)
            for message in messages:
                if message.error() is not None:
                    assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
                    is_over = True
                    continue
                count += 1
                value = message.value()
                seen[message.key()] = int(value[: value.index(b":")]) if value is not None else message.offset()
        consumer.close()
        missing = [key for key in acked.keys() - seen.keys() if key not in gone and key not in self.gone]
        assert not missing, f"{len(missing)} keys are lost, {missing[:3]} among them"
        old = [key for key, number in acked.items() if key in seen and key not in gone | self.gone and seen[key] < number]
        assert not old, f"{len(old)} keys have an older value than was acknowledged, {old[:3]} among them"
        self.passes += 1
        return count


def alter(bootstrap: str, **configs: str) -> None:
    entries = [
        ConfigEntry(name.replace("_", "."), value, incremental_operation=AlterConfigOpType.SET) for name, value in configs.items()
    ]
    resource = ConfigResource(ResourceType.TOPIC, TOPIC, incremental_configs=entries)
    client = AdminClient({"bootstrap.servers": bootstrap})
    client.incremental_alter_configs([resource])[resource].result(PATIENCE_S)


def tiered_bytes(bootstrap: str) -> int:
    return tier_sizes(bootstrap, TOPIC, [0])[0].tiered or 0


def run(folder: Path, updates: int, keys: int, store: str | None) -> dict[str, float]:
    """The whole story; what was measured."""
    server = HotlogServer(folder=folder, settings=SETTINGS, store=store)
    server.start()
    try:
        admin = AdminClient({"bootstrap.servers": server.bootstrap})
        admin.create_topics([NewTopic(TOPIC, 1, config=CONFIGS)])[TOPIC].result(PATIENCE_S)
        log, began, peak = Changelog(server.bootstrap, keys), time.monotonic(), 0
        errors: list[BaseException] = []
        is_written = threading.Event()

        def read_on() -> None:
            try:
                while not is_written.is_set():
                    log.read()
            except BaseException as failure:
                errors.append(failure)

        log.write(log.keys)
        reader = threading.Thread(target=read_on)
        reader.start()
        while log.written < updates and not errors:
            log.write_many(AT_ONCE)
            peak = max(peak, tiered_bytes(server.bootstrap))
        log.write(log.keys[keys:], is_deleted=True)
        written_s = time.monotonic() - began
        is_written.set()
        reader.join()
        if errors:
            raise errors[0]
        left = _settle(log, server.bootstrap, keys)
        peak = max(peak, left[1])
        return {
            "updates": log.written, "keys": keys, "written s": round(written_s, 1), "settled s": round(time.monotonic() - began, 1),
            "passes of the reader": log.passes, "records left": left[0], "bytes in the bucket, most": peak,
            "bytes in the bucket, at last": tiered_bytes(server.bootstrap),
        }  # fmt: skip
    finally:
        server.stop()


def _settle(log: Changelog, bootstrap: str, live: int) -> tuple[int, int]:
    """Write a little more, now and then, until both tiers hold the live values and nothing else; (records, most bytes in the bucket)."""
    give_up, most, count = time.monotonic() + SETTLE_S_MAX, 0, -1
    alter(bootstrap, min_cleanable_dirty_ratio="0.0001")
    while time.monotonic() < give_up:
        log.write(log.kept[: live // 50])
        alter(bootstrap, hotlog_segment_roll_before_ms=str(int(time.time() * 1000)))
        for _ in range(DELETE_RETENTION_S * 2 // LOOK_S):
            time.sleep(LOOK_S)
            most, count = max(most, tiered_bytes(bootstrap)), log.read()
            if count == live:
                return count, most
        print(f"{count} records are left, {live} values are live", file=sys.stderr)
    raise AssertionError(f"{count} records are left of {live} live values")


def main(words: list[str]) -> None:
    updates, keys, store = [*words, *("1000000", "10000", "")[len(words) :]][:3]
    with tempfile.TemporaryDirectory(prefix="hotlog-changelog-") as folder:
        print(json.dumps(run(Path(folder), int(updates), int(keys), store or None), indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
