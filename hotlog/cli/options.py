"""Options that several verbs share, defined once.

Invariants: the environment variables are HOTLOG_BOOTSTRAP and HOTLOG_STORE; a flag wins over them.
"""

from __future__ import annotations

from typing import Annotated

import typer

from hotlog.cli.complete import topic_names
from hotlog.kernel.errors import Invalid

Bootstrap = Annotated[
    str,
    typer.Option(
        "--bootstrap", "-b", envvar="HOTLOG_BOOTSTRAP", metavar="HOST:PORT", help="Broker to talk to; several with commas."
    ),
]
ClientPairs = Annotated[
    list[str] | None,
    typer.Option("--client", "-X", metavar="KEY=VALUE", help="A property of the client (librdkafka's); may be repeated."),
]
StoreUrl = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="HOTLOG_STORE",
        metavar="URL",
        help="file:///path or s3://bucket/prefix?endpoint=http://127.0.0.1:9000&region=us-east-1  [default: file://…/hotlog-data/store]",
    ),
]
STORE_DEFAULT = ""  # the directory below ./hotlog-data, see hotlog.cli.bucket.store_url
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Tail = Annotated[
    bool | None,
    typer.Option(
        "--tail/--no-tail", help="Open segments too, through the broker.  [default: where one answers]", show_default=False
    ),
]
ConfigPairs = Annotated[
    list[str] | None, typer.Option("--config", "-c", metavar="KEY=VALUE", help="Topic configuration; may be repeated.")
]
Topic = Annotated[str, typer.Argument(metavar="TOPIC", autocompletion=topic_names)]
Topics = Annotated[list[str], typer.Argument(metavar="TOPIC...", autocompletion=topic_names)]
From = Annotated[
    str | None,
    typer.Option(
        "--from",
        "-o",
        metavar="PLACE",
        help="First record: offset, -N from the end, time (2013-02-01, @EPOCH-MS, -2h), earliest, latest, now, today, yesterday.",
    ),
]
Until = Annotated[
    str | None, typer.Option("--until", metavar="PLACE", help="First record that is not part of it; as --from. Times are UTC.")
]


def parse_pairs(pairs: list[str] | None, option: str = "--config") -> dict[str, str]:
    """`["a=1", "b=2"]` -> {"a": "1", "b": "2"}.

    Raises:
        Invalid: a pair without "=".
    """
    result = {}
    for pair in pairs or []:
        key, mark, value = pair.partition("=")
        if not mark or not key.strip():
            raise Invalid(f"{option} {pair!r} is not KEY=VALUE")
        result[key.strip()] = value.strip()
    return result


def client_pairs(pairs: list[str] | None) -> dict[str, str]:
    """-X."""
    return parse_pairs(pairs, "-X")
