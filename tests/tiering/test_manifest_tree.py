"""Archive pages as a tree: whatever grows, is cut, expires and is deleted, every row is found on one way down and no object is lost or left."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hotlog.kernel.errors import Corrupt, PreconditionFailed, UnknownVersion
from tests.log.support import T0
from tests.tiering.built import Built, small
from tests.tiering.support import PID, row
from tiering.manifest import garbage, index, spill
from tiering.manifest.archive import build_page, page_ref, parse_page
from tiering.manifest.edits import clear_garbage, mark_deleted, mark_garbage
from tiering.manifest.garbage import doomed_before, folded_before, is_due, is_finished, names_of, unfolded
from tiering.manifest.index import Index, build_index, index_ref, parse_index
from tiering.manifest.invariants import step_problem
from tiering.manifest.root import (
    INDEX_REFS_MAX,
    PAGE_ROWS_MAX,
    Entry,
    GarbageObject,
    Manifest,
    PageRef,
    find_offset,
    find_timestamp,
    join_totals,
    sealed,
    totals_of,
)
from tiering.manifest.tree import leaf_at, leaf_reaching, leaves, page_in

T = TypeVar("T")
LATE = 2**60


def at_once(walk: Coroutine[Any, Any, T]) -> T:
    """What a walk returns that never has to wait."""
    try:
        walk.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    raise AssertionError("it waits")


class Bucket(Built):
    """A manifest beside the names of all objects that were put and not deleted."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.objects: set[str] = set()

    def grow(self, count: int, *, hole: bool = False) -> None:
        pages = set(self.pages)
        self.append(count, hole=hole)
        self.objects |= {one.name for one in self.rows[-count:] if not one.hole} | (set(self.pages) - pages)

    def bulk(self, count: int) -> None:
        """Rows as many commits would have brought them."""
        for first in range(0, count, 128):
            base, rows = max(self.manifest.end_offset, 0), []
            for _ in range(min(128, count - first)):
                end = base + self.random.randint(1, 50)
                rows.append(row(base, end, self.random))
                base = end
            self.rows += rows
            self.manifest = sealed(replace(self.manifest, entries=(*self.manifest.entries, *rows), end_offset=base))
            self.settle()

    def reap(self) -> None:
        """One step of the reaper."""
        if folded_before(self.manifest, LATE) and not doomed_before(self.manifest, LATE):
            self.commit(unfolded(self.manifest, self.pages, now_ms=LATE, not_before_ms=T0))
        items = doomed_before(self.manifest, LATE)
        assert sum(1 for item in items if hasattr(item, "page")) <= garbage.RANGES_MAX
        self.objects -= set(names_of(self.manifest, items, self.pages))
        self.commit_if_new(clear_garbage(self.manifest, items, not_before_ms=T0))

    def commit_if_new(self, after: Manifest) -> None:
        if after != self.manifest:
            self.commit(after)

    def needed(self) -> set[str]:
        """Names of every object that a reader of the root can be led to."""
        names, refs = {one.name for one in self.live() if not one.hole}, list(self.manifest.archive)
        while refs:
            names.add((ref := refs.pop()).name)
            node = self.pages[ref.name]
            if isinstance(node, Index):
                refs.extend(node.refs_between(ref.start_offset, ref.end_offset))
        return names

    def row_at(self, offset: int) -> Entry | None:
        found = find_offset(self.manifest, offset)
        if not isinstance(found, PageRef):
            return found
        leaf = at_once(leaf_at(self.load, found, offset))
        self.reads.append(leaf.name)
        return page_in(self.pages, leaf).row_covering(offset)

    def row_reaching(self, timestamp_ms: int) -> Entry | None:
        start, refs = self.manifest.log_start_offset, self.manifest.archive
        found = find_timestamp(self.manifest, timestamp_ms)
        while isinstance(found, PageRef):
            leaf = at_once(leaf_reaching(self.load, found, timestamp_ms, start))
            if leaf is not None:
                self.reads.append(leaf.name)
                one = page_in(self.pages, leaf).row_reaching(timestamp_ms, start_offset=max(start, leaf.start_offset))
                if one is not None:
                    return one
            start = (leaf or found).end_offset
            found = next(
                (ref for ref in refs if ref.end_offset > start and ref.totals.max_timestamp >= timestamp_ms), None
            ) or next((one for one in self.manifest.entries if not one.hole and one.max_timestamp >= timestamp_ms), None)
        return found


