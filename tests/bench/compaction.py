"""Log compaction of the same files by each broker's cleaner, with one thread: MB/s of dirty log (`--workload compaction`).

Two logs are laid into the data folder of a broker that is stopped, and read by both at their start alike: a small one, which is cleaned first and
unmeasured (a JVM compiles meanwhile), then the one that counts.  A cleaning begins when min.cleanable.dirty.ratio is lowered, and is over when
Kafka's cleaner-offset-checkpoint, which both write, says so.

Invariants: the log's bytes are the same for all; most of it is out of date, in whole batches and in parts of batches; nothing is produced meanwhile.
"""

from __future__ import annotations

import random
import struct
import time
from pathlib import Path
from typing import NamedTuple

from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from hotlog.log import checkpoints
from hotlog.wire.batch import header_at
from hotlog.wire.records import NewRecord, encode_batch
from tests.bench.settings import BenchSettings, MiB
from tests.bench.targets import Target, TargetFailed
from tests.bench.workloads import payloads

BATCH_BYTES = 16 * 1024
BATCHES = 2_048  # different ones, over and over
KEYS = 100_000
SEGMENT_BYTES = 64 * MiB
POLL_S, SECONDS_MAX = 0.02, 600.0
WARM_SHARE = 4
WAITING, DUE = "1.0", "0.0"  # of min.cleanable.dirty.ratio: more than all of it is never dirty
CONFIGS = {
    "cleanup.policy": "compact", "min.cleanable.dirty.ratio": WAITING, "remote.storage.enable": "false", "segment.bytes": str(SEGMENT_BYTES),
    "segment.ms": str(10**15), "delete.retention.ms": str(10**12),
}  # fmt: skip
BROKER = {"log.cleaner.threads": "1", "log.cleaner.backoff.ms": "20"}
DUMPED = "cleaner-offset-checkpoint"


class Case(NamedTuple):
    """A kind of log."""

    name: str
    title: str
    value_bytes: int
    codec: str


CASES = (
    Case("plain-1k", "values of 1 KiB", 1024, "none"),
    Case("plain-100", "values of 100 bytes", 100, "none"),
    Case("lz4-1k", "values of 1 KiB, lz4", 1024, "lz4"),
)


class Log(NamedTuple):
    """Segments by base offset, and where the log ends."""

    segments: list[tuple[int, list[bytes]]]
    end: int
    size: int


def log_of(case: Case, size: int) -> Log:
    """About `size` bytes of batches of random keys."""
    chance, templates = random.Random(5), []
    values = payloads(64, case.value_bytes)
    for _ in range(BATCHES):
        count = max(BATCH_BYTES // (case.value_bytes + 20), 1)
        records = [
            NewRecord(int(time.time() * 1000), b"key-%08d" % chance.randrange(KEYS), chance.choice(values)) for _ in range(count)
        ]
        templates.append(bytes(encode_batch(records, case.codec, leader_epoch=0)))
    counts = [header_at(each).record_count for each in templates]
    segments: list[tuple[int, list[bytes]]] = [(0, [])]
    offset = total = filled = number = 0
    while total < size:
        batch = struct.pack(">q", offset) + templates[number % BATCHES][8:]
        if filled + len(batch) > SEGMENT_BYTES:
            segments.append((offset, []))
            filled = 0
        segments[-1][1].append(batch)
        offset, total, filled = offset + counts[number % BATCHES], total + len(batch), filled + len(batch)
        number += 1
    return Log(segments, offset, total)


def measure_compaction(target: Target, settings: BenchSettings, case: Case) -> dict[str, float]:
    """One broker, one kind of log.  Raises TargetFailed."""
    target.start()
    logs = {"warm": log_of(case, settings.compaction_bytes // WARM_SHARE), "measured": log_of(case, settings.compaction_bytes)}
    for topic in logs:
        target.create_topic(topic, 1, CONFIGS)
    target.stop()
    for topic, log in logs.items():
        _lay_out(target, topic, log)
    target.start()
    _clean(target, "warm", logs["warm"])
    cpu, seconds = target.cpu_seconds(), _clean(target, "measured", logs["measured"])
    log = logs["measured"]
    return {
        "mb_per_s": log.size / seconds / 1e6,
        "broker_cpu_s_per_gb": (target.cpu_seconds() - cpu) / (log.size / 1e9),
        "live_share": _size(target, "measured") / log.size,
        "rss_mib": target.rss_bytes() / 2**20,
    }


def _folder(target: Target, topic: str) -> Path:
    return next(path for path in target.folder.rglob(f"{topic}-0") if path.is_dir())


def _lay_out(target: Target, topic: str, log: Log) -> None:
    """The log's files in the place of an empty log's; the active segment is empty.  Indexes and all else are made by the broker."""
    folder = _folder(target, topic)
    for old in [*folder.glob("0*"), folder / "leader-epoch-checkpoint", *folder.parent.glob(".kafka_cleanshutdown")]:
        old.unlink(missing_ok=True)
    for name in ("recovery-point-offset-checkpoint", "checkpoint-crcs"):
        (folder.parent / name).unlink(missing_ok=True)
    for base, batches in [*log.segments, (log.end, [])]:
        with (folder / f"{base:020d}.log").open("wb") as file:
            file.writelines(batches)


def _clean(target: Target, topic: str, log: Log) -> float:
    """Let it be cleaned; the seconds that took."""
    change = ConfigResource(ResourceType.TOPIC, topic)
    change.add_incremental_config(ConfigEntry("min.cleanable.dirty.ratio", DUE, incremental_operation=AlterConfigOpType.SET))
    path = _folder(target, topic).parent / DUMPED
    for future in target.admin().incremental_alter_configs([change]).values():
        future.result(60)
    began = time.monotonic()
    while time.monotonic() - began < SECONDS_MAX:
        raw = path.read_bytes() if path.exists() else b"0\n0\n"
        if any(tp.topic == topic and offset >= log.end for tp, offset in checkpoints.parse_offsets(raw).items()):
            return time.monotonic() - began
        time.sleep(POLL_S)
    raise TargetFailed(f"{topic} was not cleaned up to offset {log.end} in {SECONDS_MAX:.0f} s: {raw!r}")


def _size(target: Target, topic: str) -> int:
    return sum(path.stat().st_size for path in _folder(target, topic).glob("0*.log"))
