"""The hotlog command: argv to verb, errors to one line and an exit code.

Exit codes: 0 done; 1 refused or failed for good; 2 wrong usage; 3 try again later (nothing happened); 4 data found damaged.

Invariants: a verb's module is imported only when that verb runs, so `hotlog --help` is quick; no traceback reaches a person unless
HOTLOG_TRACEBACK is set.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import typer

from hotlog import __version__
from hotlog.cli.output import fail
from hotlog.kernel.errors import Corrupt, ForeignStore, HotlogError, Invalid, Retry

EXIT_FAILED, EXIT_USAGE, EXIT_RETRY, EXIT_CORRUPT = 1, 2, 3, 4

# verb -> (module below hotlog.cli, help line); each module has a Typer named `app`.
VERBS = {
    "serve": ("serve", "Run a broker."),
    "topic": ("topic", "Create, list, describe, alter and delete topics."),
    "produce": ("produce", "Write lines from standard input or a file to a topic."),
    "consume": ("consume", "Read a topic to standard output."),
    "replay": ("replay", "Read a stretch of history, through the broker or straight from the bucket."),
    "export": ("export", "Write a topic as Parquet, exactly once per offset."),
    "cost": ("cost", "What the logs cost per month, by topic and tier."),
    "store": ("store", "Check an object store before trusting it."),
    "manifest": ("manifest", "Show and verify what the bucket holds of a topic."),
    "worker": ("worker", "Run a worker as a process of its own."),
    "demo": ("demo", "A year of real events: load, tier, replay, export, cost."),
}


class LazyVerbs(typer.core.TyperGroup):
    """Loads a verb's module on first use; the listing of verbs needs none of them."""

    listing = False

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self.listing = True
        super().format_help(ctx, formatter)

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in VERBS:
            return None
        module, help_line = VERBS[cmd_name]
        if self.listing:
            return typer.core.TyperCommand(cmd_name, help=help_line, short_help=help_line)
        command: Any = typer.main.get_command(importlib.import_module(f"hotlog.cli.{module}").app)
        command.name = cmd_name
        return command


app = typer.Typer(
    cls=LazyVerbs, no_args_is_help=True, add_completion=True, rich_markup_mode="rich", pretty_exceptions_enable=False
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hotlog {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version and leave."),
) -> None:
    """Hotlog: a log service any Kafka client can use as it is; history lives in an object store.

    Start with [bold]hotlog demo[/bold], or [bold]hotlog serve[/bold] and point a Kafka client at 127.0.0.1:9092.
    """


def main(arguments: list[str] | None = None) -> int:
    """Run one command line; return the exit code."""
    try:
        typer.main.get_command(app).main(args=arguments, prog_name="hotlog")
    except SystemExit as leave:  # typer has told the person what was wrong with the words
        return leave.code if isinstance(leave.code, int) else int(bool(leave.code))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (HotlogError, OSError) as failure:
        if os.environ.get("HOTLOG_TRACEBACK"):
            raise
        fail(_words(failure))
        return _code(failure)
    return 0


def _words(failure: BaseException) -> str:
    text = str(failure) or type(failure).__name__
    return text.replace("[", r"\[")


def _code(failure: BaseException) -> int:
    if isinstance(failure, Corrupt):
        return EXIT_CORRUPT
    if isinstance(failure, Retry):
        return EXIT_RETRY
    return EXIT_USAGE if isinstance(failure, Invalid) and not isinstance(failure, ForeignStore) else EXIT_FAILED
