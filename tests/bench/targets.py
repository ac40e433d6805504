"""The brokers under test: how each is started, made durable, stopped and weighed.

Invariants:
- One target is one process on loopback with its data in a folder of its own; what it started, it stops.
- Both have the default heap, threads and buffers of their own start scripts; only segment size is set, to the same.
- `start` returns when a metadata request is answered, so start-up times mean the same for both.
"""

from __future__ import annotations

import subprocess
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.bench.contenders import HOTLOG, KAFKA, ROOT, Contender, description_of
from tests.bench.settings import SEGMENT_BYTES, Durability
from tests.tools.hotlog_server import HotlogServer
from tests.tools.kafka_jars import kafka_jars
from tests.tools.kafka_server import KafkaServer

READY_SECONDS_MAX = 120
REQUEST_SECONDS_MAX = 60
POLL_SECONDS = 0.02


class TargetFailed(Exception):
    """A broker did not start or ended by itself; the message carries its last words."""


class Target(ABC):
    """A broker that can be started several times on the same folder."""

    name: str
    folder: Path

    @property
    @abstractmethod
    def bootstrap(self) -> str: ...

    @property
    @abstractmethod
    def pid(self) -> int: ...

    @abstractmethod
    def start(self) -> None:
        """Start the process on its folder and wait until it answers. Raises TargetFailed."""

    @abstractmethod
    def stop(self) -> None: ...

    @abstractmethod
    def kill(self) -> None:
        """kill -9."""

    @abstractmethod
    def describe(self) -> str:
        """Version and how it was configured, in a line for the report."""

    def create_topic(self, topic: str, partitions: int, configs: Mapping[str, str]) -> None:
        """Create a topic and wait until all its partitions have a leader."""
        self.create_topics({topic: partitions}, configs)
        wait_partitions(self.bootstrap, partitions, topic=topic)

    def create_topics(self, partitions: Mapping[str, int], configs: Mapping[str, str]) -> None:
        """Create topics, `{name: partitions}`, in one request."""
        admin = self.admin()
        new = [
            NewTopic(name, num_partitions=count, replication_factor=1, config=dict(configs)) for name, count in partitions.items()
        ]
        for future in admin.create_topics(new, operation_timeout=REQUEST_SECONDS_MAX).values():
            future.result(REQUEST_SECONDS_MAX)

    def delete_topic(self, topic: str) -> None:
        admin = self.admin()  # kept alive: its futures die with it
        for future in admin.delete_topics([topic], operation_timeout=REQUEST_SECONDS_MAX).values():
            future.result(REQUEST_SECONDS_MAX)

    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

    def rss_bytes(self) -> int:
        """Resident memory of the broker's process and its children, bytes."""
        process = psutil.Process(self.pid)
        return sum(each.memory_info().rss for each in (process, *process.children(recursive=True)))

    def descriptors(self) -> int:
        """Open file descriptors of the broker's process."""
        return psutil.Process(self.pid).num_fds()

    def cpu_seconds(self) -> float:
        """User and system time of the broker's process so far."""
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)


