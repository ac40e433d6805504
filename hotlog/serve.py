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
from collections.abc import Callable
from dataclasses import dataclass

from hotlog.compose import Node, build_node
from hotlog.kernel.beats import Beat
from hotlog.kernel.errors import Invalid
from hotlog.kernel.metrics import Metrics
from hotlog.kernel.settings import Settings
from hotlog.observe.http import HttpDoor
from hotlog.observe.loop_lag import LoopLag
from hotlog.schedule import Schedule
from hotlog.world.memory import GIVE_BACK_S, FreedMemory, keep_heap
from hotlog.world.ports import World
from hotlog.world.posix import PosixDisk, SystemClock, SystemEntropy
from tiering.cost.meter import Meter
from tiering.store import open_store, parse_store_url
from tiering.store.urls import keeps_own_time

log = logging.getLogger("hotlog.serve")
WILDCARDS = ("0.0.0.0", "::")  # listen on every address; as Kafka does, clients are told the machine's name then
PLAINTEXT = "PLAINTEXT"


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """What `hotlog serve` was asked for.  `listen` and `http` are (host, port); port 0 picks a free one."""

    data_dir: str
    listen: tuple[str, int]
    http: tuple[str, int] | None
    store_url: str
    settings: Settings
    is_adopting: bool = False


def parse_address(text: str, *, what: str) -> tuple[str, int]:
    """`HOST:PORT`, `[::1]:PORT` or `NAME://HOST:PORT` -> (host, port).

    Raises:
        Invalid: naming `what`, the value and the form.
    """
    host, mark, port = text.rpartition("://")[2].rpartition(":")
    if not mark or not port.isdigit() or int(port) > 65535:
        raise Invalid(f"{what} {text!r} is not HOST:PORT with a port of 0 to 65535")
    return host.strip("[]") or "0.0.0.0", int(port)


def parse_listeners(given: dict[str, str]) -> tuple[str, int] | None:
    """The address in `listeners` that clients are to use (the first that is not a controller's); None if there is none.

    Takes the three keys it reads out of `given`.

    Raises:
        Invalid: it is not HOST:PORT, or it asks for protection that this broker has not got: serving without it would be a hole.
    """
    text = given.pop("listeners", "")
    controllers = [name.strip() for name in given.pop("controller.listener.names", "").split(",")]
    pairs = (pair.partition(":") for pair in given.pop("listener.security.protocol.map", "").split(","))
    protocols = {name.strip().upper(): protocol.strip().upper() for name, _, protocol in pairs}
    for listener in filter(None, (part.strip() for part in text.split(","))):
        name = listener.partition("://")[0] if "://" in listener else PLAINTEXT
        if name in controllers:
            continue
        protocol = protocols.get(name.upper(), name.upper())
        if protocol != PLAINTEXT:
            raise Invalid(f"listeners={listener!r} asks for {protocol}; this broker speaks only {PLAINTEXT} yet")
        return parse_address(listener, what="listeners")
    return None


def run(options: ServeOptions) -> None:
    """Serve until SIGINT or SIGTERM."""
    logging.basicConfig(
        level=os.environ.get("HOTLOG_LOG", "INFO").upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("apscheduler").setLevel(logging.ERROR)  # a tick that is still at work is no news
    logging.getLogger("aiobotocore").setLevel(logging.WARNING)
    for name in options.settings.ignored:
        log.warning("configuration %s is accepted but has no effect here", name)
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
    disk.make_dirs(options.data_dir)
    meter = Meter(clock, disk=disk, path=f"{options.data_dir}/meter.json")
    store = await open_store(
        options.store_url, settings=options.settings, metrics=metrics, clock=clock, entropy=entropy, disk=disk, meter=meter
    )
    node = build_node(
        options.settings,
        World(clock, disk, store, entropy),
        metrics=metrics,
        data_dir=options.data_dir,
        meter=meter,
        has_store_clock=keeps_own_time(parse_store_url(options.store_url)),
        is_adopting=options.is_adopting,
    )
    http = HttpDoor(metrics, health=node.health, refresh=node.refresh_metrics)
    beats = [*node.beats(), Beat("memory", FreedMemory(disk).tick, GIVE_BACK_S)]
    schedule, lag = Schedule(beats, metrics), LoopLag(clock, metrics, node.feel_lag)
    try:
        if options.http is not None:
            log.info("http on %s:%d", *await http.start(*options.http))
        host, port = await node.start(*options.listen, told_host=socket.getfqdn() if options.listen[0] in WILDCARDS else "")
        schedule.start()
        lag.start()
        _settle_memory()
        sys.stdout.write(f"hotlog ready on {host}:{port}\n")
        sys.stdout.flush()
        await stop.wait()
        log.info("stopping")
    finally:
        lag.close()
        await schedule.close()
        await http.close()
        await _close(node)
        await store.close()


async def _close(node: Node) -> None:
    try:
        await node.close()
    except Exception:
        log.exception("stopping did not end cleanly; the next start recovers")


def _settle_memory() -> None:
    """Move what start-up made out of the collector's sight: full collections would show in p99.9."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