steps = st.lists(
    st.one_of(
        st.tuples(st.just("grow"), st.integers(1, 40)),
        st.tuples(st.just("hole"), st.just(1)),
        st.tuples(st.just("advance"), st.integers(0, 100)),
        st.tuples(st.just("reap"), st.integers(1, 4)),
    ),
    max_size=15,
)


@settings(max_examples=15, deadline=None)
@given(steps=steps, seed=st.integers(0, 10**6))
@example(
    [("grow", 450), ("advance", 3), ("reap", 1), ("advance", 3), ("grow", 60), ("advance", 30), ("reap", 4), ("advance", 30)], 1
)
@example([("grow", 300), *[("advance", 1)] * 8, ("grow", 60), ("advance", 99), ("reap", 1), ("grow", 60)], 2)
def test_no_object_is_lost_and_none_is_left(steps: list[tuple[str, int]], seed: int) -> None:
    with small():
        built = Bucket(seed)
        for number, (kind, much) in enumerate(steps):
            m = built.manifest
            if kind in ("grow", "hole"):
                built.grow(much, hole=kind == "hole")
            elif kind == "advance" and built.rows:
                built.advance(
                    m.readable_start_offset + (m.end_offset - m.readable_start_offset) * much // 100, T0 + number * 2**23
                )
            elif kind == "reap":
                for _ in range(much):
                    built.reap()
            live = built.live()
            assert live == built.rows[len(built.rows) - len(live) :]
            assert built.needed() <= built.objects
            gone = {one.name for one in built.rows[: len(built.rows) - len(live)] if not one.hole}
            if kind == "advance":
                assert gone & built.objects <= built.doomed(), "what is still there is listed"
        _every_row_is_found(built)
        built.commit(mark_deleted(built.manifest, now_ms=T0, not_before_ms=T0))
        for _ in range(10_000):
            if not is_due(built.manifest, LATE):
                break
            built.reap()
        assert is_finished(built.manifest)
        assert built.objects == set()


def _every_row_is_found(built: Bucket) -> None:
    m = built.manifest
    live = [one for one in built.rows if one.end_offset > m.log_start_offset and one.end_offset > m.start_offset]
    for one in Random(len(live)).sample(live, min(40, len(live))):
        for offset in {max(one.base_offset, m.start_offset), one.end_offset - 1}:
            assert built.row_at(offset) == one
        for wanted in (one.max_timestamp, one.max_timestamp + 1):
            expected = next((other for other in live if not other.hole and other.max_timestamp >= wanted), None)
            assert built.row_reaching(wanted) == expected
    found: list[PageRef] = []

    async def all_leaves() -> None:
        found.extend([ref async for ref in leaves(built.load, m.archive, m.start_offset, m.end_offset)])

    at_once(all_leaves())
    assert found == built.leaves()


def test_a_million_rows_need_two_pages_for_any_of_them() -> None:
    """By the arithmetic of the levels: pages that an index of one height can hold, times as many as the root holds."""
    assert PAGE_ROWS_MAX * INDEX_REFS_MAX * spill.PAGES_PER_LEVEL_MAX > 8_000_000


def test_pages_read_follow_the_height_and_rows_of_a_page_are_bounded() -> None:
    with small():
        built = Bucket(5)
        built.grow(420)
        heights = {ref.height for ref in built.manifest.archive}
        assert heights == {0, 1, 2}
        for one in Random(1).sample(built.rows, 50):
            found = find_offset(built.manifest, one.base_offset)
            built.reads.clear()
            assert built.row_at(one.base_offset) == one
            assert len(built.reads) == (found.height + 1 if isinstance(found, PageRef) else 0)
        assert max(ref.totals.rows for ref in built.leaves()) <= 8
        assert max(len(node) for node in built.pages.values() if isinstance(node, Index)) <= 8


