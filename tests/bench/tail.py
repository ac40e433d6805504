"""The tail beside a replay: what somebody who reads the end of a log feels while somebody else reads its history (Hotlog only).

One producer and one consumer at a fixed rate (the latency workload), over and over: alone; while a client replays a tiered topic
from the object store as fast as it gets it; the same where replays never give way; the same with the broker's cold read rate limited;
and, as a control, while the same client replays a topic of the same size that is still local.  Store, broker and all clients share the
machine's few processors here, as they do not elsewhere, so the cold replay is measured once more with the replaying client and the store at the lowest priority: what is left then
is what the broker itself costs the tail.

Invariants:
- The replayed topic's local copies are proved gone, the disk cache is off, each phase begins with empty caches, and the topic is
  larger than the memory cache; what came from the store meanwhile is counted by the broker and printed beside what the client got.
- The replay is at work before the first message of the tail is sent, and after the last has come.
- CPU is in seconds of one processor; a share is of all processors over the time the tail was measured.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import NamedTuple

import psutil

from tests.bench.clients import measure_latency, replaying, run_client
from tests.bench.cold import DROP_LOCAL, EARLIEST_LOCAL, LATEST, TIERED, wait_local_gone
from tests.bench.settings import COLD_SEGMENT_BYTES, MESSAGE_BYTES, PARTITIONS, BenchSettings, MiB
from tests.bench.targets import Hotlog, Target

RATE_LIMIT = 100 * MiB
NICE_MAX = 19
UNTIERED = {"segment.bytes": str(COLD_SEGMENT_BYTES), "remote.storage.enable": "false", "retention.ms": "-1"}
PERCENTILES = ("p50_ms", "p99_ms", "p999_ms", "max_ms")

Profiled = Callable[[Target, str], AbstractContextManager[None]]


class Phase(NamedTuple):
    """What happens beside the tail: the topic that is replayed (none: nothing), and how."""

    name: str
    title: str
    topic: str = ""
    settings: Mapping[str, str] = {}
    is_elsewhere: bool = False  # the replaying client and the store only get what the others leave


GREEDY = {"hotlog_replay_yield_lag_ms": "-1"}
LIMITED = {"remote_log_manager_fetch_max_bytes_per_second": str(RATE_LIMIT)}
PHASES = (
    Phase("alone", "alone"),
    Phase("cold", "cold replay", "cold"),
    Phase("greedy", "cold replay that never gives way", "cold", GREEDY),
    Phase("elsewhere", "cold replay, reader and store at nice 19", "cold", is_elsewhere=True),
    Phase("limited", f"cold replay, limited to {RATE_LIMIT // MiB} MiB/s", "cold", LIMITED),
    Phase("hot", "hot replay (control)", "hot"),
)


def measure_tail(target: Hotlog, settings: BenchSettings, *, profiled: Profiled) -> dict[str, float]:
    """Every phase once; metrics are named PHASE_METRIC, and PHASE_pNN_over_alone for the ratios.

    Raises TargetFailed when the local copies do not go in time.
    """
    target.start()
    target.create_topic("hot", PARTITIONS, UNTIERED)
    target.create_topic("cold", PARTITIONS, TIERED | DROP_LOCAL)
    for topic in ("hot", "cold"):
        run_client("produce_wire", bootstrap=target.bootstrap, topic=topic, messages=settings.replay_bytes // MESSAGE_BYTES)
    wait_local_gone(target, "cold")
    metrics: dict[str, float] = {}
    for phase in PHASES:
        target.restart(**phase.settings)
        target.create_topic(f"tail-{phase.name}", PARTITIONS, UNTIERED)
        os.sync()
        with profiled(target, f"tail-{phase.name}"):
            found = _measure(target, phase, settings)
        metrics |= {f"{phase.name}_{metric}": value for metric, value in found.items()}
    for phase in PHASES[1:]:
        for each in PERCENTILES:
            metrics[f"{phase.name}_{each.removesuffix('_ms')}_over_alone"] = (
                metrics[f"{phase.name}_{each}"] / metrics[f"alone_{each}"]
            )
    return metrics


def _measure(target: Hotlog, phase: Phase, settings: BenchSettings) -> dict[str, float]:
    with _store_nice(target, NICE_MAX if phase.is_elsewhere else 0), _replay(target, phase) as replay:
        before, began = Usage.of(target), time.monotonic()
        psutil.cpu_percent()
        tail = measure_latency(target.bootstrap, f"tail-{phase.name}", settings)
        busy, seconds = psutil.cpu_percent(), time.monotonic() - began
        used = Usage.of(target).since(before)
    metrics = {name: tail[name] for name in (*PERCENTILES, "count", "sender_late_ms")}
    processors = (os.cpu_count() or 1) * seconds
    metrics |= {
        "broker_cpu_share": used.broker_cpu_s / processors,
        "tail_clients_cpu_share": tail["client_cpu_s"] / processors,
        "store_cpu_share": used.store_cpu_s / processors,
        "replay_client_cpu_share": replay.get("client_cpu_s", 0.0) / ((os.cpu_count() or 1) * replay.get("seconds", 1.0)),
        "machine_busy_share": busy / 100,
        "store_gb_per_s": used.store_bytes / seconds / 1e9,
        "loop_lag_p99_ms": used.loop_lag_ms(0.99),
        "loop_lag_p999_ms": used.loop_lag_ms(0.999),
    }
    ours = sum(value for name, value in metrics.items() if name.endswith("_cpu_share"))
    metrics["other_cpu_share"] = max(metrics["machine_busy_share"] - ours, 0.0)
    if replay:
        metrics["replay_gb_per_s"] = replay["gb_per_s"]
    return metrics


def _replay(target: Hotlog, phase: Phase) -> AbstractContextManager[dict[str, float]]:
    if not phase.topic:
        return nullcontext({})
    until = LATEST if phase.topic == "hot" else EARLIEST_LOCAL
    return replaying(target.bootstrap, phase.topic, until, nice=NICE_MAX if phase.is_elsewhere else 0)


class Usage(NamedTuple):
    """Counters so far, or their growth."""

    broker_cpu_s: float
    store_cpu_s: float
    store_bytes: float
    lags: dict[float, float]  # callbacks of the broker's loop that were at most so late, s

    @classmethod
    def of(cls, target: Hotlog) -> Usage:
        samples = target.counters()
        return cls(
            target.cpu_seconds(),
            sum(sum(each.cpu_times()[:2]) for each in _store_processes(target)),
            sum(value for name, value in samples.items() if name.startswith(BYTES_GOT) and 'kind="get"' in name),
            {float(name.split('"')[1]): value for name, value in samples.items() if name.startswith(LAG_BUCKET)},
        )

    def since(self, before: Usage) -> Usage:
        lags = {bound: count - before.lags[bound] for bound, count in self.lags.items()}
        return Usage(
            self.broker_cpu_s - before.broker_cpu_s,
            self.store_cpu_s - before.store_cpu_s,
            self.store_bytes - before.store_bytes,
            lags,
        )

    def loop_lag_ms(self, share: float) -> float:
        """The smallest bucket bound that `share` of all callbacks did not pass, ms."""
        wanted = share * max(self.lags.values())
        return min(bound for bound, count in sorted(self.lags.items()) if count >= wanted) * 1000


BYTES_GOT = "hotlog_store_bytes_total{"
LAG_BUCKET = "hotlog_loop_lag_seconds_bucket{"


def _store_processes(target: Hotlog) -> list[psutil.Process]:
    """What this bench started beside the broker before any client: its object store (none when that runs elsewhere)."""
    children = psutil.Process().children(recursive=True)
    return [each for each in children if each.pid != target.pid and _is_store(each)]


def _is_store(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return process.name() in ("minio", "weed")
    return False


@contextmanager
def _store_nice(target: Hotlog, nice: int) -> Iterator[None]:
    """The store at another priority inside the block (putting it back up takes root; without that it stays down)."""
    processes = _store_processes(target) if nice else []
    _set_nice(processes, nice)
    try:
        yield
    finally:
        with suppress(PermissionError):
            _set_nice(processes, 0)


def _set_nice(processes: list[psutil.Process], nice: int) -> None:
    for process in processes:
        for thread in process.threads():  # priority is a thread's on Linux
            with suppress(ProcessLookupError):
                os.setpriority(os.PRIO_PROCESS, thread.id, nice)
