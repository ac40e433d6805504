"""Kafka clients that are not Python, each as a command that speaks JSON lines: kafkajs, franz-go, Java, kcat.

One command does one thing and ends:

    produce {"topic", "codec", "idempotent"}    records on stdin  -> {"partition", "offset"} for each, in order
    consume {"topic", "count", "from_ms"}       all partitions, no group, from the start or a time -> records
    group   {"topic", "group", "count"}         join, read exactly that many, commit, leave -> records
    create  {"topic", "partitions", "configs"}  by the admin client
    transact {"topic", "transactional_id", "group", "transactions"}    see CommandClient.transact

A record is {"partition", "offset", "timestamp", "key", "value", "headers": [[name, value], ...]}, bytes as base64.
Sources stand in tests/clients/{node,go,java}; what they need is fetched into the developer's cache, all of it at once by
`python -m tests.tools.clients`.

Invariants:
- Clients are used as released: no patched version, no private call.
- A toolchain that is missing is a ToolMissing; a client that fails is a ClientFailed with its own words.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tests.tools.cache import built_folder, digest, require_program, run_patiently, run_quietly
from tests.tools.kafka_jars import kafka_jars
from tests.tools.patience import PATIENCE_S

SOURCES = Path(__file__).parent.parent / "clients"
KAFKAJS_PACKAGES = ("kafkajs@2.2.4", "kafkajs-snappy@1.1.0")
PATIENT_KCAT = ("-m", str(int(PATIENCE_S)))  # seconds for metadata and for offsets by time
FRANZ_GO_MODULES = ("github.com/twmb/franz-go@v1.22.2", "github.com/twmb/franz-go/pkg/kadm@v1.19.0")


class ClientFailed(Exception):
    """A foreign client ended with an error; the message has the end of what it said."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One record as every client shows it. `timestamp` is ms since the epoch; `offset` is -1 before it is known."""

    partition: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    timestamp: int
    offset: int = -1


class Client(Protocol):
    """What the tests do with a client, in whatever language it is written."""

    @property
    def name(self) -> str: ...

    @property
    def null_headers(self) -> bool:
        """Whether the client can write a header without a value and two headers of one name."""

    def produce(
        self, bootstrap: str, topic: str, records: Sequence[Record], *, codec: str = "none", idempotent: bool = False
    ) -> list[int]:
        """Send the records with acks=all; the offset of each."""

    def consume(self, bootstrap: str, topic: str, *, count: int, from_ms: int | None = None) -> list[Record]:
        """Read `count` records of all partitions, from the start or from a timestamp (ms), without a group."""

    def consume_group(self, bootstrap: str, topic: str, *, group: str, count: int) -> list[Record]:
        """Join the group, read exactly `count` records, commit the position after them, leave."""

    def create_topic(self, bootstrap: str, topic: str, *, partitions: int, configs: Mapping[str, str]) -> None: ...


ALL_CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
CODECS_OF = {"kafkajs": ("none", "gzip", "snappy")}  # the others come from packages that build native code