def test_of_real_size_rows_stay_where_they_are_and_the_start_moves_down_to_them() -> None:
    built = Bucket(6)
    built.bulk(18_000)
    first = built.manifest.archive[0]
    assert (first.level, first.height, first.totals.rows) == (2, 1, 8 * PAGE_ROWS_MAX)
    node: Any = built.pages[first.name]
    assert [ref.totals.rows for ref in node] == [PAGE_ROWS_MAX] * 8
    assert not {ref.name for ref in node} & {item.name for item in built.manifest.garbage}, "they are below it, not replaced"
    assert first.totals == totals_of(built.rows[: 8 * PAGE_ROWS_MAX])
    pages, asked = built.pages, []  # the start moves down the tree and reads only its way

    class Noted(dict[str, Any]):
        def get(self, name: str, default: Any = None) -> Any:
            asked.append(name)
            return super().get(name, default)

    built.pages = Noted(pages)
    built.advance(built.rows[5000].base_offset)
    m = built.manifest
    assert len(set(asked)) == 2, "the index page and the page that the start lies in"
    assert [ref.height for ref in m.archive[:2]] == [0, 1]
    assert m.archive[0].totals == totals_of(built.rows[5000 : 5 * PAGE_ROWS_MAX])
    assert m.archive[1].totals == totals_of(built.rows[5 * PAGE_ROWS_MAX : 8 * PAGE_ROWS_MAX])
    assert [(part.page.name, part.end_offset) for part in m.garbage_ranges] == [
        (first.name, built.rows[4 * PAGE_ROWS_MAX].base_offset), (m.archive[0].name, m.archive[0].start_offset),
    ]  # fmt: skip
    assert built.live() == built.rows[5000:]
    assert built.doomed() >= {one.name for one in built.rows[:5000]}
    built.advance(built.rows[8 * PAGE_ROWS_MAX - 1].base_offset)
    assert built.manifest.archive[0].start_offset == built.rows[8 * PAGE_ROWS_MAX - 1].base_offset
    assert first.name not in {ref.name for ref in built.manifest.archive}


def test_a_page_with_doomed_rows_stays_in_the_root_until_they_are_gone() -> None:
    with small():
        built = Bucket(7)
        built.grow(33)
        head = built.manifest.archive[0]
        assert (head.level, head.height) == (1, 0)
        built.advance(built.rows[3].base_offset)
        built.grow(40)
        assert built.manifest.archive[0].name == head.name
        assert [ref.level for ref in built.manifest.archive[:2]] == [1, 2]
        plan = spill.SpillPlan((), built.manifest.archive[:1], 2)
        new = index_ref(plan.refs, b"", nonce="aa" * 16, level=2)
        with pytest.raises(PreconditionFailed, match="doomed rows"):
            spill.apply_spill(built.manifest, plan, new, not_before_ms=T0)


def test_a_range_that_another_reaper_cleared_condemns_no_page() -> None:
    """A slow reaper clears what a fast one has cleared long ago; the page is below an index page meanwhile, where the root alone does not show it."""
    with small():
        built = Bucket(7)
        built.grow(33)
        head = built.manifest.archive[0]
        built.advance(built.rows[3].base_offset)
        (part,) = built.manifest.garbage_ranges
        assert part.page.name == head.name
        built.commit(clear_garbage(built.manifest, [part], not_before_ms=T0))
        built.grow(60)
        assert head.name not in {ref.name for ref in built.manifest.archive} and head.name in built.needed()
        other = GarbageObject("archive/other", 1, T0)
        slow = clear_garbage(mark_garbage(built.manifest, [other]), [part, other], not_before_ms=T0)
        assert head.name not in {item.name for item in slow.garbage}


