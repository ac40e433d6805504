"""One partition's manifest in the store: load, commit, archive pages, spilling.  What brokers, workers and tools hold.

Invariants: `view` is always a root that was committed (or None before the first load, or when there is none); a root only ever changes by
a conditional write under a fresh nonce; a page is in the store before a root refers to it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import ParamSpec, TypeVar

from hotlog.kernel.errors import Corrupt, NotFound, PreconditionFailed
from hotlog.world.ports import Clock, Disk, Entropy, ObjectStore
from hotlog.world.register import Register
from tiering.cache.footers import FooterCache
from tiering.manifest.archive import Page
from tiering.manifest.codec import ManifestCodec
from tiering.manifest.edits import Edit, stamped
from tiering.manifest.garbage import is_finished
from tiering.manifest.invariants import step_problem, went_back
from tiering.manifest.root import Garbage, Manifest, PageRef
from tiering.manifest.spill import SpillPlan, apply_spill, made, plan_spill
from tiering.manifest.tree import NeedPage, Node, Nodes, page_of, parse_node
from tiering.objects.keys import PartitionKeys

P = ParamSpec("P")
T = TypeVar("T")
PAGES_PER_EDIT_MAX = 16
SPILLS_PER_CALL_MAX = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestMeans:
    """What the manifests of one process have in common.

    Args:
        store: any ObjectStore; calls are metered under purpose "manifest".
        disk: has the threads in which pages are parsed and built; None: where the caller is.
        grace_ms: how long replaced pages are kept for readers.
        pages: parsed pages (key: object key); None loads each time.
    """

    store: ObjectStore
    clock: Clock
    entropy: Entropy
    disk: Disk | None = None
    grace_ms: int = 0
    pages: FooterCache[str, Node] | None = None


class ManifestStore:
    """The manifest of one partition.

    Args:
        topic: what calls are metered under.
        is_hosted: whether a broker has the partition attached (again); its manifest is then never removed.
    """

    def __init__(
        self,
        means: ManifestMeans,
        keys: PartitionKeys,
        *,
        topic: str = "",
        is_hosted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.keys = keys
        self._means = means
        self._store = means.store.bind(topic=topic or None, purpose="manifest")
        self._is_hosted = is_hosted
        self._register: Register[Manifest] = Register(self._store, keys.manifest, ManifestCodec())
        self.view: Manifest | None = None
        self.on_change: Callable[[], None] = _nobody  # called when `view` may have changed

    async def load(self) -> Manifest | None:
        """Read the root from the store; None if there is none.

        Raises:
            Corrupt: it does not parse or breaks an invariant, or is another partition's.
            StoreUnavailable: it could not be read; `view` stays what it was.
        """
        version = await self._register.load()
        if version.value is None:
            self.gone()
            return None
        self._check_owner(version.value)
        return self._see(version.value)

    def assume_absent(self) -> None:
        """The partition was made by this process: the first commit need not look for a root first.  Its write is conditional all the same."""
        self._register.assume_absent()

    def _see(self, manifest: Manifest) -> Manifest:
        """Take `manifest` as the view unless it is an old story: a read that a commit overtook, or a store that lags."""
        is_older = (
            self.view is not None and self.view.created_ms == manifest.created_ms and manifest.generation < self.view.generation
        )
        if not is_older:
            problem = went_back(self.view, manifest) if self.view and self.view.created_ms == manifest.created_ms else None
            if problem is not None:
                raise Corrupt(f"manifest of {self.keys.pid} generation {manifest.generation}: {problem}")
            self.view = manifest
            self.on_change()
        assert self.view is not None
        return self.view

    async def commit(self, edit: Edit, *, create: Callable[[], Manifest] | None = None) -> Manifest:
        """Apply `edit` to the newest root until it is in the store; return the root then.

        Args:
            create: makes the first root where there is none; without it a missing root is NotFound.
        Raises:
            what `edit` raises to give up (Fenced, PreconditionFailed, Invalid); StoreUnavailable or OutcomeUnknown when it is not known to
            be in: then load() before believing `view`.
        """
        pages: dict[str, Node] = {}
        for _ in range(PAGES_PER_EDIT_MAX):
            try:
                return self._see(await self._register.commit(partial(self._step, edit, create, pages)))
            except NeedPage as need:
                pages[need.ref.name] = await self.node(need.ref)
        raise PreconditionFailed(f"manifest of {self.keys.pid}: an edit asked for more than {PAGES_PER_EDIT_MAX} archive pages")

    def _step(self, edit: Edit, create: Callable[[], Manifest] | None, pages: Nodes, old: Manifest | None) -> Manifest | None:
        if old is None and create is None:
            raise NotFound(f"manifest of {self.keys.pid} does not exist")
        before = old or (create() if create else old)
        assert before is not None
        self._check_owner(before)
        after = edit(before, pages)
        if after is old:
            return None
        committed = stamped(after, self._means.entropy.uuid().hex)
        problem = step_problem(before, committed)
        assert problem is None, f"refusing to commit to the manifest of {self.keys.pid}: {problem}"
        return committed

    def _check_owner(self, manifest: Manifest) -> None:
        if manifest.pid != self.keys.pid:
            raise Corrupt(f"object {self.keys.manifest} holds the manifest of {manifest.pid}; refusing to use it")

    async def page(self, ref: PageRef) -> Page:
        """The rows of an archive page.  Raises as `node`."""
        return await page_of(self.node, ref)

    async def node(self, ref: PageRef) -> Node:
        """An archive page of rows or of references.

        Raises:
            Corrupt: missing (a live reference whose object is gone) or damaged.
        """
        key = self.keys.object(ref.name)
        pages = self._means.pages
        return await pages.get(key, partial(self._load, key, ref)) if pages is not None else await self._load(key, ref)

    async def _load(self, key: str, ref: PageRef) -> Node:
        try:
            blob = await self._store.get(key)
        except NotFound:
            raise Corrupt(f"archive page {key} is missing though the manifest refers to it") from None
        return await self._aside(parse_node, blob.data, self.keys.pid, ref)

    async def _aside(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function` in a disk thread; without a disk, here."""
        disk = self._means.disk
        return function(*args, **kwargs) if disk is None else await disk.run(function, *args, **kwargs)

    async def settle(self) -> Manifest | None:
        """Do the spills that are due (at most SPILLS_PER_CALL_MAX); return the root then."""
        for _ in range(SPILLS_PER_CALL_MAX):
            plan = plan_spill(self.view) if self.view is not None else None
            if plan is None:
                break
            try:
                await self._spill(plan)
            except PreconditionFailed:  # someone changed those rows meanwhile; the page is an orphan
                await self.load()
        return self.view

    async def _spill(self, plan: SpillPlan) -> None:
        nodes = {} if plan.keeps_pages else {ref.name: await self.node(ref) for ref in plan.refs}
        pages = made(plan, self.keys.pid, nodes, [self._means.entropy.uuid().hex for _ in range(plan.nonces)])
        last: PageRef | None = None
        while (page := await self._aside(next, pages, None)) is not None:
            last, body = page
            await self._store.put(self.keys.object(last.name), body)
        assert last is not None, "a plan makes pages"
        top = last
        not_before_ms = self._means.clock.now_ms() + self._means.grace_ms
        await self.commit(lambda manifest, _: apply_spill(manifest, plan, top, not_before_ms=not_before_ms))

    async def remove(self) -> None:
        """Remove the manifest object of a deleted topic whose objects are all gone (checked against the newest root).

        Leaves it where it is (`view` tells) while a broker has the partition attached: it is about to begin a new history in it.
        """
        if await self.may_go(()):
            await self._store.delete([self.keys.manifest])
            self.gone()

    async def may_go(self, deleted: Collection[Garbage]) -> bool:
        """Whether the newest root lists nothing but `deleted`, whose objects are gone, so that the manifest object itself may go.

        Raises:
            PreconditionFailed: it lists more, or is not marked deleted.
        """
        manifest = await self.load()
        if manifest is None:
            return False
        if not is_finished(manifest, deleted):
            raise PreconditionFailed(f"manifest of {self.keys.pid} still lists objects or is not marked deleted")
        return not self._is_hosted()

    def gone(self) -> None:
        """The manifest object was removed, or there is none."""
        self.view = None
        self.on_change()


def _nobody() -> None:
    """The default of `on_change`."""
