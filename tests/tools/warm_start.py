"""A broker that is started many times: `hotlog` is imported once, and each life is a fork of that process.

Most of a start is imports.  A test that kills a broker a hundred times starts it a hundred times, and what it tests begins behind the imports:
from there on a life is the same process, with a pid of its own, and `kill` is kill -9.

    python -m tests.tools.warm_start      one line of JSON (the arguments of `hotlog`) begins a life; `ended` is printed once it is over

Invariants: one life at a time; nothing runs in the process that forks, no thread and no loop; a life's output goes where the process's goes.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import subprocess
import sys
from typing import IO, Any

from tests.tools.hotlog_server import HotlogServer
from tests.tools.patience import PATIENCE_S
from tests.tools.plain import plain_environment

BEGUN, ENDED = "begun ", "ended\n"


class WarmServer(HotlogServer):
    """As HotlogServer, but that its lives begin warm.  `close` ends the process behind them."""

    _home: subprocess.Popen[bytes] | None = None

    def spawn(self, errors: IO[bytes]) -> Any:
        if self._home is None:
            self._home = subprocess.Popen(
                [sys.executable, "-m", "tests.tools.warm_start"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=plain_environment(**self.environment),
            )  # fmt: skip
        return _Life(self._home, self.command()[3:])

    def close(self) -> None:
        self.stop()
        if self._home is not None:
            self._home.communicate(timeout=PATIENCE_S)  # closes its input: it has nothing more to do
            self._home = None


class _Life:
    """What HotlogServer asks of a process."""

    def __init__(self, home: subprocess.Popen[bytes], arguments: list[str]) -> None:
        assert home.stdin is not None and home.stdout is not None, "made with pipes"
        self.stdout = home.stdout
        home.stdin.write(json.dumps(arguments).encode() + b"\n")
        home.stdin.flush()
        self.pid = int(self._line().removeprefix(BEGUN))

    def _line(self) -> str:
        """The next line, byte by byte: what follows it is for others to read."""
        said = b""
        while not said.endswith(b"\n"):
            if not select.select([self.stdout], [], [], PATIENCE_S)[0]:
                raise subprocess.TimeoutExpired("warm start", PATIENCE_S)
            byte = os.read(self.stdout.fileno(), 1)
            assert byte, "the process that forks has ended"
            said += byte
        return said.decode()

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> None:
        """Until it has ended."""
        while self._line() != ENDED:
            pass


def live(arguments: list[str]) -> int:
    """One life, in a process of its own; its exit code."""
    from hotlog.__main__ import main

    sys.argv = ["hotlog", *arguments]
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        logging.shutdown()
        sys.stdout.flush()
    return 0


def serve() -> None:
    import hotlog.cli.serve
    import hotlog.serve  # what `hotlog serve` imports when it begins  # noqa: F401

    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            os.write(1, f"{BEGUN}{os.getpid()}\n".encode())
            os._exit(live(json.loads(line)))
        os.waitpid(pid, 0)
        os.write(1, ENDED.encode())


if __name__ == "__main__":
    serve()
