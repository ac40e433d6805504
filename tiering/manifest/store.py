"""One partition's manifest in the store: load, commit, archive pages, spilling.  What brokers, workers and tools hold.

Invariants: `view` is always a root that was committed (or None before the first load, or when there is none); a root only ever changes by
a conditional write under a fresh nonce; a page is in the store before a root refers to it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial

from hotlog.kernel.errors import Corrupt, NotFound, PreconditionFailed
from hotlog.world.ports import Clock, Disk, Entropy, ObjectStore
from hotlog.world.register import Register
from tiering.cache.footers import FooterCache
from tiering.manifest.archive import Page, build_page, page_ref, parse_page
from tiering.manifest.codec import ManifestCodec
from tiering.manifest.edits import Edit, NeedPage, Pages, stamped
from tiering.manifest.garbage import is_finished
from tiering.manifest.invariants import step_problem, went_back
from tiering.manifest.root import Garbage, Manifest, PageRef
from tiering.manifest.spill import SpillPlan, apply_spill, plan_spill, rows_of
from tiering.objects.keys import PartitionKeys

PAGES_PER_EDIT_MAX = 16
SPILLS_PER_CALL_MAX = 8


class ManifestStore:
    """The manifest of one partition.

    Args:
        store: any ObjectStore; calls are metered under `topic`, purpose "manifest".
        grace_ms: how long replaced pages are kept for readers.
        cache: parsed pages, shared between partitions (key: object key); None loads each time.
        is_hosted: whether a broker has the partition attached (again); its manifest is then never removed.
    """

    def __init__(
        self,
        store: ObjectStore,
        keys: PartitionKeys,
        *,
        clock: Clock,
        entropy: Entropy,
        disk: Disk | None = None,
        topic: str = "",
        grace_ms: int = 0,
        cache: FooterCache[str, Page] | None = None,
        is_hosted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.keys = keys
        self._store = store.bind(topic=topic or None, purpose="manifest")
        self._clock = clock
        self._entropy = entropy
        self._disk = disk
        self._grace_ms = grace_ms
        self._cache = cache
        self._is_hosted = is_hosted
        self._register: Register[Manifest] = Register(self._store, keys.manifest, ManifestCodec())
        self.view: Manifest | None = None

    async def load(self) -> Manifest | None:
        """Read the root from the store; None if there is none.

        Raises:
            Corrupt: it does not parse or breaks an invariant, or is another partition's.
            StoreUnavailable: it could not be read; `view` stays what it was.
        """
        version = await self._register.load()
        if version.value is None:
            self.view = None
            return None
        self._check_owner(version.value)
        return self._see(version.value)

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
        pages: dict[str, Page] = {}
        for _ in range(PAGES_PER_EDIT_MAX):
            try:
                return self._see(await self._register.commit(partial(self._step, edit, create, pages)))
            except NeedPage as need:
                pages[need.ref.name] = await self.page(need.ref)
        raise PreconditionFailed(f"manifest of {self.keys.pid}: an edit asked for more than {PAGES_PER_EDIT_MAX} archive pages")

    def _step(self, edit: Edit, create: Callable[[], Manifest] | None, pages: Pages, old: Manifest | None) -> Manifest | None:
        if old is None and create is None:
            raise NotFound(f"manifest of {self.keys.pid} does not exist")
        before = old or (create() if create else old)
        assert before is not None
        self._check_owner(before)
        after = edit(before, pages)
        if after is old:
            return None
        committed = stamped(after, self._entropy.uuid().hex)
        problem = step_problem(before, committed)
        assert problem is None, f"refusing to commit to the manifest of {self.keys.pid}: {problem}"
        return committed

    def _check_owner(self, manifest: Manifest) -> None:
        if manifest.pid != self.keys.pid:
            raise Corrupt(f"object {self.keys.manifest} holds the manifest of {manifest.pid}; refusing to use it")

    async def page(self, ref: PageRef) -> Page:
        """The rows of an archive page.

        Raises:
            Corrupt: missing (a live reference whose object is gone) or damaged.
        """
        key = self.keys.object(ref.name)
        return await self._cache.get(key, partial(self._load_page, key, ref)) if self._cache else await self._load_page(key, ref)

    async def _load_page(self, key: str, ref: PageRef) -> Page:

        try:
            blob = await self._store.get(key)
        except NotFound:
            raise Corrupt(f"archive page {key} is missing though the manifest refers to it") from None
        if self._disk is None:
            return parse_page(blob.data, self.keys.pid, ref)
        return await self._disk.run(parse_page, blob.data, self.keys.pid, ref)

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
        pages = {ref.name: await self.page(ref) for ref in plan.refs}
        nonce = self._entropy.uuid().hex
        if self._disk is None:
            body, ref = self._page_of(plan, pages, nonce)
        else:
            body, ref = await self._disk.run(self._page_of, plan, pages, nonce)
        await self._store.put(self.keys.object(ref.name), body)
        not_before_ms = self._clock.now_ms() + self._grace_ms
        await self.commit(lambda manifest, _: apply_spill(manifest, plan, ref, not_before_ms=not_before_ms))

    def _page_of(self, plan: SpillPlan, pages: Pages, nonce: str) -> tuple[bytes, PageRef]:
        rows = rows_of(plan, pages)
        body = build_page(self.keys.pid, rows)
        return body, page_ref(rows, body, nonce=nonce, level=plan.level)

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
        """The manifest object was removed."""
        self.view = None
