"""Which segments were found damaged, in a small file of the data directory: a start looks at them again before they are served.

Only their names are kept; what of them is damaged is found anew, so that the file can neither hide damage nor invent it.  Text: one line a
segment, `topic partition base-offset`, then `crc32c` and the CRC-32C of these lines.

Invariants: no file while nothing is damaged; a file that cannot be read, or only in part, costs what it does not say and is told; a disk
that refuses it stops nobody, and is asked again with the next checkpoint.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterable, Set
from typing import NamedTuple

from crc32c import crc32c

from hotlog.kernel.ids import TopicPartition
from hotlog.log import files
from hotlog.world.ports import Disk

LOG = logging.getLogger(__name__)
NONE: frozenset[DamagedSegment] = frozenset()
_LINE = re.compile(rb"([a-zA-Z0-9._-]{1,249}) (0|[1-9]\d{0,9}) (0|[1-9]\d{0,18})")


class DamagedSegment(NamedTuple):
    """A local segment, by its partition and base offset."""

    topic: str
    partition: int
    base_offset: int


def print_segments(segments: Set[DamagedSegment]) -> bytes:
    lines = "".join(f"{one.topic} {one.partition} {one.base_offset}\n" for one in sorted(segments)).encode()
    return lines + b"crc32c %08x\n" % crc32c(lines)


def parse_segments(raw: bytes) -> tuple[frozenset[DamagedSegment], bool]:
    """(the segments of all lines that can be read, whether `raw` is what `print_segments` makes).  Any bytes will do."""
    lines = (_LINE.fullmatch(line) for line in raw.split(b"\n"))
    segments = frozenset(DamagedSegment(found[1].decode(), int(found[2]), int(found[3])) for found in lines if found)
    return segments, raw == print_segments(segments)


class DamagedSegments:
    """Keeps the file.

    Args:
        found: what is known to be damaged now.
        failed: the partitions that could not be opened: what the file says of them stays there.
        report: (where, message) of damage to the file itself.
    """

    def __init__(
        self,
        disk: Disk,
        directory: str,
        *,
        found: Callable[[], Set[DamagedSegment]],
        failed: Iterable[TopicPartition],
        report: Callable[[str, str], None],
    ) -> None:
        self._disk = disk
        self._path = f"{directory}/{files.DAMAGED_SEGMENTS}"
        self._found = found
        self._failed = failed
        self._report = report
        self._told: dict[TopicPartition, set[DamagedSegment]] = {}  # what the file said at the start
        self._saved: frozenset[DamagedSegment] | None = NONE  # what it says now; None: nobody knows
        self._writing = asyncio.Lock()

    def read(self, names: Iterable[str]) -> None:
        """Take over what the file says, if it is among the directory's `names`.  Blocks."""
        if files.DAMAGED_SEGMENTS not in names:
            return
        try:
            raw = self._disk.read(self._path)
        except OSError as error:
            self._saved = None
            self._report(files.DAMAGED_SEGMENTS, f"{self._path} cannot be read: {error}; the next scrub finds what it says")
            return
        segments, is_whole = parse_segments(raw)
        for one in segments:
            self._told.setdefault(TopicPartition(one.topic, one.partition), set()).add(one)
        self._saved = segments if is_whole and segments else None
        if not is_whole:
            self._report(files.DAMAGED_SEGMENTS, f"{self._path} fails its CRC-32C; {len(segments)} lines of it are used")

    def of(self, tp: TopicPartition) -> frozenset[int]:
        """Base offsets of the segments of `tp` that were damaged when the last process knew of them."""
        return frozenset(one.base_offset for one in self._told.get(tp, NONE))

    async def refresh(self) -> None:
        """Forget segments that are gone or whole again; write what could not be written.  Nothing, if nothing was ever damaged."""
        if self._saved != NONE:
            await self.save()

    async def save(self) -> None:
        """Until what is known to be damaged is in the file, if the disk takes it; a cancelled caller does not stop it half way."""
        await asyncio.shield(asyncio.get_running_loop().create_task(self._save()))

    async def _save(self) -> None:
        async with self._writing:
            segments = NONE.union(self._found(), *(self._told.get(tp, NONE) for tp in self._failed))
            if segments == self._saved:
                return
            self._saved = None
            try:
                await self._disk.run(self._write, segments)
            except OSError as error:
                LOG.warning("%s cannot be written: a kill forgets what is damaged: %s", self._path, error)
                return
            self._saved = segments

    def _write(self, segments: Set[DamagedSegment]) -> None:
        if segments:
            self._disk.write_atomic(self._path, print_segments(segments))
        else:
            self._disk.remove(self._path)  # if a power loss brings it back, a start looks once too often
