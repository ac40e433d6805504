"""The checkpoint files that all logs of a data directory share: read at the start, then written whole, each with its CRC beside it.

Invariants: `saved` is what the disk has, or will have when the write that runs is done; a file that fails its CRC says nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from crc32c import crc32c

from hotlog.kernel.errors import Corrupt
from hotlog.kernel.ids import TopicPartition
from hotlog.log import checkpoint_crcs, checkpoints, files
from hotlog.world.ports import Disk

Offsets = Mapping[TopicPartition, int]


class OffsetFiles:
    """recovery-point-, log-start-, cleaner- and replication-offset-checkpoint.  `report` is called with (where, message) of damage."""

    def __init__(self, disk: Disk, directory: str, report: Callable[[str, str], None]) -> None:
        self._disk = disk
        self._directory = directory
        self._report = report
        self._crcs: checkpoint_crcs.Crcs = {}
        self._saved: dict[str, Offsets] = {}
        self._writing = asyncio.Lock()

    def has(self, name: str) -> bool:
        """Whether the file `name` was there and could be read, or was written since."""
        return name in self._saved

    def saved(self, name: str) -> Offsets:
        """What the file `name` says."""
        return self._saved.get(name, {})

    def read(self, names: list[str]) -> None:
        """Read those of the files that are among `names`.  Blocks."""
        self._crcs = self._read_crcs(names)
        for name in (files.RECOVERY_POINTS, files.LOG_STARTS, files.CLEANER_OFFSETS):
            if name in names:
                self._read(name)

    def _read_crcs(self, names: list[str]) -> checkpoint_crcs.Crcs:
        if files.CHECKPOINT_CRCS not in names:
            return {}
        try:
            return checkpoint_crcs.parse_crcs(self._disk.read(f"{self._directory}/{files.CHECKPOINT_CRCS}"))
        except Corrupt as error:
            self._report(files.CHECKPOINT_CRCS, f"{self._directory}: {error}; ignored")
            return {}

    def _read(self, name: str) -> None:
        raw = self._disk.read(f"{self._directory}/{name}")
        try:
            if not checkpoint_crcs.is_known(self._crcs, name, raw):
                raise Corrupt(f"its CRC-32C is not in {files.CHECKPOINT_CRCS}")
            self._saved[name] = checkpoints.parse_offsets(raw)
            self._crcs = {**self._crcs, name: (crc32c(raw),)}
        except Corrupt as error:
            self._report(name, f"{self._directory}/{name}: {error}; ignored")

    async def save(self, name: str, offsets: Offsets) -> None:
        """Write the file `name` whole."""
        async with self._writing:
            await self._disk.run(self._write, name, offsets)
            self._saved[name] = offsets

    def _write(self, name: str, offsets: Offsets) -> None:
        data, crcs = checkpoints.print_offsets(offsets), self._crcs
        if name != files.HIGH_WATERMARKS:  # for Kafka's tools only: no start reads it
            crcs = checkpoint_crcs.before_writing(crcs, name, data)
            self._disk.write_atomic(f"{self._directory}/{files.CHECKPOINT_CRCS}", checkpoint_crcs.print_crcs(crcs))
        self._disk.write_atomic(f"{self._directory}/{name}", data)
        self._crcs = crcs
