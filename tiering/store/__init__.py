"""The object store: two real forms (a directory, S3) behind one port, with deadlines, retries and a meter.

    store = await open_store("s3://bucket/prefix?endpoint=http://127.0.0.1:9000", settings=..., metrics=..., clock=..., ...)
    uploads = store.bind(topic="clicks", purpose="upload")     # a view that is metered under these names

Invariants: what `open_store` returns is ResilientStore over one adapter; no other module opens an adapter.
"""

from __future__ import annotations

from hotlog.kernel.metrics import Metrics
from hotlog.kernel.settings import Settings
from hotlog.world.ports import Clock, Disk, Entropy, ObjectStore
from tiering.cost.meter import Meter
from tiering.store.health import StoreHealth
from tiering.store.metered import Account
from tiering.store.resilient import Policy, ResilientStore, Retrier
from tiering.store.urls import DirectoryUrl, S3Url, parse_store_url

__all__ = ["DirectoryUrl", "S3Url", "StoreHealth", "open_store", "parse_store_url"]


async def open_store(
    url: str,
    *,
    settings: Settings,
    metrics: Metrics,
    clock: Clock,
    entropy: Entropy,
    disk: Disk,
    meter: Meter | None = None,
    health: StoreHealth | None = None,
) -> ObjectStore:
    """The store that `url` names (forms: tiering.store.urls), wrapped in deadlines, retries and the meter.

    A directory is made if it is missing; a bucket must exist.  The network is not touched yet: `check_store` proves a store.

    Raises:
        Invalid: a bad URL or a directory that cannot be used, with the reason.
    """
    where = parse_store_url(url)
    account = Account(clock, metrics, meter or Meter(clock))
    retrier = Retrier(policy_of(settings), clock, entropy, health)
    if isinstance(where, DirectoryUrl):
        from tiering.store.directory import DirectoryStore

        directory = await DirectoryStore.open(where.path, run=disk.run, clock=clock, entropy=entropy, account=account)
        return ResilientStore(directory, retrier)
    from tiering.store.s3 import S3Store  # aioboto3 takes long to import: only those who speak S3 wait for it

    readers = settings.number("remote.log.reader.threads")
    return ResilientStore(await S3Store.open(where, account=account, retrier=retrier, readers=readers), retrier)


def policy_of(settings: Settings) -> Policy:
    """The deadlines of `settings` in seconds."""
    return Policy(
        attempt=settings.number("hotlog.store.attempt.timeout.ms") / 1000,
        total=settings.number("hotlog.store.total.timeout.ms") / 1000,
    )