def test_the_largest_timestamp_of_a_page_that_is_passed_hides_nothing_beside_it() -> None:
    """Index pages of two heights; the first page's newest record lies before the offset that is asked from."""
    with small():
        built = Bucket(3)
        built.grow(700)
        top = next(ref for ref in built.manifest.archive if ref.height == 2)
        missed = 0
        for start in range(top.start_offset, top.end_offset, 7):
            for timestamp in {one.max_timestamp for one in built.rows[::25]}:
                leaf = at_once(leaf_reaching(built.load, top, timestamp, start))
                beside = [
                    one for one in leaves_of(built, top) if one.end_offset > start and one.totals.max_timestamp >= timestamp
                ]
                assert (leaf.name if leaf else None) == (beside[0].name if beside else None)
                missed += leaf is not None
        assert missed


def leaves_of(built: Bucket, ref: PageRef) -> list[PageRef]:
    """All pages of rows below `ref`, in order."""
    node = built.pages[ref.name]
    if not isinstance(node, Index):
        return [ref]
    return [leaf for below in node.refs_between(ref.start_offset, ref.end_offset) for leaf in leaves_of(built, below)]


def test_a_large_page_of_an_earlier_release_becomes_pages_below_an_index() -> None:
    built = Built(8)
    rows = []
    for number in range(3000):
        rows.append(row(number * 10, number * 10 + 10, built.random))
    body = build_page(PID, rows)
    old = page_ref(rows, body, nonce="cd" * 16, level=2)
    built.pages[old.name] = parse_page(body, PID, old)
    built.rows = rows
    built.manifest = sealed(
        Manifest(
            topic_id=PID.topic_id, partition=0, topic="t", epoch=0, created_ms=T0, end_offset=30_000, archive=(old,)
        )
    )  # fmt: skip
    built.advance(205)
    built.settle()
    (new,) = built.manifest.archive
    assert (new.level, new.height, new.start_offset, new.end_offset) == (2, 1, 200, 30_000)
    assert [ref.totals.rows for ref in built.leaves()] == [1024, 1024, 932]
    assert built.live() == rows[20:]
    assert new.totals == totals_of(rows[20:])
    assert built.manifest.garbage == (), "doomed rows of the old page still need it"
    built.manifest = clear_garbage(built.manifest, built.manifest.garbage_ranges, not_before_ms=T0)
    assert {item.name for item in built.manifest.garbage} == {old.name}


def test_a_step_that_forgets_what_an_index_page_stands_for_is_named() -> None:
    with small():
        built = Bucket(9)
        built.grow(200)
        built.advance(built.manifest.archive[0].end_offset)
        before = built.manifest
        (part,) = before.garbage_ranges
        assert part.page.height
        listed = unfolded(before, built.pages, now_ms=LATE, not_before_ms=T0)
        for bad in (
            replace(before, garbage_ranges=()),
            replace(listed, garbage_ranges=listed.garbage_ranges[:-1]),
        ):
            after = replace(bad, generation=1, nonces=("ab" * 16,))
            assert "neither used nor garbage" in (step_problem(before, after) or "")
        with pytest.raises(AssertionError, match="unfolded first"):
            clear_garbage(before, [part], not_before_ms=T0)


# -- the bytes


def refs_of(count: int, seed: int) -> list[PageRef]:
    random, base, found = Random(seed), 500, []
    for number in range(count):
        rows = []
        for _ in range(random.randint(1, 5)):
            end = base + random.randint(1, 99)
            rows.append(row(base, end, random))
            base = end
        file_start = rows[0].base_offset - (7 if number == 0 else 0)
        found.append(
            PageRef(
                file_start, rows[0].base_offset, base, f"{random.getrandbits(128):032x}", 1, random.getrandbits(40),
                random.getrandbits(32), totals_of(rows),
            )
        )  # fmt: skip
    return found


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 60), seed=st.integers(0, 1000))
def test_index_pages_go_round(count: int, seed: int) -> None:
    refs = refs_of(count, seed)
    body = build_index(PID, refs)
    page = parse_index(body, PID, index_ref(refs, body, nonce="aa" * 16, level=2))
    assert list(page) == refs
    assert len(body) == 64 + 128 * count
    random = Random(seed)
    for _ in range(20):
        start, end = sorted(random.randrange(page.start_offset, page.end_offset + 1) for _ in range(2))
        between = tuple(ref for ref in refs if ref.end_offset > start and ref.start_offset < end)
        assert page.refs_between(start, end) == between
        assert page.totals(start, end) == join_totals(ref.totals for ref in between if ref.start_offset >= start)
        if start < page.end_offset:
            assert page.ref_covering(start) == next(ref for ref in refs if ref.start_offset <= start < ref.end_offset)
        wanted = random.choice(refs).totals.max_timestamp + random.choice((-1, 0, 1))
        expected = next((ref for ref in refs if ref.end_offset > start and ref.totals.max_timestamp >= wanted), None)
        assert page.ref_reaching(wanted, start_offset=start) == expected