@dataclass(frozen=True, kw_only=True)
class CommandClient:
    """A client behind a command that follows the conversation in this module's docstring."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    null_headers: bool = True

    def produce(
        self, bootstrap: str, topic: str, records: Sequence[Record], *, codec: str = "none", idempotent: bool = False
    ) -> list[int]:
        lines = "".join(json.dumps(as_line(each)) + "\n" for each in records)
        wanted = {"topic": topic, "codec": codec, "idempotent": idempotent}
        return [line["offset"] for line in self._run(bootstrap, "produce", wanted, lines)]

    def consume(self, bootstrap: str, topic: str, *, count: int, from_ms: int | None = None) -> list[Record]:
        wanted = {"topic": topic, "count": count, "from_ms": from_ms}
        return [of_line(line) for line in self._run(bootstrap, "consume", wanted)]

    def consume_group(self, bootstrap: str, topic: str, *, group: str, count: int) -> list[Record]:
        wanted = {"topic": topic, "count": count, "group": group}
        return [of_line(line) for line in self._run(bootstrap, "group", wanted)]

    def create_topic(self, bootstrap: str, topic: str, *, partitions: int, configs: Mapping[str, str]) -> None:
        self._run(bootstrap, "create", {"topic": topic, "partitions": partitions, "configs": dict(configs)})

    def transact(self, bootstrap: str, topic: str, transactional_id: str, *, group: str, transactions: int) -> None:
        """So many transactions, each a record in partition 0 with its number and that as the group's offset; every second one is aborted.

        franz-go leaves the group alone."""
        wanted = {"topic": topic, "transactional_id": transactional_id, "group": group, "transactions": transactions}
        self._run(bootstrap, "transact", wanted)

    def _run(self, bootstrap: str, verb: str, wanted: dict[str, Any], lines: str = "") -> list[dict[str, Any]]:
        environment = {**os.environ, **self.environment}
        output = run_client([*self.command, bootstrap, verb, json.dumps(wanted)], lines, environment=environment)
        return [json.loads(line) for line in output.splitlines()]


def run_client(command: Sequence[str], lines: str = "", *, environment: Mapping[str, str] | None = None) -> str:
    """Run a client to its end; what it printed. Raises ClientFailed with the end of its stderr."""
    try:
        done = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=PATIENCE_S, env=environment)
    except subprocess.TimeoutExpired as slow:
        said = (slow.stdout or b"").decode(errors="replace")[-500:] + (slow.stderr or b"").decode(errors="replace")[-1_500:]
        raise ClientFailed(f"{command[0]} did not end in {PATIENCE_S} s: {said}") from slow
    if done.returncode != 0:
        raise ClientFailed(f"{command[0]} ended with exit code {done.returncode}: {done.stderr[-2_000:]}")
    return done.stdout


def as_line(record: Record) -> dict[str, Any]:
    """The JSON form of a record."""
    return {
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp,
        "key": _text(record.key),
        "value": _text(record.value),
        "headers": [[name, _text(value)] for name, value in record.headers],
    }


def of_line(line: Mapping[str, Any]) -> Record:
    """The record in a JSON line."""
    return Record(
        partition=line["partition"],
        offset=line["offset"],
        timestamp=line["timestamp"],
        key=_bytes(line["key"]),
        value=_bytes(line["value"]),
        headers=tuple((name, _bytes(value)) for name, value in line["headers"]),
    )


def _text(raw: bytes | None) -> str | None:
    return None if raw is None else base64.b64encode(raw).decode()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)


def kafkajs() -> CommandClient:
    """kafkajs 2.2 on Node. Raises ToolMissing."""
    node = require_program("node", why="kafkajs runs on Node.js")

    def install(folder: Path) -> None:
        npm = require_program("npm", why="npm fetches kafkajs")
        (folder / "package.json").write_text('{"private": true}\n')
        run_patiently([npm, "install", "--no-audit", "--no-fund", *KAFKAJS_PACKAGES], folder=folder)

    modules = built_folder(f"kafkajs-{digest(*KAFKAJS_PACKAGES)}", install)
    return CommandClient(
        name="kafkajs",
        command=(node, str(SOURCES / "node" / "client.mjs")),
        environment={"HOTLOG_NODE_MODULES": str(modules), "KAFKAJS_NO_PARTITIONER_WARNING": "1"},
        null_headers=False,
    )


def franz_go() -> CommandClient:
    """franz-go, compiled once into the cache. Raises ToolMissing."""
    source = SOURCES / "go"
    made_of = digest(*(file.read_text() for file in sorted(source.iterdir())), *FRANZ_GO_MODULES)

    def build(folder: Path) -> None:
        go = require_program("go", why="franz-go is compiled with Go")
        for file in source.iterdir():
            shutil.copy(file, folder)
        run_patiently([go, "get", *FRANZ_GO_MODULES], folder=folder)
        run_patiently([go, "build", "-o", "client", "."], folder=folder)

    return CommandClient(name="franz-go", command=(str(built_folder(f"franz-go-{made_of}", build) / "client"),))


def java_client() -> CommandClient:
    """Apache Kafka's Java client, compiled once into the cache. Raises ToolMissing."""
    return CommandClient(name="java", command=java_command("Client"))


