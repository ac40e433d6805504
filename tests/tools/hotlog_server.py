"""`python -m hotlog serve` from this checkout, or another one, as a process of its own, on loopback.

Invariants:
- Ready means the line `hotlog ready on HOST:PORT` was printed, not that some time went by.
- A server that was started is stopped through its own process handle; `kill` is kill -9.
"""

from __future__ import annotations

import os
import re
import selectors
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tests.tools.patience import PATIENCE_S
from tests.tools.plain import plain_environment
from tests.tools.ports import free_ports

READY_LINE = re.compile(r"hotlog ready on (\S+:\d+)")


class ServerFailed(Exception):
    """Hotlog did not start; the message has its last words."""


@dataclass(kw_only=True)
class HotlogServer:
    """One broker whose data and output live under `folder`; can be started again on the same data and port."""

    folder: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    store: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    command_extra: Sequence[str] = ()
    tree: Path | None = None  # the checkout whose code runs; None: that of this process
    process: subprocess.Popen[bytes] | None = None
    port: int = 0
    http_port: int = 0

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def errors(self) -> Path:
        return self.folder / "hotlog.err"

    def command(self) -> list[str]:
        """The argv; ports are chosen at the first start and kept."""
        if self.port == 0:
            self.port, self.http_port = free_ports(2)
        command = [sys.executable, "-m", "hotlog", "serve", "--data-dir", str(self.data)]
        command += ["--listen", self.bootstrap, "--http", f"127.0.0.1:{self.http_port}"]
        if self.store is not None:
            command += ["--store", self.store]
        command += self.command_extra
        return command + [part for key, value in self.settings.items() for part in ("--set", f"{key}={value}")]

    def start(self) -> None:
        """Start and wait for the ready line. Raises ServerFailed with what it said."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.errors.open("ab") as errors:
            self.process = self.spawn(errors)
        said = self._read_until_ready()
        if READY_LINE.search(said) is None:
            self.stop()
            tail = self.errors.read_text(errors="replace")[-2_000:]
            raise ServerFailed(f"hotlog did not say that it is ready: {said[-1_000:]!r} {tail}")

    def spawn(self, errors: IO[bytes]) -> subprocess.Popen[bytes]:
        """The process, its standard output a pipe, its errors in the file."""
        return subprocess.Popen(
            self.command(),
            stdout=subprocess.PIPE,
            stderr=errors,
            stdin=subprocess.DEVNULL,
            cwd=self.folder if self.tree is not None else None,  # `-m` puts it first on the path
            env=plain_environment(tree=self.tree, **self.environment),
        )

    def _read_until_ready(self) -> str:
        assert self.process is not None and self.process.stdout is not None, "just started"
        said, give_up = "", time.monotonic() + PATIENCE_S
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while time.monotonic() < give_up and READY_LINE.search(said) is None:
                if not selector.select(timeout=0.2):
                    continue
                chunk = os.read(self.process.stdout.fileno(), 65_536)
                if not chunk:
                    break
                said += chunk.decode(errors="replace")
        return said

    def stop(self) -> None:
        """SIGTERM, and SIGKILL when it does not end in time."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
        self.process = None

    def kill(self) -> None:
        """kill -9, as a machine that loses its power would not be kinder."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None
