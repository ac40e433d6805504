"""Runs commands as a reader would type them: in bash, one after the other, in a folder of their own.

`python -m tests.docs.story NAME FOLDER` tells one of the stories of tests/docs/stories.py.  Where the machine allows it, it does so in a
network namespace of its own, so that the ports that the pages name (9092, 9644, 9000) are free whatever else runs here.

Invariants: a command that fails ends the story with its words; what a story started is ended with it.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tests.docs.pages import ROOT
from tests.tools.patience import PATIENCE_S

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1


class StoryFailed(Exception):
    """A command of a page did not do what the page says."""


class Reader:
    """Somebody at a shell.  `export` lines hold for the commands after them, `serve` and the like run until `interrupt`."""

    def __init__(self, folder: Path, patience_s: float = PATIENCE_S) -> None:
        self.folder, self.patience_s = folder, patience_s
        self.told: list[str] = []  # the commands of pages that were run, word for word
        self._exports: list[str] = []
        self._running: list[tuple[subprocess.Popen[bytes], Path]] = []

    def at(self, name: str) -> None:
        """Go to another, empty folder; exports are forgotten."""
        self.folder = self.folder.parent / name
        self.folder.mkdir()
        self._exports.clear()

    def types(self, command: str) -> str:
        """Run a command of a page; what it prints."""
        self.told.append(command)
        if command.startswith("export "):
            self._exports.append(command)
            return ""
        return self._run(command, os.environ)

    def does(self, command: str) -> str:
        """Run a command that no page shows; it may be a module of our tests, which no installation has."""
        return self._run(command, {**os.environ, "PYTHONPATH": str(ROOT)})

    def _run(self, command: str, env: Mapping[str, str]) -> str:
        script = "\n".join([*self._exports, command])
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script], cwd=self.folder, env=env, timeout=self.patience_s,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise StoryFailed(f"{command!r} ended with {done.returncode}: {done.stdout[-1500:]} {done.stderr[-3000:]}")
        return done.stdout

    def starts(self, command: str, until: str) -> str:
        """Start a command of a page that runs for long; what it said once it has printed `until`."""
        self.told.append(command)
        said = self.folder / f"said-{len(self.told)}"
        with said.open("wb") as out:
            script = "\n".join([*self._exports, command])
            process = subprocess.Popen(
                ["bash", "-c", script],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._running.append((process, said))
        give_up = time.monotonic() + self.patience_s
        while until not in (text := said.read_text(errors="replace")):
            if process.poll() is not None or time.monotonic() > give_up:
                raise StoryFailed(f"{command!r} did not print {until!r}: {said.read_text(errors='replace')[-3000:]}")
            time.sleep(0.05)
        return text

    def interrupt(self) -> None:
        """Ctrl-C to the newest that runs."""
        process, said = self._running.pop()
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the shell and to what it runs
        if process.wait(self.patience_s) not in (0, 130, -signal.SIGINT):
            raise StoryFailed(f"ended with {process.returncode} after Ctrl-C: {said.read_text(errors='replace')[-3000:]}")

    def leave(self) -> None:
        """End everything that still runs."""
        for process, _ in reversed(self._running):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(self.patience_s)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def own_network() -> bool:
    """Move this process into a network namespace of its own with a loopback; False where the machine does not let it."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    flags = _CLONE_NEWNET if os.geteuid() == 0 else _CLONE_NEWNET | _CLONE_NEWUSER
    if libc.unshare(flags) != 0:
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        name = b"lo".ljust(16, b"\0")
        before = struct.unpack_from("H", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, name + bytes(24)), 16)[0]
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, name + struct.pack("H", before | _IFF_UP) + bytes(22))
    return True


def main() -> int:
    from tests.docs.stories import STORIES

    name, folder = sys.argv[1], Path(sys.argv[2])
    if not own_network():
        print("no network namespace here: the ports of the pages must be free", file=sys.stderr)
    reader = Reader(folder)
    try:
        STORIES[name](reader)
    except StoryFailed as failed:
        print(failed, file=sys.stderr)
        return 1
    finally:
        reader.leave()
    print("\n".join(reader.told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
