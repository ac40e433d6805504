"""hotlog worker retention: the cold tier's retention as a process of its own, on any machine that reaches the bucket.

Invariants: fenced by the manifests' conditional commits, so running two by mistake wastes work and harms nothing; needs no broker and touches
no local log.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from compaction.reaper import Reaper
from compaction.retention import Plan
from compaction.trusted_clock import TrustedClock
from compaction.worker import run_retention
from controller.image import ALL_BROKERS
from hotlog.cli.bucket import Bucket, open_bucket, run
from hotlog.cli.compaction import compaction
from hotlog.cli.options import STORE_DEFAULT, Json, StoreUrl
from hotlog.cli.output import say, show_json, size_text
from hotlog.cli.serve import read_properties
from hotlog.kernel.errors import HotlogError
from hotlog.kernel.ids import PartitionId
from hotlog.kernel.limits import MiB
from hotlog.kernel.log_levels import parse_levels
from hotlog.kernel.server_properties import understood
from hotlog.kernel.settings import Settings
from hotlog.kernel.topic_config import TOPIC_KEYS, TopicConfig
from hotlog.observe import logs
from tiering.cache.footers import FooterCache
from tiering.manifest.store import ManifestMeans, ManifestStore
from tiering.manifest.tree import Node
from tiering.objects.keys import PartitionKeys

_PAGES_BYTES_MAX = 64 * MiB
app = typer.Typer(no_args_is_help=True, add_completion=False, help="Run a worker as a process of its own.")


@app.callback()
def worker() -> None:
    """Run a worker as a process of its own."""


@app.command()
def retention(
    once: Annotated[bool, typer.Option("--once", help="One round, then leave.")] = False,
    interval: Annotated[float, typer.Option("--interval", metavar="SECONDS", help="Between rounds.")] = 300.0,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="The brokers' properties file: their defaults are not in the bucket."),
    ] = None,
    json: Json = False,
    store: StoreUrl = STORE_DEFAULT,
) -> None:
    """Apply every topic's total retention to the bucket, and delete what was condemned long enough ago.

    A topic that leaves retention.ms, cleanup.policy or hotlog.retention.clock to the brokers is left alone unless --config says what theirs are.
    """
    given = dict(understood(read_properties(config), has_store=True).settings.given) if config else None
    logs.set_up(parse_levels(os.environ.get("HOTLOG_LOG", "")), as_json=False)
    run(lambda: _rounds(store, once, interval, json, given))


app.command()(compaction)


async def _rounds(url: str, once: bool, interval: float, json: bool, given: dict[str, str] | None) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    while not stop.is_set():
        async with open_bucket(url) as bucket:
            await _round(bucket, json, given)
        if once:
            return
        try:
            await asyncio.wait_for(stop.wait(), interval)
        except TimeoutError:
            continue


_ASKED_FOR = (
    "cleanup.policy",
    "hotlog.retention.clock",
)  # decide what may be deleted; Kafka's defaults where a file does not say


class _Known:
    """The manifests of the tiered topics, for the reaper."""

    def __init__(self, manifests: list[ManifestStore]) -> None:
        self._manifests = manifests

    def manifests(self) -> list[ManifestStore]:
        return self._manifests

    def forget(self, pid: PartitionId) -> None:
        self._manifests = [manifest for manifest in self._manifests if manifest.keys.pid != pid]


async def _round(bucket: Bucket, json: bool, given: dict[str, str] | None) -> None:
    """One round: retention of every tiered topic whose retention is known, then what the reaper may delete."""
    world, settings = bucket.world, Settings.resolve({**(given or {}), **bucket.image.broker_configs.get(ALL_BROKERS, {})})
    grace_ms = settings.number("hotlog.garbage.grace.ms")
    partitions = _partitions(bucket, settings, has_file=given is not None)
    trusted = TrustedClock(world.clock)  # run_retention holds this machine's clock against the store's
    freed: list[dict[str, object]] = []

    def told(pid: PartitionId, plan: Plan) -> None:
        if plan.cold_entries:
            name = next(topic for other, topic, _ in partitions if other == pid)
            freed.append({"topic": name, "partition": pid.partition, "segments": plan.cold_entries, "bytes": plan.cold_bytes})

    pages: FooterCache[str, Node] = FooterCache(_PAGES_BYTES_MAX, lambda page: page.memory_bytes)
    means = ManifestMeans(
        store=world.store, clock=world.clock, entropy=world.entropy, disk=world.disk, grace_ms=grace_ms, pages=pages
    )
    try:
        failed = await run_retention(means, bucket.cluster_id, partitions, trusted=trusted, told=told)
        reaped = await _reap(bucket, means, partitions, trusted)
    finally:
        await pages.close()
    if json:
        show_json({"partitions": len(partitions), "failed": failed, "expired": freed, "reaped_partitions": reaped})
    else:
        for row in freed:
            say(
                f"{row['topic']}-{row['partition']}: {row['segments']} segments, {size_text(float(str(row['bytes'])))} past retention"
            )
        say(f"{len(partitions)} partitions looked at, {len(freed)} with expired segments, {failed} failed")
    if failed:
        raise HotlogError(f"retention of {failed} partition(s) failed")


def _partitions(bucket: Bucket, settings: Settings, *, has_file: bool) -> list[tuple[PartitionId, str, TopicConfig]]:
    """The tiered partitions whose retention is known: a default that only the brokers know must not be guessed.

    Theirs may be to compact, or to let records age by another clock: then what is old by ours is not to be deleted.
    """
    found, given = [], _finest(settings.given)
    for topic in bucket.image.topics.values():
        open_keys = [key for key in ("retention.ms", *(() if has_file else _ASKED_FOR)) if key not in topic.configs]
        unknown = [key for key in open_keys if TOPIC_KEYS[key].synonym not in given]
        if unknown:
            say(
                f"{topic.name}: the brokers' default holds for {', '.join(unknown)}, which the bucket does not tell;"
                " --config does; left alone"
            )
            continue
        config = TopicConfig.resolve(dict(topic.configs), settings.topic_defaults())
        if config.remote_enabled:
            found += [(PartitionId(topic.topic_id, index), topic.name, config) for index in range(len(topic.partitions))]
    return found


def _finest(given: Mapping[str, str]) -> set[str]:
    """Given keys, a coarser form of log.retention.ms counting as it."""
    coarse = {"log.retention.minutes", "log.retention.hours"}
    return {"log.retention.ms" if key in coarse else key for key in given}


async def _reap(
    bucket: Bucket, means: ManifestMeans, partitions: list[tuple[PartitionId, str, TopicConfig]], trusted: TrustedClock
) -> int:
    """Delete what was condemned before now, partition by partition; how many were looked at."""
    manifests = []
    for pid, topic, _ in partitions:
        keys = PartitionKeys(bucket.cluster_id, pid)
        manifest = ManifestStore(means, keys, topic=topic)
        if await manifest.load() is not None:
            manifests.append(manifest)
    reaper = Reaper(_Known(manifests), means.store, metrics=bucket.metrics, trusted=trusted, grace_ms=lambda: means.grace_ms)
    while await reaper.tick():
        pass
    return len(manifests)
