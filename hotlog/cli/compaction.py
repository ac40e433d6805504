"""hotlog worker compaction: cleans the store's part of compacted topics, from any machine that reaches the bucket, or says what it would.

Invariants: fenced by the manifests' epochs and conditional commits, so running it beside a broker wastes work and harms nothing; with --dry-run
nothing is written.
"""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from compaction.cold_cleaner import ColdCleaner, ColdPass, ColdTarget
from compaction.trusted_clock import AGREEMENT_MS, store_time_ms
from controller.image import ALL_BROKERS
from hotlog.cli.bucket import Bucket, open_bucket, run
from hotlog.cli.cost import money, read_book
from hotlog.cli.options import STORE_DEFAULT, Json, StoreUrl
from hotlog.cli.output import say, show_json, show_rows, size_text
from hotlog.cli.serve import read_properties
from hotlog.kernel.errors import HotlogError, Invalid
from hotlog.kernel.ids import PartitionId
from hotlog.kernel.log_levels import parse_levels
from hotlog.kernel.server_properties import understood
from hotlog.kernel.settings import Settings
from hotlog.kernel.topic_config import TOPIC_KEYS, TopicConfig
from hotlog.observe import logs
from tiering.cost.book import PriceBook
from tiering.manifest.store import ManifestMeans, ManifestStore
from tiering.objects.keys import PartitionKeys

LOG = logging.getLogger(__name__)
_COLUMNS = ("partition", "stored", "dirty", "freed", "rewritten", "cost", "saving", "verdict")


def compaction(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure and price it; write nothing.")] = False,
    all_dirty: Annotated[bool, typer.Option("--all", help="Whatever min.cleanable.dirty.ratio says.")] = False,
    topic: Annotated[str, typer.Option("--topic", "-t", metavar="TOPIC", help="Only this topic.")] = "",
    provider: Annotated[str, typer.Option("--provider", help="Whose prices decide, as for hotlog cost.")] = "",
    book: Annotated[Path | None, typer.Option("--book", metavar="FILE", help="TOML laid over the shipped price book.")] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="The brokers' properties file: their defaults are not in the bucket."),
    ] = None,
    json: Json = False,
    store: StoreUrl = STORE_DEFAULT,
) -> None:
    """Clean compacted topics in the bucket, partition by partition: bytes that are freed, and dollars that it costs and saves.

    A partition is left as it is where the rewrite costs more than it saves within the retention (a year where nothing is deleted by time).
    """
    given = dict(understood(read_properties(config), has_store=True).settings.given) if config else {}
    logs.set_up(parse_levels(os.environ.get("HOTLOG_LOG", "")), as_json=False)
    ratio_min = 0.0 if all_dirty else None
    run(lambda: _compact(store, dry_run, topic, read_book(book), provider, given, ratio_min, json))


async def _compact(
    url: str,
    dry_run: bool,
    topic: str,
    book: PriceBook,
    provider: str,
    given: dict[str, str],
    ratio_min: float | None,
    json: bool,
) -> None:
    async with open_bucket(url) as bucket:
        world, settings = bucket.world, Settings.resolve({**given, **bucket.image.broker_configs.get(ALL_BROKERS, {})})
        if not dry_run:
            await _agree(bucket)
        found: list[dict[str, Any]] = []
        failed = 0
        with tempfile.TemporaryDirectory(prefix="hotlog-compaction-") as folder:
            cleaner = ColdCleaner(
                world.store, disk=world.disk, clock=world.clock, entropy=world.entropy, settings=lambda: settings, folder=f"{folder}/run",
                now_ms=world.clock.now_ms, provider=book.provider(provider),
            )  # fmt: skip
            for pid, name, resolved in _partitions(bucket, settings, topic):
                try:
                    row = await _one(bucket, cleaner, pid, name, resolved, settings, dry_run, ratio_min)
                except HotlogError as failure:
                    LOG.error("compaction of %s-%d failed: %s", name, pid.partition, failure)
                    failed += 1
                    continue
                if row is not None:
                    found.append(row)
    _show(found, dry_run, json)
    if failed:
        raise HotlogError(f"compaction of {failed} partition(s) failed")


