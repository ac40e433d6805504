"""Runs the workloads against one started broker after the other, alternating, and collects raw results.

Invariants:
- Every (round, durability, target) starts a fresh broker on an empty folder and leaves nothing behind.
- Rounds alternate targets, so that a slow minute of the machine hits both.
- Before each workload the dirty pages of the one before are written out (sync), for both alike.
- Before each broker the page cache is filled once and freed: on a virtual machine the first touch of a page costs
  the host a fault (measured: 0.4 against 1.2 GB/s of plain writes), and whoever came first would pay for all.
"""

from __future__ import annotations

import json
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
from confluent_kafka import KafkaException

from tests.bench.clients import measure_latency, run_client
from tests.bench.cold import COLD_SETTINGS, ColdStore, measure_cold_replay
from tests.bench.compaction import BROKER, CASES, Case, measure_compaction
from tests.bench.contenders import HOTLOG, KAFKA, Contender, run_in
from tests.bench.growth import measure_partitions
from tests.bench.load import LoadFailed
from tests.bench.settings import MESSAGE_BYTES, PARTITIONS, BenchSettings, Durability, MiB, Workload
from tests.bench.small import measure_small
from tests.bench.tail import measure_tail
from tests.bench.targets import Hotlog, Target, TargetFailed, target_of, wait_partitions
from tests.bench.waiting import measure_long_poll, measure_session
from tests.bench.wire import Refused
from tests.tools.cache import ToolMissing

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
    contenders: tuple[Contender, ...]
    durabilities: tuple[Durability, ...]
    workloads: frozenset[Workload]
    say: Callable[[str], None]
    store: ColdStore | None = None
    generator: Path | None = None
    profile: Path | None = None
    extra: tuple[str, ...] = ()
    results: list[Result] = field(default_factory=list)
    descriptions: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def run(self) -> None:
        """All rounds of all workloads; failures of a target are raised, not averaged away."""
        for number in range(self.settings.rounds):
            for durability in self.durabilities:
                for contender in self._order(number):
                    self._round(contender, durability, number)
        for number in self._rounds(Workload.SMALL, self.settings.small_rounds, is_possible=self.generator is not None):
            for durability in self.durabilities:
                for contender in self._order(number):
                    self._small(contender, durability, number)
        self._growth()
        for number in self._rounds(Workload.INSPECT, self.settings.rounds):
            for contender in self._ours(number):
                self._note(contender.name, Durability.PAGE_CACHE, number, Workload.INSPECT, inspect_of(contender))
        for number in self._rounds(Workload.COMPACTION, self.settings.compaction_rounds):
            for case in CASES:
                for contender in self._order(number):
                    self._compaction(contender, number, case)
        for number in self._rounds(Workload.STARTUP, self.settings.startup_rounds):
            for contender in self._order(number):
                self._startup(contender, number)
        for number in self._rounds(Workload.COLD_REPLAY, self.settings.rounds, is_possible=self.store is not None):
            for contender in self._ours(number):
                self._cold(contender, number)
        for number in self._rounds(Workload.TAIL_REPLAY, self.settings.rounds, is_possible=self.store is not None):
            for contender in self._ours(number):
                self._tail(contender, number)

    def _rounds(self, workload: Workload, count: int, *, is_possible: bool = True) -> range:
        return range(count if workload in self.workloads and is_possible else 0)

    def _order(self, number: int) -> tuple[Contender, ...]:
        return self.contenders if number % 2 == 0 else tuple(reversed(self.contenders))

    def _ours(self, number: int) -> tuple[Contender, ...]:
        return tuple(each for each in self._order(number) if each.tree is not None)

    @contextmanager
    def _fresh(self, contender: Contender, durability: Durability, *, touch_bytes: int = 0, **more: Any) -> Iterator[Target]:
        folder = self.scratch / f"{contender.name}-{durability}"
        shutil.rmtree(folder, ignore_errors=True)
        self._touch_memory(touch_bytes or self.settings.touch_bytes)
        if contender.tree is not None:
            more["extra"] = (*self.extra, *more.get("extra", ()))
        target = target_of(contender, folder=folder, durability=durability, **more)
        self.descriptions.setdefault(f"{contender.name}, {durability}", target.describe())
        try:
            yield target
        finally:
            target.stop()
            shutil.rmtree(folder, ignore_errors=True)
            os.sync()

    def _touch_memory(self, size: int) -> None:
        block, path = bytes(8 * MiB), self.scratch / "touch"
        with path.open("wb") as file:
            for _ in range(size // len(block)):
                file.write(block)
        path.unlink()

    def _round(self, contender: Contender, durability: Durability, number: int) -> None:
        measured = self.workloads & TOPIC_OF.keys()
        if not measured:
            return
        name = contender.name
        with self._fresh(contender, durability) as target:
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

    def _small(self, contender: Contender, durability: Durability, number: int) -> None:
        assert self.generator is not None, "asked before"
        with self._fresh(contender, durability, touch_bytes=self.settings.small_touch_bytes) as target:
            target.start()
            for case, metrics in measure_small(target, self.settings, self.generator, durability):
                self._note(contender.name, durability, number, f"{Workload.SMALL}/{case.name}", metrics)
            target.kill()  # a clean stop would write gigabytes out that are thrown away

    def _growth(self) -> None:
        """Workloads that ask what grows: each size on a broker of its own, page-cache mode."""
        of = self.settings
        sizes_of = {
            Workload.PARTITIONS: of.growth_partitions,
            Workload.SESSIONS: of.session_partitions,
            Workload.LONG_POLL: (of.poll_consumers,) if self.generator is not None else (),
        }
        for workload, sizes in sizes_of.items():
            for number in self._rounds(workload, of.growth_rounds):
                for size in sizes:
                    for contender in self._order(number):
                        self._grown(contender, number, workload, size)

    def _grown(self, contender: Contender, number: int, workload: Workload, size: int) -> None:
        name = f"{workload}/{size}"
        with self._fresh(contender, Durability.PAGE_CACHE, touch_bytes=MiB) as target:
            try:
                self._note(contender.name, Durability.PAGE_CACHE, number, name, self._measure_grown(target, workload, size))
            except FAILURES as why:
                if contender.name != KAFKA:
                    raise
                self.failures[f"{contender.title}, {name}"] = f"{type(why).__name__}: {str(why).splitlines()[0][:200]}"
                self.say(f"round {number} {contender.name} {name}: {why}")
            target.kill()

    def _measure_grown(self, target: Target, workload: Workload, size: int) -> dict[str, float]:
        if workload is Workload.PARTITIONS:
            return measure_partitions(target, self.settings, size, self.generator)
        if workload is Workload.SESSIONS:
            return measure_session(target, self.settings, size)
        assert self.generator is not None, "asked before"
        return measure_long_poll(target, self.settings, self.generator)

    def _compaction(self, contender: Contender, number: int, case: Case) -> None:
        with self._fresh(contender, Durability.PAGE_CACHE, both=BROKER) as target:
            metrics = measure_compaction(target, self.settings, case)
            self._note(contender.name, Durability.PAGE_CACHE, number, f"{Workload.COMPACTION}/{case.name}", metrics)
            target.kill()

    def _startup(self, contender: Contender, number: int) -> None:
        wanted = self.settings.startup_partitions
        with self._fresh(contender, Durability.PAGE_CACHE) as target:
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
            self._note(contender.name, Durability.PAGE_CACHE, number, Workload.STARTUP, metrics)

    def _cold(self, contender: Contender, number: int) -> None:
        with self._tiered(contender, "cold replay from") as target:
            assert self.store is not None, "asked before"
            metrics = measure_cold_replay(target, self.settings.cold_bytes, run_client)
            if self.store.rate is not None:
                metrics["store_bare_get_gb_per_s"] = self.store.rate
            self._note(contender.name, Durability.PAGE_CACHE, number, Workload.COLD_REPLAY, metrics)

    def _tail(self, contender: Contender, number: int) -> None:
        with self._tiered(contender, "tail under replay, from") as target:
            metrics = measure_tail(target, self.settings, profiled=self._profiled)
            self._note(contender.name, Durability.PAGE_CACHE, number, Workload.TAIL_REPLAY, metrics)

    @contextmanager
    def _tiered(self, contender: Contender, title: str) -> Iterator[Hotlog]:
        """A fresh Hotlog on a fresh prefix of the store."""
        assert self.store is not None, "asked before"
        more: dict[str, Any] = {"store": self.store.fresh_url(), "environment": self.store.environment, "extra": COLD_SETTINGS}
        with self._fresh(contender, Durability.PAGE_CACHE, **more) as target:
            assert isinstance(target, Hotlog)
            self.descriptions[title] = self.store.kind
            yield target

    def _note(self, name: str, durability: Durability, number: int, workload: str, metrics: dict[str, float]) -> None:
        result = Result(target=name, durability=durability, round=number, workload=workload, metrics=metrics)
        self.results.append(result)
        figures = ", ".join(f"{key} {value:.3g}" for key, value in metrics.items())
        self.say(f"round {number} {durability} {name} {workload}: {figures}")

    @contextmanager
    def _profiled(self, target: Target, workload: str) -> Iterator[None]:
        """py-spy over the broker while the workload runs (Hotlog only, and only when asked)."""
        if self.profile is None or not isinstance(target, Hotlog):
            yield
            return
        self.profile.mkdir(parents=True, exist_ok=True)
        out = self.profile / f"{workload}.txt" if target.name == HOTLOG else self.profile / f"{target.name}-{workload}.txt"
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
FAILURES = (TargetFailed, ToolMissing, LoadFailed, Refused, KafkaException, OSError)
READS = {Workload.FETCH_WIRE, Workload.FETCH_HOT}
CALL_OF: Mapping[Workload, tuple[str, dict[str, str]]] = {
    Workload.PRODUCE_WIRE: ("produce_wire", {}),
    Workload.FETCH_WIRE: ("fetch_wire", {}),
    Workload.PRODUCE_NONE: ("produce_library", {"codec": "none"}),
    Workload.PRODUCE_LZ4: ("produce_library", {"codec": "lz4"}),
    Workload.FETCH_HOT: ("fetch_library", {}),
}


def inspect_of(contender: Contender) -> dict[str, float]:
    """What the look into batches costs in a process of the contender's own tree, by its own bench."""
    assert contender.tree is not None, "only Hotlog looks"
    code = "import json; from tests.bench.inspect_cost import measure_inspect; print(json.dumps(measure_inspect()))"
    metrics: dict[str, float] = json.loads(run_in(contender.tree, code))
    return metrics


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
