"""`python -m tests.mutants [WORD ...]`: plant each bug of bugs.toml (whose name has one of the words) in a copy, and see its test fail.

Invariants: the checkout is never touched; a bug counts as found only if its test passes without it and fails with it, for a reason other than
that the bug cannot be loaded (pytest's exit code 1, not a collection error); the exit code is 0 only if all were found.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.mutants.bugs import ROOT, Bug, load_bugs

# A test that waits for a thing that cannot come must give up by itself within this.
SECONDS_MAX = 300
FOUND, PASSED = 1, 0  # pytest's exit codes


def copy_of_checkout(folder: Path) -> Path:
    """The tracked and new files, without what is ignored."""
    target = folder / "checkout"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


def run_test(checkout: Path, tests: Sequence[str]) -> tuple[int, str]:
    """pytest's exit code and last words."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:randomly",
        "-p",
        "no:xdist",
        *tests,
    ]
    environment = {**os.environ, "PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=SECONDS_MAX, check=False
        )
    except subprocess.TimeoutExpired:
        return -1, f"still running after {SECONDS_MAX} s"
    return done.returncode, (done.stdout + done.stderr)[-1500:]


def hunt(checkout: Path, bug: Bug) -> str:
    """ "" if the bug was found, else what happened."""
    path = checkout / bug.file
    sound = path.read_text("utf-8")
    path.write_text(bug.planted_in(sound), "utf-8")
    try:
        code, said = run_test(checkout, bug.tests)
    finally:
        path.write_text(sound, "utf-8")
    return "" if code == FOUND else "its test passes with it" if code == PASSED else f"pytest ended with {code}: {said}"


def main(words: Sequence[str]) -> int:
    bugs = [bug for bug in load_bugs() if not words or any(word in bug.name for word in words)]
    missed = []
    with tempfile.TemporaryDirectory(prefix="hotlog-mutants-") as folder:
        checkout = copy_of_checkout(Path(folder))
        code, said = run_test(checkout, sorted({test for bug in bugs for test in bug.tests}))
        if code != PASSED:
            print(f"the tests do not pass without a bug ({code}): {said}", file=sys.stderr)
            return 2
        for bug in bugs:
            began = time.perf_counter()
            problem = hunt(checkout, bug)
            print(f"{'MISSED' if problem else 'found'}  {time.perf_counter() - began:5.1f} s  {bug.name}  {problem}", flush=True)
            missed += [bug.name] if problem else []
    print(f"{len(bugs) - len(missed)} of {len(bugs)} found")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
