"""Who is measured: Apache Kafka, this checkout of Hotlog, and any other checkouts beside it.

Invariants:
- A broker of a checkout runs the code of that checkout, whatever the bench's own path or folder is: it is asked where it imports from.
- The interpreter, the libraries and the bench are the same for all checkouts; only the tree differs.
"""

from __future__ import annotations

import functools
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.tools.plain import plain_environment

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("hotlog", "tiering", "compaction", "controller")
KAFKA, HOTLOG = "kafka", "hotlog"
RUN_SECONDS_MAX = 600


class NotACheckout(Exception):
    """There is no Hotlog at a path that was given, or Python would take it from elsewhere."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A broker under test; `tree` is the checkout, None for Kafka."""

    name: str
    tree: Path | None = None

    @property
    def title(self) -> str:
        """How tables call it."""
        return {KAFKA: "Kafka", HOTLOG: "Hotlog"}.get(self.name, self.name)


def contenders_of(words: Sequence[str]) -> tuple[Contender, ...]:
    """From `kafka`, `hotlog`, the path of another checkout, or NAME=PATH. Raises NotACheckout."""
    found = tuple(_contender(word) for word in words)
    names = [each.name for each in found]
    if len(set(names)) < len(names):
        raise NotACheckout(f"two targets have one name, say NAME=PATH: {', '.join(names)}")
    for each in found:
        if each.tree is not None:
            check_tree(each.tree)
    return found


def _contender(word: str) -> Contender:
    if word == KAFKA:
        return Contender(name=KAFKA)
    if word == HOTLOG:
        return Contender(name=HOTLOG, tree=ROOT)
    name, is_named, path = word.rpartition("=")
    tree = Path(path).resolve()
    name = name if is_named else tree.name
    if name in (KAFKA, HOTLOG):
        raise NotACheckout(f"{word}: give it another name, NAME=PATH; {name} is taken")
    return Contender(name=name, tree=tree)


def check_tree(tree: Path) -> None:
    """Raise NotACheckout unless a process of `tree` imports Hotlog from there."""
    if not (tree / "hotlog" / "__main__.py").is_file():
        raise NotACheckout(f"{tree} has no hotlog/__main__.py")
    places = json.loads(run_in(tree, f"import json, {', '.join(PACKAGES)}; print(json.dumps([{_FILES}]))"))
    elsewhere = [place for place in places if not Path(place).resolve().is_relative_to(tree)]
    if elsewhere:
        raise NotACheckout(f"a process of {tree} imports {elsewhere[0]}")


_FILES = ", ".join(f"{package}.__file__" for package in PACKAGES)


def run_in(tree: Path, code: str) -> str:
    """What a Python process of `tree` prints; its folder is an empty one, so that it shadows nothing."""
    with tempfile.TemporaryDirectory(prefix="hotlog-tree-") as folder:
        environment = plain_environment(tree=tree)
        command = [sys.executable, "-c", code]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=RUN_SECONDS_MAX, check=False
        )
    if done.returncode != 0:
        raise NotACheckout(f"{tree}: {done.stderr[-1_000:]}")
    return done.stdout


@functools.cache
def description_of(tree: Path) -> str:
    """Commit, Python, and what of it is compiled: a tree without its compiled parts is slower than the same one with them."""
    command = ["git", "-C", str(tree), "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    compiled = sorted(file.name.partition(".")[0] for package in PACKAGES for file in (tree / package).rglob("*.so"))
    what = "compiled: " + ", ".join(compiled) if compiled else "nothing compiled"
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"commit {said.stdout.strip() or 'unknown'}, {python}, {what}"
