"""Rows of a manifest exchanged for others that cover the same offsets, wherever they are: in the root, in a page, in a page below index pages.

Invariants: what is exchanged is exactly a run of whole rows, or nothing is (PreconditionFailed: somebody changed it); new objects and pages are in
the store before a root refers to them; what nothing refers to any more is garbage in the same step.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from hotlog.kernel.errors import PreconditionFailed
from hotlog.world.ports import Entropy, ObjectStore
from tiering.manifest.archive import build_page, page_ref
from tiering.manifest.edits import replace_range, require_epoch
from tiering.manifest.index import build_index, index_ref
from tiering.manifest.root import Entry, Manifest, PageRef
from tiering.manifest.spill import apply_rewrite, rewrite_refs, rewrite_rows
from tiering.manifest.store import ManifestStore
from tiering.manifest.tree import index_of, leaves


async def live_rows(manifests: ManifestStore, view: Manifest) -> AsyncIterator[tuple[Entry, str]]:
    """Every live row of a root, oldest first, with the name of its page ("": in the root)."""
    start = view.readable_start_offset
    async for ref in leaves(manifests.node, view.archive, start, view.end_offset):
        for row in (await manifests.page(ref)).rows_between(ref.start_offset, ref.end_offset):
            if row.end_offset > start:
                yield row, ref.name
    for row in view.rows_after(start):
        yield row, ""


class Rewriter:
    """Exchanges rows of one partition, as the writer that holds its manifest with `epoch`."""

    def __init__(self, manifests: ManifestStore, store: ObjectStore, entropy: Entropy, *, epoch: int) -> None:
        self._manifests = manifests
        self._store = store
        self._entropy = entropy
        self._epoch = epoch

    async def replace(self, old: tuple[Entry, ...], new: tuple[Entry, ...], *, not_before_ms: int) -> None:
        """Put the rows `new` where the run `old` stands; what `old` had is doomed.

        Raises:
            PreconditionFailed, Fenced: the manifest is another one by now.
            StoreUnavailable, OutcomeUnknown: load it before believing anything.
        """
        start = old[0].base_offset
        view = self._manifests.view
        if view is None:
            raise PreconditionFailed(f"manifest of {self._manifests.keys.pid} is not known")
        if start >= view.inline_start_offset:
            await self._manifests.commit(lambda root, _: self._inline(root, old, new, not_before_ms))
            return
        chain = await self._chain(view, start)
        top = await self._put_pages(chain, old, new)
        await self._manifests.commit(
            lambda root, _: apply_rewrite(
                root, chain[0], top, old, pages=tuple(chain[1:]), epoch=self._epoch, not_before_ms=not_before_ms
            )
        )

    def _inline(self, root: Manifest, old: tuple[Entry, ...], new: tuple[Entry, ...], not_before_ms: int) -> Manifest:
        start, end = old[0].base_offset, old[-1].end_offset
        require_epoch(root, self._epoch)
        if tuple(row for row in root.entries if row.base_offset >= start and row.end_offset <= end) != old:
            raise PreconditionFailed(f"manifest of {root.pid}: the rows of [{start}, {end}) are others by now")
        return replace_range(root, start, end, new, epoch=self._epoch, not_before_ms=not_before_ms)

    async def _chain(self, view: Manifest, offset: int) -> list[PageRef]:
        """The pages on the way down to the rows at `offset`, the root's first."""
        chain = [ref for ref in view.archive if ref.start_offset <= offset < ref.end_offset]
        while chain[-1].height:
            chain.append((await index_of(self._manifests.node, chain[-1])).ref_covering(offset))
        return chain

    async def _put_pages(self, chain: list[PageRef], old: tuple[Entry, ...], new: tuple[Entry, ...]) -> PageRef:
        """New pages for those of `chain`, from the rows up; the reference for the root."""
        pid, leaf = self._manifests.keys.pid, chain[-1]
        rows = (await self._manifests.page(leaf)).rows_between(leaf.start_offset, leaf.end_offset)
        start, end = old[0].base_offset, old[-1].end_offset
        if tuple(row for row in rows if row.base_offset >= start and row.end_offset <= end) != old:
            raise PreconditionFailed(f"manifest of {pid}: the rows of [{start}, {end}) are others by now")
        rows = rewrite_rows(rows, start, end, new)
        body = build_page(pid, rows)
        made = page_ref(rows, body, nonce=self._entropy.uuid().hex, level=leaf.level)
        await self._put(made, body)
        below = leaf
        for ref in reversed(chain[:-1]):
            index = await index_of(self._manifests.node, ref)
            refs = rewrite_refs(index.refs_between(ref.start_offset, ref.end_offset), below, made)
            body = build_index(pid, refs)
            made, below = index_ref(refs, body, nonce=self._entropy.uuid().hex, level=ref.level), ref
            await self._put(made, body)
        return made

    async def _put(self, ref: PageRef, body: bytes) -> None:
        await self._store.put(self._manifests.keys.object(ref.name), body)
