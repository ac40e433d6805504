"""Applications written for Kafka, each as a program that runs until it is ended: Kafka Streams, Kafka Connect, quixstreams.

The word counts take one argument in JSON: {"bootstrap", "source", "sink", "group", "state": folder, "session_ms", "transaction_ms"}.
Sources stand in tests/clients/{java/streams,quix}; what they need is fetched into the developer's cache, beside the clients' things, by
`python -m tests.tools.clients`.

Invariants:
- Applications are used as released; what a test sets is how soon a killed one is missed.
- A program that was started is ended through its own process handle.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.tools.cache import built_folder, digest, require_program, run_patiently, run_quietly
from tests.tools.kafka_jars import KafkaJars, kafka_jars, more_jars
from tests.tools.patience import PATIENCE_S

SOURCES = Path(__file__).parent.parent / "clients"
JVM_OPTIONS = ("-Xmx384m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
QUIXSTREAMS = (
    "quixstreams>=3.28,<4"  # its pins of confluent-kafka and pydantic are narrower than ours: it has an environment of its own
)


@dataclass(kw_only=True)
class Application:
    """A program that runs until it is ended; what it says goes to a file in `folder`."""

    command: Sequence[str]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def output(self) -> Path:
        return self.folder / "output"

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                self.command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd=self.folder,
                env={**os.environ, **self.environment},
            )  # fmt: skip

    def said(self) -> str:
        """The end of its output; and whether it still runs."""
        state = "not started" if self.process is None else f"exit code {self.process.poll()}"
        return f"{state}: {self.output.read_text(errors='replace')[-3_000:]}"

    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(PATIENCE_S)
            self.process = None


def streams_word_count(folder: Path, wanted: Mapping[str, str | int]) -> Application:
    """Kafka Streams' word count with `exactly_once_v2` and a RocksDB store behind a changelog. Raises ToolMissing."""
    jars, streams = kafka_jars(), kafka_streams_jars()
    source = SOURCES / "java" / "streams" / "WordCount.java"
    path = f"{jars.classpath}:{streams}/jars/*"

    def build(built: Path) -> None:
        javac = require_program("javac", why="the word count of Kafka Streams is compiled once")
        run_quietly([javac, "-cp", path, "-d", str(built), str(source)], folder=built)

    classes = built_folder(f"java-streams-{digest(source.read_text(), jars.version)}", build)
    command = (jars.java, *JVM_OPTIONS, "-cp", f"{classes}:{path}", "WordCount", json.dumps(wanted))
    return Application(command=command, folder=folder)


def kafka_streams_jars() -> Path:
    """What Kafka Streams has besides Kafka's own jars. Raises ToolMissing."""
    return more_jars("kafka-streams", ("kafka-streams", "rocksdbjni"))


def connect_worker(folder: Path, properties: Mapping[str, str]) -> Application:
    """A worker of Kafka Connect in distributed mode that knows the file connectors. Raises ToolMissing."""
    jars, files = kafka_jars(), connect_jars()
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "worker.properties"
    config.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
    path = f"{jars.classpath}:{files}/jars/*"
    main = "org.apache.kafka.connect.cli.ConnectDistributed"
    return Application(command=(jars.java, *JVM_OPTIONS, "-cp", path, main, str(config)), folder=folder)


def connect_jars() -> Path:
    """Connect's file connectors; the rest of Connect is among Kafka's own jars. Raises ToolMissing."""
    return more_jars("connect-file", ("connect-file",))


def quix_word_count(folder: Path, wanted: Mapping[str, str | int]) -> Application:
    """quixstreams' word count, exactly once, with a RocksDB store behind a changelog. Raises ToolMissing."""
    script = SOURCES / "quix" / "word_count.py"
    return Application(
        command=(str(quix_python()), str(script), json.dumps(wanted)), folder=folder, environment={"PYTHONPATH": ""}
    )


def quix_python() -> Path:
    """The interpreter of an environment with quixstreams. Raises ToolMissing."""

    def install(folder: Path) -> None:
        run_quietly([sys.executable, "-m", "venv", "--without-pip", str(folder)], folder=folder)
        pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "-q", "--no-input"]
        run_patiently([*pip, QUIXSTREAMS], folder=folder)

    return built_folder(f"quixstreams-{digest(QUIXSTREAMS, sys.version)}", install) / "bin" / "python"


PREPARATIONS: Mapping[str, Callable[[], KafkaJars | Path]] = {
    "kafka-streams": kafka_streams_jars,
    "kafka-connect": connect_jars,
    "quixstreams": quix_python,
}
