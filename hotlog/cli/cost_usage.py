"""What `hotlog cost` prices: bytes in the bucket and on the local disk, the meter's requests, the broker's traffic.

Invariants: reads only; bytes come from the manifests and the data directory, each byte of a log once; a broker is asked for nothing but its
metrics, and only if it answers.
"""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

from controller.image import TopicImage
from hotlog.cli.bucket import Bucket, open_bucket, run
from hotlog.kernel.errors import NotFound
from hotlog.kernel.ids import PartitionId
from hotlog.log.files import parse_partition_directory
from tiering.cost.meter import Row as MeterRow
from tiering.cost.meter import decode
from tiering.cost.report import TopicUsage, Usage, to_month
from tiering.cost.what_if import TopicShape, only, rate_of
from tiering.manifest.root import NOTHING, Totals, join_totals
from tiering.manifest.verify import load_manifest

Segment = tuple[int, int]
_TRAFFIC = re.compile(r'^kafka_server_brokertopicmetrics_bytes(in|out)_total\{topic="([^"]+)"\} (\S+)$', re.M)
_STARTED = re.compile(r"^process_start_time_seconds (\S+)$", re.M)


class Place(NamedTuple):
    """Where to look: the bucket, the broker's data directory, its metrics."""

    store: str
    data_dir: Path
    http: str

    @property
    def url(self) -> str:
        return self.store or (self.data_dir.resolve() / "store").as_uri()


class Traffic(NamedTuple):
    """Bytes in and out by topic since the broker started, `window_s` seconds ago; empty if it does not answer."""

    by_topic: Mapping[str, Mapping[str, float]]
    window_s: float | None

    def of(self, topic: str, way: str) -> int:
        return int(self.by_topic.get(topic, {}).get(way, 0))


def usage_of(place: Place, topic: str = "") -> Usage:
    """What there is, of one topic or of all.

    Raises:
        NotFound: no cluster in the bucket, or no such topic in it.
    """
    return run(lambda: _usage(place, topic))


async def _usage(place: Place, topic: str) -> Usage:
    hot, traffic = _hot_segments(place.data_dir), _traffic(place.http)
    async with open_bucket(place.url) as bucket:
        names = [bucket.topic(topic).name] if topic else sorted(bucket.image.topics)
        topics = [await _topic(bucket, name, hot.get(name, {}), traffic) for name in names]
        now_ms = bucket.world.clock.now_ms()
    since_ms, rows = _meter(place.data_dir, now_ms)
    kept = [each for each in topics if topic or not each.topic.startswith("__")]
    usage = Usage(topics=kept, meter=rows, window_s=(now_ms - since_ms) / 1000, traffic_window_s=traffic.window_s)
    return only(usage, topic) if topic else usage


async def _topic(bucket: Bucket, name: str, hot: Mapping[int, Sequence[Segment]], traffic: Traffic) -> TopicUsage:
    """Each byte of the log counts once: what the manifest covers, and the local segments above it."""
    cold = objects = log = 0
    for pid in bucket.partitions(name):
        totals, end_offset = await _cold(bucket, pid)
        cold, objects = cold + totals.object_bytes, objects + totals.rows - totals.holes
        log += totals.log_bytes + sum(size for base, size in hot.get(pid.partition, ()) if base >= end_offset)
    return TopicUsage(
        topic=name,
        log_bytes=log,
        hot_bytes=sum(size for segments in hot.values() for _, size in segments),
        cold_bytes={"": cold},
        cold_objects={"": objects},
        produced=traffic.of(name, "in"),
        consumed=traffic.of(name, "out"),
    )


def shape_of(place: Place, usage: Usage, rate: float | None) -> tuple[TopicImage, TopicShape]:
    """The one topic of `usage` as the bucket's metadata and the steady-state model know it.  `rate` bytes per second; None: as measured."""
    topic = usage.topics[0]
    image, totals = run(lambda: _totals(place, topic.topic))
    if rate is None:
        rate = rate_of(totals.log_bytes, totals.min_timestamp, totals.max_timestamp, topic.produced, usage.traffic_s)
    return image, TopicShape(
        topic=topic.topic,
        partitions=len(image.partitions),
        bytes_per_second=rate,
        log_bytes=topic.log_bytes,
        cold_ratio=totals.object_bytes / totals.log_bytes if totals.log_bytes else 1.0,
        consumed_per_month=topic.consumed * to_month(usage.traffic_s),
    )


async def _totals(place: Place, name: str) -> tuple[TopicImage, Totals]:
    async with open_bucket(place.url) as bucket:
        return bucket.topic(name), join_totals([(await _cold(bucket, pid))[0] for pid in bucket.partitions(name)])


async def _cold(bucket: Bucket, pid: PartitionId) -> tuple[Totals, int]:
    try:
        manifest = await load_manifest(bucket.store, bucket.cluster_id, pid)
    except NotFound:
        return NOTHING, 0
    return manifest.totals, manifest.end_offset


def _hot_segments(data_dir: Path) -> dict[str, dict[int, list[Segment]]]:
    """(base offset, bytes) of the log files in the data directory, by topic and partition."""
    found: dict[str, dict[int, list[Segment]]] = {}
    for folder in (data_dir / "log").glob("*-*"):
        place = parse_partition_directory(folder.name)
        if place is not None and folder.is_dir():
            segments = [(int(file.stem), file.stat().st_size) for file in folder.glob("*.log")]
            found.setdefault(place.topic, {})[place.partition] = segments
    return found


def _meter(data_dir: Path, now_ms: int) -> tuple[int, tuple[MeterRow, ...]]:
    path = data_dir / "meter.json"
    return decode(path.read_bytes(), str(path)) if path.exists() else (now_ms, ())


def _traffic(http: str) -> Traffic:
    try:
        with urllib.request.urlopen(f"http://{http}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    except (HTTPException, OSError, ValueError):  # nobody there, or no address
        return Traffic({}, None)
    found: dict[str, dict[str, float]] = {}
    for way, topic, value in _TRAFFIC.findall(text):
        found.setdefault(topic, {})[way] = float(value)
    started = _STARTED.search(text)
    return Traffic(found, time.time() - float(started[1]) if started else None)
