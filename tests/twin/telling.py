"""Stories, and one broker's side of a story: what was asked of it and what it answered.

Invariants: both sides of a story run the same code; what is asked under a name is answered under that name; names of topics and groups are
those of one story at one version; a request that waits has a connection of its own.
"""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.tools.patience import PATIENCE_S
from tests.twin.asking import build
from tests.twin.keys import Key, shared
from tests.wire.serving import Client, frame_of, parsed

CLIENT_ID = "twin"
RETRIED = {
    "coordinator_not_available", "coordinator_load_in_progress", "not_coordinator", "leader_not_available", "not_leader_or_follower",
    "unknown_topic_or_partition", "unknown_topic_id",
}  # fmt: skip

Tell = Callable[["Side"], Awaitable[None]]


class Story(NamedTuple):
    """`over`: the APIs that it is about.  `is_alone`: it changes what others see, so nothing else is told meanwhile.  `is_told_once`: only
    in the newest versions, since what it is about has nothing to do with them, or is not there in older ones."""

    name: str
    over: tuple[Key, ...]
    tell: Tell
    is_alone: bool = False
    is_told_once: bool = False

    @property
    def rounds(self) -> list[dict[Key, int]]:
        """The versions of each round: the newest of each API first, then one older, down to the oldest of each."""
        both = shared()
        spans = [both[key] for key in self.over if key in both]
        longest = 1 if self.is_told_once else max((len(span) for span in spans), default=0)
        return [
            {key: max(both[key].start, both[key].stop - 1 - step) for key in self.over if key in both} for step in range(longest)
        ]


STORIES: dict[str, Story] = {}


def story(*over: Key, alone: bool = False, once: bool = False) -> Callable[[Tell], Tell]:
    """Makes a story of an async function; the words are those of `Story`."""
    assert over, "a story is about an API"

    def make(tell: Tell) -> Tell:
        name = tell.__name__
        assert name not in STORIES, f"two stories are called {name}"
        STORIES[name] = Story(name, over, tell, alone, once)
        return tell

    return make


def all_stories() -> dict[str, Story]:
    """Every story of every file in `stories/`."""
    from tests.twin import stories

    for module in pkgutil.iter_modules(stories.__path__):
        importlib.import_module(f"{stories.__name__}.{module.name}")
    return STORIES


class Closed(NamedTuple):
    """Instead of an answer: the broker closed the connection."""


class Bytes(NamedTuple):
    """An answer that is not read: what stands behind its correlation id."""

    data: bytes


@dataclass
class Told:
    """One question and its answer; `answer` is None until it comes."""

    what: str
    key: int
    version: int
    answer: Any = None


