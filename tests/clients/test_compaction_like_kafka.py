"""The same segment files are cleaned by Kafka's cleaner and by ours: what remains is the same, batch by batch and record by record.

Each partition is a log of its own kind, made by a seed: codecs, tombstones, idempotent producers, transactions that commit and abort, records
without a key.  Some begin where a cleaning of ours ended, so that delete horizons and emptied batches come back to both.

Invariants: Kafka gets `.log` files only and makes indexes, producers and aborted transactions of them itself; the clocks of the two differ by
what a start takes, so whether a horizon is set is compared, not which.
"""

from __future__ import annotations

import functools
import random
import struct
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from compaction.clean_run import CopyPass, KeyPass, Sieve, Tally
from compaction.clean_transactions import CleanedTransactions
from hotlog.log import checkpoints
from hotlog.log.clean_view import ClosedSegment
from hotlog.log.index import AbortedTransaction
from hotlog.log.producers import LastBatch
from hotlog.wire.batch import DELETE_HORIZON_MASK, BatchHeader, header_at, walk
from hotlog.wire.key_map import Rules, key_map
from hotlog.wire.records import decode_batch
from tests.clients.conftest import not_here
from tests.clients.python_clients import PYTHON_CLIENTS
from tests.fixtures.raw_batch import CODEC_NUMBERS, RawRecord, raw_batch
from tests.support.disks import FastDisk
from tests.tools.cache import ToolMissing
from tests.tools.kafka_jars import KafkaJars, kafka_jars
from tests.tools.kafka_server import KafkaServer
from tests.tools.patience import PATIENCE_S

