"""Cold replay: how fast a topic is read whose local segments are gone (Hotlog only; Kafka ships no store).

Invariants:
- The local copies are proved gone (earliest local offset above what is read) before the clock starts.
- The disk cache is off and the broker is restarted before every reading: each byte comes from the object store.
- Hot and cold are read by the same client, from the same broker settings; the ratio is of one run.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from tests.bench.settings import COLD_SEGMENT_BYTES, MESSAGE_BYTES, PARTITIONS
from tests.bench.store_rate import store_rate
from tests.bench.targets import Hotlog, TargetFailed
from tests.bench.wire import Connection, list_offset
from tests.fixtures.minio import minio_server

TIERING_SECONDS_MAX = 300
POLL_SECONDS = 0.5
LATEST, EARLIEST, EARLIEST_LOCAL = -1, -2, -4
TIERED = {"remote.storage.enable": "true", "retention.ms": "-1", "segment.bytes": str(COLD_SEGMENT_BYTES)}
COLD_SETTINGS = (
    "remote.log.manager.task.interval.ms=500",
    "log.retention.check.interval.ms=500",
    "hotlog.cache.disk.bytes=0",
)
DROP_LOCAL = {"local.retention.bytes": "1", "local.retention.ms": "1000"}

Client = Callable[..., dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class ColdStore:
    """An object store for cold replay: what it is, where, what bare GETs reach (GB/s), and credentials for a broker."""

    kind: str
    url: str
    rate: float | None
    environment: Mapping[str, str]

    def fresh_url(self) -> str:
        """A URL with a prefix of its own: every round is a new cluster, and clusters do not share a prefix."""
        parts = urlsplit(self.url)
        return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/bench-{uuid.uuid4().hex[:12]}"))


@contextmanager
def cold_store(url: str, folder: Path) -> Iterator[ColdStore]:
    """The store at `url` with the caller's own credentials, or a MinIO started for this run where `url` is empty."""
    if url:
        is_s3 = urlsplit(url).scheme == "s3"
        yield ColdStore(kind=url, url=url, rate=store_rate(url, os.environ) if is_s3 else None, environment={})
        return
    with minio_server(folder) as server:
        url, environment = server.url(server.make_bucket()), server.environment()
        yield ColdStore(kind=server.kind, url=url, rate=store_rate(url, environment), environment=environment)


def measure_cold_replay(target: Hotlog, size: int, client: Client) -> dict[str, float]:
    """GB/s of the same bytes read hot, then cold, by the bare protocol and by librdkafka; and their ratios.

    Raises TargetFailed when the local copies do not go in time.
    """
    target.start()
    messages = size // MESSAGE_BYTES
    untiered = {"segment.bytes": str(COLD_SEGMENT_BYTES), "remote.storage.enable": "false", "retention.ms": "-1"}
    target.create_topic("hot", PARTITIONS, untiered)
    target.create_topic("cold", PARTITIONS, TIERED | DROP_LOCAL)
    metrics: dict[str, float] = {}
    for topic in ("hot", "cold"):
        client("produce_wire", bootstrap=target.bootstrap, topic=topic, messages=messages)
    wait_local_gone(target, "cold")
    for topic, until in (("hot", LATEST), ("cold", EARLIEST_LOCAL)):
        for call in ("fetch_wire", "fetch_library"):
            target.stop()
            target.start()
            read = client(call, bootstrap=target.bootstrap, topic=topic, messages=messages, until=until)
            metrics[f"{topic}_{call}_gb_per_s"] = read["gb_per_s"]
    for call in ("fetch_wire", "fetch_library"):
        metrics[f"{call}_cold_over_hot"] = metrics[f"cold_{call}_gb_per_s"] / metrics[f"hot_{call}_gb_per_s"]
    return metrics | {"rss_mib": target.rss_bytes() / 2**20}


def wait_local_gone(target: Hotlog, topic: str) -> None:
    """Wait until each partition keeps no more than its open segment. Raises TargetFailed."""
    give_up = time.monotonic() + TIERING_SECONDS_MAX
    connection = Connection(target.bootstrap)
    try:
        for partition in range(PARTITIONS):
            end = list_offset(connection, topic, partition, LATEST)
            open_max = COLD_SEGMENT_BYTES // MESSAGE_BYTES + 1
            while end - (local := list_offset(connection, topic, partition, EARLIEST_LOCAL)) > open_max:
                if time.monotonic() > give_up:
                    text = f"{topic}-{partition} still has {local}..{end} on the local disk"
                    raise TargetFailed(f"{text} after {TIERING_SECONDS_MAX} s")
                time.sleep(POLL_SECONDS)
    finally:
        connection.close()
