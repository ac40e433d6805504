"""A broker on a directory for the whole folder, topics of their own for each test, and verbs run in this process where that is enough.

Invariants: a test sees only topics that it made; `run` is what a person would see (exit code, both outputs), without a process for each verb.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import NamedTuple

import pytest
from kio.schema.errors import ErrorCode
from kio.schema.produce.v9.request import PartitionProduceData, ProduceRequest, TopicProduceData
from kio.schema.produce.v9.response import ProduceResponse
from kio.schema.types import TopicName
from kio.static.primitive import i16, i32, i32Timedelta

from hotlog.cli.app import main
from hotlog.cli.raw import ask
from tests.tools.hotlog_server import HotlogServer
from tests.tools.patience import PATIENCE_S
from tests.tools.plain import plain_environment

_numbers = itertools.count(1)


class Said(NamedTuple):
    """What a verb left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Said]


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HotlogServer]:
    server = HotlogServer(folder=tmp_path_factory.mktemp("broker"), settings={"group.initial.rebalance.delay.ms": "0"})
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory without a ./hotlog-data, and no address by accident."""
    monkeypatch.chdir(tmp_path_factory.mktemp("cwd"))
    monkeypatch.delenv("HOTLOG_STORE", raising=False)


@pytest.fixture
def run(broker: HotlogServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """A verb in this process, against the broker."""
    monkeypatch.setenv("HOTLOG_BOOTSTRAP", broker.bootstrap)

    def run_it(*arguments: str) -> Said:
        capfd.readouterr()
        code = main(list(arguments))
        out, err = capfd.readouterr()
        return Said(code, out, err)

    return run_it


@pytest.fixture
def topic(run: Run) -> str:
    """A topic of one partition."""
    return made(run)


def made(run: Run, *options: str) -> str:
    """A new topic, of one partition if not said otherwise, that keeps records of any age; its name."""
    name = f"topic-{next(_numbers)}"
    assert run("topic", "create", name, "-c", "retention.ms=-1", *(options or ("-p", "1"))).code == 0
    return name


def piped(broker: HotlogServer, *arguments: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    """A verb in a process of its own, with pipes."""
    command = [sys.executable, "-m", "hotlog", *arguments]
    return subprocess.run(command, capture_output=True, timeout=PATIENCE_S, check=False, env=environment(broker), **options)  # type: ignore[call-overload, no-any-return]


def started(broker: HotlogServer, *arguments: str) -> subprocess.Popen[bytes]:
    """The same, under way."""
    command = [sys.executable, "-m", "hotlog", *arguments]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(broker)
    )


def environment(broker: HotlogServer) -> dict[str, str]:
    return plain_environment(HOTLOG_BOOTSTRAP=broker.bootstrap)


def fill(broker: HotlogServer, topic: str, lines: list[str], *options: str) -> None:
    """Lines into a topic."""
    done = piped(broker, "produce", topic, *options, input="".join(f"{line}\n" for line in lines).encode())
    assert done.returncode == 0, done.stderr


def store(broker: HotlogServer, topic: str, batch: bytes) -> None:
    """A batch as it is, into partition 0."""
    data = TopicProduceData(name=TopicName(topic), partition_data=(PartitionProduceData(index=i32(0), records=batch),))
    wait = i32Timedelta.parse(timedelta(seconds=PATIENCE_S))
    body = ProduceRequest(transactional_id=None, acks=i16(-1), timeout=wait, topic_data=(data,))
    answer = ask(broker.bootstrap, (0, 9), ProduceRequest, body, ProduceResponse)
    assert answer.responses[0].partition_responses[0].error_code is ErrorCode.none