TOPIC = "cleaned"
DAY_MS = 86_400_000
SEEDS = 8
PROPERTIES = {
    "log.cleaner.backoff.ms": "100", "log.initial.task.delay.ms": "100", "log.retention.check.interval.ms": "1000000",
    "log.cleaner.dedupe.buffer.size": "4194304", "log.segment.delete.delay.ms": "0",
}  # fmt: skip
CONFIGS = {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.0", "delete.retention.ms": str(DAY_MS)}


class Written(NamedTuple):
    """A log's segments, first offset and bytes, and what is known of it."""

    segments: list[tuple[int, bytes]]
    end: int
    aborted: list[AbortedTransaction]
    first_dirty: int
    last: dict[int, LastBatch]


class Author:
    """Writes a log by a seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.offset = 0
        self.sequences: dict[int, int] = {}
        self.open: dict[int, int] = {}
        self.aborted: list[AbortedTransaction] = []
        self.last: dict[int, LastBatch] = {}
        self.now = int(time.time() * 1000) - DAY_MS // 8  # no producer is forgotten

    def records(self) -> list[RawRecord]:
        chance = self.random
        return [
            RawRecord(
                self.now + chance.randrange(10_000),
                chance.choice([b"k%d" % chance.randrange(12)] * 15 + [None]),
                None if chance.random() < 0.15 else b"v%d" % chance.getrandbits(20) + b"." * chance.randrange(40),
                [(b"h", b"x")] * chance.randrange(2),
            )
            for _ in range(chance.randrange(1, 6))
        ]

    def batch(self) -> bytes:
        """Data of nobody, of an idempotent producer, or of a transaction."""
        records, kind = self.records(), self.random.choice(["plain", "idempotent", "transaction"])
        codec = self.random.choice(["none", "none", "gzip", "snappy", "lz4", "zstd"])
        producer, attributes = (-1, -1, -1), 0
        if kind != "plain":
            identity = self.random.randrange(100, 103) if kind == "idempotent" else self.random.randrange(200, 204)
            sequence = self.sequences.get(identity, 0)
            self.sequences[identity] = sequence + len(records)
            producer = (identity, 0, sequence)
            self.last[identity] = LastBatch(self.offset + len(records) - 1, 0)
            if kind == "transaction":
                attributes = 0x10
                self.open.setdefault(identity, self.offset)
        return self._given(raw_batch(records, codec, base_offset=self.offset, attributes=attributes, producer=producer))

    def marker(self) -> bytes:
        """The end of a transaction."""
        identity = self.random.choice(sorted(self.open))
        first, commits = self.open.pop(identity), self.random.random() < 0.5
        if not commits:
            stable = min([*self.open.values(), self.offset + 1])
            self.aborted.append(AbortedTransaction(identity, first, self.offset, stable))
        record = RawRecord(self.now, struct.pack(">hh", 0, int(commits)), struct.pack(">hi", 0, 0))
        return self._given(raw_batch([record], base_offset=self.offset, attributes=0x30, producer=(identity, 0, -1)))

    def _given(self, data: bytearray) -> bytes:
        struct.pack_into(">i", data, 12, 0)  # leader epoch
        self.offset = header_at(data).next_offset
        self.now += 1000
        return bytes(data)

    def segment(self, batches: int) -> tuple[int, bytes]:
        base, parts = self.offset, []
        for _ in range(batches):
            parts.append(self.marker() if self.open and self.random.random() < 0.3 else self.batch())
        return base, b"".join(parts)

    def settle(self) -> bytes:
        """The ends of all transactions, so that all may be cleaned."""
        parts = []
        while self.open:
            parts.append(self.marker())
        return b"".join(parts)


@functools.cache
def author(seed: int) -> Written:
    """A log, with odd seeds one that was cleaned before."""
    pen = Author(seed)
    segments = [pen.segment(pen.random.randrange(4, 15)) for _ in range(4)]
    segments[-1] = segments[-1][0], segments[-1][1] + pen.settle()
    written = Written(segments, pen.offset, pen.aborted, 0, dict(pen.last))
    if seed % 2 == 0:
        return written
    before = cleaned_by_us(written)
    more = [pen.segment(pen.random.randrange(4, 15)) for _ in range(2)]
    more[-1] = more[-1][0], more[-1][1] + pen.settle()
    return Written([(0, before), *more], pen.offset, pen.aborted, written.end, dict(pen.last))


def cleaned_by_us(written: Written, folder: Path | None = None) -> bytes:
    """One cleaning of all of it."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        place, disk, now = Path(name), FastDisk(1), int(time.time() * 1000)
        closed = []
        ends = [base for base, _ in written.segments[1:]] + [written.end]
        for (base, data), end in zip(written.segments, ends, strict=True):
            path = place / f"{base:020d}.log"
            path.write_bytes(data)
            has_aborted = any(base <= entry.last_offset < end for entry in written.aborted)
            closed.append(ClosedSegment(base, end, len(data), 0, 0, 0, str(path), str(path) if has_aborted else "", False))
        keys = key_map(1 << 20, 10_000, bytes(16))
        dirty = [entry for entry in written.aborted if entry.last_offset >= written.first_dirty]
        noting = KeyPass(disk, closed, written.first_dirty, written.end, keys, dirty, piece_bytes=1 << 20)
        while noting.step():
            pass
        assert noting.latest == written.end - 1
        transactions = CleanedTransactions()
        transactions.expect(written.aborted)
        rules = Rules(noting.latest, now, now + DAY_MS, written.end)
        sieve = Sieve(keys, rules, transactions, written.last, Tally())
        run = CopyPass(disk, name, closed, sieve, segment_bytes=1 << 30, piece_bytes=1 << 20)
        while run.step():
            pass
        return (place / f"{0:020d}.log.cleaned").read_bytes()


def told(data: bytes) -> list[tuple[object, ...]]:
    """What a log says, batch by batch, but for bytes that may differ: lengths, base timestamps, CRCs."""
    view = memoryview(data)
    return [batch_told(header, view[at : at + header.size]) for at, header in walk(view)]


def batch_told(h: BatchHeader, batch: memoryview) -> tuple[object, ...]:
    records = decode_batch(batch) if h.record_count else []
    return (
        (h.base_offset, h.last_offset, h.record_count, h.producer_id, h.producer_epoch, h.base_sequence, h.leader_epoch),
        (h.codec, h.is_transactional, h.is_control, bool(h.attributes & DELETE_HORIZON_MASK), h.max_timestamp),
        [(r.offset, r.timestamp, r.key, r.value, r.headers) for r in records],
    )


@pytest.fixture(scope="module")
def by_kafka(jars_of_module: KafkaJars, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, bytes]]:
    """What Kafka's cleaner made of the log of each seed."""
    kafka = KafkaServer(jars=jars_of_module, folder=tmp_path_factory.mktemp("kafka"), properties=PROPERTIES)
    kafka.format()
    kafka.start()
    try:
        kafka.wait_ready()
        PYTHON_CLIENTS["confluent-kafka"].create_topic(kafka.bootstrap, TOPIC, partitions=SEEDS, configs=CONFIGS)
        data, logs = kafka.folder / "data", {seed: author(seed) for seed in range(SEEDS)}
        kafka.stop()
        for seed, log in logs.items():
            lay_out(data / f"{TOPIC}-{seed}", log)
        dirty = {f"{TOPIC} {seed} {log.first_dirty}" for seed, log in logs.items() if log.first_dirty}
        (data / "cleaner-offset-checkpoint").write_text("\n".join(["0", str(len(dirty)), *sorted(dirty), ""]))
        (data / "recovery-point-offset-checkpoint").write_text("0\n0\n")
        (data / ".kafka_cleanshutdown").unlink(missing_ok=True)
        kafka.start()
        kafka.wait_ready()
        wait_cleaned(data, logs)
        kafka.kill()
        yield {seed: whole_of(data / f"{TOPIC}-{seed}", log.end) for seed, log in logs.items()}
    finally:
        kafka.stop()


