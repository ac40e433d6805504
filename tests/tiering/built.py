"""A manifest beside the slow truth about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from random import Random
from unittest.mock import patch

from tests.log.support import T0
from tests.tiering.support import PID, row
from tiering.manifest import garbage, index, spill
from tiering.manifest.archive import Page
from tiering.manifest.edits import advance_start, append, blank, record_hole
from tiering.manifest.garbage import folded_before, names_of, unfolded
from tiering.manifest.index import Index
from tiering.manifest.invariants import check, step_problem
from tiering.manifest.root import Entry, Manifest, PageRef
from tiering.manifest.spill import apply_spill, made, plan_spill
from tiering.manifest.tree import Node, page_in, parse_node


@contextmanager
def small() -> Iterator[None]:
    """Four rows a page of level 0, eight a page, two pages an index page at least, eight at most."""
    with (
        patch.multiple(
            spill, ENTRIES_MAX=6, SPILL_ENTRIES=4, PAGE_FANOUT=2, PAGES_PER_LEVEL_MAX=4, PAGE_ROWS_MAX=8, GARBAGE_OBJECTS_MAX=400
        ),
        patch.object(index, "INDEX_REFS_MAX", 8),
        patch.multiple(garbage, RANGES_MAX=3, UNFOLDED_MIN=2),
    ):
        yield


class Built:
    """A manifest together with every row it ever had and the pages it refers to: the slow truth to compare with."""

    def __init__(self, seed: int = 1) -> None:
        self.random = Random(seed)
        self.manifest = blank(PID, "clicks", epoch=0, created_ms=T0)
        self.rows: list[Entry] = []
        self.pages: dict[str, Node] = {}
        self.reads: list[str] = []  # pages that look-ups read

    def append(self, count: int = 1, *, hole: bool = False) -> None:
        for _ in range(count):
            base = max(self.manifest.end_offset, 0)
            end = base + self.random.randint(1, 50)
            if hole and self.manifest.end_offset >= 0:
                self.manifest = record_hole(self.manifest, end, "test", epoch=0, now_ms=T0)
                self.rows.append(self.manifest.entries[-1])
            else:
                self.rows.append(row(base, end, self.random))
                self.manifest = append(self.manifest, self.rows[-1], epoch=0)
            self.settle()

    def settle(self) -> None:
        while (plan := plan_spill(self.manifest)) is not None:
            for ref, body in made(plan, PID, self.pages, [self.nonce() for _ in range(plan.nonces)]):
                self.pages[ref.name] = parse_node(body, PID, ref)
            self.commit(apply_spill(self.manifest, plan, ref, not_before_ms=T0))

    def commit(self, after: Manifest) -> None:
        """Take `after` as the committer does: a step that follows."""
        after = replace(after, generation=self.manifest.generation + 1, nonces=("ff" * 16,))
        check(after)
        problem = step_problem(self.manifest, after)
        assert problem is None, problem
        self.manifest = replace(after, generation=0, nonces=())

    def nonce(self) -> str:
        return f"{self.random.getrandbits(128):032x}"

    def advance(self, offset: int, not_before_ms: int = T0) -> None:
        self.commit(advance_start(self.manifest, offset, self.pages, not_before_ms=not_before_ms))

    def unfold(self, now_ms: int = 2**60) -> None:
        """List all that is due of index pages page by page."""
        while folded_before(self.manifest, now_ms):
            self.commit(unfolded(self.manifest, self.pages, now_ms=now_ms, not_before_ms=T0))

    def live(self) -> list[Entry]:
        """The rows as the manifest has them, pages read."""
        found: list[Entry] = []
        for ref in self.leaves():
            found += page_in(self.pages, ref).rows_between(ref.start_offset, ref.end_offset)
        return found + list(self.manifest.entries)

    def leaves(self) -> list[PageRef]:
        """Pages of rows, ascending."""
        found, refs = [], list(reversed(self.manifest.archive))
        while refs:
            node = self.pages[(ref := refs.pop()).name]
            if isinstance(node, Index):
                refs.extend(reversed(node.refs_between(ref.start_offset, ref.end_offset)))
            else:
                found.append(ref)
        return found

    def doomed(self) -> set[str]:
        """Names of all row objects that the root lists as garbage, under whatever page."""
        names: set[str] = set()
        manifest = self.manifest
        while folded_before(manifest, 2**60):
            manifest = unfolded(manifest, self.pages, now_ms=2**60, not_before_ms=T0)
        items = (*manifest.garbage, *manifest.garbage_ranges)
        for first in range(0, len(items), 100):
            names |= set(names_of(manifest, items[first : first + 100], self.pages))
        return names

    async def load(self, ref: PageRef) -> Node:
        """Follow a reference, and count it."""
        self.reads.append(ref.name)
        return self.pages[ref.name]

    def find(self, found: Entry | PageRef | None, pick: Callable[[Page, PageRef], Entry | None]) -> Entry | None:
        """Follow a look-up into its page, which is a page of rows: at most one."""
        return pick(page_in(self.pages, found), found) if isinstance(found, PageRef) else found
