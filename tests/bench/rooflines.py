"""What this machine could do at best: the loopback, the page cache and the device, measured in the same run.

The shape of the model is that of shared plans: a produce is one receive and one write, a hot fetch one read and
one send; each stage at the speed it has alone, one after the other on one core.

Invariants:
- Nothing of a broker runs here; only sockets, files and 1 MiB buffers.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from tests.bench.settings import MiB

BLOCK_BYTES = 1 * MiB
NET_BYTES = 1024 * MiB
FILE_BYTES = 512 * MiB
FSYNC_BYTES = 128 * MiB
REPEATS = 3


def measure_rooflines(folder: Path) -> dict[str, float]:
    """GB/s of each stage and of the two paths made of them."""
    receive = _median(_receive_rate)
    write = _median(lambda: _write_rate(folder, FILE_BYTES, sync_each=False))
    write_synced = _median(lambda: _write_rate(folder, FSYNC_BYTES, sync_each=True))
    serve = _median(lambda: _serve_rate(folder))
    return {
        "loopback_receive": receive,
        "write_page_cache": write,
        "write_fdatasync_each_mib": write_synced,
        "produce_page_cache": 1 / (1 / receive + 1 / write),
        "produce_fsync": 1 / (1 / receive + 1 / write_synced),
        "fetch_hot": serve,
    }


def _median(measure: Callable[[], float]) -> float:
    return median(measure() for _ in range(REPEATS))


def _receive_rate() -> float:
    block = bytes(BLOCK_BYTES)

    def feed(sender: socket.socket) -> None:
        for _ in range(NET_BYTES // BLOCK_BYTES):
            sender.sendall(block)

    return _timed_receive(feed)


def _serve_rate(folder: Path) -> float:
    path = folder / "roofline-serve"
    path.write_bytes(os.urandom(BLOCK_BYTES) * (FILE_BYTES // BLOCK_BYTES))

    def feed(sender: socket.socket) -> None:
        buffer = bytearray(BLOCK_BYTES)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            for number in range(NET_BYTES // BLOCK_BYTES):
                os.preadv(descriptor, [buffer], (number * BLOCK_BYTES) % FILE_BYTES)
                sender.sendall(buffer)
        finally:
            os.close(descriptor)

    try:
        return _timed_receive(feed)
    finally:
        path.unlink()


def _timed_receive(feed: Callable[[socket.socket], None]) -> float:
    with socket.create_server(("127.0.0.1", 0)) as server:
        sender = socket.create_connection(server.getsockname())
        receiver, _ = server.accept()
        with sender, receiver:
            thread = threading.Thread(target=feed, args=(sender,))
            buffer = bytearray(BLOCK_BYTES)
            began = time.perf_counter()
            thread.start()
            got = 0
            while got < NET_BYTES:
                got += receiver.recv_into(buffer)
            took = time.perf_counter() - began
            thread.join()
    return NET_BYTES / took / 1e9


def _write_rate(folder: Path, size: int, *, sync_each: bool) -> float:
    path, block = folder / "roofline-write", os.urandom(BLOCK_BYTES)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        began = time.perf_counter()
        for _ in range(size // BLOCK_BYTES):
            os.write(descriptor, block)
            if sync_each:
                os.fdatasync(descriptor)
        took = time.perf_counter() - began
    finally:
        os.close(descriptor)
        path.unlink()
    return size / took / 1e9
