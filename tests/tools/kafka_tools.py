"""Kafka's command line tools as released, many of them in one JVM (tests/clients/java/Tools.java).

Invariants: a tool is run through its own `main`; an exit code that is not 0 is told, never raised.
"""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.tools.kafka_jars import KafkaJars
from tests.tools.patience import PATIENCE_S

SOURCE = Path(__file__).parent.parent / "clients" / "java" / "Tools.java"
SMALL_JVM = ("-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto")


class ToolRun(NamedTuple):
    """What became of one command, and what it printed."""

    exit_code: int
    text: str


def run_tools(jars: KafkaJars, *commands: Sequence[str]) -> list[ToolRun]:
    """Run commands, each a main class and its arguments, one after the other."""
    assert not any(set("\t\n") & set(word) for command in commands for word in command), "words are separated by tabs"
    done = subprocess.run(
        [jars.java, *SMALL_JVM, "-cp", jars.classpath, str(SOURCE)],
        input="".join("\t".join(command) + "\n" for command in commands),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    runs = [line.partition(" ") for line in done.stdout.splitlines()]
    assert len(runs) == len(commands), f"{done.stdout[-1_000:]}{done.stderr[-2_000:]}"
    return [ToolRun(int(code), base64.b64decode(said).decode()) for code, _, said in runs]
