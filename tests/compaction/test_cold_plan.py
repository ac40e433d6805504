"""Which rows of a manifest are cleaned together, and whether it pays."""

from __future__ import annotations

from random import Random

import pytest

from compaction.cold_plan import Measured, Placed, group_rows, plan_cold_dirt, price_of
from hotlog.kernel.limits import GiB
from tests.log.support import T0, config
from tests.tiering.support import row
from tiering.cost.book import load_book
from tiering.manifest.root import Entry, hole

DAY_MS = 86_400_000
AWS, OWN = load_book().provider("aws-us-east-1"), load_book().provider("minio-own-disks")


def sized(base: int, size: int, **more: object) -> Entry:
    made = row(base, base + 10, Random(base))
    fields = {"log_bytes": size, "object_end": size + 500, "created_ms": T0, "appended_ms": T0, "max_timestamp": T0, **more}
    return made._replace(**fields)  # type: ignore[arg-type]


def test_what_is_dirty_lies_behind_what_was_cleaned() -> None:
    rows = [Placed(sized(base, 100), "") for base in (0, 10, 20)]
    dirt = plan_cold_dirt(rows, 10, start=0)
    assert (dirt.start, dirt.end, dirt.clean_bytes, dirt.dirty_bytes, dirt.ratio) == (10, 30, 100, 200, 2 / 3)
    assert plan_cold_dirt(rows, 0, start=20).start == 20, "what was deleted is not looked at"
    assert plan_cold_dirt([], 5, start=0).ratio == 0.0


def test_a_run_lies_in_one_page_and_goes_into_a_segment() -> None:
    lost = hole(30, 40, "lost", epoch=0, created_ms=T0)
    rows = [
        *(Placed(sized(base, 40), "page") for base in (0, 10)), Placed(sized(20, 40), ""), Placed(lost, ""),
        *(Placed(sized(base, 40), "") for base in (40, 50, 60)),
    ]  # fmt: skip
    assert [[one.base_offset for one in group] for group in group_rows(rows, segment_bytes=100)] == [
        [0, 10],
        [20],
        [40, 50],
        [60],
    ]
    assert [[one.base_offset for one in group] for group in group_rows(rows, segment_bytes=10)] == [
        [0],
        [10],
        [20],
        [40],
        [50],
        [60],
    ]


def priced(
    old: Entry, remaining: int, *, now_ms: int = T0, topic: object = None, provider: object = AWS
) -> tuple[float, float, bool]:
    found = price_of(
        [Measured((old,), remaining)], read_bytes=old.size, reads=2, total_bytes=GiB, config=topic or config(cleanup_policy="compact"),
        provider=provider, now_ms=now_ms,
    )  # type: ignore[arg-type]  # fmt: skip
    assert (found.freed_bytes, found.written_bytes) == (old.log_bytes - remaining, remaining)
    return found.cost, found.saving, found.pays


def test_a_few_bytes_are_not_worth_their_requests() -> None:
    cost, saving, pays = priced(sized(0, 20_000), 10_000)
    assert 0 < saving < cost and not pays
    assert cost == pytest.approx(4 * 0.005 / 1000 + 4 * 0.0004 / 1000)
    cost, saving, pays = priced(sized(0, GiB), GiB // 2)
    assert saving == pytest.approx(0.5 * 0.023 * 12, rel=0.01) and pays
    assert priced(sized(0, 20_000), 10_000, provider=OWN)[2], "requests to one's own disks are free"
    assert not priced(sized(0, 100), 100, provider=OWN)[2], "nothing is freed"


def test_what_retention_deletes_soon_saves_nothing() -> None:
    both = config(cleanup_policy="compact,delete", retention_ms=10 * DAY_MS)
    saved = [priced(sized(0, GiB), GiB // 2, now_ms=T0 + days * DAY_MS, topic=both)[1] for days in (0, 5, 10, 50)]
    assert saved[0] > saved[1] > saved[2] == saved[3] == 0.0