def test_damage_of_an_index_page_is_corrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    refs = refs_of(4, 1)
    body = build_index(PID, refs)
    ref = index_ref(refs, body, nonce="aa" * 16, level=2)
    for position in range(len(body)):
        flipped = bytearray(body)
        flipped[position] ^= 1
        with pytest.raises(Corrupt):
            parse_index(bytes(flipped), PID, ref)
    for bad in (body[:60], body[:-1], b"HOTLIDX?" + body[8:], body[:12] + b"\0\0\0\0" + body[16:], body + body[-128:]):
        with pytest.raises(Corrupt):
            parse_index(bad, PID)
    with pytest.raises(Corrupt, match="is expected"):
        parse_index(body, PID._replace(partition=3))
    with pytest.raises(Corrupt, match="it covers"):
        parse_index(body, PID, ref._replace(file_start=0))
    with pytest.raises(Corrupt, match="leave a gap"):
        parse_index(_without_second(body), PID)
    with pytest.raises(AssertionError, match="gap"):
        build_index(PID, [refs[0], refs[2]])
    monkeypatch.setattr(index.FORMAT, "version", 2)
    newer = build_index(PID, refs)
    monkeypatch.undo()
    with pytest.raises(UnknownVersion, match="archive index has format version 2"):
        parse_index(newer, PID)


def _without_second(body: bytes) -> bytes:
    count = int.from_bytes(body[12:16], "big") - 1
    return body[:12] + count.to_bytes(4, "big") + body[16 : 64 + 128] + body[64 + 256 :]


def test_golden_index() -> None:
    """Byte for byte what is written, and what every release from version 1 on reads."""
    raw = (Path(__file__).parent / "golden" / "archive-index-v1.bin").read_bytes()
    assert raw == build_index(PID, refs_of(9, 3))
    assert list(parse_index(raw, PID)) == refs_of(9, 3)


# -- rewriting


def test_a_page_below_an_index_page_is_rewritten_by_new_pages_on_its_way() -> None:
    """New rows, so a new page and a new index page; what they replace becomes garbage, their neighbours stay as they are."""
    with small():
        built = Bucket(10)
        built.grow(120)
        top = next(ref for ref in built.manifest.archive if ref.height == 1)
        node = built.pages[top.name]
        assert isinstance(node, Index)
        old = node.ref(1)
        rows = page_in(built.pages, old).rows()
        merged = row(rows[2].base_offset, rows[4].end_offset, built.random)
        new_rows = spill.rewrite_rows(rows, merged.base_offset, merged.end_offset, (merged,))
        body = build_page(PID, new_rows)
        new = page_ref(new_rows, body, nonce="cd" * 16, level=old.level)
        refs = spill.rewrite_refs(tuple(node), old, new)
        index_body = build_index(PID, refs)
        above = index_ref(refs, index_body, nonce="ce" * 16, level=top.level)
        built.pages |= {new.name: parse_page(body, PID, new), above.name: parse_index(index_body, PID, above)}
        now = spill.apply_rewrite(built.manifest, top, above, rows[2:5], pages=(old,), epoch=0, not_before_ms=T0)
        before = built.manifest
        built.commit(now)
        at = built.rows.index(rows[2])
        built.rows[at : at + 3] = [merged]
        assert built.live() == built.rows
        fresh = {item.name for item in built.manifest.garbage} - {item.name for item in before.garbage}
        assert fresh == {top.name, old.name} | {one.name for one in rows[2:5] if not one.hole}
        _every_row_is_found(built)
        with pytest.raises(PreconditionFailed):
            spill.rewrite_refs(tuple(node), new, old)
