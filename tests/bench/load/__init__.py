"""The load generator: a small program in C (load.c), since any client in Python measures itself.

It is compiled once into the developer's cache by the machine's own `cc`.  It sends ready-made frames over many connections, looks at every
answer (correlation id, error codes, how many partitions it speaks of and how many came with records), and keeps latencies in a histogram.

Invariants:
- One answer that was refused, or was not what the maker of the frames expects, and there is no result.
- The broker's CPU is taken where the time that counts begins and ends, not around the whole run.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kio.schema.errors import ErrorCode

from tests.tools.cache import ToolMissing, built_folder, digest, require_program, run_quietly

SOURCES = sorted((*Path(__file__).parent.glob("*.c"), *Path(__file__).parent.glob("*.h")))
FLAGS = ("-O2", "-std=gnu11", "-Wall", "-Wextra")
RUN_SECONDS_MAX = 120.0


class LoadFailed(Exception):
    """The generator ended by itself, or what the broker answered is not what the bench measures."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is sent: connection i sends `own` of `frames` in turn, from number i * own on; `in_flight` of them are unanswered at a time.

    `answers`: when so many have come, the measurement ends before its time; 0: it does not.  `partitions` and `records`: of how many an answer must speak, and how many must come with records; None: any number.  `rate`: requests a
    second over all connections, latency from when each was due; 0: as fast as answers come.  `follow`: where in a Fetch frame its offset
    is; it moves behind what came, and latency is from the stamp in the first record; 0: frames stay.
    """

    frames: Sequence[bytes]
    connections: int
    in_flight: int = 1
    own: int = 1
    answers: int = 0
    partitions: int | None = None
    records: int | None = None
    rate: int = 0
    follow: int = 0

    def words(self) -> list[str]:
        """Options of the program."""
        chosen = ("connections", "in_flight", "own", "answers", "partitions", "records", "rate", "follow")
        values = {name.replace("_", "-"): getattr(self, name) for name in chosen}
        return [part for name, value in values.items() if value is not None for part in (f"--{name}", str(value))]


def generator() -> Path:
    """The compiled program. Raises ToolMissing where it cannot be had."""
    if not sys.platform.startswith("linux"):
        raise ToolMissing(f"the load generator waits by Linux's epoll; this is {sys.platform}")
    compiler = require_program("cc", why="the load generator is in C and is compiled when it is first needed")

    def build(folder: Path) -> None:
        sources = [str(each) for each in SOURCES if each.suffix == ".c"]
        run_quietly([compiler, *FLAGS, "-o", str(folder / "load"), *sources], folder=folder)

    return built_folder(f"load-{digest(*(each.read_text() for each in SOURCES), *FLAGS)}", build) / "load"


def run_load(
    program: Path, port: int, load: Load, *, warm_s: float, seconds: float, cpu: Callable[[], float]
) -> dict[str, float]:
    """Run to the end; figures of the time that counts, with the broker's CPU of that time. Raises LoadFailed."""
    with running(program, port, load, warm_s=warm_s, seconds=seconds) as run:
        run.until("measuring")
        before = cpu()
        run.until("measured")
        used = cpu() - before
        return run.result() | {"broker_cpu_s": used}


@contextmanager
def running(program: Path, port: int, load: Load, *, warm_s: float, seconds: float) -> Iterator[Running]:
    """The generator at work inside the block."""
    with tempfile.TemporaryDirectory(prefix="hotlog-load-") as folder:
        frames = Path(folder) / "frames"
        frames.write_bytes(b"".join(load.frames))
        times = ["--port", str(port), "--warm-ms", str(int(warm_s * 1000)), "--measure-ms", str(int(seconds * 1000))]
        command = [str(program), *times, *load.words(), str(frames)]
        errors = Path(folder) / "errors"
        with errors.open("wb") as file:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True)
        try:
            yield Running(process, errors)
        finally:
            process.kill()
            process.communicate()


class Running:
    """One run of the generator."""

    def __init__(self, process: subprocess.Popen[str], errors: Path) -> None:
        assert process.stdout is not None, "made with a pipe"
        self._process, self._output, self._errors = process, process.stdout, errors

    def until(self, mark: str) -> None:
        """Wait for the line `mark`. Raises LoadFailed with what it said instead."""
        if (line := self._output.readline().strip()) != mark:
            self._process.wait(RUN_SECONDS_MAX)
            raise LoadFailed(self._last_words() or f"{mark!r} was to come, not {line!r}")

    def result(self) -> dict[str, float]:
        """Its figures, once it has ended. Raises LoadFailed where an answer was refused, or another than was expected."""
        output = self._output.read()  # to its end: it gives up by itself
        if self._process.wait(RUN_SECONDS_MAX) != 0:
            raise LoadFailed(self._last_words())
        found: dict[str, float] = json.loads(output.splitlines()[-1])
        if found["errors"]:
            name = ErrorCode(int(found["first_error"])).name
            raise LoadFailed(f"{found['errors']:.0f} answers with an error, the first {name}")
        if found["wrong"]:
            raise LoadFailed(
                f"{found['wrong']:.0f} answers spoke of other partitions, or came with other records, than were asked for"
            )
        if not found["answers"]:
            raise LoadFailed("not one answer came in the time that counts")
        return found

    def _last_words(self) -> str:
        return self._errors.read_text(errors="replace").strip()
