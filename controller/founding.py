"""The cluster marker: which cluster a bucket (and prefix) belongs to, and how a new one is founded there.

Invariants: a cluster is founded at most once in a bucket (put if absent), and never where this data directory knows that one was; reading comes
first, so that a store that is another cluster's is left as it is.
"""

from __future__ import annotations

import base64
import contextlib

from controller import codec
from controller.keys import CLUSTER_KEY
from hotlog.kernel.errors import ForeignStore, NotFound, OutcomeUnknown, PreconditionFailed, StoreUnavailable
from hotlog.world.ports import Clock, Entropy, ObjectStore

FOUND_TRIES_MAX = 3


def new_cluster_id(entropy: Entropy) -> str:
    """22 characters of URL-safe base64, as Kafka's Uuid.toString; never one that begins with "-" (option parsers)."""
    while True:
        text = base64.urlsafe_b64encode(entropy.uuid().bytes).decode().rstrip("=")
        if not text.startswith("-"):
            return text


async def read_cluster(store: ObjectStore) -> str:
    """The id of the cluster that this bucket (and prefix) belongs to.

    Raises:
        NotFound: none has been founded here.  Corrupt.
    """
    body = codec.unseal(codec.MARKER, bytes((await store.get(CLUSTER_KEY)).data))
    return str(body.get("cluster_id"))


async def find_cluster(store: ObjectStore, expected: str | None, was_here: bool) -> str | None:
    """The store's cluster id; None if no cluster was founded in it.

    Raises:
        ForeignStore: the store is not that of the `expected` cluster; or it has no marker though this data directory was there
            before (`was_here`).
    """
    try:
        found = await read_cluster(store)
    except NotFound:
        found = None
    if found is not None and expected is not None and found != expected:
        raise ForeignStore(
            f"the object store holds cluster {found}, but this data directory belongs to cluster {expected}:"
            " nothing will be written there; check --store and --data-dir"
        )
    if found is None and was_here:
        raise ForeignStore(
            f"the object store has no cluster marker, but this data directory has metadata of cluster {expected}:"
            " the bucket was wiped, or bucket or prefix is wrong"
        )
    return found


async def found_cluster(store: ObjectStore, expected: str | None, clock: Clock, entropy: Entropy) -> str:
    """Found a cluster in a store that has none; its id.

    Raises:
        ForeignStore: somebody else was first.
    """
    for _ in range(FOUND_TRIES_MAX):
        body = {"cluster_id": expected or new_cluster_id(entropy), "created_ms": clock.now_ms(), "nonce": entropy.uuid().hex}
        with contextlib.suppress(PreconditionFailed, OutcomeUnknown):  # whoever was first named it: read it
            await store.put(CLUSTER_KEY, codec.seal(codec.MARKER, body), if_absent=True)
        found = await find_cluster(store, expected, False)
        if found is not None:
            return found
    raise StoreUnavailable(f"{CLUSTER_KEY} could not be written in {FOUND_TRIES_MAX} tries")
