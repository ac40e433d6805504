"""The local segments of a log as others ask for them: what lies above an offset costs the same however many there are."""

from __future__ import annotations

from random import Random

import pytest

from hotlog.log import segment as segment_module
from hotlog.log.segment import Segment, SegmentInfo
from hotlog.log.segments import Backlog, Segments


def made(base: int, end: int, size: int, *, closed_ms: int = 5) -> Segment:
    segment = Segment("/log", base, created_ms=1)
    segment.end_offset, segment.size, segment.closed_ms = end, size, closed_ms
    return segment


def looked_for(segments: Segments, offset: int) -> Backlog | None:
    """The same answer from a walk over all of them."""
    closed = [one for one in segments.all[:-1] if one.end_offset > offset and one.size]
    if not closed:
        return None
    newer = sum(one.size for one in segments.all if one.base_offset >= closed[0].end_offset)
    return Backlog(closed[0].info(), len(closed), sum(one.size for one in closed), newer)


@pytest.mark.parametrize("seed", range(20))
def test_what_is_above_an_offset_is_what_a_walk_finds_whatever_was_done_to_the_log(seed: int) -> None:
    random = Random(seed)
    segments, end = Segments([made(0, 7, 70, closed_ms=-1)]), 7
    for _ in range(60):
        match random.choice(["roll", "roll", "append", "drop", "cut", "replace"]):
            case "roll" if segments.active.size:
                segments.active.closed_ms = 5
                segments.add(made(end, end, 0, closed_ms=-1))
            case "append":
                end += random.randint(1, 9)
                segments.active.end_offset, segments.active.size = end, segments.active.size + random.randint(1, 99)
            case "drop" if len(segments.all) > 3:
                segments.drop_oldest(random.randint(1, 2))
            case "cut" if len(segments.all) > 2:
                kept = segments.all[-2]
                kept.size, kept.closed_ms, kept.closed_info = kept.size - 1, -1, None
                segments.end_with(len(segments.all) - 2, kept)
                end = kept.end_offset
            case "replace" if len(segments.all) > 3:
                first = random.randint(0, len(segments.all) - 3)
                old = segments.all[first : first + 2]
                segments.replace(old, [made(old[0].base_offset, old[-1].end_offset, random.randint(1, 99))])
        assert segments.size == sum(one.size for one in segments.all)
        for offset in (0, segments.all[0].base_offset, random.randint(0, end + 1), end, segments.active.base_offset):
            assert segments.closed_above(offset) == looked_for(segments, offset), offset


def test_an_empty_closed_segment_is_nothing() -> None:
    segments = Segments([made(0, 0, 0), made(0, 5, 50), made(5, 5, 0, closed_ms=-1)])
    found = segments.closed_above(0)
    assert found is not None
    assert (found.oldest.end_offset, found.segments, found.size, found.newer) == (5, 1, 50, 0)


def test_a_backlog_of_20000_segments_is_asked_for_without_a_look_at_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """The uploader had all of them listed, with their paths, for each one that it copied: 45 ms."""
    segments = Segments([made(base, base + 1, 10) for base in range(20_000)] + [made(20_000, 20_000, 0, closed_ms=-1)])
    looks = 0

    class Counted(SegmentInfo):
        __slots__ = ()

        def __new__(cls, *fields: object) -> Counted:
            nonlocal looks
            looks += 1
            return super().__new__(cls, *fields)  # type: ignore[arg-type]

    monkeypatch.setattr(segment_module, "SegmentInfo", Counted)
    for offset in (0, 5_000, 19_000):
        found = segments.closed_above(offset)
        assert found is not None
        assert (found.segments, found.size) == (20_000 - offset, (20_000 - offset) * 10)
    assert looks <= 3
