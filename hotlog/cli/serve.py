"""hotlog serve: flags, environment and a properties file to settings; then the roof takes over.

Invariants: --set wins over the file, a flag over both; what is wrong stops before anything is opened or made; --check makes nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import javaproperties
import typer

from hotlog.cli.options import parse_pairs
from hotlog.cli.output import say, show_rows
from hotlog.kernel.addresses import PLAINTEXT, Endpoint, parse_address, printed_address
from hotlog.kernel.errors import Invalid
from hotlog.kernel.server_properties import Understood, told, understood
from hotlog.kernel.settings import BROKER_KEYS, KEY_FAMILIES

if TYPE_CHECKING:
    from hotlog.serve import ServeOptions

app = typer.Typer(add_completion=False)
DATA_DIR_DEFAULT, LISTEN_DEFAULT, HTTP_DEFAULT = "hotlog-data", "127.0.0.1:9092", "127.0.0.1:9644"


class LogFormat(enum.StrEnum):
    """How log lines are written."""

    TEXT = "text"
    JSON = "json"


@app.command()
def serve(
    context: typer.Context,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            "--data-dir", metavar="DIR", help=f"Where everything local lives. [default: {DATA_DIR_DEFAULT}, or log.dirs]"
        ),
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option("--listen", metavar="HOST:PORT", help=f"Kafka port. [default: {LISTEN_DEFAULT}, or listeners]"),
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
    ] = HTTP_DEFAULT,
    log_format: Annotated[
        LogFormat, typer.Option("--log-format", envvar="HOTLOG_LOG_FORMAT", help="Lines for people, or one JSON object each.")
    ] = LogFormat.TEXT,
    adopt: Annotated[
        bool,
        typer.Option("--adopt", help="Take the place of this node's other data directory; what only that one has is given up."),
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Print what would hold, each value with where it comes from, and leave.")
    ] = False,
) -> None:
    """Run a broker.  Prints `hotlog ready on HOST:PORT` once clients are answered; Ctrl-C stops it cleanly.

    HOTLOG_LOG sets what is logged: a level (debug, info, warning, error), and levels of single loggers: info,hotlog.front=debug.
    """
    from hotlog.serve import ServeOptions, run

    from_file = read_properties(config) if config else {}
    from_flags = parse_pairs(pairs, "--set")
    asked = understood({**from_file, **from_flags}, has_store=store is not None)
    root = (data_dir or Path(asked.data_dir or DATA_DIR_DEFAULT)).resolve()
    _refuse_kafkas(root)
    listeners = asked.listeners
    if listen or not listeners:
        listeners = (Endpoint(PLAINTEXT, *parse_address(listen or LISTEN_DEFAULT, what="--listen")),)
    options = ServeOptions(
        data_dir=str(root),
        listeners=listeners,
        http=None if http == "none" else parse_address(http, what="--http"),
        store_url=store or asked.store_url or (root / "store").as_uri(),
        settings=told(asked.settings, listeners=listeners, data_dir=str(root)),
        is_adopting=adopt,
        without_effect=asked.without_effect,
        logs_json=log_format is LogFormat.JSON,
    )
    if not check:
        run(options)
        return
    origins = {**dict.fromkeys(from_file, str(config)), **dict.fromkeys(from_flags, "--set")}
    _show(options, asked, origins, {name: _flag(context, name) for name in ("data_dir", "listen", "store", "http", "log_format")})


def _flag(context: typer.Context, name: str) -> str:
    """The flag or the variable that gave a parameter; "" for its default."""
    source = context.get_parameter_source(name)
    if source is None or source.name in ("DEFAULT", "DEFAULT_MAP"):
        return ""
    variables = {"store": "HOTLOG_STORE", "log_format": "HOTLOG_LOG_FORMAT"}
    return variables[name] if source.name == "ENVIRONMENT" else "--" + name.replace("_", "-")


def _show(options: ServeOptions, asked: Understood, origins: dict[str, str], flags: dict[str, str]) -> None:
    """Every setting as it would hold at a start, and where it comes from."""
    from tiering.store import parse_store_url

    def said(name: str, what: str, *, is_said: bool) -> str:
        keys = asked.said_by[what]
        places = sorted({origins[key] for key in keys.split(", ") if key in origins})
        return flags[name] or (f"{keys} in {', '.join(places)}" if is_said else "default")

    http = "none" if options.http is None else printed_address(options.http)
    rows = [
        ("data dir", options.data_dir, said("data_dir", "data dir", is_said=asked.data_dir is not None)),
        ("store", str(parse_store_url(options.store_url)), said("store", "store", is_said=asked.store_url is not None)),
        ("listen", ", ".join(_shown(options.listeners)), said("listen", "listen", is_said=bool(asked.listeners))),
        ("http", http, flags["http"] or "default"),
        ("log format", "json" if options.logs_json else "text", flags["log_format"] or "default"),
    ]
    settings = asked.settings
    for name, key in sorted(BROKER_KEYS.items()):
        by = next((one for one in (*KEY_FAMILIES.get(name, (name,)), *_ALIASES.get(name, ())) if one in origins), "")
        origin = "default" if not by else origins[by] if by == name else f"{by} in {origins[by]}"
        text = key.text(settings.values.get(name)) or ""
        rows.append((name, "(hidden)" if key.kind == "password" else text, origin))
    show_rows(("setting", "value", "from"), rows)
    if asked.without_effect:
        say(f"without effect here: {', '.join(asked.without_effect)}")
    say("what clients changed while a broker ran is kept in the metadata and wins over these")


def _shown(listeners: Sequence[Endpoint]) -> Iterator[str]:
    """The address of a single listener; several with their names."""
    for endpoint in listeners:
        yield str(endpoint) if len(listeners) > 1 else printed_address((endpoint.host, endpoint.port))


_ALIASES = {"node.id": ("broker.id",)}


def _refuse_kafkas(root: Path) -> None:
    """Not into a folder of Apache Kafka's: its logs would lie there as if they were served."""
    if (root / "meta.properties").exists():
        raise Invalid(
            f"{root} holds Apache Kafka's logs (meta.properties), which are not served from there: give --data-dir an empty folder"
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
