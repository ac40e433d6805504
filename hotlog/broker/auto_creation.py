"""Topics that are made because somebody asked for them: by the metadata of a client, by the groups' first member.

Invariants: a topic is made once however many ask; whoever asks waits a moment only: a connection's requests are answered in order, and a store
that is away must not hold up the fetches behind one that waits; at most CREATIONS_MAX are under way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from kio.schema.errors import ErrorCode

from controller.image import TopicImage
from controller.internal_topics import GROUPS_TOPIC, GROUPS_TOPIC_CONFIGS, TRANSACTIONS_TOPIC, TRANSACTIONS_TOPIC_CONFIGS
from hotlog.kernel.errors import AlreadyExists
from hotlog.kernel.settings import Settings
from hotlog.wire.error_codes import Refused
from hotlog.world.ports import Clock

CREATIONS_MAX = 256
CREATE_WAIT_S = 0.5  # how long a request waits for one
CREATE_AGAIN_S = 1.0  # after one that the store did not answer


class AutoCreation:
    """`find` has the topic if it is there, `create` makes one (Broker.create_topic)."""

    def __init__(
        self,
        clock: Clock,
        *,
        settings: Callable[[], Settings],
        find: Callable[[str], TopicImage | None],
        create: Callable[..., Coroutine[Any, Any, TopicImage]],
    ) -> None:
        self._clock = clock
        self._settings = settings
        self._find = find
        self._create = create
        self._under_way: dict[str, asyncio.Task[TopicImage]] = {}
        self._again_at = 0.0  # seconds of the monotonic clock

    def cancel(self) -> None:
        for creation in list(self._under_way.values()):
            creation.cancel()

    async def ensure(self, name: str) -> TopicImage:
        """The topic; made if it is missing.

        Creation goes on after an answer that it takes too long: whoever asks again finds the topic, or is refused at once until it is there.

        Raises:
            Refused (REQUEST_TIMED_OUT when it takes longer), InvalidConfig
        """
        topic = self._find(name)
        if topic is not None:
            return topic
        creation, wait_s = self._under_way.get(name), 0.0
        if creation is None:
            if self._clock.monotonic() < self._again_at or len(self._under_way) >= CREATIONS_MAX:
                raise Refused(
                    ErrorCode.request_timed_out, f"topic {name!r} cannot be created now: the object store did not answer"
                )
            creation, wait_s = asyncio.get_running_loop().create_task(self._made(name)), CREATE_WAIT_S
            self._under_way[name] = creation
            creation.add_done_callback(lambda task: self._ended(name, task))
        await asyncio.wait([creation], timeout=wait_s)
        if not creation.done():
            raise Refused(ErrorCode.request_timed_out, f"topic {name!r} is being created; the object store has not answered yet")
        return creation.result()

    async def _made(self, name: str) -> TopicImage:
        """The topic, with what it needs.  Raises as `ensure`."""
        count, configs = self._shape_of(name)
        try:
            return await self._create(name, count, configs, replication_factor=1)
        except (Refused, AlreadyExists):
            topic = self._find(name)  # somebody else was first
            if topic is None:
                raise
            return topic

    def _shape_of(self, name: str) -> tuple[int, dict[str, str]]:
        """How many partitions it gets (-1: as the broker's settings say), and which configurations."""
        settings = self._settings()
        if name == GROUPS_TOPIC:
            return settings.number("offsets.topic.num.partitions"), GROUPS_TOPIC_CONFIGS
        if name == TRANSACTIONS_TOPIC:
            segment_bytes = str(settings.number("transaction.state.log.segment.bytes"))
            return settings.number("transaction.state.log.num.partitions"), TRANSACTIONS_TOPIC_CONFIGS | {
                "segment.bytes": segment_bytes
            }
        return -1, {}

    def _ended(self, name: str, creation: asyncio.Task[TopicImage]) -> None:
        self._under_way.pop(name, None)
        failure = None if creation.cancelled() else creation.exception()
        if isinstance(failure, Refused) and failure.code is ErrorCode.request_timed_out:
            self._again_at = self._clock.monotonic() + CREATE_AGAIN_S