class Side:
    """One broker in one round of a story."""

    def __init__(self, broker: str, address: tuple[str, int], story: Story, versions: Mapping[Key, int], number: int) -> None:
        self.broker = broker  # "hotlog" or "kafka"; nobody's business but that of what waits for a broker's own ways
        self.told: list[Told] = []
        self.ids: dict[str, Any] = {}  # of the topics that were made: their names are the same on both sides, their ids are twins
        self.versions = versions
        self._address = address
        self._prefix = f"{story.name.replace('_', '-')}-{number}"
        self._names: Counter[str] = Counter()
        self._wires: list[Client] = []
        self._idle: list[Client] = []
        self._tasks: list[asyncio.Task[Any]] = []

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for wire in self._wires:
            await wire.close()

    # What a story says

    def version(self, key: Key) -> int:
        """The version in which this round asks; of an API that the story is not about, the newest that both speak."""
        return self.versions[key] if key in self.versions else shared()[key].stop - 1

    def name(self, word: str = "") -> str:
        """A name of this round's own for a topic, a group or a client."""
        return f"{self._prefix}-{word}" if word else self._prefix

    async def ask(
        self, key: Key, what: str = "", /, *, on: Client | None = None, version: int | None = None,
        only: Callable[[Any], Any] = lambda answer: answer, **fields: Any,
    ) -> Any:  # fmt: skip
        """The answer to a request, which is compared with the other broker's.  `what` it is about, in words that no other question of
        this API in this story has; `on` a connection of its own (`connect`); `only` makes of an answer the part that is compared, where
        other stories are in it too."""
        told = self._begin(key, what, self.version(key) if version is None else version)
        answer = await self._exchange(build(key, told.version, **fields), on)
        told.answer = only(answer)
        return answer

    async def ask_closing(self, key: Key, what: str, /, **fields: Any) -> None:
        """A request that may be answered by the end of the connection."""
        told = self._begin(key, what, self.version(key))
        told.answer = await self._lone(frame_of(build(key, told.version, **fields), 1, CLIENT_ID), key, told.version)

    async def ask_bytes(self, key: int, version: int, what: str, body: bytes) -> None:
        """A request whose body is these bytes, tags of the header and all; what comes back is compared as bytes."""
        told = self._begin(key, what, version)
        name = CLIENT_ID.encode()
        frame = struct.pack(">hhih", key, version, 1, len(name)) + name + body
        told.answer = await self._lone(struct.pack(">i", len(frame)) + frame)

    async def ask_quietly(self, key: Key, /, *, on: Client | None = None, version: int | None = None, **fields: Any) -> Any:
        """An answer that is not compared."""
        version = self.version(key) if version is None else version
        return await self._exchange(build(key, version, **fields), on)

    async def tell(self, key: Key, /, *, on: Client, **fields: Any) -> None:
        """A request that is not answered."""
        on.send(build(key, self.version(key), **fields), client_id=CLIENT_ID)
        await on.writer.drain()

    async def until(self, is_so: Callable[[Any], bool], key: Key, /, **fields: Any) -> Any:
        """Ask, without comparing, until the answer is so."""
        wanted = build(key, fields.pop("version", shared()[key].stop - 1), **fields)
        answer: Any = None
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not is_so(answer := await self._exchange(wanted, None)):
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"{self.broker} still answers {answer}") from None
        return answer

    def later(self, work: Awaitable[Any]) -> asyncio.Task[Any]:
        """What waits for others."""

        async def run() -> Any:
            return await work

        self._tasks.append(asyncio.get_running_loop().create_task(run()))
        return self._tasks[-1]

    async def connect(self) -> Client:
        """A connection of its own, for those APIs to which it matters."""
        self._wires.append(Client(*await asyncio.open_connection(*self._address)))
        return self._wires[-1]

    # What most stories need first

    async def topic(self, word: str = "t", *, partitions: int = 1, **configs: str) -> Any:
        """Create a topic and wait until each of its partitions can be written and read; its id.  Dots in names of `configs` are written `_`."""
        given = [dict(name=key.replace("_", "."), value=value) for key, value in configs.items()]
        asked = dict(name=self.name(word), num_partitions=partitions, replication_factor=1, configs=given)
        made = await self.ask_quietly(Key.CREATE_TOPICS, version=7, topics=[asked], timeout=60_000)
        assert made.topics[0].error_code.name == "none", made
        await self.ready(word, partitions)
        self.ids[word] = made.topics[0].topic_id
        return self.ids[word]

    async def ready(self, word: str, partitions: int) -> None:
        """Until all partitions are served."""
        parts = [dict(partition_index=index, timestamp=-2) for index in range(partitions)]
        await self.until(
            lambda answer: all(part.error_code.name == "none" for part in answer.topics[0].partitions),
            Key.LIST_OFFSETS, version=6, topics=[dict(name=self.name(word), partitions=parts)], replica_id=-1,
        )  # fmt: skip

    async def produce(self, word: str, *batches: bytes | bytearray, partition: int = 0) -> list[int]:
        """Append batches to a partition of a topic; their base offsets."""
        offsets = []
        for each in batches:
            data = [dict(name=self.name(word), partition_data=[dict(index=partition, records=bytes(each))])]
            answer = await self.ask_quietly(Key.PRODUCE, version=9, acks=-1, timeout=60_000, topic_data=data)
            part = answer.responses[0].partition_responses[0]
            assert part.error_code.name == "none", answer
            offsets.append(part.base_offset)
        return offsets

    # On the wire

    def _begin(self, key: int, what: str, version: int) -> Told:
        self._names[what, key] += 1
        number = self._names[what, key]
        self.told.append(Told(f"{what or 'asked'}{f' ({number})' if number > 1 else ''}", key, version))
        return self.told[-1]

    async def _exchange(self, request: Any, on: Client | None) -> Any:
        wire = on or (self._idle.pop() if self._idle else await self.connect())
        async with asyncio.timeout(PATIENCE_S):
            correlation = wire.send(request, client_id=CLIENT_ID)
            answer = await wire.answer(request, correlation)
        if on is None:
            self._idle.append(wire)
        return answer

    async def _lone(self, frame: bytes, key: int = -1, version: int = -1) -> Any:
        """The answer to a frame on a new connection: read if it is of a known API, or else bytes."""
        wire = await self.connect()
        wire.writer.write(frame)
        try:
            answer = await wire.frame()
        except (asyncio.IncompleteReadError, ConnectionError):
            return Closed()
        return parsed(key, version, answer, 1) if key >= 0 else Bytes(answer[4:])
