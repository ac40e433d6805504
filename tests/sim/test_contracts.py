"""The simulated ports held to the same contract suites as the real ones, in virtual time."""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hotlog.world.network import TcpNetwork
from hotlog.world.ports import ObjectStore
from tests.sim.bucket import Bucket
from tests.sim.clock import SimClock
from tests.sim.disk import Machine, SimDisk
from tests.sim.entropy import SimEntropy, stream
from tests.sim.fuse import Fuse
from tests.sim.loop import SimLoop, run
from tests.sim.network import SimNet
from tests.sim.store import SimStore
from tests.sim.trace import Trace
from tests.store import test_contract as store_contract
from tests.world import test_disk_contract as disk_contract
from tests.world import test_network_contract as network_contract
from tiering.store.resilient import Policy, ResilientStore, Retrier

Test = Callable[..., Any]
GIVEN = {"store", "store_url", "open_test_store", "disk_root", "network_bench"}


def cases(suite: Any) -> Iterator[Any]:
    """Every test of a suite with every combination of its parameters."""
    for name, test in sorted(vars(suite).items()):
        if not name.startswith("test_"):
            continue
        axes = [_axis(mark) for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
        asked = set(inspect.signature(test).parameters) - {key for axis in axes for key in axis[0]}
        if not asked <= GIVEN:
            continue  # wants one real form by name
        for number, choice in enumerate(itertools.product(*axes)):
            values = {key: value for part in choice for key, value in part.items()}
            yield pytest.param(test, values, id=f"{name}-{number}")


def _axis(mark: pytest.Mark) -> list[dict[str, Any]]:
    names = [name.strip() for name in mark.args[0].split(",")] if isinstance(mark.args[0], str) else list(mark.args[0])
    return [dict(zip(names, value if len(names) > 1 else [value], strict=True)) for value in mark.args[1]]


@pytest.mark.parametrize(("test", "values"), cases(store_contract))
def test_store_contract(test: Test, values: dict[str, Any]) -> None:
    async def main(loop: SimLoop) -> None:
        clock = SimClock(loop)
        bucket = Bucket(clock, stream(0, "store"))

        async def open_store(url: str = "", **more: Any) -> ObjectStore:
            return ResilientStore(SimStore(bucket, Trace(loop), Fuse()), Retrier(Policy(), clock, SimEntropy(0)))

        given: dict[str, Any] = {"store": await open_store(), "store_url": "sim:", "open_test_store": open_store, **values}
        await test(**{name: given[name] for name in inspect.signature(test).parameters})

    run(main)


@pytest.mark.parametrize(("test", "values"), cases(disk_contract))
def test_disk_contract(test: Test, values: dict[str, Any]) -> None:
    async def main(loop: SimLoop) -> None:
        machine = Machine(stream(0, "disk"), capacity_bytes=1 << 30)
        machine.page_cache = 1.0
        disk = SimDisk(machine, SimClock(loop), Trace(loop), Fuse())
        disk.make_dirs("/root")
        test(disk_root=(disk, "/root"), **values)

    run(main)


@pytest.mark.parametrize(("test", "values"), cases(network_contract))
def test_network_contract(test: Test, values: dict[str, Any]) -> None:
    async def main(loop: SimLoop) -> None:
        net = SimNet(loop, stream(0, "network"))
        await test(network_bench=network_contract.Bench(net.host("server"), net.host("client"), "server"), **values)
        assert loop.unhandled == []

    run(main)


@pytest.mark.parametrize(("test", "values"), cases(network_contract))
def test_network_contract_on_the_loop_that_serve_takes(test: Test, values: dict[str, Any]) -> None:
    uvloop = pytest.importorskip("uvloop")
    network = TcpNetwork()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test(network_bench=network_contract.Bench(network, network, "127.0.0.1"), **values))
