"""Edits of manifests and their preconditions, look-ups, and a root that stays small."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotlog.kernel.errors import Corrupt, Fenced, Invalid, NotReady, PreconditionFailed, Retry
from hotlog.kernel.limits import MANIFEST_ROOT_BYTES_MAX
from tests.log.support import T0
from tests.tiering.built import Built
from tests.tiering.support import PID, fake_ref, row
from tiering.manifest.archive import build_page, page_ref, parse_page
from tiering.manifest.codec import ManifestCodec, decode, encode
from tiering.manifest.edits import (
    advance_start,
    append,
    blank,
    claim,
    clear_garbage,
    mark_deleted,
    mark_garbage,
    replace_range,
    stamped,
)
from tiering.manifest.garbage import addresses_of, doomed_before, is_finished, names_of
from tiering.manifest.invariants import check, step_problem
from tiering.manifest.root import (
    ENTRIES_MAX,
    GARBAGE_OBJECTS_MAX,
    GarbageObject,
    Manifest,
    find_offset,
    find_timestamp,
    sealed,
    totals_of,
)
from tiering.manifest.spill import apply_rewrite, apply_spill, plan_spill, rewrite_rows
from tiering.manifest.tree import NeedPage

DAY_MS = 24 * 3_600_000

steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 70)),
        st.tuples(st.just("hole"), st.just(1)),
        st.tuples(st.just("advance"), st.integers(0, 100)),
        st.tuples(st.just("clear"), st.integers(0, 50)),
        st.tuples(st.just("claim"), st.just(0)),
    ),
    max_size=25,
)


@settings(max_examples=40, deadline=None)
@given(steps=steps, seed=st.integers(0, 10**6))
def test_any_history_keeps_the_invariants(steps: list[tuple[str, int]], seed: int) -> None:
    built = Built(seed)
    deleted: set[str] = set()
    now = T0
    for kind, number in steps:
        now += 3_600_000
        start_before = built.manifest.log_start_offset
        if kind in ("append", "hole"):
            built.append(number, hole=kind == "hole")
        elif kind == "advance" and built.rows:
            built.advance(
                built.manifest.start_offset + (built.manifest.end_offset - built.manifest.start_offset) * number // 100, now
            )
        elif kind == "clear":
            items = doomed_before(built.manifest, 2**60)[:number]
            deleted |= set(names_of(built.manifest, items, built.pages))
            built.manifest = clear_garbage(built.manifest, items, not_before_ms=now)
        elif kind == "claim":
            built.manifest = claim(built.manifest, 0, f"name{number}")
        check(built.manifest)
        assert decode(encode(built.manifest)) == built.manifest
        assert built.manifest.log_start_offset >= start_before
        live = built.live()
        assert live == built.rows[len(built.rows) - len(live) :], "rows leave at the old end only"
        start = built.manifest.log_start_offset
        gone = {one.name for one in built.rows if not one.hole} - {one.name for one in live if not one.hole}
        assert gone <= built.doomed() | deleted, "every object that left is garbage"
        assert all(one.end_offset <= start for one in built.rows[: len(built.rows) - len(live)])
        assert not {one.name for one in live if not one.hole} & (built.doomed() | deleted)


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 400), seed=st.integers(0, 10**6), cut=st.integers(0, 100))
def test_look_ups_equal_a_full_scan_in_one_page(count: int, seed: int, cut: int) -> None:
    built = Built(seed)
    built.append(count)
    m = built.manifest
    built.advance(m.end_offset * cut // 100)
    m, random = built.manifest, Random(seed)
    live = [one for one in built.rows if one.end_offset > m.log_start_offset]
    for offset in [random.randrange(m.start_offset, max(m.end_offset, m.start_offset + 1)) for _ in range(30)]:
        found = built.find(find_offset(m, offset), lambda page, ref, at=offset: page.row_covering(at))
        expected = next((one for one in built.rows if one.base_offset <= offset < one.end_offset), None)
        assert found == expected
    assert find_offset(m, m.end_offset) is None
    assert find_offset(m, m.start_offset - 1) is None
    for wanted in [one.max_timestamp + random.choice((-1, 0, 1)) for one in random.sample(built.rows, min(30, count))]:
        found = built.find(
            find_timestamp(m, wanted), lambda page, ref, at=wanted: page.row_reaching(at, start_offset=m.log_start_offset)
        )
        assert found == next((one for one in live if one.max_timestamp >= wanted), None)


def test_merged_pages_say_what_their_parts_said() -> None:
    built = Built(11)
    built.append(2300)
    assert {ref.level for ref in built.manifest.archive} == {0, 1}
    assert len(built.manifest.garbage) == 8, "the parts"
    assert built.live() == built.rows
    check(built.manifest)
    random = Random(2)
    for one in random.sample(built.rows, 40):
        offset = random.randrange(one.base_offset, one.end_offset)
        assert built.find(find_offset(built.manifest, offset), lambda page, ref, at=offset: page.row_covering(at)) == one
    half = built.rows[900]
    built.advance(half.base_offset)
    assert built.live() == built.rows[900:]
    assert built.manifest.archive[0].totals == totals_of(built.rows[900:1024])
    objects = {one.name for one in built.rows[:900]}
    assert objects <= built.doomed()
    assert not {one.name for one in built.rows[900:]} & built.doomed()


def test_root_stays_small_over_a_hundred_thousand_rows() -> None:
    """Numbers as long as they get, a topic name of 249 characters, garbage to the brim: below 64 KiB at every size."""
    random, largest, pages = Random(5), 0, 0
    m = claim(blank(PID, "x" * 249, epoch=2**31 - 1, created_ms=T0), 2**31 - 1, "x" * 249)
    for nonce in range(20):
        m = stamped(m, f"{nonce:032x}")
    base, seen = 2**61, 0
    while seen < 100_000:
        batch_rows = []
        for _ in range(64):
            end = base + random.getrandbits(40) + 1
            batch_rows.append(
                row(base, end, random, epoch=2**31 - 1, extreme=seen % 1000 < 200)._replace(
                    epochs=tuple((2**31 - 16 + n, base + n) for n in range(3))
                )
            )
            base = end
        for one in batch_rows:
            m = replace(m, entries=(*m.entries, one), end_offset=one.end_offset)
        seen += 64
        from tiering.manifest.root import sealed

        m = sealed(m)
        while (plan := plan_spill(m)) is not None:
            m = apply_spill(m, plan, fake_ref(plan, random), not_before_ms=random.getrandbits(42))
            pages += 1
            if len(m.garbage) > GARBAGE_OBJECTS_MAX - 16:
                m = clear_garbage(m, m.garbage[:96], not_before_ms=1)
        if seen % 6400 == 0:
            largest = max(largest, len(encode(m)))
    assert m.totals.rows == seen
    assert len(m.archive) < 80
    assert largest < MANIFEST_ROOT_BYTES_MAX
    assert pages < seen / 100


def test_root_stays_small_when_everything_expires_at_once() -> None:
    random, m = Random(6), blank(PID, "clicks", epoch=0, created_ms=T0)
    base = 0
    for _ in range(6000):
        m = append(m, row(base, base + 10, random), epoch=0)
        base += 10
        while (plan := plan_spill(m)) is not None:
            m = apply_spill(m, plan, fake_ref(plan, random), not_before_ms=T0)
            m = clear_garbage(m, m.garbage, not_before_ms=T0)
    deleted = mark_deleted(m, now_ms=T0, not_before_ms=T0 + DAY_MS)
    assert len(encode(deleted)) < MANIFEST_ROOT_BYTES_MAX
    for end in range(0, base + 1, 997):
        try:
            m = advance_start(m, end, {}, not_before_ms=T0 + end * 1000)
        except NeedPage:
            continue
        assert len(encode(m)) < MANIFEST_ROOT_BYTES_MAX
    m = advance_start(m, base, {}, not_before_ms=T0 + DAY_MS)
    assert m.readable_start_offset == m.end_offset == base


def test_garbage_without_room_waits_and_is_not_lost() -> None:
    built = Built(8)
    built.append(ENTRIES_MAX - 2)
    full = tuple(GarbageObject(f"old{n}", 1, T0) for n in range(GARBAGE_OBJECTS_MAX - 3))
    built.manifest = replace(built.manifest, garbage=full)
    built.advance(built.manifest.entries[10].end_offset)
    assert len(built.manifest.garbage) == GARBAGE_OBJECTS_MAX
    assert built.manifest.has_dead_rows
    assert built.manifest.entries[0] == built.rows[3]
    built.manifest = clear_garbage(built.manifest, full, not_before_ms=T0)
    built.advance(0)
    assert not built.manifest.has_dead_rows
    assert {one.name for one in built.rows[:11]} == {item.name for item in built.manifest.garbage}


def test_append_preconditions() -> None:
    random = Random(1)
    m = append(blank(PID, "clicks", epoch=2, created_ms=T0), row(100, 110, random), epoch=2)
    assert (m.log_start_offset, m.start_offset, m.end_offset) == (100, 100, 110)
    with pytest.raises(PreconditionFailed, match="overlaps"):
        append(m, row(105, 120, random), epoch=2)
    with pytest.raises(PreconditionFailed, match="overlaps"):
        append(m, row(109, 120, random), epoch=2)
    with pytest.raises(PreconditionFailed, match="gap"):
        append(m, row(111, 120, random), epoch=2)
    with pytest.raises(Fenced, match="claimed by leader epoch 2"):
        append(m, row(110, 120, random), epoch=1)
    with pytest.raises(Fenced):
        append(m, row(110, 120, random), epoch=3)
    again = append(m, m.entries[-1], epoch=2)
    assert again is m
    condemned = row(110, 120, random)
    with pytest.raises(PreconditionFailed, match="condemned"):
        append(mark_garbage(m, [GarbageObject(condemned.name, 5, T0)]), condemned, epoch=2)
    started = advance_start(m, 115, {}, not_before_ms=T0)
    joined = append(started, row(115, 130, random), epoch=2)
    assert (joined.start_offset, joined.end_offset, joined.totals.holes) == (115, 130, 0)


def test_append_below_a_start_that_is_not_doomed_yet_keeps_the_line() -> None:
    random = Random(1)
    m = append(blank(PID, "clicks", epoch=0, created_ms=T0), row(0, 10, random), epoch=0)
    m = replace(m, log_start_offset=30)  # dead rows are still listed
    joined = append(m, row(25, 40, random), epoch=0)
    check(joined)
    assert [one.is_hole for one in joined.entries] == [False, True, False]


def test_too_many_rows_must_spill_first() -> None:
    built, random = Built(1), Random(2)
    with pytest.raises(Retry, match="spilled"):
        for _ in range(1000):
            built.manifest = append(
                built.manifest, row(max(built.manifest.end_offset, 0), max(built.manifest.end_offset, 0) + 1, random), epoch=0
            )


def test_claim_and_fencing() -> None:
    m = blank(PID, "clicks", epoch=3, created_ms=T0)
    assert claim(m, 3, "clicks") is m
    assert claim(m, 4, "clicks").epoch == 4
    with pytest.raises(Fenced):
        claim(m, 2, "clicks")
    gone = mark_deleted(m, now_ms=T0, not_before_ms=T0)
    with pytest.raises(Fenced, match="deleted"):
        claim(gone, 9, "clicks")
    with pytest.raises(Fenced, match="deleted"):
        claim(gone, 2, "clicks", revive=True)
    assert claim(gone, 9, "clicks", revive=True).epoch == 9


def test_replace_range_swaps_exactly_and_dooms_the_old() -> None:
    built = Built(4)
    built.append(6)
    m, rows, random = built.manifest, built.rows, Random(9)
    merged = row(rows[1].base_offset, rows[3].end_offset, random)
    now = replace_range(m, merged.base_offset, merged.end_offset, (merged,), epoch=0, not_before_ms=T0)
    check(now)
    assert now.entries == (rows[0], merged, *rows[4:])
    assert {item.name for item in now.garbage} == {one.name for one in rows[1:4]}
    with pytest.raises(PreconditionFailed):
        replace_range(now, rows[2].base_offset, rows[3].end_offset, (merged,), epoch=0, not_before_ms=T0)
    with pytest.raises(Invalid, match="cover exactly"):
        replace_range(m, merged.base_offset, rows[2].end_offset, (merged,), epoch=0, not_before_ms=T0)
    with pytest.raises(Fenced):
        replace_range(m, merged.base_offset, merged.end_offset, (merged,), epoch=1, not_before_ms=T0)
    same = replace_range(m, rows[0].base_offset, rows[0].end_offset, (rows[0]._replace(crc=1),), epoch=0, not_before_ms=T0)
    assert same.garbage == (), "the same object is not garbage"


def test_rewriting_a_page_swaps_rows_inside_it() -> None:
    built = Built(4)
    built.append(ENTRIES_MAX + 5)
    (ref,) = built.manifest.archive
    page, random = built.pages[ref.name], Random(9)
    rows = page.rows()
    merged = row(rows[10].base_offset, rows[20].end_offset, random)
    new_rows = rewrite_rows(rows, merged.base_offset, merged.end_offset, (merged,))
    body = build_page(PID, new_rows)
    new = page_ref(new_rows, body, nonce="cd" * 16, level=ref.level)
    now = apply_rewrite(built.manifest, ref, new, rows[10:21], epoch=0, not_before_ms=T0)
    check(now)
    assert now.totals.rows == built.manifest.totals.rows - 10
    assert {item.name for item in now.garbage} == {ref.name} | {one.name for one in rows[10:21]}
    with pytest.raises(PreconditionFailed):
        apply_rewrite(now, ref, new, (), epoch=0, not_before_ms=T0)
    with pytest.raises(PreconditionFailed):
        rewrite_rows(rows, rows[3].base_offset + 1, rows[5].end_offset, (merged,))


def test_stale_spill_is_refused() -> None:
    built = Built(4)
    built.append(ENTRIES_MAX - 1)
    m = append(built.manifest, row(built.manifest.end_offset, built.manifest.end_offset + 5, Random(1)), epoch=0)
    plan = plan_spill(m)
    assert plan is not None
    ref = fake_ref(plan, Random(2))
    moved = advance_start(m, m.entries[2].end_offset, {}, not_before_ms=T0)
    with pytest.raises(PreconditionFailed, match="changed"):
        apply_spill(moved, plan, ref, not_before_ms=T0)
    done = apply_spill(m, plan, ref, not_before_ms=T0)
    assert apply_spill(done, plan, ref, not_before_ms=T0) is done, "our own commit, seen again"


def test_a_page_is_needed_only_when_the_start_lies_inside_it() -> None:
    built = Built(4)
    built.append(2 * ENTRIES_MAX)
    first, second = built.manifest.archive[:2]
    whole = advance_start(built.manifest, first.end_offset, {}, not_before_ms=T0)
    assert whole.archive[0] == second
    with pytest.raises(NeedPage) as need:
        advance_start(built.manifest, first.end_offset + 20, {}, not_before_ms=T0)
    assert need.value.ref == second


def test_doomed_ranges_of_one_page_join_within_an_hour() -> None:
    built = Built(4)
    built.append(ENTRIES_MAX)
    rows, hour = built.rows, 3_600_000
    bucket = T0 // hour * hour
    for number in range(1, 6):
        built.advance(rows[number].end_offset, bucket + number)
    assert len(built.manifest.garbage_ranges) == 1
    assert built.manifest.garbage_ranges[0].not_before_ms == bucket + 5
    built.advance(rows[8].end_offset, bucket + hour)
    assert len(built.manifest.garbage_ranges) == 2
    assert built.doomed() == {one.name for one in rows[:9]}
    assert doomed_before(built.manifest, bucket + 4) == ()


def test_a_page_is_garbage_only_when_nothing_needs_it() -> None:
    built = Built(4)
    built.append(ENTRIES_MAX)
    (ref,) = built.manifest.archive
    built.advance(built.rows[3].end_offset)
    items = doomed_before(built.manifest, T0)
    m = clear_garbage(built.manifest, items, not_before_ms=T0 + 5)
    assert m.garbage == (), "the page still has live rows"
    built.manifest = m
    built.advance(ref.end_offset)
    (part,) = built.manifest.garbage_ranges
    assert part.start_offset == built.rows[4].base_offset
    m = clear_garbage(built.manifest, [part], not_before_ms=T0 + 5)
    assert m.garbage == (GarbageObject(ref.name, ref.size, T0 + 5),)


def test_deletion_ends_with_an_empty_root() -> None:
    built = Built(4)
    built.append(ENTRIES_MAX + 3)
    every = {one.name for one in built.rows}
    m = built.manifest = mark_deleted(built.manifest, now_ms=T0, not_before_ms=T0 + 1)
    assert mark_deleted(m, now_ms=T0 + 9, not_before_ms=T0 + 9) is m
    assert built.doomed() == every
    assert not is_finished(m)
    assert advance_start(m, 10**9, {}, not_before_ms=T0) is m
    for _ in range(3):
        m = clear_garbage(m, doomed_before(m, T0 + 1), not_before_ms=T0 + 1)
    assert is_finished(m)
    assert ManifestCodec().decode(ManifestCodec().encode(m)) == m


# -- from one root to the next


def committed(m: Manifest) -> Manifest:
    return stamped(m, f"{m.generation:032x}")


def test_each_edit_is_a_step_that_may_be_committed() -> None:
    built = Built(5)
    built.append(300)
    before = committed(built.manifest)
    pages = built.pages
    rows = before.entries[3:5]
    joined = row(rows[0].base_offset, rows[1].end_offset, Random(4))
    for edit in (
        lambda m: append(m, row(m.end_offset, m.end_offset + 5, Random(1)), epoch=0),
        lambda m: advance_start(m, m.archive[0].start_offset + 40, pages, not_before_ms=T0),
        lambda m: advance_start(m, m.end_offset, pages, not_before_ms=T0),
        lambda m: replace_range(m, joined.base_offset, joined.end_offset, (joined,), epoch=0, not_before_ms=T0),
        lambda m: claim(m, 4, "other"),
        lambda m: mark_deleted(m, now_ms=T0, not_before_ms=T0),
    ):
        after = edit(before)
        assert after != before
        assert step_problem(before, committed(after)) is None
    gone = committed(mark_deleted(before, now_ms=T0, not_before_ms=T0))
    assert step_problem(gone, committed(claim(gone, 1, "again", revive=True))) is None, (
        "a history may begin anew after its deletion"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: replace(m, log_start_offset=m.log_start_offset - 1), "log start went back"),
        (lambda m: replace(m, epoch=m.epoch - 1), "epoch went back"),
        (lambda m: replace(m, entries=m.entries[:-1], end_offset=m.entries[-1].base_offset), "end went back"),
        (lambda m: replace(m, entries=m.entries[1:]), "neither used nor garbage"),
        (lambda m: replace(m, archive=m.archive[1:]), "neither used nor garbage"),
        (lambda m: replace(m, created_ms=m.created_ms + 1), "became that of"),
        (lambda m: replace(m, partition=m.partition + 1), "became that of"),
        (lambda m: replace(m, generation=m.generation + 1), "generation"),
        (lambda m: replace(m, generation=m.generation - 1), "generation"),
    ],
)
def test_a_step_that_takes_back_what_was_promised_is_named(change: Callable[[Manifest], Manifest], message: str) -> None:
    built = Built(6)
    built.append(200)
    before = committed(claim(built.manifest, 3, "clicks"))
    before = committed(advance_start(before, before.end_offset // 2, built.pages, not_before_ms=T0))
    assert before.archive
    assert step_problem(before, committed(before)) is None
    problem = step_problem(before, committed(change(before)))
    assert problem is not None
    assert message in problem


def test_a_write_under_a_used_nonce_is_named() -> None:
    built = Built(6)
    built.append(2)
    before = committed(built.manifest)
    assert "nonce" in (step_problem(before, stamped(before, before.nonces[0])) or "")


# -- parts of shared objects


def test_a_part_of_a_shared_object_is_let_go_of_by_its_register_alone() -> None:
    built = Built(7)
    built.append(4)
    m = built.manifest
    own = m.entries[1]
    part = own._replace(object="/packs/aa.pack", object_start=4096, object_end=4096 + own.size)
    moved = replace_range(m, own.base_offset, own.end_offset, (part,), epoch=0, not_before_ms=T0)
    check(moved)
    assert decode(encode(moved)) == moved
    assert [item.address for item in moved.garbage] == [own.address], (
        "the same bytes elsewhere: the old object goes, though the nonce is kept"
    )
    neighbour = m.entries[2]._replace(object="/packs/aa.pack", object_start=0, object_end=m.entries[2].size)
    both = replace_range(moved, neighbour.base_offset, neighbour.end_offset, (neighbour,), epoch=0, not_before_ms=T0)
    cut = advance_start(both, part.end_offset, {}, not_before_ms=T0)
    check(cut)  # one part is garbage while another of the same object is in use
    doomed = doomed_before(cut, T0)
    assert part.address in addresses_of(cut, doomed, {})
    with pytest.raises(NotReady, match=r"/packs/aa\.pack"):
        names_of(cut, doomed, {})
    body = build_page(PID, both.entries)
    page = parse_page(body, PID, page_ref(both.entries, body, nonce="ab" * 16, level=0))
    assert page.rows() == both.entries
    assert page.addresses_between(0, both.end_offset) == [one.address for one in both.entries]


@pytest.mark.parametrize(
    "where",
    [
        {"object": "not-shared.seg"}, {"object_start": 5}, {"object": "/packs/x", "object_start": -1},
        {"object": "/packs/x", "object_start": 10**9},
    ],
)  # fmt: skip
def test_a_row_that_lies_nowhere_is_corrupt(where: dict[str, object]) -> None:
    built = Built(7)
    built.append(1)
    bad = replace(built.manifest, entries=(built.manifest.entries[0]._replace(**where),))  # type: ignore[arg-type]
    with pytest.raises(Corrupt):
        check(sealed(bad))
