"""The commands and samples that our pages show, cut out of them.

Invariants: every fenced block of a page is seen; a command is one line of an `sh` block (a comment at its end belongs to it), or an inline
code span that begins with a program's name.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "infra/minio/README.md", *(ROOT / "docs").rglob("*.md")])
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
_INLINE = re.compile(r"`((?:hotlog|make|python|docker|kcat) [^`\n]*)`")


class Block(NamedTuple):
    """One fenced block: the page's path below the root, the language after the fence ("" for none), its text."""

    page: str
    language: str
    text: str


class Command(NamedTuple):
    """One command as a reader would type it."""

    page: str
    text: str


def blocks() -> list[Block]:
    """Every fenced block of every page."""
    return [Block(_name(page), *match.groups()) for page in PAGES for match in _FENCE.finditer(page.read_text("utf-8"))]


def commands() -> list[Command]:
    """Every command of every `sh` block, in the order of the page."""
    return [Command(b.page, line) for b in blocks() if b.language == "sh" for line in b.text.splitlines() if line.strip()]


def inline_commands() -> list[Command]:
    """Every code span that names a program of ours with words after it: a command, or a mention of one."""
    found = []
    for page in PAGES:
        text = _FENCE.sub("", page.read_text("utf-8"))
        found += [Command(_name(page), match[1]) for match in _INLINE.finditer(text)]
    return found


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()
