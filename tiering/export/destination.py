"""An export's destination: files and a cursor in any ObjectStore, each step safe to be the last.

Invariants: the cursor changes by conditional writes only, so two exports to one destination can't both go on; files are put whole (a killed
put leaves nothing visible); a file is put only while its unit is pending in the cursor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hotlog.kernel.errors import Invalid, NotFound, OutcomeUnknown, PreconditionFailed
from hotlog.world.ports import ObjectStore
from tiering.export import cursor as cursors
from tiering.export.builder import FinishedUnit
from tiering.export.cursor import Cursor, Unit
from tiering.export.layout import cursor_key, file_key, old_cursor_key, schema_key
from tiering.export.shapes import Shape
from tiering.export.value_schema import parse_kept, print_shape
from tiering.store.sources import BytesSource


class Destination:
    """One topic's part of a destination.  `wrote` is told of each file's size."""

    def __init__(self, store: ObjectStore, topic: str, fresh: Cursor, wrote: Callable[[int], None]) -> None:
        self._store = store
        self._topic = topic
        self._key = cursor_key(topic)
        self._etag: str | None = None
        self._wrote = wrote
        self.cursor = fresh

    async def load(self, partitions: Sequence[int]) -> None:
        """Take up where the last run ended.

        Raises:
            Invalid: the destination holds another topic's export, or one with other options.
        """
        try:
            blob = await self._store.get(self._key)
        except NotFound:
            await self._load_old(partitions)
            return
        found = cursors.decode(bytes(blob.data), self._key)
        cursors.check_same(found, self.cursor, self._key)
        self.cursor, self._etag = found, blob.etag

    async def _load_old(self, partitions: Sequence[int]) -> None:
        """The cursors of an earlier release, if it began this export."""
        raws: list[tuple[str, bytes]] = []
        for key in (old_cursor_key(self._topic, partition) for partition in partitions):
            try:
                raws.append((key, bytes((await self._store.get(key)).data)))
            except NotFound:
                continue
        found = cursors.joined(raws, self._topic)
        if found is None:
            return
        cursors.check_same(found, self.cursor, self._key)
        await self._save(found)
        for key, _ in raws:
            await self._store.put(key, cursors.moved())

    async def publish(self, built: FinishedUnit, unit: Unit | None = None) -> None:
        """Make a unit visible: announce it, put its files, have it done.

        Args:
            unit: the pending unit that was built again; None announces a new one.
        """
        cursor = self.cursor
        if unit is None:
            cursor = cursor.begun(built.parts)
            unit = cursor.pending[-1]
            if built.files:
                await self._save(cursor)
        for file in built.files:
            await self._store.put_source(file_key(unit.name, cursor.partition_by, file.bucket), BytesSource(file.data))
            self._wrote(len(file.data))
        await self._save(cursor.finished(unit, built.rows, len(built.files), built.bytes))

    async def abort_uploads(self, unit: Unit) -> None:
        """End multipart uploads that a killed run left for this unit: their parts cost money and are visible to nobody."""
        name = file_key(unit.name, "none", 0)
        async for upload in self._store.list_uploads(""):
            if upload.key.rsplit("/", 1)[-1] == name:
                await self._store.abort_upload(upload)

    async def _save(self, cursor: Cursor) -> None:
        body = cursors.encode(cursor)
        try:
            self._etag = await self._store.put(self._key, body, if_match=self._etag, if_absent=self._etag is None)
        except (PreconditionFailed, OutcomeUnknown):
            blob = await self._store.get(self._key)
            if bytes(blob.data) != body:
                raise Invalid(f"{self._key} was changed by someone else: another export writes to this destination") from None
            self._etag = blob.etag
        self.cursor = cursor


class KeptSchema:
    """What is known of the values under `--schema auto`, kept at the destination: every run widens the same columns."""

    def __init__(self, store: ObjectStore, topic: str) -> None:
        self._store = store
        self._key = schema_key(topic)
        self._kept: Shape | None = None

    async def load(self) -> Shape | None:
        try:
            blob = await self._store.get(self._key)
        except NotFound:
            return None
        self._kept = parse_kept(bytes(blob.data).decode(), self._key)
        return self._kept

    async def save(self, shape: Shape) -> None:
        """Keep `shape` if it says something new.  (Only one export writes to a destination: the cursor sees to it.)"""
        if shape == self._kept:
            return
        await self._store.put(self._key, print_shape(shape).encode())
        self._kept = shape
