"""Opens the logs of a data directory: what a partition's directory has becomes a log.

Order that matters: a partition's directory gets its partition.metadata last, so a directory without one was never handed out.

Invariants: a directory that cannot be opened is told, and costs no other log anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, MutableMapping
from uuid import UUID

from hotlog.kernel.errors import HotlogError
from hotlog.kernel.ids import TopicPartition
from hotlog.kernel.settings import Settings
from hotlog.kernel.topic_config import TopicConfig
from hotlog.log import checkpoints, files
from hotlog.log.cut_off import cut_off
from hotlog.log.damaged_segments import DamagedSegments
from hotlog.log.loaded import Loaded, Loader
from hotlog.log.loader import load
from hotlog.log.offset_files import OffsetFiles, Offsets
from hotlog.log.partition_log import PartitionLog
from hotlog.log.parts import Parts

LOADED_AT_ONCE = 64
ConfigOf = Callable[[TopicPartition], TopicConfig]


class Opener:
    """`saved` are the offsets that the directory's checkpoint files had when it was opened; `failed` gets what cannot be opened, by partition."""

    def __init__(
        self,
        parts: Parts,
        settings: Settings,
        *,
        saved: OffsetFiles,
        damaged: DamagedSegments,
        failed: MutableMapping[TopicPartition, Exception],
        report: Callable[[str, str], None],
    ) -> None:
        self._parts = parts
        self._disk = parts.disk
        self._settings = settings
        self._files = saved
        self._damaged = damaged
        self._failed = failed
        self._report = report

    async def load_all(self, found: list[tuple[TopicPartition, str]], clean: bool, config_of: ConfigOf) -> list[PartitionLog]:
        """The logs in the `found` directories, several loaded at a time; `clean` after a clean stop."""
        loaded: list[PartitionLog] = []
        points, starts = self._files.saved(files.RECOVERY_POINTS), self._files.saved(files.LOG_STARTS)
        pieces = [found[start : start + LOADED_AT_ONCE] for start in range(0, len(found), LOADED_AT_ONCE)]
        threads = self._settings.number("num.recovery.threads.per.data.dir")
        for start in range(0, len(pieces), threads):
            work = []
            for piece in pieces[start : start + threads]:
                given = [(tp, path, config_of(tp)) for tp, path in piece]
                work.append(self._disk.run(self._load_piece, given, clean, points, starts))
            for logs in await asyncio.gather(*work):
                loaded += logs
        return loaded

    def _load_piece(
        self,
        piece: list[tuple[TopicPartition, str, TopicConfig]],
        clean: bool,
        points: Offsets,
        starts: Offsets,
    ) -> list[PartitionLog]:
        logs = []
        for tp, path, config in piece:
            try:
                if self._is_unfinished(path):
                    self._disk.remove_tree(path)
                    continue
                cleaned_end = self._files.saved(files.CLEANER_OFFSETS).get(tp, -1)
                logs.append(self.load(tp, path, config, clean, points.get(tp, 0), starts.get(tp), cleaned_end))
            except (HotlogError, OSError) as error:
                self._report("log", f"{path} cannot be opened: {error}")
                self._failed[tp] = error
        return logs

    def _is_unfinished(self, path: str) -> bool:
        """Whether a crash came while the partition was being created: nothing was ever appended to it."""
        names = self._disk.listdir(path)
        if files.METADATA_FILE in names:
            return False
        return all(self._disk.size(f"{path}/{name}") == 0 for name in names if name.endswith(files.LOG))

    def load(
        self,
        tp: TopicPartition,
        path: str,
        config: TopicConfig,
        clean: bool,
        point: int,
        start: int | None,
        cleaned_end: int = -1,
    ) -> PartitionLog:
        """The log in the directory `path`, recovered if the last stop was not `clean`: its recovery point is `point`, its log start `start` (None: not
        known).  It may wait for the disk.

        Raises:
            Corrupt, OSError: it cannot be opened.
        """
        ctx = Loader(
            disk=self._disk,
            reader=self._parts.reader,
            report=self._report,
            clean=clean,
            recovery_point=point,
            log_start=start,
            now_ms=self._parts.clock.now_ms(),
            interval_bytes=config.index_interval_bytes,
            producer_expiry_ms=self._settings.number("producer.id.expiration.ms"),
            gaps_allowed=config.is_compacted or cleaned_end >= 0,
            is_point_known=self._files.has(files.RECOVERY_POINTS),
            suspects=self._damaged.of(tp),
        )
        loaded: Loaded = load(ctx, path, tp)
        first = loaded.segments[0].base_offset
        # Only a log start above 0 is ever written, and before files go.  History may lie in the store, below the first local segment,
        # also of a topic that is not tiered by today's defaults; only its own `remote.storage.enable=false` gives that up.
        log_start = min(start or 0, loaded.readable_end)
        if config.is_local_only:
            log_start = max(log_start, first)
        log = PartitionLog(self._parts, tp, path, config, loaded, log_start)
        log.marks.cleaned_end = min(cleaned_end, loaded.log_end)
        return log

    def load_again(self, log: PartitionLog) -> PartitionLog:
        """A log that is closed, once more, without what was never committed.  Raises as `load`."""
        cut_off(self._disk, self._parts.pool, log.directory, log.marks.committed)
        point = min(log.recovery_point, log.high_watermark)
        return self.load(log.tp, log.directory, log.config, False, point, log.log_start_offset, log.cleaned_end)

    def make(self, path: str, topic_id: UUID, start_offset: int) -> None:
        """The files of an empty log, on the device.  Raises OSError."""
        disk = self._disk
        disk.make_dirs(path)
        for suffix in (files.LOG, files.INDEX, files.TIME_INDEX):
            disk.open(files.segment_path(path, start_offset, suffix), create=True).close()
        disk.write_atomic(f"{path}/{files.METADATA_FILE}", checkpoints.print_metadata(topic_id))  # syncs the directory
