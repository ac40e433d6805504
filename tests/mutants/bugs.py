"""The list of planted bugs, read from bugs.toml and checked.

Invariants: a bug's old text stands exactly once in its file, so that the list cannot go stale unseen; its tests exist.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIST = Path(__file__).with_name("bugs.toml")


@dataclass(frozen=True, kw_only=True)
class Bug:
    """One line made wrong.  `name` says what no longer holds; `tests` are pytest node ids, of which at least one must fail."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def planted_in(self, text: str) -> str:
        """The file's text with the bug in it.

        Raises:
            ValueError: the old text is not there exactly once.
        """
        count = text.count(self.old)
        if count != 1 or self.old == self.new:
            raise ValueError(f"{self.name}: {self.file} has its old text {count} times; once is needed, and another new text")
        return text.replace(self.old, self.new)


def load_bugs() -> list[Bug]:
    """All bugs, in the order of the file."""
    rows = tomllib.loads(LIST.read_text("utf-8"))["bug"]
    return [Bug(**{**row, "tests": tuple(row["tests"])}) for row in rows]
