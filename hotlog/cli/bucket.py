"""The way of the broker-less verbs into a bucket: store, cluster, topic names to ids.

Invariants: nothing is claimed and nothing written to the metadata; a topic that the bucket does not know is NotFound with the names it has.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

from controller.follower import read_image
from controller.image import ClusterImage, TopicImage
from hotlog.cli.tail import Tails, open_tails
from hotlog.kernel.errors import NotFound
from hotlog.kernel.ids import PartitionId
from hotlog.kernel.metrics import Metrics
from hotlog.kernel.settings import Settings
from hotlog.world.network import TcpNetwork
from hotlog.world.ports import ObjectStore, World
from hotlog.world.posix import PosixDisk, SystemClock, SystemEntropy
from tiering.cost.meter import Meter
from tiering.store import DirectoryUrl, open_store, parse_store_url
from tiering.store.keys import RESERVED

T = TypeVar("T")


class Bucket(NamedTuple):
    """An opened bucket.  `image` is the newest committed metadata."""

    url: str
    world: World
    cluster_id: str
    image: ClusterImage
    settings: Settings
    metrics: Metrics
    meter: Meter

    @property
    def store(self) -> ObjectStore:
        return self.world.store

    def topic(self, name: str) -> TopicImage:
        """Raises NotFound, naming what is there."""
        topic = self.image.topics.get(name)
        if topic is None:
            known = ", ".join(sorted(n for n in self.image.topics if not n.startswith("__"))) or "none"
            raise NotFound(f"topic {name!r} is not in the bucket's metadata; topics there: {known}")
        return topic

    def partitions(self, name: str) -> list[PartitionId]:
        """The ids of a topic's partitions, in order."""
        topic = self.topic(name)
        return [PartitionId(topic.topic_id, index) for index in range(len(topic.partitions))]

    def tails(self, bootstrap: str, name: str, wanted: bool | None) -> Tails:
        """What the broker at `bootstrap` has of a topic (see hotlog.cli.tail.open_tails)."""
        topic = self.topic(name)
        return open_tails(
            bootstrap,
            cluster_id=self.cluster_id,
            topic=name,
            topic_id=topic.topic_id,
            partitions=range(len(topic.partitions)),
            wanted=wanted,
        )


def store_url(text: str) -> str:
    """The store URL, or by default the directory that `hotlog serve` uses below ./hotlog-data."""
    return text or (Path("hotlog-data").resolve() / "store").as_uri()


@asynccontextmanager
async def open_world(url: str, settings: Settings | None = None) -> AsyncIterator[tuple[World, Settings, Metrics, Meter]]:
    """A real world around the store at `url`; closed at the end."""
    settings = settings or Settings.resolve({})
    clock, disk, entropy, metrics = SystemClock(), PosixDisk(), SystemEntropy(), Metrics()
    meter = Meter(clock)
    store = await open_store(url, settings=settings, metrics=metrics, clock=clock, entropy=entropy, disk=disk, meter=meter)
    try:
        yield World(clock, disk, TcpNetwork(), store, entropy), settings, metrics, meter
    finally:
        await store.close()


def _is_there(url: str) -> bool:
    """Whether a directory is a store already: opening it would make it one.  Of a bucket the first request tells."""
    where = parse_store_url(url)
    return not isinstance(where, DirectoryUrl) or Path(where.path, RESERVED).is_dir()


@asynccontextmanager
async def open_bucket(url: str, settings: Settings | None = None) -> AsyncIterator[Bucket]:
    """The bucket at `url` with its metadata.

    Raises:
        NotFound: no cluster was founded there.  StoreUnavailable, Invalid.
    """
    where = store_url(url)
    if not _is_there(where):
        raise NotFound(f"{where} holds no Hotlog cluster; --store names another place")
    async with open_world(where, settings) as (world, resolved, metrics, meter):
        try:
            cluster_id, image = await read_image(world.store)
        except NotFound:
            raise NotFound(f"{where} holds no Hotlog cluster; --store names another place") from None
        yield Bucket(where, world, cluster_id, image, resolved, metrics, meter)


def run(work: Callable[[], Awaitable[T]]) -> T:
    """Run a verb's coroutine to its end."""

    async def main() -> T:
        return await work()

    return asyncio.run(main())
