"""hotlog serve: flags, environment and a properties file to settings; then the roof takes over.

Invariants: --set wins over the file, a flag over both; a bad value stops before anything is opened.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import javaproperties
import typer

from hotlog.cli.options import parse_pairs
from hotlog.kernel.errors import Invalid
from hotlog.kernel.settings import Settings

app = typer.Typer(add_completion=False)
LISTEN_DEFAULT = "127.0.0.1:9092"


@app.command()
def serve(
    data_dir: Annotated[Path, typer.Option("--data-dir", metavar="DIR", help="Where everything local lives.")] = Path(
        "hotlog-data"
    ),
    listen: Annotated[
        str | None, typer.Option("--listen", metavar="HOST:PORT", help=f"Kafka port. [default: {LISTEN_DEFAULT}]")
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            "--store",
            envvar="HOTLOG_STORE",
            metavar="URL",
            help="file:///path or s3://bucket/prefix?endpoint=…&region=…  [default: a directory under the data dir]",
        ),
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="A Kafka-style properties file.")] = None,
    pairs: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One setting; may be repeated.")] = None,
    http: Annotated[
        str, typer.Option("--http", metavar="HOST:PORT", help="/ready and /metrics; `none`: no HTTP.")
    ] = "127.0.0.1:9644",
    adopt: Annotated[
        bool,
        typer.Option("--adopt", help="Take the place of this node's other data directory; what only that one has is given up."),
    ] = False,
) -> None:
    """Run a broker.  Prints `hotlog ready on HOST:PORT` once clients are answered; Ctrl-C stops it cleanly."""
    from hotlog.serve import ServeOptions, parse_address, parse_listeners, run

    given = read_properties(config) if config else {}
    given |= parse_pairs(pairs, "--set")
    listeners = parse_listeners(given)
    root = data_dir.resolve()
    run(
        ServeOptions(
            data_dir=str(root),
            listen=parse_address(listen, what="--listen")
            if listen
            else listeners or parse_address(LISTEN_DEFAULT, what="--listen"),
            http=None if http == "none" else parse_address(http, what="--http"),
            store_url=store or (root / "store").as_uri(),
            settings=Settings.resolve(given),
            is_adopting=adopt,
        )
    )


def read_properties(path: Path) -> dict[str, str]:
    """A Java properties file as a mapping.

    Raises:
        Invalid: the file is missing or not a properties file.
    """
    try:
        with path.open(encoding="utf-8") as source:
            return dict(javaproperties.load(source))
    except (OSError, ValueError) as wrong:
        raise Invalid(f"configuration file {str(path)!r} cannot be read: {wrong}") from None
