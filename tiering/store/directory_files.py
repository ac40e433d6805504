"""The blocking half of the directory store: what lies where on disk, and what makes a write true.

    <root>/<key>                            objects, plain files, so that any tool can read them
    <root>/.hotlog-store/lock               exclusive lock and the write sequence (8 bytes, big endian)
    <root>/.hotlog-store/tmp/<nonce>        small writes under way
    <root>/.hotlog-store/uploads/<nonce>/   large writes under way: `key` and `data` (what S3 calls a multipart upload)

An etag is the file's modification time in ns and its size.  The time is not a clock's: it is the write sequence, drawn under the lock,
so no two writes of one store share it, though it stays near the wall clock for people who look.  A file system that does not keep
nanoseconds is refused at `open`.

Invariants: an object becomes visible by one rename, after fsync of its bytes; a conditional write checks and renames under the exclusive
lock, which holds between threads and processes; the directory is fsynced before the write is answered; a file that was ever visible is
never written again, so an open descriptor reads one version to its end.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat as modes
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from hotlog.kernel.errors import Corrupt, Invalid, NotFound, OutcomeUnknown, PreconditionFailed, StoreUnavailable
from hotlog.world.ports import Blob, Buffer, Clock, Entropy, ObjectInfo, PendingUpload
from tiering.store.file_calls import read_all, read_into, sync_dir, unlink, write_all, write_file
from tiering.store.keys import RESERVED

TMP_MS_MAX = 60 * 60 * 1000  # a small write that did not end in this time was killed
LOCK_SECONDS_MAX = 5.0
_SEQUENCE = struct.Struct(">Q")
_MS = 1_000_000  # ns


class Condition(NamedTuple):
    if_match: str | None = None
    if_absent: bool = False


class Upload:
    """A large write under way: a folder of its own, with the key beside the data.

    A cancelled caller discards the upload while a thread may still be writing: the lock keeps the descriptor from being closed, and its
    number from being given to another file, under that write.
    """

    def __init__(self, folder: str, key: str) -> None:
        self.folder = folder
        self.key = key
        self.data_path = os.path.join(folder, "data")
        self._lock = threading.Lock()
        self._fd = -1
        os.mkdir(folder)
        try:
            write_file(os.path.join(folder, "key"), key.encode())
            self._fd = os.open(self.data_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except OSError:
            self.discard()
            raise

    def write(self, piece: Buffer) -> None:
        with self._lock:
            write_all(self._fd, piece)

    def finish(self, commit: Callable[[], str]) -> str:
        """fsync, then make it true by `commit`."""
        with self._lock:
            os.fsync(self._fd)
            etag = commit()
        self.discard()
        return etag

    def discard(self) -> None:
        """Close and remove what is left.  Never raises: it runs while something else already failed, or after success."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
            shutil.rmtree(self.folder, ignore_errors=True)


