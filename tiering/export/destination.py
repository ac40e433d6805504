"""An export's destination: files and cursors in any ObjectStore, each step safe to be the last.

Invariants: a cursor changes by conditional writes only, so two exports to one destination can't both go on; files are put whole (a killed
put leaves nothing visible); a file is put only while its unit is the cursor's pending one.
"""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from hotlog.kernel.errors import Invalid, NotFound, OutcomeUnknown, PreconditionFailed
from hotlog.world.ports import ObjectStore
from tiering.export import cursor as cursors
from tiering.export.builder import FinishedUnit
from tiering.export.cursor import Cursor
from tiering.export.layout import cursor_key, file_key, schema_key
from tiering.export.value_schema import parse_schema, print_schema
from tiering.store.sources import BytesSource


class Destination:
    """One partition's part of a destination.  `wrote` is told of each file's size."""

    def __init__(self, store: ObjectStore, topic: str, fresh: Cursor, wrote: Callable[[int], None]) -> None:
        self._store = store
        self._topic = topic
        self._key = cursor_key(topic, fresh.partition)
        self._etag: str | None = None
        self._wrote = wrote
        self.cursor = fresh

    async def load(self) -> None:
        """Take up where the last run ended.

        Raises:
            Invalid: the destination holds another topic's export, or one with other options.
        """
        try:
            blob = await self._store.get(self._key)
        except NotFound:
            return
        found = cursors.decode(bytes(blob.data), self._key)
        cursors.check_same(found, self.cursor, self._key)
        self.cursor, self._etag = found, blob.etag

    async def publish(self, unit: FinishedUnit) -> None:
        """Make a unit visible: announce it, put its files, have it done."""
        if unit.files and self.cursor.pending != (unit.start, unit.end):
            await self._save(self.cursor.begun(unit.start, unit.end))
        for file in unit.files:
            key = file_key(self._topic, self.cursor.partition, unit.start, unit.end, self.cursor.partition_by, file.bucket)
            await self._store.put_source(key, BytesSource(file.data))
            self._wrote(len(file.data))
        if self.cursor.pending is None:
            self.cursor = self.cursor.begun(unit.start, unit.end)
        await self._save(self.cursor.finished(unit.rows, len(unit.files), unit.bytes))

    async def abort_uploads(self, unit: tuple[int, int]) -> None:
        """End multipart uploads that a killed run left for this unit: their parts cost money and are visible to nobody."""
        name = file_key(self._topic, self.cursor.partition, *unit, "none", 0)
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
    """The value columns of `--schema auto`, kept at the destination so that every run and partition widens the same ones."""

    def __init__(self, store: ObjectStore, topic: str) -> None:
        self._store = store
        self._key = schema_key(topic)
        self._kept: pa.Schema | None = None

    async def load(self) -> pa.Schema | None:
        try:
            blob = await self._store.get(self._key)
        except NotFound:
            return None
        self._kept = parse_schema(bytes(blob.data).decode(), self._key)
        return self._kept

    async def save(self, schema: pa.Schema) -> None:
        """Keep `schema` if it says something new.  (Only one export writes to a destination: cursors see to it.)"""
        if not len(schema) or schema == self._kept:
            return
        await self._store.put(self._key, print_schema(schema).encode())
        self._kept = schema
