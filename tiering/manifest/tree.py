"""The way from a root down to rows: archive pages of both kinds, loaded by whoever walks.

An index page leads to pages, a page has rows.  Who walks gives `load`, which brings a page from a cache or the store.

Invariants: only pages on the way to what is wanted are loaded, each once a walk; pages come ascending.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping

from hotlog.kernel.ids import PartitionId
from hotlog.world.ports import Buffer
from tiering.manifest.archive import Page, parse_page
from tiering.manifest.index import Index, parse_index
from tiering.manifest.root import PageRef

Node = Page | Index
Nodes = Mapping[str, Node]  # by name
Load = Callable[[PageRef], Awaitable[Node]]


class NeedPage(Exception):
    """`ref` must be loaded first."""

    def __init__(self, ref: PageRef) -> None:
        super().__init__(ref.name)
        self.ref = ref


def parse_node(data: Buffer, pid: PartitionId, ref: PageRef) -> Node:
    """An archive page of either kind, checked against its reference.

    Raises:
        Corrupt, UnknownVersion.
    """
    return parse_index(data, pid, ref) if ref.height else parse_page(data, pid, ref)


def page_in(nodes: Nodes, ref: PageRef) -> Page:
    """The page of rows `ref`.  Raises NeedPage if it is not in `nodes`."""
    node = nodes.get(ref.name)
    if node is None:
        raise NeedPage(ref)
    assert isinstance(node, Page), f"{ref.name} is no page of rows"
    return node


def index_in(nodes: Nodes, ref: PageRef) -> Index:
    """The index page `ref`.  Raises NeedPage if it is not in `nodes`."""
    node = nodes.get(ref.name)
    if node is None:
        raise NeedPage(ref)
    assert isinstance(node, Index), f"{ref.name} is no index page"
    return node


async def page_of(load: Load, ref: PageRef) -> Page:
    """The page of rows `ref`."""
    node = await load(ref)
    assert isinstance(node, Page), f"{ref.name} is no page of rows"
    return node


async def index_of(load: Load, ref: PageRef) -> Index:
    """The index page `ref`."""
    node = await load(ref)
    assert isinstance(node, Index), f"{ref.name} is no index page"
    return node


async def leaf_at(load: Load, ref: PageRef, offset: int) -> PageRef:
    """The page of rows that has `offset`, at or below `ref`."""
    while ref.height:
        ref = (await index_of(load, ref)).ref_covering(offset)
    return ref


async def leaf_reaching(load: Load, ref: PageRef, timestamp_ms: int, start_offset: int) -> PageRef | None:
    """The first page of rows at or below `ref` with a timestamp >= `timestamp_ms` that reaches above `start_offset`."""
    if not ref.height:
        return ref
    index = await index_of(load, ref)
    while (child := index.ref_reaching(timestamp_ms, start_offset=start_offset)) is not None:
        leaf = await leaf_reaching(load, child, timestamp_ms, start_offset)
        if leaf is not None:
            return leaf
        start_offset = child.end_offset  # what made its maximum lies below the start: go on beside it
    return None


async def leaves(
    load: Load, refs: Iterable[PageRef], start: int, end: int, *, wanted: Callable[[PageRef], bool] = lambda ref: True
) -> AsyncIterator[PageRef]:
    """Pages of rows at or below `refs` that overlap [start, end); what is not `wanted` is left out with all that is below it."""
    for ref in refs:
        if ref.end_offset <= start or ref.start_offset >= end or not wanted(ref):
            continue
        if not ref.height:
            yield ref
            continue
        below = (await index_of(load, ref)).refs_between(max(start, ref.start_offset), min(end, ref.end_offset))
        async for leaf in leaves(load, below, start, end, wanted=wanted):
            yield leaf