def java_command(main_class: str) -> tuple[str, ...]:
    """What runs one of the programs in tests/clients/java, all of them compiled once into the cache. Raises ToolMissing."""
    jars = kafka_jars()
    sources = sorted((SOURCES / "java").glob("*.java"))

    def build(folder: Path) -> None:
        javac = require_program("javac", why="the Java client's commands are compiled once")
        run_quietly([javac, "-cp", jars.classpath, "-d", str(folder), *map(str, sources)], folder=folder)

    classes = built_folder(f"java-client-{digest(*(source.read_text() for source in sources), jars.version)}", build)
    options = ("-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
    return (jars.java, *options, "-cp", f"{classes}:{jars.classpath}", main_class)


@dataclass(frozen=True, kw_only=True)
class Kcat:
    """kcat (librdkafka 2.0): no timestamps on produce, one key a line, headers the same for all messages of a run."""

    program: str
    name: str = "kcat"

    def produce(self, bootstrap: str, topic: str, partition: int, record: Record, *, codec: str = "none") -> None:
        """Send one record; key and value must be text without newlines."""
        headers = [part for name, value in record.headers for part in ("-H", f"{name}={(value or b'').decode()}")]
        line = b"\x01".join((record.key or b"", record.value or b"")).decode() + "\n"
        command = [self.program, "-P", "-b", bootstrap, *PATIENT_KCAT, "-t", topic, "-p", str(partition), "-K", "\x01", "-Z"]
        run_client([*command, "-z", codec, *headers, "-X", "acks=all"], line)

    def consume(self, bootstrap: str, topic: str, *, start: str = "beginning") -> list[Record]:
        """All records from `start` (kcat's -o: beginning, a number, s@MILLISECONDS) to the end of the topic."""
        command = [self.program, "-C", "-b", bootstrap, *PATIENT_KCAT, "-t", topic, "-o", start, "-e", "-q", "-J"]
        output = run_client(command)
        return [self._record(json.loads(line)) for line in output.splitlines()]

    def consume_group(self, bootstrap: str, topic: str, *, group: str) -> list[Record]:
        """What is left for the group, to the end of all partitions; commits on leaving."""
        settings = ("-X", "auto.offset.reset=earliest", "-X", "enable.partition.eof=true")
        output = run_client([self.program, "-b", bootstrap, *PATIENT_KCAT, "-q", "-e", "-J", *settings, "-G", group, topic])
        return [self._record(json.loads(line)) for line in output.splitlines()]

    @staticmethod
    def _record(line: Mapping[str, Any]) -> Record:
        flat = line.get("headers") or []
        pairs = zip(flat[::2], flat[1::2], strict=True)
        return Record(
            partition=line["partition"],
            offset=line["offset"],
            timestamp=line["ts"],
            key=None if line["key"] is None else line["key"].encode(),
            value=None if line["payload"] is None else line["payload"].encode(),
            headers=tuple((name, None if value is None else value.encode()) for name, value in pairs),
        )


def kcat() -> Kcat:
    """kcat from PATH (Debian package `kcat`). Raises ToolMissing."""
    return Kcat(program=require_program("kcat", why="install the Debian package kcat"))


FOREIGN_CLIENTS: Mapping[str, Callable[[], CommandClient]] = {
    "kafkajs": kafkajs,
    "franz-go": franz_go,
    "java": java_client,
}

if __name__ == "__main__":  # fetch and build all of them, before tests with time limits need them
    from tests.tools.applications import PREPARATIONS

    for make in FOREIGN_CLIENTS.values():
        print(make().name)
    for name, prepare in PREPARATIONS.items():
        prepare()
        print(name)
