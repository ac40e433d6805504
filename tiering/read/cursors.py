"""What the cold reader knows of one read under way and of one sequential reader between two reads.  Values only."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from hotlog.world.ports import Buffer
from tiering.cache.source import ChunkSource
from tiering.manifest.root import Entry
from tiering.objects.segment import Footer
from tiering.read.history import History
from tiering.read.window import Stream


@dataclass(slots=True)
class Frontier:
    """All bytes between a reader and byte `position` of `row`, `left` of them, are in memory or were asked for."""

    row: Entry
    footer: Footer
    position: int
    left: int = 0
    end_offset: int = -1  # the tiered end at which nothing more followed
    task: asyncio.Task[None] | None = None


@dataclass(slots=True)
class Cursor:
    """Where a sequential reader goes on: row, footer and exact byte position of its next batch, and its readahead."""

    row: Entry
    footer: Footer
    chunks: ChunkSource  # of the row's object
    position: int
    stream: Stream = field(default_factory=Stream)
    reader: int = 0  # number of the sequential reader, for counting them
    frontier: Frontier | None = None


@dataclass(slots=True)
class Reading:
    """One read under way.  `deadline` is on the monotonic clock (None: it waits to the end)."""

    history: History
    offset: int
    bytes_left: int
    min_one: bool
    deadline: float | None
    is_sequential: bool = False  # goes on from an earlier read, or begins with an object: who does that will come to what follows
    pieces: list[Buffer] = field(default_factory=list)
    taken: int = 0
    has_waited: bool = False