@pytest.fixture(scope="module")
def jars_of_module() -> KafkaJars:
    try:
        return kafka_jars()
    except ToolMissing as missing:
        not_here("Apache Kafka", missing)


def lay_out(folder: Path, log: Written) -> None:
    """The log's files in place of an empty log's; the active segment is empty."""
    for old in [*folder.glob("0*"), folder / "leader-epoch-checkpoint"]:
        old.unlink(missing_ok=True)
    for base, data in [*log.segments, (log.end, b"")]:
        (folder / f"{base:020d}.log").write_bytes(data)


def wait_cleaned(data: Path, logs: dict[int, Written]) -> None:
    give_up = time.monotonic() + PATIENCE_S
    wanted = {f"{TOPIC}-{seed}": log.end for seed, log in logs.items()}
    while time.monotonic() < give_up:
        raw = (data / "cleaner-offset-checkpoint").read_bytes()
        done = {f"{tp.topic}-{tp.partition}": offset for tp, offset in checkpoints.parse_offsets(raw).items()}
        if all(done.get(name) == end for name, end in wanted.items()):
            return
        time.sleep(0.05)
    raise AssertionError(f"Kafka has cleaned {done}; {wanted} is wanted")


def whole_of(folder: Path, end: int) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.glob("0*.log")) if int(path.stem) < end)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_what_remains_is_what_remains_of_it_in_kafka(by_kafka: dict[int, bytes], seed: int) -> None:
    ours, kafkas = told(cleaned_by_us(author(seed))), told(by_kafka[seed])
    assert len(kafkas) > 3
    for mine, its in zip(ours, kafkas, strict=False):
        assert mine == its
    assert len(ours) == len(kafkas)


def test_the_logs_hold_everything_that_cleaning_knows(by_kafka: dict[int, bytes]) -> None:
    """Emptied batches, horizons, markers, every codec: else the comparison proves little."""
    headers = [header for data in by_kafka.values() for _, header in walk(memoryview(data))]
    assert any(not h.record_count and h.producer_id >= 0 for h in headers)
    assert any(h.attributes & DELETE_HORIZON_MASK and h.is_control for h in headers)
    assert any(h.attributes & DELETE_HORIZON_MASK and not h.is_control for h in headers)
    assert {h.codec for h in headers} == set(CODEC_NUMBERS.values())
