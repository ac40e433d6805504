"""The server side of the simulated object store: objects, unfinished uploads, and the weather.

Invariants: an object is visible whole or not at all; conditional writes are judged against the newest version whatever reads are told;
a delete of a key that the guard calls live is a violation that no `except` can hide; the only clock is the loop's and the store's own.
"""

from __future__ import annotations

import fnmatch
import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from hotlog.kernel.errors import NotFound, PreconditionFailed
from hotlog.world.ports import ObjectInfo, PendingUpload
from tests.sim.clock import SimClock


class Violation(AssertionError):
    """The code under test did what it must never do."""


class Stored(NamedTuple):
    """One version of an object."""

    body: bytes
    etag: str
    modified_ms: int


class Past(NamedTuple):
    """What a key was until `until` (loop seconds)."""

    until: float
    was: Stored | None


@dataclass
class Upload:
    """A multipart upload that was neither completed nor aborted."""

    upload_id: str
    started_ms: int
    parts: list[bytes] = field(default_factory=list)


@dataclass
class StoreFault:
    """Do `fate` to the calls `op` on keys like `pattern`, after `skip`, `times` times.

    Fates: unavailable, lost (done, answer lost), conflict (409), hang, slow; get: short, wrong-range, other-object, flipped, stale;
    delete: kept (acked, object stays).
    """

    op: str
    pattern: str
    fate: str
    skip: int = 0
    times: int = 1


@dataclass
class Weather:
    """Shares of calls that go wrong, and times in seconds."""

    unavailable: float = 0.0
    lost: float = 0.0
    conflict: float = 0.0
    kept: float = 0.0
    slow: float = 0.0
    hang: float = 0.0
    latency_seconds: float = 0.01
    slow_seconds: float = 30.0
    list_stale_seconds: float = 0.0
    down: bool = False


class Bucket:
    """A bucket that outlives processes."""

    def __init__(self, clock: SimClock, random: Random) -> None:
        self.clock = clock
        self.random = random
        self.objects: dict[str, Stored] = {}
        self.uploads: dict[tuple[str, str], Upload] = {}
        self.weather = Weather()
        self.faults: list[StoreFault] = []
        self.guard: Callable[[str], str | None] = lambda key: None
        self.violations: list[str] = []
        self.counts: Counter[tuple[str, str]] = Counter()
        self._past: dict[str, list[Past]] = {}
        self._numbers = 0

    # -- faults

    def fail(self, op: str, fate: str, *, pattern: str = "*", skip: int = 0, times: int = 1) -> None:
        self.faults.append(StoreFault(op, pattern, fate, skip, times))

    def fate_of(self, op: str, key: str, *, conditional: bool) -> str:
        """What happens to this call: "" or one of StoreFault's fates."""
        for fault in self.faults:
            if fault.op in (op, "*") and fault.times > 0 and fnmatch.fnmatchcase(key, fault.pattern):
                if fault.skip > 0:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                return fault.fate
        weather, draw = self.weather, self.random.random()
        if weather.down:
            return "unavailable"
        shares = [("unavailable", weather.unavailable), ("lost", weather.lost), ("slow", weather.slow), ("hang", weather.hang)]
        if conditional:
            shares.append(("conflict", weather.conflict))
        if op == "delete":
            shares.append(("kept", weather.kept))
        for fate, share in shares:
            if draw < share:
                return fate
            draw -= share
        return ""

    def delay(self, fate: str) -> float:
        top = self.weather.slow_seconds if fate == "slow" else self.weather.latency_seconds
        return self.random.uniform(top / 4, top)

    # -- effects: each happens at one instant

    def _replace(self, key: str, new: Stored | None) -> None:
        past = self._past.setdefault(key, [])
        past.append(Past(self.clock.monotonic(), self.objects.get(key)))
        del past[:-8]
        if new is None:
            self.objects.pop(key, None)
        else:
            self.objects[key] = new

    def put(self, key: str, body: bytes, if_match: str | None, if_absent: bool, parts: int = 0) -> str:
        now = self.objects.get(key)
        if if_absent and now is not None:
            raise PreconditionFailed(f"object {key} exists already")
        if if_match is not None:
            if now is None:
                raise NotFound(f"object {key} does not exist")
            if now.etag != if_match:
                raise PreconditionFailed(f"object {key} has etag {now.etag}, not {if_match}")
        etag = f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}{f"-{parts}" if parts else ""}"'
        self._replace(key, Stored(body, etag, self.clock.now_ms()))
        return etag

    def get(self, key: str) -> Stored:
        if key not in self.objects:
            raise NotFound(f"object {key} does not exist")
        return self.objects[key]

    def previous(self, key: str) -> Stored:
        """The version before the newest, for a read that is told an old story."""
        past = [one.was for one in self._past.get(key, []) if one.was is not None]
        return past[-1] if past else self.get(key)

    def check_delete(self, key: str) -> None:
        reason = self.guard(key)
        if reason is not None:
            self.violations.append(f"delete of {key}: {reason}")
            raise Violation(self.violations[-1])

    def delete(self, key: str) -> None:
        self.check_delete(key)
        if key in self.objects:
            self._replace(key, None)

    def listing(self, prefix: str, after: str, count: int) -> list[ObjectInfo]:
        stale = self.weather.list_stale_seconds
        seen = self.objects if not stale else self._stale_view(stale)
        keys = sorted(key for key in seen if key.startswith(prefix) and key > after)[:count]
        return [ObjectInfo(key, len(seen[key].body), seen[key].etag, seen[key].modified_ms) for key in keys]

    def _stale_view(self, seconds: float) -> dict[str, Stored]:
        """Each key changed lately is, by chance, shown as it was."""
        since = self.clock.monotonic() - seconds
        seen = dict(self.objects)
        for key in sorted(self._past):
            recent = [one for one in self._past[key] if one.until >= since]
            if recent and self.random.random() < 0.5:
                was = recent[0].was
                if was is None:
                    seen.pop(key, None)
                else:
                    seen[key] = was
        return seen

    def start_upload(self, key: str) -> str:
        self._numbers += 1
        upload_id = f"upload-{self._numbers}"
        self.uploads[key, upload_id] = Upload(upload_id, self.clock.now_ms())
        return upload_id

    def put_part(self, key: str, upload_id: str, body: bytes) -> None:
        if (key, upload_id) not in self.uploads:
            raise NotFound(f"upload {upload_id} of {key} does not exist")
        self.uploads[key, upload_id].parts.append(body)

    def complete_upload(self, key: str, upload_id: str) -> str:
        if (key, upload_id) not in self.uploads:
            raise NotFound(f"upload {upload_id} of {key} does not exist")
        upload = self.uploads.pop((key, upload_id))
        return self.put(key, b"".join(upload.parts), None, False, parts=len(upload.parts))

    def abort_upload(self, key: str, upload_id: str) -> None:
        self.uploads.pop((key, upload_id), None)

    def pending(self, prefix: str) -> list[PendingUpload]:
        return [
            PendingUpload(key, upload.upload_id, upload.started_ms)
            for (key, _), upload in sorted(self.uploads.items()) if key.startswith(prefix)
        ]  # fmt: skip
