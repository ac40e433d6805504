"""Starts the clients of the bench (workloads.py), each in a process of its own, and reads what they found.

Invariants:
- A client that fails ends the bench; its result is never made up.
- No client outlives the call that started it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from tests.bench.settings import BenchSettings

WORKLOAD_SECONDS_MAX = 900


def spawn(call: str, *, stdin: int = subprocess.DEVNULL, **arguments: Any) -> subprocess.Popen[bytes]:
    """Start the workload `call`."""
    command = [sys.executable, "-m", "tests.bench.workloads", json.dumps({"call": call, **arguments})]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stdin=stdin)


def run_client(call: str, **arguments: Any) -> dict[str, float]:
    """Run the workload `call` to its end. Raises RuntimeError when it fails."""
    process = spawn(call, **arguments)
    try:
        output, _ = process.communicate(timeout=WORKLOAD_SECONDS_MAX)
    finally:
        process.kill()
    if process.returncode != 0:
        raise RuntimeError(f"the client {call} ended with exit code {process.returncode}: {arguments}")
    return result_of(output)


def result_of(output: bytes) -> dict[str, float]:
    """The last line a client printed."""
    metrics: dict[str, float] = json.loads(output.splitlines()[-1])
    return metrics


def measure_latency(bootstrap: str, topic: str, setting: BenchSettings) -> dict[str, float]:
    """End-to-end latency of one producer and one consumer at the bench's rate, over a fresh topic; percentiles in ms."""
    seconds = setting.latency_seconds + setting.latency_warm_seconds
    common: dict[str, Any] = {"bootstrap": bootstrap, "topic": topic, "rate": setting.latency_rate, "seconds": seconds}
    receiving = spawn("latency_receive", warm_seconds=setting.latency_warm_seconds, **common)
    try:
        assert receiving.stdout is not None and b"receiving" in receiving.stdout.readline()
        sent = run_client("latency_send", **common)
        output, _ = receiving.communicate(timeout=WORKLOAD_SECONDS_MAX)
    finally:
        receiving.kill()
        receiving.wait()
    received = result_of(output)
    received["client_cpu_s"] += sent["client_cpu_s"]
    return {**received, "sender_late_ms": sent["sender_late_ms"]}


@contextmanager
def replaying(bootstrap: str, topic: str, until: int, *, nice: int = 0) -> Iterator[dict[str, float]]:
    """A client that reads `topic` from its start again and again inside the block; its result is in the yielded dict afterwards."""
    metrics: dict[str, float] = {}
    process = spawn("replay_loop", stdin=subprocess.PIPE, bootstrap=bootstrap, topic=topic, until=until)
    try:
        psutil.Process(process.pid).nice(nice)
        assert process.stdout is not None and b"replaying" in process.stdout.readline()
        began = time.monotonic()
        yield metrics
        assert process.poll() is None, "the replay ended before what it was to disturb"
        output, _ = process.communicate(b"", timeout=WORKLOAD_SECONDS_MAX)  # the end of its stdin is the end of its work
        metrics |= result_of(output)
        metrics["beside_s"] = time.monotonic() - began
    finally:
        process.kill()
        process.wait()
