"""The workloads of small requests and of growth, each for a moment against a real broker: what they send is answered as they expect."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench import growth, small, waiting
from tests.bench.load import Load, generator, running
from tests.bench.settings import QUICK, Durability
from tests.bench.targets import Hotlog
from tests.tools.cache import ToolMissing
from tests.tools.patience import PATIENCE_S

MOMENT = replace(
    QUICK,
    small_pass_seconds=0.0,
    small_warm_seconds=0.0,
    small_seconds=PATIENCE_S,
    growth_idle_seconds=0.0,
    session_records=5,
    session_warm_records=2,
    growth_warm_seconds=0.0,
    growth_produce_seconds=PATIENCE_S,
    poll_consumers=5,
    poll_seconds=1.0,
)


@pytest.fixture(scope="module")
def program() -> Path:
    try:
        return generator()
    except ToolMissing as why:
        pytest.skip(str(why))


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Hotlog]:
    found = Hotlog(folder=tmp_path, durability=Durability.PAGE_CACHE)
    try:
        yield found
    finally:
        found.stop()


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few answers are enough, and the least of partitions."""
    words = Load.words
    monkeypatch.setattr(Load, "words", lambda load: [*words(load), "--answers", "20"])
    monkeypatch.setattr(small, "WIDE_PARTITIONS", small.SPAN)
    monkeypatch.setattr(growth, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(waiting, "CONNECT_SECONDS", 0.0)
    monkeypatch.setattr(waiting, "running", lambda *words, **more: running(*words, **more | {"seconds": PATIENCE_S}))


@pytest.mark.usefixtures("hurry")
def test_every_case_is_answered_as_it_expects(target: Hotlog, program: Path) -> None:
    target.start()
    found = dict(small.measure_small(target, MOMENT, program, Durability.PAGE_CACHE))
    assert set(found) == set(small.CASES)
    for case, metrics in found.items():
        assert metrics["answers"] >= 20, case.name
        assert {"answers_per_s", "broker_cpu_us", "p50_ms", "p99_ms"} <= metrics.keys()
    by_name = {case.name: metrics for case, metrics in found.items()}
    wide = by_name["fetch-100p-16x1"]
    assert wide["batches"] == 3 * 100 * wide["answers"], "three batches from each of 100 partitions"
    assert by_name["fetch-100p-quiet-16x1"]["with_records"] == 0
    hot = by_name["fetch-4kb-64x1"]
    assert hot["batches"] == 3 * hot["answers"], "as many batches of 1 KB as 4 KB hold"


def test_what_is_sent_before_the_first_case_writes_to_no_partition_that_a_case_reads() -> None:
    written = {case.name for case in small.CASES if case.is_written and case.name in small.FIRST_PASS}
    assert written == {"produce-100b-8x5"}, "to the topic that no case fetches"
    assert set(small.FIRST_PASS) <= {case.name for case in small.CASES}


def test_readers_come_first_the_largest_last_and_with_fsync_only_what_writes() -> None:
    all_of_them = [case.name for case in small.in_turn(Durability.PAGE_CACHE)]
    assert sorted(all_of_them) == sorted(case.name for case in small.CASES)
    assert all(name.startswith(("fetch", "metadata", "heartbeat")) for name in all_of_them[:5])
    assert all_of_them[-1] == "produce-100kb-8x5"
    written = [case.name for case in small.in_turn(Durability.FSYNC)]
    assert written == [name for name in all_of_them if name.startswith(("produce", "offset-commit"))]


@pytest.mark.usefixtures("hurry")
def test_a_broker_with_partitions_is_measured_to_its_second_start(target: Hotlog, program: Path) -> None:
    found = growth.measure_partitions(target, replace(MOMENT, growth_idle_seconds=0.1), 112, program)
    assert {"create_s", "idle_cpu_percent", "descriptors", "stop_s", "ready_after_stop_s", "ready_after_kill_s"} <= found.keys()
    assert found["descriptors"] > 112
    assert found["produce_p99_ms"] >= found["produce_p50_ms"] > 0


@pytest.mark.usefixtures("hurry")
def test_records_come_one_by_one_to_a_session(target: Hotlog) -> None:
    found = waiting.measure_session(target, MOMENT, 1_005)
    assert found["partitions"] == 1_005
    assert found["round_cpu_us"] >= found["fetch_cpu_us"] >= 0


@pytest.mark.usefixtures("hurry")
def test_each_record_goes_to_all_who_wait(target: Hotlog, program: Path) -> None:
    found = waiting.measure_long_poll(target, MOMENT, program)
    assert 0 < found["delivered_share"] <= 1
    assert found["p99_ms"] >= found["p50_ms"] > 0
