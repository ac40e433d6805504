"""Topic names for the shell's completion: from the broker, or from the bucket for the verbs that work without one.

Invariants: completion never prints, fails or waits for long: without an answer there is nothing to offer; nothing is created.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

ANSWER_SECONDS_MAX = 2.0
BOOTSTRAP_DEFAULT = "127.0.0.1:9092"


def topic_names(ctx: Any, arguments: list[str], incomplete: str) -> list[str]:
    """The names that begin so.  Internal topics only for who begins them."""
    names: list[str] = []
    with suppress(Exception):  # a shell that completes has no place for complaints
        if "bootstrap" in ctx.params and not ctx.params.get("direct"):
            names = _at_broker(ctx)
    with suppress(Exception):
        if not names and "store" in ctx.params:
            names = _in_bucket(ctx.params["store"] or os.environ.get("HOTLOG_STORE", ""))
    return sorted(name for name in names if name.startswith(incomplete) and (incomplete.startswith("__") or name[:2] != "__"))


def _at_broker(ctx: Any) -> list[str]:
    from hotlog.cli.client import admin

    bootstrap = ctx.params.get("bootstrap") or os.environ.get("HOTLOG_BOOTSTRAP") or BOOTSTRAP_DEFAULT
    return list(admin(bootstrap).list_topics(timeout=ANSWER_SECONDS_MAX).topics)


def _in_bucket(store: str) -> list[str]:
    from hotlog.cli.bucket import open_bucket, run

    async def names() -> list[str]:
        async with open_bucket(store) as bucket:
            return list(bucket.image.topics)

    return run(names)
