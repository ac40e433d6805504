"""Options that several verbs share, defined once.

Invariants: the environment variables are HOTLOG_BOOTSTRAP and HOTLOG_STORE; a flag wins over them.
"""

from __future__ import annotations

from typing import Annotated

import typer

Bootstrap = Annotated[
    str, typer.Option("--bootstrap", "-b", envvar="HOTLOG_BOOTSTRAP", metavar="HOST:PORT", help="Broker to talk to.")
]
BOOTSTRAP_DEFAULT = "127.0.0.1:9092"
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
ConfigPairs = Annotated[
    list[str] | None, typer.Option("--config", "-c", metavar="KEY=VALUE", help="Topic configuration; may be repeated.")
]


def parse_pairs(pairs: list[str] | None, option: str = "--config") -> dict[str, str]:
    """`["a=1", "b=2"]` -> {"a": "1", "b": "2"}.

    Raises:
        Invalid: a pair without "=".
    """
    from hotlog.kernel.errors import Invalid

    result = {}
    for pair in pairs or []:
        key, mark, value = pair.partition("=")
        if not mark or not key.strip():
            raise Invalid(f"{option} {pair!r} is not KEY=VALUE")
        result[key.strip()] = value.strip()
    return result
