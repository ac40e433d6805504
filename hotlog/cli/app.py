"""The hotlog command: argv to verb, errors to one line and an exit code.

Invariants: a verb's module is imported only when that verb runs, so `hotlog --help` is quick; no traceback reaches a person unless
HOTLOG_TRACEBACK is set; the exit code is one of EXITS.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
from difflib import get_close_matches
from typing import Any

import typer

from hotlog import __version__
from hotlog.cli.output import fail
from hotlog.kernel.errors import Corrupt, ForeignStore, HotlogError, Invalid, Retry
from hotlog.kernel.log_levels import parse_levels

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_RETRY, EXIT_CORRUPT, EXIT_INTERRUPTED, EXIT_TERMINATED = 0, 1, 2, 3, 4, 130, 143
EXITS = {
    EXIT_DONE: "done; also when the reader of the output had enough (`head`)",
    EXIT_FAILED: "refused or failed for good: what was named does not exist, the broker said no",
    EXIT_USAGE: "wrong usage: an option, a value or a line of input that can never be right",
    EXIT_RETRY: "try again later: the broker or the store did not answer, the disk is full",
    EXIT_CORRUPT: "data found damaged",
    EXIT_INTERRUPTED: "stopped by Ctrl-C (SIGINT)",
    EXIT_TERMINATED: "stopped by SIGTERM (`hotlog serve` and `hotlog worker` end cleanly with 0)",
}

# verb -> (module below hotlog.cli, help line); each module has a Typer named `app`.
VERBS = {
    "serve": ("serve", "Run a broker."),
    "topic": ("topic", "Create, list, describe, alter, roll and delete topics."),
    "txn": ("txn", "List, describe and abort transactions."),
    "produce": ("produce", "Write lines from standard input or a file to a topic."),
    "consume": ("consume", "Read topics to standard output."),
    "group": ("group", "List, describe and delete consumer groups, reset their offsets."),
    "replay": ("replay", "Read a stretch of history, through the broker or straight from the bucket."),
    "export": ("export", "Write a topic as Parquet, exactly once per offset."),
    "cost": ("cost", "What the logs cost per month, by topic and tier."),
    "store": ("store", "Check an object store before trusting it."),
    "manifest": ("manifest", "Show and verify what the bucket holds of a topic."),
    "worker": ("worker", "Run a worker as a process of its own."),
    "demo": ("demo", "A year of real events: load, tier, replay, export, cost."),
}


class Terminated(KeyboardInterrupt):
    """SIGTERM: the verb ends as with Ctrl-C, what it printed is flushed and committed."""


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

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        word = args[0]
        if word not in VERBS and not word.startswith("-") and not ctx.resilient_parsing:
            near = get_close_matches(word, VERBS, 2)
            ctx.fail(
                f"no such verb {word!r}; " + (f"did you mean {' or '.join(near)}?" if near else f"verbs: {', '.join(VERBS)}")
            )
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=LazyVerbs, no_args_is_help=True, add_completion=True, rich_markup_mode="rich", pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip


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
    parse_levels(os.environ.get("HOTLOG_LOG", ""))  # before anything is done with it


def main(arguments: list[str] | None = None) -> int:
    """Run one command line; return the exit code (EXITS)."""
    try:
        return _run(sys.argv[1:] if arguments is None else arguments)
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else EXIT_FAILED if leave.code else EXIT_DONE
    except KeyboardInterrupt as stop:
        return EXIT_TERMINATED if isinstance(stop, Terminated) else EXIT_INTERRUPTED
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)  # else the interpreter would complain when it flushes
        os.dup2(nowhere, 2)
        return EXIT_DONE
    except Exception as failure:
        if os.environ.get("HOTLOG_TRACEBACK"):
            raise
        code, words = _outcome(failure)
        if words:
            fail(words)
        return code


def _run(arguments: list[str]) -> int:
    command = typer.main.get_command(app)
    if "_HOTLOG_COMPLETE" in os.environ:
        command.main(args=arguments, prog_name="hotlog")  # answers the shell and leaves
    try:
        with command.make_context("hotlog", list(arguments)) as context:
            command.invoke(context)
    except typer.Exit as leave:
        return leave.exit_code
    finally:
        sys.stdout.flush()
    return EXIT_DONE


def _outcome(failure: Exception) -> tuple[int, str]:
    """Exit code and words of every failure: the one place that decides them."""
    if isinstance(failure, ExceptionGroup) and len(failure.exceptions) == 1:
        return _outcome(failure.exceptions[0])
    if isinstance(failure, HotlogError):
        return _code(failure), str(failure) or type(failure).__name__
    if hasattr(failure, "format_message"):  # typer's usage errors; which click they come from depends on its version
        return EXIT_USAGE, _usage(failure)
    if isinstance(failure, typer.Abort):
        return EXIT_FAILED, "nothing was done"
    if isinstance(failure, OSError) and failure.strerror:
        is_full = failure.errno in (errno.ENOSPC, errno.EDQUOT)
        return EXIT_RETRY if is_full else EXIT_FAILED, failure.strerror + (f": {failure.filename}" if failure.filename else "")
    where = traceback.extract_tb(failure.__traceback__)[-1]
    return EXIT_FAILED, (
        f"this is a fault of Hotlog: {type(failure).__name__}: {failure} ({os.path.basename(where.filename)}:{where.lineno});"
        " HOTLOG_TRACEBACK=1 shows all of it"
    )


def _usage(failure: Any) -> str:
    """What was wrong with the words, and where the right ones are; the help itself where nothing was given."""
    context = getattr(failure, "ctx", None)
    if type(failure).__name__ == "NoArgsIsHelpError":
        sys.stdout.write(failure.format_message())
        return ""
    path = context.command_path if context is not None else "hotlog"
    return f"{failure.format_message().rstrip('.')} ({path} -h tells more)"


def _code(failure: HotlogError) -> int:
    if isinstance(failure, Corrupt):
        return EXIT_CORRUPT
    if isinstance(failure, Retry):
        return EXIT_RETRY
    return EXIT_USAGE if isinstance(failure, Invalid) and not isinstance(failure, ForeignStore) else EXIT_FAILED
