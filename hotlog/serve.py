"""Runs one broker in the real world until a signal: settings, store, node, schedule, HTTP.

Invariants: `hotlog ready on HOST:PORT` is printed once, when clients are answered; a signal stops cleanly (flush, snapshots, clean-shutdown
marker); everything the node touches outside was opened here.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from hotlog import __version__
from hotlog.compose import Instruments, Node, open_node
from hotlog.kernel.addresses import WILDCARDS, Endpoint, printed_address
from hotlog.kernel.beats import Beat
from hotlog.kernel.log_levels import parse_levels
from hotlog.kernel.metrics import Metrics
from hotlog.kernel.settings import Settings
from hotlog.observe import logs
from hotlog.observe.http import HttpDoor
from hotlog.observe.loop_lag import LoopLag
from hotlog.schedule import Schedule
from hotlog.world.memory import GIVE_BACK_S, FreedMemory, keep_heap
from hotlog.world.network import TcpNetwork
from hotlog.world.ports import World
from hotlog.world.posix import PosixDisk, SystemClock, SystemEntropy
from tiering.cost.meter import Meter
from tiering.store import StoreHealth, open_store, parse_store_url
from tiering.store.urls import keeps_own_time

log = logging.getLogger("hotlog.serve")


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """What `hotlog serve` was asked for.  `http` is (host, port); port 0 picks a free one, here and in `listeners`.

    `without_effect` are the keys that were given and change nothing here.
    """

    data_dir: str
    listeners: Sequence[Endpoint]
    http: tuple[str, int] | None
    store_url: str
    settings: Settings
    is_adopting: bool = False
    without_effect: tuple[str, ...] = ()
    logs_json: bool = False


def run(options: ServeOptions) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises:
        Invalid: HOTLOG_LOG, or the store's URL.
    """
    logs.set_up(parse_levels(os.environ.get("HOTLOG_LOG", "")), as_json=options.logs_json)
    parse_store_url(options.store_url)  # before anything is made
    if options.without_effect:
        log.warning("accepted, but without effect here: %s", ", ".join(options.without_effect))
    keep_heap()
    _raise_descriptor_limit()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(options))


def _raise_descriptor_limit() -> None:
    """As many descriptors as the system allows this process: connections and segments want them, and the usual soft limit is 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed, unless HOTLOG_LOOP=asyncio."""
    if os.environ.get("HOTLOG_LOOP") == "asyncio":
        return None
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _serve(options: ServeOptions) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    metrics, clock, disk, entropy = Metrics(), SystemClock(), PosixDisk(), SystemEntropy()
    began = clock.monotonic()
    metrics.build.info({"version": __version__})
    disk.make_dirs(options.data_dir)
    meter = Meter(clock, disk=disk, path=f"{options.data_dir}/meter.json")
    health = StoreHealth(clock)
    store = await open_store(
        options.store_url,
        settings=options.settings,
        metrics=metrics,
        clock=clock,
        entropy=entropy,
        disk=disk,
        meter=meter,
        health=health,
    )

    async def refresh_at_start() -> None:
        metrics.store_up.set(health.is_up)
        metrics.disk_free_bytes.set(disk.free_bytes(options.data_dir))

    http = HttpDoor(metrics, refresh=refresh_at_start)
    async with AsyncExitStack() as closing:
        closing.push_async_callback(store.close)
        closing.push_async_callback(http.close)
        door = None if options.http is None else await http.listen(*options.http)
        node = await open_node(
            options.settings,
            World(clock, disk, TcpNetwork(), store, entropy),
            Instruments(metrics, meter, health),
            data_dir=options.data_dir,
            has_store_clock=keeps_own_time(parse_store_url(options.store_url)),
            is_adopting=options.is_adopting,
        )
        closing.push_async_callback(node.close_anyway)
        http.health, http.refresh = node.health, node.refresh_metrics
        schedule = Schedule([*node.beats, Beat("memory", FreedMemory(disk).tick, GIVE_BACK_S)], metrics)
        lag = LoopLag(clock, metrics, node.feel_lag)
        closing.push_async_callback(http.close)  # before the node
        closing.push_async_callback(schedule.close)
        closing.callback(lag.close)
        is_everywhere = any(endpoint.host in WILDCARDS for endpoint in options.listeners)
        bound = await node.listen(options.listeners, machine_name=socket.getfqdn() if is_everywhere else "")
        schedule.start()
        lag.start()
        _settle_memory()
        _banner(options, node, bound, door, clock.monotonic() - began)
        sys.stdout.write(f"hotlog ready on {bound[0].host}:{bound[0].port}\n")
        sys.stdout.flush()
        await stop.wait()
        log.info("stopping")


def _banner(options: ServeOptions, node: Node, bound: Sequence[Endpoint], http: tuple[str, int] | None, seconds: float) -> None:
    """Who serves what, from where: the first line to look for in a log."""
    facts = {
        "version": __version__,
        "cluster_id": node.metadata.cluster_id,
        "node": options.settings.number("node.id"),
        "listeners": ",".join(map(str, bound)),
        "advertised": ",".join(map(printed_address, node.broker.advertised.values())),
        "http": "none" if http is None else printed_address(http),
        "store": str(parse_store_url(options.store_url)),
        "data_dir": options.data_dir,
        "topics": len(node.broker.image.topics),
        "partitions": len(node.broker.hosted()),
        "recovery_seconds": round(seconds, 3),
    }
    told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items())
    log.info("hotlog serves: %s", told, extra=facts)


def _settle_memory() -> None:
    """Move what start-up made out of the collector's sight: full collections would show in p99.9."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
