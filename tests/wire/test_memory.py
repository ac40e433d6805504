"""What clients can make a broker's process hold, measured from outside: memory follows the bytes that came, and goes back.

Bounds are generous: what is held back by the allocator, the interpreter and the machine differs; a door without a bound is far above them.
"""

from __future__ import annotations

import re
import resource
import socket
import struct
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from kio.schema.errors import ErrorCode

from hotlog.kernel.limits import FETCH_SESSION_PARTITIONS_MAX, MiB
from hotlog.wire import apis
from hotlog.wire.frame import FRAME_BYTES_FIRST
from hotlog.world.memory import FREED_BYTES_MAX
from tests.tools.hotlog_server import HotlogServer
from tests.tools.patience import PATIENCE_S
from tests.wire.serving import fetch, frame_of, parsed

SPARE_BYTES = 64 * MiB  # what a process may grow by, whatever it does


class Watched:
    """A broker in a process of its own, and how large that is."""

    def __init__(self, server: HotlogServer) -> None:
        self.server = server
        self.before = self.resident_bytes()

    def resident_bytes(self) -> int:
        assert self.server.process is not None
        statm = Path(f"/proc/{self.server.process.pid}/statm").read_text()
        return int(statm.split()[1]) * resource.getpagesize()

    @property
    def grown_bytes(self) -> int:
        return self.resident_bytes() - self.before

    @property
    def held_bytes(self) -> float:
        """Of requests, as the broker counts them."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.server.http_port}/metrics") as answer:
            found = re.search(r"^hotlog_request_bytes (\S+)$", answer.read().decode(), re.MULTILINE)
        assert found is not None
        return float(found[1])

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.server.port), timeout=PATIENCE_S)


def answered(client: socket.socket, request: Any) -> bytes:
    """The answer to one request, without its size."""
    client.sendall(frame_of(request, 1))
    stream = client.makefile("rb")
    (size,) = struct.unpack(">i", stream.read(4))
    return stream.read(size)


def called(client: socket.socket, request: Any) -> Any:
    return parsed(type(request).__api_key__, type(request).__version__, answered(client, request), 1)


def until(is_so: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < give_up
        time.sleep(0.2)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Watched]:
    server = HotlogServer(folder=tmp_path, settings={"group.initial.rebalance.delay.ms": "0"})
    server.start()
    try:
        yield Watched(server)
    finally:
        server.stop()


@pytest.mark.parametrize("came", [12, 4_000])
def test_many_beginnings_of_large_requests_take_little(broker: Watched, came: int) -> None:
    count = 1_000
    with ExitStack() as stack:
        for _ in range(count):
            each = stack.enter_context(broker.connect())
            each.sendall(struct.pack(">i", 90 * MiB) + b"x" * came)
        until(lambda: broker.held_bytes >= count * max(came, FRAME_BYTES_FIRST))
        assert broker.grown_bytes < SPARE_BYTES + 10 * count * came


def test_a_scrape_costs_as_much_with_many_connections_as_without(broker: Watched) -> None:
    """It took 33 s with 1,500 connections, each of which held two mebibytes.  CPU of the broker, so that the machine's load has no say."""
    assert broker.server.process is not None
    process, scrapes = psutil.Process(broker.server.process.pid), 20

    def cost_s() -> float:
        before = process.cpu_times()
        for _ in range(scrapes):
            assert broker.held_bytes >= 0
        after = process.cpu_times()
        return float(after.user + after.system - before.user - before.system) / scrapes

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4_096)), hard))
    cost_s()  # what is made at the first one
    quiet = cost_s()
    with ExitStack() as stack:
        for _ in range(1_500):
            each = stack.enter_context(broker.connect())
            each.sendall(struct.pack(">i", 90 * MiB) + b"x" * 12)
        until(lambda: broker.held_bytes >= 1_500 * FRAME_BYTES_FIRST)
        crowded = cost_s()
    print(f"a scrape: {quiet * 1000:.1f} ms quiet, {crowded * 1000:.1f} ms with 1,500 connections")
    assert crowded < 2 * quiet + 0.02


def joining(group: str, metadata: bytes) -> Any:
    shapes = apis.requests(11, 3)
    return shapes.JoinGroupRequest(
        group_id=group,
        session_timeout=timedelta(minutes=30),
        rebalance_timeout=timedelta(minutes=30),
        member_id="",
        protocol_type="consumer",
        protocols=(shapes.JoinGroupRequestProtocol(name="range", metadata=metadata),),
    )


def test_members_hold_no_more_than_their_groups_may(broker: Watched) -> None:
    """600 members that say 1 MiB each, and are gone: they are held for the session timeout that they chose."""
    codes: Counter[ErrorCode] = Counter()
    for number in range(600):
        with broker.connect() as each:
            code = called(each, joining(f"g{number}", b"x" * MiB)).error_code
            while not codes and code is not ErrorCode.none:  # __consumer_offsets is being made
                time.sleep(0.1)
                code = called(each, joining(f"g{number}", b"x" * MiB)).error_code
            codes[code] += 1
    assert set(codes) == {ErrorCode.none, ErrorCode.coordinator_not_available}
    assert codes[ErrorCode.none] > 200
    assert broker.grown_bytes < 256 * MiB + 2 * SPARE_BYTES


def test_fetch_sessions_hold_no_more_than_their_partitions_may(broker: Watched) -> None:
    """One client opens session after session, each of 5,000 partitions."""
    request = fetch("t", dict.fromkeys(range(5_000), 0), session=(0, 0))
    opened = 0
    with broker.connect() as client:
        for _ in range(150):
            _, code, session_id = struct.unpack_from(">ihi", answered(client, request), 5)
            assert code == 0
            opened += session_id > 0
    assert opened == FETCH_SESSION_PARTITIONS_MAX // 5_000
    assert broker.grown_bytes < FETCH_SESSION_PARTITIONS_MAX * 400 + SPARE_BYTES


def test_memory_of_requests_that_broke_off_goes_back(broker: Watched) -> None:
    """Also where some that lie between the others in memory stay."""
    count, came = 420, MiB
    with ExitStack() as stay:
        with ExitStack() as go:
            for number in range(count):
                each = (go if number % 20 else stay).enter_context(broker.connect())
                each.sendall(struct.pack(">i", came + came // 16) + b"x" * came)
            until(lambda: broker.held_bytes >= count * came)
            assert broker.grown_bytes > count * came / 2, "or this test says nothing"
        until(lambda: broker.held_bytes < count * came / 10)
        until(lambda: broker.grown_bytes < FREED_BYTES_MAX + SPARE_BYTES)
    until(lambda: broker.held_bytes == 0)
