"""hotlog store check: what a store must be able to do, tried for real.

Invariants: exit code 0 only if every promise was kept; everything written is removed again.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import typer

from hotlog.cli.bucket import open_world, run, store_url
from hotlog.cli.options import STORE_DEFAULT, Json, StoreUrl
from hotlog.cli.output import console, show_json, show_rows
from hotlog.kernel.settings import Settings
from tiering.store import DirectoryUrl, parse_store_url
from tiering.store.check import CheckReport, check_store
from tiering.store.keys import RESERVED

# Somebody waits for the answer, and a store that needs a minute for a small object is an answer too.
_IMPATIENT = {"hotlog.store.attempt.timeout.ms": "15000", "hotlog.store.total.timeout.ms": "30000"}

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Check an object store before trusting it.")


@app.callback()
def store() -> None:
    """Check an object store before trusting it."""


@app.command()
def check(url: StoreUrl = STORE_DEFAULT, json: Json = False) -> None:
    """Prove conditional writes (raced), read-after-write, list-after-write, ranges, multipart and delete against a store."""

    where = store_url(url)

    async def work() -> CheckReport:
        async with open_world(where, Settings.resolve(_IMPATIENT)) as (world, _, _, _):
            return await check_store(world.store, entropy=world.entropy)

    with _as_it_was(where):
        report = run(work)
    if json:
        show_json({"ok": report.ok, "reachable": report.reachable, "results": [r._asdict() for r in report.results]})
    else:
        show_rows(["promise", "kept", "seen"], [(r.name, "yes" if r.ok else "NO", r.seen) for r in report.results])
        console.print("fit for Hotlog" if report.ok else "not fit for Hotlog")
    report.require()


@contextmanager
def _as_it_was(url: str) -> Iterator[None]:
    """Opening a directory makes it a store: what was not there before is not there afterwards."""
    place = parse_store_url(url)
    if not isinstance(place, DirectoryUrl):
        yield
        return
    own = Path(place.path, RESERVED)
    is_made = not own.exists()
    missing = [folder for folder in own.parents if not folder.exists()]
    try:
        yield
    finally:
        if is_made:
            shutil.rmtree(own, ignore_errors=True)
        with suppress(OSError):  # somebody else put something there meanwhile
            for folder in missing:
                folder.rmdir()
