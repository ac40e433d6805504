"""The developer's cache folder: what tests fetch or build once and use again (jars, node modules, Go binaries).

Invariants:
- A built folder becomes visible in one rename, so a half-done one is never used.
- Two processes never build the same folder at once (a file lock beside it).
- A tool that cannot be had is a `ToolMissing` with the reason; nobody is told "it works" instead.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path

BUILD_SECONDS_MAX = 2400
FETCHES_MAX = 3
FETCH_PAUSE_S = 10.0


class ToolMissing(Exception):
    """A program this test or bench needs is neither here nor can be fetched; the message says which and why."""


def cache_path(*parts: str) -> Path:
    """Path under the user's cache of Hotlog developers; its parent exists."""
    path = user_cache_path("hotlog-dev").joinpath(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def require_program(name: str, *, why: str) -> str:
    """Absolute path of a program on PATH. Raises ToolMissing when there is none."""
    found = shutil.which(name)
    if found is None:
        raise ToolMissing(f"{name} is not on PATH: {why}")
    return found


def run_quietly(command: Sequence[str], *, folder: Path) -> None:
    """Run a build step; on failure raise ToolMissing with the end of what it printed."""
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=BUILD_SECONDS_MAX, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired as slow:
        raise ToolMissing(f"{command[0]} did not finish in {BUILD_SECONDS_MAX} s: {command}") from slow
    if done.returncode != 0:
        tail = (done.stdout + done.stderr)[-2_000:]
        raise ToolMissing(f"{command[0]} failed with exit code {done.returncode}: {tail}")


def run_patiently(command: Sequence[str], *, folder: Path) -> None:
    """Run a build step that fetches things: registries fail now and then, so it is tried FETCHES_MAX times."""
    for number in range(FETCHES_MAX):
        try:
            run_quietly(command, folder=folder)
            return
        except ToolMissing:
            if number + 1 == FETCHES_MAX:
                raise
            time.sleep(FETCH_PAUSE_S)


def digest(*parts: str) -> str:
    """A short name for what a folder is built from, so that a change builds it anew."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def built_folder(name: str, build: Callable[[Path], None]) -> Path:
    """The cached folder `name`, made by `build(empty_folder)` the first time. Raises what `build` raises."""
    target = cache_path(name)
    with FileLock(target.with_name(target.name + ".lock")):
        if not target.exists():
            scratch = Path(tempfile.mkdtemp(prefix=target.name + ".", dir=target.parent))
            try:
                build(scratch)
                scratch.rename(target)
            except BaseException:
                shutil.rmtree(scratch, ignore_errors=True)
                raise
    return target
