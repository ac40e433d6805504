"""What a root manifest promises, by itself and from one root to the next.  Pure.

The writer asserts it before a root is written, the reader raises Corrupt for one that does not keep it.

Invariants (`check`): rows are disjoint, ascending and without gaps, from `start_offset` to `end_offset`, a hole being a row with a
reason; totals are the sums of what they total; encoded size stays below MANIFEST_ROOT_BYTES_MAX.  From one root to the next
(`step_problem`): leader epoch, log start and, but for a history that begins anew, the end never go back; what leaves is garbage.
"""

from __future__ import annotations

from collections.abc import Sequence

from hotlog.kernel.errors import Corrupt
from tiering.manifest.root import ENTRIES_HARD_MAX, EPOCHS_PER_ENTRY_MAX, Entry, Manifest, PageRef, parts_in_use, sealed
from tiering.objects.address import SHARED


def check(manifest: Manifest) -> None:
    """Hold a manifest by itself to its invariants (encoding asserts it, decoding raises it).

    Raises:
        Corrupt: naming the partition and what is wrong.
    """
    problem = _rows_problem(manifest) or _counts_problem(manifest)
    if problem:
        raise Corrupt(f"manifest of {manifest.pid} generation {manifest.generation}: {problem}")


def step_problem(before: Manifest, after: Manifest) -> str | None:
    """What is wrong with `after` as the root committed next to `before`; None if nothing (the committer asserts it).

    What leaves the rows without going to a page has to be garbage in the same step: else nobody would ever delete it.
    """
    if (after.pid, after.created_ms) != (before.pid, before.created_ms):
        return f"the manifest of {before.pid} of {before.created_ms} ms became that of {after.pid} of {after.created_ms} ms"
    if after.generation != before.generation + 1 or not after.nonces or after.nonces[0] in before.nonces:
        return f"generation {before.generation} became {after.generation} under nonces {after.nonces[:1]}"
    if after.end_offset < before.end_offset and not before.is_deleted:
        return f"the end went back from offset {before.end_offset} to {after.end_offset}"
    if before.is_deleted and not after.is_deleted and (after.entries or after.archive):
        return "rows came back from a deletion"
    return went_back(before, after) or _lost_problem(before, after) or _lost_ranges_problem(before, after)


def went_back(before: Manifest, after: Manifest) -> str | None:
    """What of a later root of the same manifest lies behind an earlier one, though it never goes back; None if nothing."""
    if after.epoch < before.epoch:
        return f"the leader epoch went back from {before.epoch} to {after.epoch}"
    if after.log_start_offset < before.log_start_offset:
        return f"the log start went back from offset {before.log_start_offset} to {after.log_start_offset}"
    return None


def _lost_problem(before: Manifest, after: Manifest) -> str | None:
    """What of `before` is neither found in `after` nor listed there as garbage."""
    same_rows, same_pages = set(after.entries), set(after.archive)
    rows = [row for row in before.entries if row not in same_rows and not row.hole]
    pages = [ref for ref in before.archive if ref not in same_pages]
    if not rows and not pages:
        return None
    kept = parts_in_use(after) | {(item.name, item.object_start) for item in after.garbage}
    archived = [(ref.start_offset, ref.end_offset) for ref in after.archive]
    lost = [
        row.name
        for row in rows
        if (row.name, row.object_start) not in kept and not _covers(archived, row.base_offset, row.end_offset)
    ]
    for ref in pages:
        doomed = _doomed_spans(after, ref)
        if any(_is_below(ref, new) for new in after.archive if new not in before.archive):
            continue
        if (ref.name, 0) not in kept or not _covers(archived + doomed, ref.start_offset, ref.end_offset):
            lost.append(ref.name)
    return _told(lost)


def _lost_ranges_problem(before: Manifest, after: Manifest) -> str | None:
    """What doomed range of an index page went without its pages being listed: nobody would know their rows any more."""
    kept = parts_in_use(after) | {(item.name, item.object_start) for item in after.garbage}
    same = set(after.garbage_ranges)
    lost = [
        part.page.name
        for part in before.garbage_ranges
        if part.page.height
        and part not in same
        and ((part.page.name, 0) not in kept or not _covers(_doomed_spans(after, part.page), part.start_offset, part.end_offset))
    ]
    return _told(lost)


def _is_below(ref: PageRef, new: PageRef) -> bool:
    """Whether a page went below an index page of the next level as it is."""
    return (
        new.height > ref.height
        and new.level > ref.level
        and new.start_offset <= ref.start_offset
        and ref.end_offset <= new.end_offset
    )


