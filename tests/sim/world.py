"""The simulated world around a real node: lives of one broker on one machine, one bucket, one clock.

Invariants: the node is the one `hotlog.compose` builds; nothing of a life that ended reaches the machine or the bucket, but requests that
had left already; the bucket's guard knows what the committed manifests refer to, and lets nothing of it be deleted.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from hotlog.broker.broker import Broker
from hotlog.compose import Instruments, Node, open_node
from hotlog.kernel.errors import Fenced, OutcomeUnknown, Retry
from hotlog.kernel.ids import PartitionId
from hotlog.kernel.metrics import Metrics
from hotlog.kernel.settings import Settings
from hotlog.world.ports import World
from tests.sim.bucket import Bucket, Violation
from tests.sim.clock import SimClock
from tests.sim.disk import Machine, SimDisk
from tests.sim.entropy import SimEntropy, stream
from tests.sim.fuse import Crashed, Fuse
from tests.sim.lives import lived
from tests.sim.loop import SimLoop, cancel_tasks, run
from tests.sim.network import SimNet
from tests.sim.store import SimStore
from tests.sim.trace import Trace
from tiering.cost.meter import Meter
from tiering.manifest.codec import ManifestCodec
from tiering.manifest.index import Index
from tiering.manifest.root import Manifest
from tiering.manifest.tree import parse_node
from tiering.objects.keys import PartitionKeys, parse_key
from tiering.store import StoreHealth, policy_of
from tiering.store.resilient import ResilientStore, Retrier

T = TypeVar("T")
DATA_DIR = "/data"
HOST = "broker"
TICKS_MAX = 400  # of one beat in a row


class SimWorld:
    """What outlives a process, and the way to start one."""

    def __init__(self, loop: SimLoop, seed: int, *, settings: dict[str, str] | None = None, whole_trace: bool = False) -> None:
        self.loop = loop
        self.seed = seed
        self.settings = Settings.resolve(settings or {})
        self.clock = SimClock(loop)
        self.store_clock = SimClock(loop)
        self.trace = Trace(loop, whole=whole_trace)
        self.random = stream(seed, "world")
        self.machine = Machine(stream(seed, "disk"))
        self.bucket = Bucket(self.store_clock, stream(seed, "store"))
        self.bucket.guard = self._why_live
        self.net = SimNet(loop, stream(seed, "network"))
        self.lives = 0
        self.is_adopting = False  # whether a life may take the place of one on another disk
        self.has_store_clock = False  # whether nodes know that the store's clock is not theirs

    def begin(self, *, at: int | None = None) -> Life:
        """A new process, not started yet; it dies in its `at`-th call to disk or store (None: in none)."""
        self.lives += 1
        self.trace.add("world", f"life {self.lives} begins, seed {self.seed}")
        return Life(self, Fuse(at))

    async def boot(self, *, at: int | None = None) -> Life:
        """A new process, started."""
        life = self.begin(at=at)
        await life.open()
        return life

    # -- what the bucket really says

    def manifests(self) -> dict[PartitionId, Manifest]:
        """Every committed root, straight from the bucket."""
        found = {}
        for key in sorted(self.bucket.objects):
            parsed = parse_key(key)
            if parsed is not None and parsed.kind == "manifest":
                found[parsed.pid] = _decoded_root(self.bucket.objects[key].body)
        return found

    def names_live(self, root: Manifest) -> set[str]:
        """Names of the objects that a root or its pages refer to, and of its pages."""
        names = {row.name for row in root.entries if not row.is_hole}
        keys = self.keys_of(root)
        refs = list(root.archive)
        while refs:
            ref = refs.pop()
            names.add(ref.name)
            node = _parsed_node(self.bucket.objects[keys.object(ref.name)].body, root.pid, ref)
            if isinstance(node, Index):
                refs.extend(node.refs_between(ref.start_offset, ref.end_offset))
            else:
                names |= {row.name for row in node.rows_between(ref.start_offset, ref.end_offset) if not row.is_hole}
        return names

    def keys_of(self, root: Manifest) -> PartitionKeys:
        cluster_id = next(key.split("/", 1)[0] for key in sorted(self.bucket.objects) if "/data/" in key)
        return PartitionKeys(cluster_id, root.pid)

    def _why_live(self, key: str) -> str | None:
        """The oracle: why `key` must not be deleted now."""
        parsed = parse_key(key)
        if parsed is None:
            return None
        manifest_key = PartitionKeys(parsed.cluster_id, parsed.pid).manifest
        stored = self.bucket.objects.get(manifest_key)
        root = _decoded_root(stored.body) if stored is not None else None
        if parsed.kind == "manifest":
            busy = root is not None and not (root.is_deleted and not root.garbage and not root.garbage_ranges)
            return "the manifest is in use" if busy else None
        if root is None:
            return "its partition has no manifest"
        if parsed.name in self.names_live(root):
            return f"generation {root.generation} refers to it"
        return None


# Values made of the same bytes are the same: the guard is asked at every delete, and a root stands for many of them.
_decoded_root = functools.lru_cache(maxsize=16)(ManifestCodec().decode)
_parsed_node = functools.lru_cache(maxsize=256)(parse_node)


class Life:
    """One process: a node over one view of the machine and the bucket."""

    def __init__(self, world: SimWorld, fuse: Fuse) -> None:
        self.world = world
        self.fuse = fuse
        self.disk = SimDisk(world.machine, world.clock, world.trace, fuse)
        self.entropy = SimEntropy(world.seed, f"life {world.lives}")
        self.network = world.net.host(HOST, fuse)
        self.metrics = Metrics()
        raw = SimStore(world.bucket, world.trace, fuse)
        self._health = StoreHealth(world.clock)
        self.store = ResilientStore(raw, Retrier(policy_of(world.settings), world.clock, self.entropy, self._health))
        self._opened: Node | None = None

    async def open(self) -> None:
        """Start the node, as `hotlog serve` does before it listens."""
        world = self.world
        self._opened = await open_node(
            world.settings,
            World(world.clock, self.disk, self.network, self.store, self.entropy),
            Instruments(self.metrics, Meter(world.clock), self._health),
            data_dir=DATA_DIR,
            has_store_clock=world.has_store_clock,
            is_adopting=world.is_adopting,
        )

    @property
    def node(self) -> Node:
        assert self._opened is not None, "open() comes first"
        return self._opened

    @property
    def broker(self) -> Broker:
        return self.node.broker

    async def beat(self, *names: str) -> None:
        """Every beat of the node once (or those named), each until it has no more to do; as hotlog.schedule, weather ends a beat."""
        for beat in self.node.beats:
            if names and beat.name not in names:
                continue
            try:
                for _ in range(TICKS_MAX):
                    if not await beat.tick():
                        break
            except (Retry, Fenced, OutcomeUnknown) as weather:
                self.world.trace.add("world", f"beat {beat.name} ends: {type(weather).__name__}")

    async def end(self, how: str, *, keep: list[asyncio.Task[Any]] | None = None) -> None:
        """`stop` (clean), `kill` (-9) or `power`: after it a new life may begin.  `keep`: tasks of others, which go on.

        Raises:
            Crashed: the process died while it stopped, and has not ended yet.
        """
        self.world.trace.add("world", f"life {self.world.lives} ends by {how} after {self.fuse.calls} calls {self.fuse.label}")
        if how == "stop" and not await self.run(lambda life: life.node.close()):
            raise Crashed(self.fuse.label)  # its last call came while it stopped
        self.fuse.blown = True
        self.network.end(has_power=how != "power")
        current = asyncio.current_task()
        assert current is not None
        await cancel_tasks(self.world.loop, keep)
        if how == "power":
            self.disk.lose_power(Fuse())
        else:
            self.disk.kill(Fuse())

    async def run(self, body: Callable[[Life], Awaitable[None]]) -> bool:
        """Run `body` in this life; False if the process died meanwhile (its `at` was reached)."""
        return await lived(self.fuse, body(self))


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """What is expected to go wrong in a simulation is not printed; afterwards these loggers are as they were."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@functools.cache
def _set_aside() -> None:
    """What was there before the first world, all modules above all, need not be looked through after each: that took a third of the time."""
    gc.collect()
    gc.freeze()


def simulate(seed: int, main: Callable[[SimWorld], Coroutine[Any, Any, T]], **options: Any) -> T:
    """Run `main` in a world of its own; a failure says its seed and ends with the trace's last lines."""
    worlds: list[SimWorld] = []

    async def body(loop: SimLoop) -> T:
        world = SimWorld(loop, seed, **options)
        worlds.append(world)
        result = await main(world)
        gc.collect()  # a failure that nobody awaited is told when its task goes: now, not when memory happens to be looked at
        if world.bucket.violations:
            raise Violation("; ".join(world.bucket.violations))
        if loop.unhandled:
            raise AssertionError("failures that nobody awaited: " + "; ".join(loop.unhandled[:5]))
        return result

    _set_aside()
    try:
        with _quiet("hotlog", "compaction", "asyncio"):
            return run(body)
    except BaseException as failure:
        tail = worlds[0].trace.tail() if worlds else "(nothing happened)"
        failure.add_note(f"seed {seed}; the last lines of its trace:\n{tail}")
        raise
