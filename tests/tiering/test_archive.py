"""Archive pages: round trips, damage, and what a person sees with DuckDB."""

from __future__ import annotations

from pathlib import Path
from random import Random
from uuid import UUID

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotlog.kernel.errors import Corrupt, UnknownVersion
from hotlog.kernel.ids import PartitionId
from tests.log.support import T0
from tests.tiering.support import PID, row
from tiering.manifest.archive import FORMAT, build_page, page_ref, parse_page
from tiering.manifest.root import Entry, hole, totals_of

GOLDEN = Path(__file__).parent / "golden"


def rows_of(count: int, seed: int = 1, holes: int = 0) -> tuple[Entry, ...]:
    random, rows, base = Random(seed), [], 1000
    for number in range(count):
        end = base + random.randint(1, 9)
        is_hole = holes and number % holes == holes - 1
        rows.append(hole(base, end, "test", epoch=1, created_ms=T0) if is_hole else row(base, end, random))
        base = end
    return tuple(rows)


@settings(max_examples=15, deadline=None)
@given(count=st.integers(1, 200), seed=st.integers(0, 1000), holes=st.integers(0, 5))
def test_pages_go_round(count: int, seed: int, holes: int) -> None:
    rows = rows_of(count, seed, holes)
    body = build_page(PID, rows)
    page = parse_page(body, PID, page_ref(rows, body, nonce="aa" * 16, level=0))
    assert page.rows() == rows == tuple(page)
    assert (len(page), page.start_offset, page.end_offset) == (count, rows[0].base_offset, rows[-1].end_offset)
    random = Random(seed)
    for _ in range(10):
        start, end = sorted(random.randrange(page.start_offset - 2, page.end_offset + 2) for _ in range(2))
        between = tuple(one for one in rows if start <= one.base_offset < end)
        assert page.rows_between(start, end) == between
        assert page.totals(start, end) == totals_of(between)
        assert page.addresses_between(start, end) == [one.address for one in between if not one.hole]
        wanted = random.choice(rows).max_timestamp
        expected = next((one for one in rows if not one.hole and one.end_offset > start and one.max_timestamp >= wanted), None)
        assert page.row_reaching(wanted, start_offset=start) == expected


@pytest.mark.parametrize("version", [1, 2])
def test_golden_pages(version: int) -> None:
    """Not byte for byte (Parquet writers differ), but what this release and the one before it wrote means the same."""
    page = parse_page((GOLDEN / f"archive-page-v{version}.parquet").read_bytes(), PID)
    assert page.addresses_between(0, 2**62) == [one.address for one in rows_of(20, 2, 4) if not one.hole]
    assert page.totals(0, 2**62) == totals_of(rows_of(20, 2, 4))
    assert page.rows() == rows_of(20, 2, 4)


def test_duckdb_reads_a_page(tmp_path: Path) -> None:
    rows = rows_of(50, holes=10)
    path = tmp_path / "page.parquet"
    path.write_bytes(build_page(PID, rows))
    found = (
        duckdb.connect()
        .execute(
            f"select count(*), sum(size), max(prefix_max_timestamp), count(*) filter (hole <> '') from read_parquet('{path}')"
        )
        .fetchone()
    )
    assert found == (50, sum(one.size for one in rows), max(one.max_timestamp for one in rows), 5)
    when = (
        duckdb.connect().execute(f"select epochs[1].start_offset from read_parquet('{path}') where base_offset = 1000").fetchone()
    )
    assert when == (1000,)


def test_damage_is_corrupt() -> None:
    rows = rows_of(30)
    body = build_page(PID, rows)
    ref = page_ref(rows, body, nonce="aa" * 16, level=0)
    for position in range(0, len(body), 97):
        flipped = bytearray(body)
        flipped[position] ^= 1
        with pytest.raises(Corrupt):
            parse_page(bytes(flipped), PID, ref)
    with pytest.raises(Corrupt, match="the manifest says"):
        parse_page(body[:-1], PID, ref)
    with pytest.raises(Corrupt, match="does not parse"):
        parse_page(b"not parquet", PID)
    with pytest.raises(Corrupt, match="is expected"):
        parse_page(body, PartitionId(UUID(int=5), 0))
    with pytest.raises(Corrupt, match="rows cover"):
        parse_page(body, PID, ref._replace(file_start=999))


def test_a_newer_version_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    newer = FORMAT.version + 1
    with monkeypatch.context() as patch:
        patch.setattr(FORMAT, "version", newer)
        rows = rows_of(5)
        body = build_page(PID, rows)
    with pytest.raises(UnknownVersion, match=f"archive page has format version {newer}"):
        parse_page(body, PID, page_ref(rows, body, nonce="aa" * 16, level=0))


def test_rows_with_a_gap_are_neither_built_nor_read() -> None:
    rows = rows_of(5)
    with pytest.raises(AssertionError, match="follow each other"):
        build_page(PID, rows[:2] + rows[3:])
