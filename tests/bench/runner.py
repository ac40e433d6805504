"""Runs the workloads against one started broker after the other, alternating, and collects raw results.

Invariants:
- Every (round, durability, target) starts a fresh broker on an empty folder and leaves nothing behind.
- Rounds alternate targets, so that a slow minute of the machine hits both.
- Before each workload the dirty pages of the one before are written out (sync), for both alike.
- Before each broker the page cache is filled once and freed: on a virtual machine the first touch of a page costs
  the host a fault (measured: 0.4 against 1.2 GB/s of plain writes), and whoever came first would pay for all.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.bench.clients import measure_latency, run_client
from tests.bench.cold import COLD_SETTINGS, ColdStore, measure_cold_replay
from tests.bench.inspect_cost import measure_inspect
from tests.bench.settings import MESSAGE_BYTES, PARTITIONS, BenchSettings, Durability, MiB, Workload
from tests.bench.tail import measure_tail
from tests.bench.targets import ApacheKafka, Hotlog, Target, wait_partitions

SAMPLE_SECONDS = 0.1
IDLE_SECONDS = 3
TOPIC_PARTITIONS_MAX = 100


@dataclass(frozen=True, kw_only=True)
class Result:
    """One measured workload of one target in one round; metrics are named with their unit."""

    target: str
    durability: str
    round: int
    workload: str
    metrics: dict[str, float]


@dataclass(kw_only=True)
class Runner:
    """One bench run. `say` tells the person who waits; `results` grows as it goes."""

    settings: BenchSettings
    scratch: Path
    targets: tuple[str, ...]
    durabilities: tuple[Durability, ...]
    workloads: frozenset[Workload]
    say: Callable[[str], None]
    store: ColdStore | None = None
    profile: Path | None = None
    extra: tuple[str, ...] = ()
    results: list[Result] = field(default_factory=list)
    descriptions: dict[str, str] = field(default_factory=dict)

    def run(self) -> None:
        """All rounds of all workloads; failures of a target are raised, not averaged away."""
        for number in range(self.settings.rounds):
            for durability in self.durabilities:
                for name in self._order(number):
                    self._round(name, durability, number)
        for number in range(self.settings.rounds if Workload.INSPECT in self.workloads and "hotlog" in self.targets else 0):
            self._note("hotlog", Durability.PAGE_CACHE, number, Workload.INSPECT, measure_inspect())
        for number in range(self.settings.startup_rounds if Workload.STARTUP in self.workloads else 0):
            for name in self._order(number):
                self._startup(name, number)
        if Workload.COLD_REPLAY in self.workloads and self.store is not None and "hotlog" in self.targets:
            for number in range(self.settings.rounds):
                self._cold(number)
        if Workload.TAIL_REPLAY in self.workloads and self.store is not None and "hotlog" in self.targets:
            for number in range(self.settings.rounds):
                self._tail(number)

    def _order(self, number: int) -> tuple[str, ...]:
        return self.targets if number % 2 == 0 else tuple(reversed(self.targets))

    @contextmanager
    def _fresh(self, name: str, durability: Durability, **more: Any) -> Iterator[Target]:
        folder = self.scratch / f"{name}-{durability}"
        shutil.rmtree(folder, ignore_errors=True)
        self._touch_memory()
        target: Target
        if name == "kafka":
            target = ApacheKafka(folder=folder, durability=durability)
        else:
            more["extra"] = (*self.extra, *more.get("extra", ()))
            target = Hotlog(folder=folder, durability=durability, **more)
        self.descriptions.setdefault(f"{name}, {durability}", target.describe())
        try:
            yield target
        finally:
            target.stop()
            shutil.rmtree(folder, ignore_errors=True)
            os.sync()

    def _touch_memory(self) -> None:
        block, path = bytes(8 * MiB), self.scratch / "touch"
        with path.open("wb") as file:
            for _ in range(self.settings.touch_bytes // len(block)):
                file.write(block)
        path.unlink()

    def _round(self, name: str, durability: Durability, number: int) -> None:
        measured = self.workloads - ONCE
        if not measured:
            return
        with self._fresh(name, durability) as target:
            target.start()
            time.sleep(IDLE_SECONDS)
            idle = {"rss_mib": target.rss_bytes() / 2**20, "machine_busy_percent": psutil.cpu_percent(IDLE_SECONDS)}
            self._note(name, durability, number, "idle", idle)
            self._warm(target)
            peak = 0.0
            for workload in [each for each in Workload if each in measured]:
                metrics = self._measure(target, workload)
                peak = max(peak, metrics["rss_mib"])
                self._note(name, durability, number, workload, metrics)
            self._note(name, durability, number, "load", {"rss_mib": peak})

    def _warm(self, target: Target) -> None:
        target.create_topic("warm", PARTITIONS, HOT_TOPIC)
        messages = self.settings.warm_bytes // MESSAGE_BYTES
        for call in ("produce_wire", "fetch_wire", "fetch_library"):
            run_client(call, bootstrap=target.bootstrap, topic="warm", messages=messages)
        target.delete_topic("warm")

    def _measure(self, target: Target, workload: Workload) -> dict[str, float]:
        topic = TOPIC_OF[workload]
        if workload not in READS:
            target.create_topic(topic, PARTITIONS, HOT_TOPIC)
        os.sync()
        with sampled(target) as sample, self._profiled(target, workload):
            if workload is Workload.LATENCY:
                metrics = measure_latency(target.bootstrap, topic, self.settings)
            else:
                call, more = CALL_OF[workload]
                messages = self.settings.messages
                metrics = run_client(call, bootstrap=target.bootstrap, topic=topic, messages=messages, **more)
        metrics |= sample
        if metrics.get("bytes"):
            metrics["broker_cpu_s_per_gb"] = metrics["broker_cpu_s"] / (metrics["bytes"] / 1e9)
        return metrics

    def _startup(self, name: str, number: int) -> None:
        wanted = self.settings.startup_partitions
        with self._fresh(name, Durability.PAGE_CACHE) as target:
            target.start()
            for first in range(0, wanted, TOPIC_PARTITIONS_MAX):
                target.create_topic(f"many-{first}", min(TOPIC_PARTITIONS_MAX, wanted - first), {})
            target.stop()
            os.sync()
            began = time.monotonic()
            target.start()
            wait_partitions(target.bootstrap, wanted)
            seconds = time.monotonic() - began
            time.sleep(IDLE_SECONDS)
            metrics = {"seconds": seconds, "rss_mib": target.rss_bytes() / 2**20, "partitions": float(wanted)}
            self._note(name, Durability.PAGE_CACHE, number, Workload.STARTUP, metrics)

    def _cold(self, number: int) -> None:
        assert self.store is not None, "asked before"
        more = {"store": self.store.fresh_url(), "environment": self.store.environment, "extra": COLD_SETTINGS}
        with self._fresh("hotlog", Durability.PAGE_CACHE, **more) as target:
            assert isinstance(target, Hotlog)
            self.descriptions["cold replay from"] = self.store.kind
            metrics = measure_cold_replay(target, self.settings.cold_bytes, run_client)
            if self.store.rate is not None:
                metrics["store_bare_get_gb_per_s"] = self.store.rate
            self._note("hotlog", Durability.PAGE_CACHE, number, Workload.COLD_REPLAY, metrics)

    def _tail(self, number: int) -> None:
        assert self.store is not None, "asked before"
        more = {"store": self.store.fresh_url(), "environment": self.store.environment, "extra": COLD_SETTINGS}
        with self._fresh("hotlog", Durability.PAGE_CACHE, **more) as target:
            assert isinstance(target, Hotlog)
            self.descriptions["tail under replay, from"] = self.store.kind
            metrics = measure_tail(target, self.settings, profiled=self._profiled)
            self._note("hotlog", Durability.PAGE_CACHE, number, Workload.TAIL_REPLAY, metrics)

    def _note(self, name: str, durability: Durability, number: int, workload: str, metrics: dict[str, float]) -> None:
        result = Result(target=name, durability=durability, round=number, workload=workload, metrics=metrics)
        self.results.append(result)
        figures = ", ".join(f"{key} {value:.3g}" for key, value in metrics.items())
        self.say(f"round {number} {durability} {name} {workload}: {figures}")

    @contextmanager
    def _profiled(self, target: Target, workload: str) -> Iterator[None]:
        """py-spy over the broker while the workload runs (Hotlog only, and only when asked)."""
        if self.profile is None or target.name != "hotlog":
            yield
            return
        self.profile.mkdir(parents=True, exist_ok=True)
        out = self.profile / f"{workload}.txt"
        command = ["py-spy", "record", "-p", str(target.pid), "-f", "raw", "-o", str(out), "-r", "200", "-n"]
        spy = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield
        finally:
            spy.send_signal(2)
            spy.wait(60)


# Nothing is copied to a store (Kafka's default, not Hotlog's), and ready-made frames with old timestamps are kept.
HOT_TOPIC = {"remote.storage.enable": "false", "retention.ms": "-1"}
TOPIC_OF = {
    Workload.PRODUCE_WIRE: "wire",
    Workload.FETCH_WIRE: "wire",
    Workload.PRODUCE_NONE: "none",
    Workload.FETCH_HOT: "none",
    Workload.PRODUCE_LZ4: "lz4",
    Workload.LATENCY: "latency",
}
ONCE = {Workload.STARTUP, Workload.COLD_REPLAY, Workload.TAIL_REPLAY, Workload.INSPECT}  # not for each broker and durability
READS = {Workload.FETCH_WIRE, Workload.FETCH_HOT}
CALL_OF: Mapping[Workload, tuple[str, dict[str, str]]] = {
    Workload.PRODUCE_WIRE: ("produce_wire", {}),
    Workload.FETCH_WIRE: ("fetch_wire", {}),
    Workload.PRODUCE_NONE: ("produce_library", {"codec": "none"}),
    Workload.PRODUCE_LZ4: ("produce_library", {"codec": "lz4"}),
    Workload.FETCH_HOT: ("fetch_library", {}),
}


@contextmanager
def sampled(target: Target) -> Iterator[dict[str, float]]:
    """Fills the yielded dict with the broker's peak RSS and the CPU it used inside the block."""
    sample = {"rss_mib": target.rss_bytes() / 2**20}
    cpu_before, over = target.cpu_seconds(), threading.Event()

    def watch() -> None:
        while not over.wait(SAMPLE_SECONDS):
            sample["rss_mib"] = max(sample["rss_mib"], target.rss_bytes() / 2**20)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield sample
    finally:
        over.set()
        watcher.join()
        sample["broker_cpu_s"] = target.cpu_seconds() - cpu_before
