"""Whole reads, writes and removals of files, as the system's calls alone do not promise them.

Invariants: a write is whole or raises; a new file is on disk when `write_file` returns, its name once its directory was synced.
"""

from __future__ import annotations

import os

from hotlog.world.ports import Buffer


def unlink(path: str) -> bool:
    try:
        os.unlink(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return False
    return True


def sync_dir(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_file(path: str, body: Buffer) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        write_all(fd, body)
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, body: Buffer) -> None:
    rest = memoryview(body).cast("B") if len(memoryview(body)) else memoryview(b"")
    while len(rest):
        rest = rest[os.write(fd, rest) :]


def read_all(fd: int, start: int, length: int) -> bytes:
    data = os.pread(fd, length, start)
    while len(data) < length and (more := os.pread(fd, length - len(data), start + len(data))):
        data += more  # Linux reads at most 2 GiB at once
    return data


def read_into(fd: int, start: int, into: memoryview) -> memoryview:
    got = 0
    while got < len(into) and (count := os.preadv(fd, [into[got:]], start + got)):
        got += count
    return into[:got].toreadonly()