async def _agree(bucket: Bucket) -> None:
    """Tombstones go by this machine's clock: it must not be wrong."""
    world = bucket.world
    theirs_ms, ours_ms = await store_time_ms(world.store, bucket.cluster_id, world.entropy), world.clock.now_ms()
    if abs(theirs_ms - ours_ms) > AGREEMENT_MS:
        raise Invalid(
            f"this machine's clock says {ours_ms} ms since 1970, the object store's {theirs_ms}; they may differ by {AGREEMENT_MS} ms:"
            " nothing is cleaned until they agree"
        )


def _partitions(bucket: Bucket, settings: Settings, only: str) -> list[tuple[PartitionId, str, TopicConfig]]:
    """The tiered partitions of topics that say themselves that they are compacted, or whose brokers do by --config."""
    found = []
    for topic in [bucket.topic(only)] if only else bucket.image.topics.values():
        is_told = "cleanup.policy" in topic.configs or TOPIC_KEYS["cleanup.policy"].synonym in settings.given
        resolved = TopicConfig.resolve(dict(topic.configs), settings.topic_defaults())
        if is_told and resolved.is_compacted and resolved.remote_enabled:
            found += [(PartitionId(topic.topic_id, index), topic.name, resolved) for index in range(len(topic.partitions))]
    return found


async def _one(
    bucket: Bucket,
    cleaner: ColdCleaner,
    pid: PartitionId,
    name: str,
    config: TopicConfig,
    settings: Settings,
    dry_run: bool,
    ratio_min: float | None,
) -> dict[str, Any] | None:
    world = bucket.world
    means = ManifestMeans(
        store=world.store, clock=world.clock, entropy=world.entropy, disk=world.disk,
        grace_ms=settings.number("hotlog.garbage.grace.ms"),
    )  # fmt: skip
    manifests = ManifestStore(means, PartitionKeys(bucket.cluster_id, pid), topic=name)
    if await manifests.load() is None:
        return None
    done = await cleaner.clean(ColdTarget(manifests=manifests, topic=name, config=config), is_dry=dry_run, ratio_min=ratio_min)
    return None if done is None else _row(name, pid, done, dry_run)


def _row(name: str, pid: PartitionId, done: ColdPass, dry_run: bool) -> dict[str, Any]:
    price = done.price
    verdict = (
        "nothing to free" if not done.changed else ("would be done" if dry_run else "done") if price.pays else "does not pay"
    )
    return {
        "topic": name, "partition": pid.partition, "stored_bytes": done.dirt.clean_bytes + done.dirt.dirty_bytes,
        "dirty_bytes": done.dirt.dirty_bytes, "read_bytes": price.read_bytes, "written_bytes": price.written_bytes,
        "freed_bytes": price.freed_bytes, "cost_dollars": price.cost, "saving_dollars": price.saving, "verdict": verdict,
    }  # fmt: skip


def _show(found: list[dict[str, Any]], dry_run: bool, json: bool) -> None:
    if json:
        show_json({"dry_run": dry_run, "partitions": found})
        return
    rows = [
        (
            f"{row['topic']}-{row['partition']}", size_text(row["stored_bytes"]), size_text(row["dirty_bytes"]),
            size_text(row["freed_bytes"]), size_text(row["written_bytes"]), money(row["cost_dollars"]), money(row["saving_dollars"]),
            row["verdict"],
        )
        for row in found
    ]  # fmt: skip
    if rows:
        show_rows(_COLUMNS, rows, numeric=_COLUMNS[1:7])
    freed = sum(row["freed_bytes"] for row in found if row["verdict"] in ("done", "would be done"))
    say(f"{len(found)} dirty partitions, {size_text(float(freed))} {'would be' if dry_run else 'were'} freed")
