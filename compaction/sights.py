"""What earlier passes of the reconciler saw unreferenced, kept over restarts.

Nothing is condemned at first sight, so a broker that is restarted more often than a pass is due would never condemn anything if the first
sight were forgotten with the process.  Two sights also lie apart in time: a broker that starts twice in a minute has looked once.

Invariants: `is_old` is true only of an object that was seen with the same etag at least `apart_ms` ago, by the time that deletion goes by;
a file that is missing, damaged or of the future counts as nothing seen; at most SIGHTS_MAX are kept.
"""

from __future__ import annotations

import json
import logging
from typing import NamedTuple

from hotlog.world.ports import Disk

LOG = logging.getLogger(__name__)
SIGHTS_MAX = 20_000  # the rest is remembered by a later pass, when these are gone
VERSION = 1


class Sight(NamedTuple):
    """First sight of something unreferenced: the etag (of an upload: its id) and when, ms since the epoch."""

    etag: str
    first_ms: int


class Sights:
    """First sights by name (an object's key; of an upload, its key and id), as the last whole pass left them."""

    def __init__(self, disk: Disk | None = None, path: str = "") -> None:
        self._disk = disk
        self._path = path
        self._kept: dict[str, Sight] = self._load()
        self._fresh: dict[str, Sight] = {}

    def _load(self) -> dict[str, Sight]:
        if self._disk is None:
            return {}
        try:
            told = json.loads(bytes(self._disk.read(self._path)))
            if told["version"] != VERSION:
                return {}
            return {str(name): Sight(str(etag), int(first_ms)) for name, (etag, first_ms) in told["sights"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as damage:
            LOG.warning("%s is not readable (%s): orphans are judged from first sight again", self._path, damage)
            return {}

    def begin(self) -> None:
        """A pass begins."""
        self._fresh = {}

    def is_old(self, name: str, etag: str, *, now_ms: int, apart_ms: int) -> bool:
        """Whether `name` was seen with this etag long enough ago."""
        seen = self._kept.get(name)
        return seen is not None and seen.etag == etag and now_ms - seen.first_ms >= apart_ms

    def note(self, name: str, etag: str, now_ms: int) -> None:
        """It is unreferenced (still)."""
        if len(self._fresh) < SIGHTS_MAX:
            seen = self._kept.get(name)
            is_known = seen is not None and seen.etag == etag and seen.first_ms <= now_ms
            self._fresh[name] = seen if seen is not None and is_known else Sight(etag, now_ms)

    async def end(self) -> None:
        """A pass came to its end: what it did not see is forgotten.  A disk that refuses costs only the memory over a restart."""
        self._kept, self._fresh = self._fresh, {}
        if self._disk is not None:
            try:
                await self._disk.run(_write, self._disk, self._path, self._kept)
            except OSError as failure:
                LOG.warning("%s cannot be written: %s", self._path, failure)


def _write(disk: Disk, path: str, sights: dict[str, Sight]) -> None:
    disk.write_atomic(path, json.dumps({"version": VERSION, "sights": sights}, separators=(",", ":")).encode())
