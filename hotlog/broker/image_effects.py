"""What the metadata image means for this node: topics are hosted with their settings, deleted ones given up in both tiers and forgotten.

Invariants: every step may be repeated, and is, until it has succeeded; a topic that was applied is looked at again only when its image or
this broker's settings changed, and nothing else is looked at meanwhile; the metadata say that a topic is purged only after its objects are doomed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from uuid import UUID

from controller.changes import PurgeTopics
from controller.config_rules import topic_config
from controller.image import ClusterImage, TopicImage
from controller.metadata import Metadata
from hotlog.kernel.errors import HotlogError
from hotlog.kernel.settings import Settings
from hotlog.kernel.topic_config import TopicConfig
from hotlog.partitions.hosting import Hosting

LOG = logging.getLogger(__name__)
LOOKED_AT_ONCE = 256  # topics, in one turn of the loop
AT_ONCE = 32  # topics that are brought into agreement at a time


class ImageEffects:
    """Brings what is hosted into agreement with the image.  The broker has one `reconcile` or `mend` under way at a time; `purge_cold` runs
    beside them, on topics that `reconcile` has given up."""

    def __init__(self, hosting: Hosting, metadata: Metadata, *, forget_topic: Callable[[str], Awaitable[None]]) -> None:
        self._hosting = hosting
        self._metadata = metadata
        self._node_id = metadata.node_id
        self._forget_topic = forget_topic  # its groups' offsets
        self._given_up: set[UUID] = set()  # deleted topics of which nothing is left here
        self._applied: dict[UUID, tuple[TopicImage, Settings]] = {}
        self._unfinished: set[str] = set()  # topics to be looked at again, whatever changes; bounded by those that are there
        self._seen = -1  # the offset of the image that all other topics agree with
        self._settings: Settings | None = None  # and the settings
        self._configs: dict[UUID, tuple[TopicImage, Settings, TopicConfig]] = {}

    def config_of(self, topic: TopicImage, settings: Settings) -> TopicConfig:
        """The topic's settings, resolved over the broker's."""
        known = self._configs.get(topic.topic_id)
        if known is None or known[0].configs is not topic.configs or known[1] is not settings:
            known = (topic, settings, topic_config(topic.configs, settings))
            self._configs[topic.topic_id] = known
        return known[2]

    def _is_applied(self, topic: TopicImage, settings: Settings) -> bool:
        known = self._applied.get(topic.topic_id)
        return known is not None and known[0] is topic and known[1] is settings

    async def reconcile(self, image: ClusterImage, settings: Settings) -> bool:
        """Make what is hosted agree with `image`; repeatable.  True if something was done."""
        touched = image.touched_since(self._seen) if settings is self._settings else None
        names = image.topics if touched is None else touched | self._unfinished
        work = []
        for number, name in enumerate(sorted(names) if touched is not None else names, 1):
            if number % LOOKED_AT_ONCE == 0:
                await asyncio.sleep(0)
            topic = image.topics.get(name)
            if topic is None:
                self._unfinished.discard(name)
            elif not self._is_applied(topic, settings):
                work.append(topic)
        self._unfinished.update(topic.name for topic in work)
        self._seen, self._settings = image.offset, settings
        done = await self._apply_all(work, settings)
        self._unfinished.difference_update(topic.name for topic in work if self._is_applied(topic, settings))
        done += [await self._give_up(topic, image) for topic in self._doomed(image) if topic.topic_id not in self._given_up]
        return any(done)

    async def mend(self, image: ClusterImage) -> bool:
        """Begin logs anew that ended before their cold tier does, with the next `reconcile`; whether there are any."""
        given_up = await self._hosting.mend(image)
        for topic_id in given_up:
            self._applied.pop(topic_id, None)
            if topic_id in image.topics_by_id:
                self._unfinished.add(image.topics_by_id[topic_id].name)
        return bool(given_up)

    async def _apply_all(self, topics: list[TopicImage], settings: Settings) -> list[bool]:
        """Several at a time: what each waits for (its disk, its manifests) is its own."""
        self._hosting.begin_round()
        left, done = iter(topics), []

        async def apply() -> None:
            for topic in left:
                done.append(await self._apply(topic, settings))

        await asyncio.gather(*(apply() for _ in range(min(AT_ONCE, len(topics)))))
        return done

    async def _apply(self, topic: TopicImage, settings: Settings) -> bool:
        is_whole = await self._hosting.host(topic, self.config_of(topic, settings))
        if is_whole:
            self._applied[topic.topic_id] = (topic, settings)
        return is_whole

    def _doomed(self, image: ClusterImage) -> list[TopicImage]:
        return [topic for topic in image.doomed.values() if any(part.leader == self._node_id for part in topic.partitions)]

    async def _give_up(self, topic: TopicImage, image: ClusterImage) -> bool:
        """Give up a deleted topic's logs, copies under way and group offsets; False if that is to be repeated."""
        try:
            await self._hosting.give_up(topic)
            if topic.name not in image.topics:
                await self._forget_topic(topic.name)
        except (HotlogError, OSError) as problem:
            LOG.warning("logs of deleted topic %s (%s) are still to be removed: %s", topic.name, topic.topic_id, problem)
            return False
        self._applied.pop(topic.topic_id, None)
        self._configs.pop(topic.topic_id, None)
        self._given_up.add(topic.topic_id)
        return True

    async def purge_cold(self, image: ClusterImage) -> bool:
        """Doom what deleted topics left in the store and note that in the metadata; what fails is repeated.  True if something was done.

        Not part of a request: it costs two calls of the store for each partition.
        """
        done = False
        for topic in self._doomed(image):
            if topic.topic_id not in self._given_up or not self._metadata.is_joined:
                continue
            try:
                await self._hosting.delete_cold(topic)
                await self._metadata.submit(PurgeTopics(topic_ids=(topic.topic_id,)))
            except HotlogError as weather:
                LOG.warning("objects of deleted topic %s (%s) are still to be removed: %s", topic.name, topic.topic_id, weather)
                continue
            self._given_up.discard(topic.topic_id)
            done = True
        return done
