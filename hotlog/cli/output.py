"""How every verb speaks: tables and colour on a terminal, plain text and --json off it, one line for an error.

Invariants: results go to stdout, everything else to stderr; `--json` prints exactly one JSON document (or JSON lines where said).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text


class _Console(Console):
    """rich would end the process with 1 when a reader like `head` has enough; hotlog.cli.app knows better."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


console = _Console(soft_wrap=True, highlight=False)
notes = _Console(stderr=True, soft_wrap=True, highlight=False)


def show_json(value: Any) -> None:
    """Print one JSON document."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def put(data: bytes) -> None:
    """Bytes to standard output, all of them, and flushed.  With PYTHONUNBUFFERED the stream is raw and may take a part."""
    view, stream = memoryview(data), sys.stdout.buffer
    while view:
        view = view[stream.write(view) :]
    stream.flush()


def show_rows(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str = "", numeric: Sequence[str] = ()) -> None:
    """A table on a terminal, tab-separated lines with a header elsewhere."""
    if not console.is_terminal:
        sys.stdout.write("\t".join(columns) + "\n")
        for row in rows:
            sys.stdout.write("\t".join(str(cell) for cell in row) + "\n")
        return
    table = Table(title=title or None, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    console.print(table)


def say(text: str) -> None:
    """A remark for the person at the terminal."""
    notes.print(Text(text))


def fail(text: str) -> None:
    """The one line an error is told in."""
    notes.print(Text.assemble(("hotlog:", "bold red"), " ", " ".join(text.split("\n"))))


def size_text(count: float) -> str:
    """Bytes for people: 1.5 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(count) < 1024 or unit == "TiB":
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")


def count_progress() -> Progress:
    """A progress bar over counted things; silent off a terminal."""
    return Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"), TimeElapsedColumn(), console=notes, disable=not notes.is_terminal,
    )  # fmt: skip