class Files:
    """The blocking half.  Methods run in threads, several at once."""

    def __init__(self, root: str, clock: Clock, entropy: Entropy) -> None:
        self.root = os.path.abspath(root)
        self._clock = clock
        self._entropy = entropy
        self._own = os.path.join(self.root, RESERVED)
        self._tmp = os.path.join(self._own, "tmp")
        self._pending = os.path.join(self._own, "uploads")
        self._threads = threading.Lock()  # flock does not part threads that share a descriptor
        self._lock_fd = -1

    # Opening and the lock

    def prepare(self) -> None:
        try:
            os.makedirs(self._tmp, exist_ok=True)
            os.makedirs(self._pending, exist_ok=True)
            self._lock_fd = os.open(os.path.join(self._own, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._prove_nanoseconds()
            self._sweep()
            for folder in (self._own, self.root, os.path.dirname(self.root)):
                sync_dir(folder)
        except OSError as error:
            raise Invalid(f"directory store {self.root} cannot be used: {error}") from error

    def close(self) -> None:
        with self._threads:
            if self._lock_fd >= 0:
                os.close(self._lock_fd)
                self._lock_fd = -1

    def _prove_nanoseconds(self) -> None:
        probe = os.path.join(self._tmp, self._nonce())
        write_file(probe, b"")
        wanted = 1_234_567_890_123_456_789
        os.utime(probe, ns=(wanted, wanted))
        kept = os.stat(probe).st_mtime_ns
        os.unlink(probe)
        if kept != wanted:
            raise Invalid(
                f"directory store {self.root}: this file system keeps file times as {kept} where {wanted} was set; conditional"
                " writes need nanoseconds (ext4, xfs, btrfs, zfs, tmpfs, APFS and NFS have them)"
            )

    def _sweep(self) -> None:
        oldest_ns = (self._clock.now_ms() - TMP_MS_MAX) * _MS
        for entry in os.scandir(self._tmp):
            if entry.stat(follow_symlinks=False).st_mtime_ns < oldest_ns:
                os.unlink(entry.path)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """The exclusive lock, or StoreUnavailable in LOCK_SECONDS_MAX: a process that was stopped while it held the lock must not
        take this process's threads with it, one by one."""
        if not self._threads.acquire(timeout=LOCK_SECONDS_MAX):
            raise StoreUnavailable(f"directory store {self.root}: its lock was not free in {LOCK_SECONDS_MAX} s")
        try:
            if self._lock_fd < 0:
                raise StoreUnavailable(f"directory store {self.root} is closed")
            self._flock()
            try:
                yield
            finally:
                fcntl.flock(self._lock_fd, fcntl.LOCK_UN)
        finally:
            self._threads.release()

    def _flock(self) -> None:
        ends, pause = self._clock.monotonic() + LOCK_SECONDS_MAX, 0.0005
        while True:
            try:
                fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if self._clock.monotonic() > ends:
                    raise StoreUnavailable(
                        f"directory store {self.root}: another process has held its lock for {LOCK_SECONDS_MAX} s"
                    ) from None
                time.sleep(pause)  # in a thread; flock itself knows no deadline
                pause = min(0.02, pause * 2)
            else:
                return

    def _next_sequence(self) -> int:
        """A number no other write of this store has had.  Called under the lock.

        The number on disk is not fsynced: after a power loss the clock has passed it, and the random ns part covers a clock that
        was set back at the same time.
        """
        raw = os.pread(self._lock_fd, _SEQUENCE.size, 0)
        last = _SEQUENCE.unpack(raw)[0] if len(raw) == _SEQUENCE.size else 0
        now = self._clock.now_ms() * _MS + int.from_bytes(self._entropy.bytes(4), "big") % _MS
        sequence = max(now, last + 1)
        os.pwrite(self._lock_fd, _SEQUENCE.pack(sequence), 0)
        return sequence

    def _nonce(self) -> str:
        return self._entropy.uuid().hex

    def _path(self, key: str) -> str:
        return os.path.join(self.root, key)

    # Writing

    def write_small(self, key: str, body: Buffer, condition: Condition) -> str:
        staged = os.path.join(self._tmp, self._nonce())
        try:
            write_file(staged, body)
            return self._commit(staged, key, condition)
        finally:
            unlink(staged)

    def begin_upload(self, key: str) -> Upload:
        return Upload(os.path.join(self._pending, self._nonce()), key)

    def finish_upload(self, upload: Upload) -> str:
        return upload.finish(lambda: self._commit(upload.data_path, upload.key, Condition()))

    def _commit(self, staged: str, key: str, condition: Condition) -> str:
        """Check the condition and make `staged` the object, as one step for every process."""
        path = self._path(key)
        with self._locked():
            self._check(key, path, condition)
            sequence = self._next_sequence()
            os.utime(staged, ns=(sequence, sequence))
            self._make_parents(key, path)
            try:
                os.rename(staged, path)
            except (IsADirectoryError, NotADirectoryError) as clash:
                raise Invalid(f"object {key}: a directory store cannot hold an object and objects below it: {clash}") from clash
            try:
                sync_dir(os.path.dirname(path))
                return _etag(os.stat(path, follow_symlinks=False))
            except OSError as error:
                if condition == Condition():
                    raise
                raise OutcomeUnknown(f"object {key} was written, but its directory could not be synced: {error}") from error

    def _check(self, key: str, path: str, condition: Condition) -> None:
        if condition.if_match is None and not condition.if_absent:
            return
        try:
            now: str | None = _etag(os.stat(path, follow_symlinks=False))
        except (FileNotFoundError, NotADirectoryError):
            now = None
        if condition.if_absent and now is not None:
            raise PreconditionFailed(f"object {key} exists already, with etag {now}")
        if condition.if_match is not None and now is None:
            raise NotFound(f"object {key} does not exist; a write over etag {condition.if_match} was asked for")
        if condition.if_match is not None and now != condition.if_match:
            raise PreconditionFailed(f"object {key} has etag {now}, not {condition.if_match}")

    def _make_parents(self, key: str, path: str) -> None:
        parent = os.path.dirname(path)
        if os.path.isdir(parent):
            return
        missing = []
        while not os.path.isdir(parent):
            missing.append(parent)
            parent = os.path.dirname(parent)
        for folder in reversed(missing):
            try:
                os.mkdir(folder)
            except (FileExistsError, NotADirectoryError) as clash:
                raise Invalid(f"object {key}: {folder} is an object; a directory store cannot hold objects below it") from clash
            sync_dir(os.path.dirname(folder))

    # Reading

    def read(self, key: str, start: int, end: int | None, into: memoryview | None = None) -> Blob:
        """Bytes [start, end), read into `into` if it is given; a negative start counts from the end and is cut to the object."""
        fd = self._open(key)
        try:
            stat = os.fstat(fd)
            size = stat.st_size
            if start < 0:
                start = max(0, size + start)
            stop = size if end is None else end
            if stop > size or (start >= size and not (start == 0 and end is None)):
                raise Corrupt(f"object {key} has {size} bytes; the range [{start}, {stop}) is beyond its end")
            data = read_all(fd, start, stop - start) if into is None else read_into(fd, start, into)
            if len(data) != stop - start:
                raise Corrupt(f"object {key}: {len(data)} bytes came for the range [{start}, {stop})")
            return Blob(data, _etag(stat), size)
        finally:
            os.close(fd)

    def _open(self, key: str) -> int:
        try:
            fd = os.open(self._path(key), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as missing:
            raise NotFound(f"object {key} does not exist in {self.root}") from missing
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise NotFound(f"object {key} does not exist in {self.root} (a symbolic link is there)") from error
            raise
        if modes.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
        raise NotFound(f"object {key} does not exist in {self.root} (a directory is there)")

    def info(self, key: str) -> ObjectInfo:
        fd = self._open(key)
        try:
            return _info(key, os.fstat(fd))
        finally:
            os.close(fd)

    def walk(self, prefix: str, after: str, folder: str = "") -> Iterator[ObjectInfo]:
        """Objects under `folder` ("" or "a/b/") in the order of their keys' bytes, pruned to `prefix` and `after`."""
        try:
            entries = list(os.scandir(os.path.join(self.root, folder)))
        except (FileNotFoundError, NotADirectoryError):
            return  # deleted under the listing
        named = sorted((folder + each.name + ("/" if each.is_dir(follow_symlinks=False) else ""), each) for each in entries)
        for name, entry in named:
            if name.endswith("/"):
                inside = prefix.startswith(name) or name.startswith(prefix)
                if inside and name != RESERVED + "/" and (name > after or after.startswith(name)):
                    yield from self.walk(prefix, after, name)
            elif name.startswith(prefix) and name > after and entry.is_file(follow_symlinks=False):
                try:
                    yield _info(name, entry.stat(follow_symlinks=False))
                except FileNotFoundError:
                    continue

    # Removing

    def remove(self, keys: Sequence[str]) -> None:
        with self._locked():
            touched = set()
            for key in keys:
                path = self._path(key)
                if unlink(path):
                    touched.add(os.path.dirname(path))
            for folder in sorted(touched, reverse=True):
                self._prune(folder)

    def _prune(self, folder: str) -> None:
        """Make removals durable and drop folders that became empty."""
        while folder != self.root:
            try:
                os.rmdir(folder)
            except OSError:
                break
            folder = os.path.dirname(folder)
        if os.path.isdir(folder):
            sync_dir(folder)

    def uploads(self) -> Sequence[PendingUpload]:
        found = []
        for entry in os.scandir(self._pending):
            try:
                with open(os.path.join(entry.path, "key"), encoding="utf-8") as file:
                    key = file.read()
                found.append(PendingUpload(key, entry.name, entry.stat().st_mtime_ns // _MS))
            except (FileNotFoundError, NotADirectoryError):
                continue  # ended under the listing
        return sorted(found)

    def abort(self, upload_id: str) -> None:
        if upload_id != os.path.basename(upload_id) or upload_id in ("", ".", ".."):
            raise Invalid(f"upload id {upload_id!r} is not one of this store's")
        shutil.rmtree(os.path.join(self._pending, upload_id), ignore_errors=True)


def _etag(stat: os.stat_result) -> str:
    return f"{stat.st_mtime_ns:x}-{stat.st_size:x}"


def _info(key: str, stat: os.stat_result) -> ObjectInfo:
    return ObjectInfo(key, stat.st_size, _etag(stat), stat.st_mtime_ns // _MS)