def _doomed_spans(after: Manifest, ref: PageRef) -> list[tuple[int, int]]:
    """Doomed ranges of `ref` and of pages below it."""
    return [
        (part.start_offset, part.end_offset)
        for part in after.garbage_ranges
        if part.page.name == ref.name
        or (part.page.height < ref.height and part.start_offset >= ref.file_start and part.end_offset <= ref.end_offset)
    ]


def _told(lost: Sequence[str]) -> str | None:
    return f"{len(lost)} objects are neither used nor garbage any more, the first {lost[0]}" if lost else None


def _covers(spans: Sequence[tuple[int, int]], start: int, end: int) -> bool:
    """Whether half-open ranges together have all of [start, end)."""
    for first, last in sorted(spans):
        if first <= start < last:
            start = last
    return start >= end


def _rows_problem(m: Manifest) -> str | None:
    spans = [(ref.start_offset, ref.end_offset) for ref in m.archive] + [(row.base_offset, row.end_offset) for row in m.entries]
    problem = span_problem(spans)
    if problem:
        return problem
    if spans and spans[-1][1] != m.end_offset:
        return f"rows end at offset {spans[-1][1]}, the root says {m.end_offset}"
    if m.end_offset < -1 or m.log_start_offset < 0:
        return f"end offset {m.end_offset}, log start offset {m.log_start_offset}"
    for row in m.entries:
        problem = row_problem(row)
        if problem:
            return problem
    if not _are_in_order([ref.level for ref in m.archive]) or any(ref.start_offset < ref.file_start for ref in m.archive):
        return "archive pages are out of order"
    if sealed(m).totals != m.totals:
        return f"totals {m.totals} differ from the sum {sealed(m).totals}"
    return None


def _are_in_order(levels: Sequence[int]) -> bool:
    """Levels fall with the offsets, but for the pages at the head that came up out of an index page: those rise, one of a level."""
    at = 0
    while at + 1 < len(levels) and levels[at] < levels[at + 1]:
        at += 1
    return list(levels[at:]) == sorted(levels[at:], reverse=True)


def _counts_problem(m: Manifest) -> str | None:
    if len(m.entries) > ENTRIES_HARD_MAX:
        return f"{len(m.entries)} inline rows; at most {ENTRIES_HARD_MAX} are allowed"
    if m.is_deleted and (m.entries or m.archive):
        return "marked deleted, but rows are left"
    used, condemned = parts_in_use(m), [(item.name, item.object_start) for item in m.garbage]
    if len(condemned) != len(set(condemned)):
        return "an object is listed twice as garbage"
    if not used.isdisjoint(condemned):
        return f"objects are garbage and in use at once: {sorted(used.intersection(condemned))[:3]}"
    for part in m.garbage_ranges:
        if not part.page.file_start <= part.start_offset < part.end_offset <= part.page.end_offset:
            return f"garbage range [{part.start_offset}, {part.end_offset}) lies outside its page"
    return None


def span_problem(spans: Sequence[tuple[int, int]]) -> str | None:
    """What is wrong with half-open ranges that must follow each other without gap or overlap."""
    expected = spans[0][0] if spans else 0
    for start, end in spans:
        if start != expected:
            return f"rows {'overlap' if start < expected else 'leave a gap'} at offset {min(start, expected)}"
        if end <= start or start < 0:
            return f"a row covers [{start}, {end})"
        expected = end
    return None


def row_problem(row: Entry) -> str | None:
    """What is wrong with one row by itself."""
    if row.hole:
        return "a hole has bytes" if row.object_end or row.log_bytes or row.records else None
    if row.log_bytes <= 0 or row.size <= row.log_bytes or row.records < 0 or len(row.nonce) != 32 or row.epoch < 0:
        return f"row at offset {row.base_offset} has {row.log_bytes} log bytes of {row.size}, {row.records} records, nonce {row.nonce!r}"
    if row.object_start < 0 or (row.object_start if not row.object else not row.object.startswith(SHARED)):
        return f"row at offset {row.base_offset} lies at bytes [{row.object_start}, {row.object_end}) of object {row.object!r}"
    if row.records > row.end_offset - row.base_offset or len(row.epochs) > EPOCHS_PER_ENTRY_MAX:
        return f"row [{row.base_offset}, {row.end_offset}) has {row.records} records and {len(row.epochs)} epochs"
    return None
