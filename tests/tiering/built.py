"""A manifest beside the slow truth about it."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tests.log.support import T0
from tests.tiering.support import PID, row
from tiering.manifest.archive import Page, build_page, page_ref, parse_page
from tiering.manifest.edits import advance_start, append, blank, record_hole
from tiering.manifest.garbage import doomed_before, names_of
from tiering.manifest.root import Entry, PageRef
from tiering.manifest.spill import apply_spill, plan_spill, rows_of


class Built:
    """A manifest together with every row it ever had and the pages it refers to: the slow truth to compare with."""

    def __init__(self, seed: int = 1) -> None:
        self.random = Random(seed)
        self.manifest = blank(PID, "clicks", epoch=0, created_ms=T0)
        self.rows: list[Entry] = []
        self.pages: dict[str, Page] = {}

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
            rows = rows_of(plan, self.pages)
            body = build_page(PID, rows)
            ref = page_ref(rows, body, nonce=f"{self.random.getrandbits(128):032x}", level=plan.level)
            self.pages[ref.name] = parse_page(body, PID, ref)
            self.manifest = apply_spill(self.manifest, plan, ref, not_before_ms=T0)

    def advance(self, offset: int, not_before_ms: int = T0) -> None:
        self.manifest = advance_start(self.manifest, offset, self.pages, not_before_ms=not_before_ms)

    def live(self) -> list[Entry]:
        """The rows as the manifest has them, pages read."""
        found: list[Entry] = []
        for ref in self.manifest.archive:
            found += self.pages[ref.name].rows_between(ref.start_offset, ref.end_offset)
        return found + list(self.manifest.entries)

    def doomed(self) -> set[str]:
        items = doomed_before(self.manifest, 2**60)
        return set(names_of(self.manifest, items, self.pages))

    def find(self, found: Entry | PageRef | None, pick: Callable[[Page, PageRef], Entry | None]) -> Entry | None:
        """Follow a look-up into its page: at most one."""
        return pick(self.pages[found.name], found) if isinstance(found, PageRef) else found