def wait_partitions(bootstrap: str, partitions: int, *, topic: str | None = None) -> float:
    """Wait until metadata lists that many partitions with a leader. Returns the seconds it took."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0, "reconnect.backoff.ms": 10})
    began = time.monotonic()
    while time.monotonic() - began < READY_SECONDS_MAX:
        try:
            topics = admin.list_topics(topic=topic, timeout=5).topics.values()
        except KafkaException:
            continue
        led = [part for each in topics for part in each.partitions.values() if part.leader >= 0]
        if len(led) >= partitions:
            return time.monotonic() - began
        time.sleep(POLL_SECONDS)
    raise TargetFailed(f"{bootstrap} did not list {partitions} partitions with a leader in {READY_SECONDS_MAX} s")


@dataclass(kw_only=True)
class ApacheKafka(Target):
    """Apache Kafka 4.x, one process as broker and controller (KRaft), by its own start script's JVM options."""

    folder: Path
    durability: Durability = Durability.PAGE_CACHE
    more: Mapping[str, str] = field(default_factory=dict)
    name: str = KAFKA
    _server: KafkaServer | None = None

    @property
    def bootstrap(self) -> str:
        assert self._server is not None, "started"
        return self._server.bootstrap

    @property
    def pid(self) -> int:
        assert self._server is not None and self._server.process is not None, "started"
        return self._server.process.pid

    def start(self) -> None:
        if self._server is None:
            properties = {"log.segment.bytes": str(SEGMENT_BYTES), "num.partitions": "1", **self.more}
            if self.durability is Durability.FSYNC:
                properties["log.flush.interval.messages"] = "1"
            self._server = KafkaServer(jars=kafka_jars(), folder=self.folder / "kafka", properties=properties)
            self._server.format()
        self._server.start()
        self._server.wait_ready()

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()

    def kill(self) -> None:
        if self._server is not None:
            self._server.kill()

    def describe(self) -> str:
        java = subprocess.run(["java", "-version"], capture_output=True, text=True).stderr.splitlines()[0]
        how = "log.flush.interval.messages=1" if self.durability is Durability.FSYNC else "no flush before the ack"
        return f"Apache Kafka {kafka_jars().version} ({java}, -Xmx1G, G1), {how}"


@dataclass(kw_only=True)
class Hotlog(Target):
    """`python -m hotlog serve` from a checkout, this one unless another is given, in the interpreter that runs the bench."""

    folder: Path
    durability: Durability = Durability.PAGE_CACHE
    store: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    extra: tuple[str, ...] = ()
    name: str = HOTLOG
    tree: Path = ROOT
    _server: HotlogServer | None = None

    @property
    def bootstrap(self) -> str:
        return self._started().bootstrap

    @property
    def pid(self) -> int:
        process = self._started().process
        assert process is not None, "started"
        return process.pid

    @property
    def data(self) -> Path:
        return self._started().data

    def start(self) -> None:
        if self._server is None:
            settings = {"log.segment.bytes": str(SEGMENT_BYTES), **FLUSH_SETTINGS[self.durability], **AS_KAFKA_SERVER}
            settings |= dict(each.split("=", 1) for each in self.extra)
            folder = self.folder / "hotlog"
            self._server = HotlogServer(
                folder=folder, settings=settings, store=self.store, environment=self.environment, tree=self.tree
            )
        self._server.start()
        wait_partitions(self.bootstrap, 0)

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()

    def kill(self) -> None:
        if self._server is not None:
            self._server.kill()

    def restart(self, **settings: str) -> None:
        """Start anew, caches empty, with these settings (underscores for dots) beside those it was made with."""
        server = self._started()
        server.stop()
        before = server.settings
        server.settings = {**before, **{name.replace("_", "."): value for name, value in settings.items()}}
        self.start()
        server.settings = before

    def counters(self) -> dict[str, float]:
        """Every sample of its /metrics, by name and labels as Prometheus writes them."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._started().http_port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}

    def describe(self) -> str:
        how = ", ".join(f"{key}={value}" for key, value in FLUSH_SETTINGS[self.durability].items())
        return f"Hotlog ({description_of(self.tree)}), {how} {' '.join(self.extra)}".rstrip()

    def _started(self) -> HotlogServer:
        assert self._server is not None, "started"
        return self._server


def target_of(
    contender: Contender, *, folder: Path, durability: Durability, both: Mapping[str, str] | None = None, **more: Any
) -> Target:
    """The broker of a contender; `both` are settings for either kind, `more` is for Hotlog alone."""
    if contender.tree is None:
        return ApacheKafka(folder=folder, durability=durability, more=both or {})
    more["extra"] = (*more.get("extra", ()), *(f"{key}={value}" for key, value in (both or {}).items()))
    return Hotlog(folder=folder, durability=durability, name=contender.name, tree=contender.tree, **more)


AS_KAFKA_SERVER = {"group.initial.rebalance.delay.ms": "0"}  # what kafka_server.py sets for its broker
FLUSH_SETTINGS = {
    Durability.PAGE_CACHE: {"hotlog.durability": "page-cache"},
    Durability.FSYNC: {"hotlog.durability": "fsync"},
}
