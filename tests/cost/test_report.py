"""The bill: by topic, tier and purpose, held to the meter of a recorded run."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from hotlog.kernel.errors import Corrupt, UnknownVersion
from hotlog.kernel.limits import MiB
from hotlog.world.posix import PosixDisk
from tests.conftest import OpenStore
from tests.support.clocks import HandClock
from tiering.cost import CostRow, Deployment, TopicUsage, Usage, cost_report, load_book
from tiering.cost import formulas as f
from tiering.cost.meter import MONTHS_KEPT, OVERFLOW_TOPIC, TOPICS_MAX, Line, Meter, Row, decode, month_of
from tiering.cost.report import PB
from tiering.store.resilient import ResilientStore, UploadLimits
from tiering.store.sources import BytesSource

NOVEMBER_2026 = 1_795_000_000_000  # ms
DAY = 24 * 3600.0
GiB = 2**30


def usage(window_s: float = 30 * DAY) -> Usage:
    def row(topic: str, purpose: str, kind: str, requests: int, sent: int = 0, received: int = 0) -> Row:
        return Row(Line("2026-11", topic, purpose, kind, "ok"), requests, sent, received)

    return Usage(
        topics=[
            TopicUsage(
                topic="clicks", log_bytes=100 * GiB, hot_bytes=10 * GiB, cold_bytes={"": 95 * GiB}, cold_objects={"": 95},
                produced=100 * GiB, consumed=300 * GiB,
            ),
            TopicUsage(topic="tiny", log_bytes=0, hot_bytes=0),
        ],
        meter=[
            row("clicks", "upload", "put_part", 1_500_000, sent=95 * GiB),
            row("clicks", "fetch", "get", 10_000_000, received=40 * GiB),
            row("clicks", "retention", "delete", 99),
            row("-", "reconcile", "list", 2_000),
        ],
        window_s=window_s,
    )  # fmt: skip


def dollars(report: object, topic: str, tier: str, purpose: str) -> float:
    return sum(row.dollars for row in report.rows if (row.topic, row.tier, row.purpose) == (topic, tier, purpose))  # type: ignore[attr-defined]


def test_the_bill_line_by_line() -> None:
    bill = cost_report(usage(), load_book(), "aws-us-east-1", Deployment(replicas=3, zones=3))
    stretch = f.MONTH_SECONDS / (30 * DAY)
    assert dollars(bill, "clicks", "hot", "storage") == pytest.approx(10 * 3 / 0.7 * 0.08)
    assert dollars(bill, "clicks", "cold", "storage") == pytest.approx(95 * 0.023)
    assert dollars(bill, "clicks", "cold", "upload") == pytest.approx(1500 * 0.005 * stretch)
    assert dollars(bill, "clicks", "cold", "fetch") == pytest.approx(10_000 * 0.0004 * stretch)
    assert dollars(bill, "-", "cold", "reconcile") == pytest.approx(2 * 0.005 * stretch)
    assert dollars(bill, "clicks", "cold", "retention") == 0
    assert dollars(bill, "clicks", "traffic", "replication") == pytest.approx(2 * 100 * 0.02 * stretch)
    assert dollars(bill, "clicks", "traffic", "produce") == pytest.approx(100 * 2 / 3 * 0.02 * stretch)
    assert dollars(bill, "clicks", "traffic", "consume") == 0, "they fetch from their own zone"
    storage = sum(row.dollars for row in bill.rows if row.purpose == "storage")
    traffic = sum(row.dollars for row in bill.rows if row.tier == "traffic")
    total = sum(row.dollars for row in bill.rows)
    assert bill.dollars == pytest.approx((storage, total - traffic, total))
    assert storage == pytest.approx(10 * 3 / 0.7 * 0.08 + 95 * 0.023), "storage only: bytes at rest and nothing else"
    assert bill.per_pb(bill.dollars.storage) == pytest.approx(bill.dollars.storage / (100 * GiB / PB))
    assert bill.compared_dollars.storage == pytest.approx(100 * 3 / 0.7 * 0.08)
    assert bill.by("tier")["cold",] == pytest.approx(sum(row.dollars for row in bill.rows if row.tier == "cold"))
    assert next(iter(bill.by("topic"))) == ("clicks",)


def test_a_naive_fetch_and_machines_are_billed() -> None:
    bill = cost_report(usage(), load_book(), "", Deployment(replicas=3, zones=3, rack_aware=False, brokers=3))
    assert dollars(bill, "clicks", "traffic", "consume") == pytest.approx(300 * 2 / 3 * 0.02 * f.MONTH_SECONDS / (30 * DAY))
    assert dollars(bill, "-", "compute", "brokers") == pytest.approx(3 * 2.7893 * 730)


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_both_sides_have_the_same_replicas_zones_and_machines(replicas: int) -> None:
    bill = cost_report(usage(), load_book(), "", Deployment(replicas=replicas, zones=replicas, brokers=2))
    assert bill.compared_dollars.storage == pytest.approx(100 * replicas / 0.7 * 0.08)

    def rest(rows: tuple[CostRow, ...]) -> list[CostRow]:
        return [row for row in rows if row.tier in ("traffic", "compute") and row.dollars]

    assert rest(bill.rows) == rest(bill.compared)
    assert any(note.startswith(f"Both sides: {replicas} replica") for note in bill.notes)


@pytest.mark.parametrize("window_s", [120.0, 23 * 3600.0, 24 * 3600.0, 25 * 3600.0, 30 * DAY])
def test_the_rate_has_no_jump_when_a_day_is_full(window_s: float) -> None:
    bill = cost_report(usage(window_s=window_s), load_book())
    assert dollars(bill, "clicks", "cold", "upload") == pytest.approx(1500 * 0.005 * f.MONTH_SECONDS / max(window_s, DAY))
    assert any("taken for a day's worth" in note for note in bill.notes) == (window_s < DAY)


def test_traffic_has_a_window_of_its_own() -> None:
    """A broker counts its traffic since it started; the meter has counted its requests for longer."""
    plan = Deployment(replicas=2, zones=2)
    bill = cost_report(replace(usage(window_s=30 * DAY), traffic_window_s=2 * DAY), load_book(), "", plan)
    assert dollars(bill, "clicks", "traffic", "replication") == pytest.approx(100 * 0.02 * f.MONTH_SECONDS / (2 * DAY))
    assert dollars(bill, "clicks", "cold", "upload") == pytest.approx(1500 * 0.005 * f.MONTH_SECONDS / (30 * DAY))


def test_one_zone_has_no_traffic_bill() -> None:
    bill = cost_report(usage(), load_book())
    assert [row for row in bill.rows if row.tier == "traffic"] == []
    assert any("One zone" in note for note in bill.notes)


def test_an_empty_log_has_a_bill_of_nothing() -> None:
    bill = cost_report(Usage(topics=[]), load_book())
    assert (bill.dollars.total, bill.per_pb(bill.dollars.total), bill.rows) == (0, None, ())


def test_classes_that_charge_for_reading_do_so() -> None:
    bill = cost_report(usage(), load_book(), "", Deployment(storage_class="glacier-ir"))
    stretch = f.MONTH_SECONDS / (30 * DAY)
    assert dollars(bill, "clicks", "cold", "fetch") == pytest.approx((10_000 * 0.01 + 40 * 0.03) * stretch)


def test_programs_get_json() -> None:
    value = json.loads(json.dumps(cost_report(usage(), load_book(), "", Deployment(replicas=3, zones=3)).to_json()))
    assert value["provider"] == "aws-us-east-1"
    assert value["dollars_month"]["total"] == pytest.approx(sum(row["dollars"] for row in value["rows"]))
    assert value["dollars_pb_month"]["storage"] > 0
    assert value["compared_dollars_pb_month"]["storage"] > value["dollars_pb_month"]["storage"]
    assert {"topic", "tier", "purpose", "dollars", "spent", "formula"} == set(value["rows"][0])


def test_every_line_explains_itself() -> None:
    lines = cost_report(usage(), load_book(), "", Deployment(replicas=3, zones=3)).explain()
    assert any("95.000 GB x $0.02300/GB-month (standard)" in line for line in lines)
    assert any("1,500,000 put_part / 1,000 x $0.005" in line for line in lines)


@pytest.mark.parametrize(("object_bytes", "requests"), [(4 * MiB, 1), (5 * MiB, 1), (12 * MiB, 5)])
async def test_the_model_is_held_to_the_meter(
    minio_url: str, open_test_store: OpenStore, object_bytes: int, requests: int
) -> None:
    """A recorded run against a real store: requests per GiB, and dollars, as the model says."""
    meter, limits = Meter(HandClock(NOVEMBER_2026)), UploadLimits(single_put_bytes_max=5 * MiB, part_bytes=5 * MiB)
    store = await open_test_store(minio_url, meter=meter)
    assert isinstance(store, ResilientStore)
    uploads, fetches = store.limited(limits).bind(topic="clicks", purpose="upload"), store.bind(topic="clicks", purpose="fetch")
    objects, range_bytes = 3, 2 * MiB
    for number in range(objects):
        await uploads.put_source(f"{number}.seg", BytesSource(bytes(object_bytes)))
        for start in range(0, object_bytes, range_bytes):
            await fetches.get(f"{number}.seg", start, min(start + range_bytes, object_bytes))
    written = objects * object_bytes
    predicted = f.upload_requests(
        written, object_bytes=object_bytes, single_put_bytes_max=limits.single_put_bytes_max, part_bytes=limits.part_bytes
    )
    assert predicted == objects * requests
    counted = {row.line.purpose: 0 for row in meter.rows()}
    for row in meter.rows():
        counted[row.line.purpose] += row.requests
    assert counted == {"upload": predicted, "fetch": objects * math.ceil(object_bytes / range_bytes)}
    assert sum(row.bytes_sent for row in meter.rows()) == sum(row.bytes_received for row in meter.rows()) == written
    bill = cost_report(Usage(topics=[], meter=meter.rows(), window_s=60), load_book())
    kind = load_book().provider().storage_class()
    spent = sum(row.spent for row in bill.rows if row.purpose == "upload")
    assert spent == pytest.approx(f.requests(kind, "put", predicted).dollars)


async def test_the_meter_survives_restarts(tmp_path: Path) -> None:
    clock, disk, path = HandClock(NOVEMBER_2026), PosixDisk(), str(tmp_path / "meter.json")
    meter = Meter(clock, disk=disk, path=path)
    await meter.load()
    meter.add("clicks", "upload", "put", "ok", sent=10)
    await meter.save()
    clock.ms += 40 * 24 * 3600 * 1000
    again = Meter(clock, disk=disk, path=path)
    await again.load()
    again.add("clicks", "upload", "put", "ok", sent=5)
    again.add("clicks", "fetch", "get", "not-found")
    await again.save()
    last = Meter(clock, disk=disk, path=path)
    await last.load()
    assert [(row.line.month, row.line.kind, row.requests, row.bytes_sent) for row in last.rows()] == [
        ("2026-11", "put", 1, 10), ("2026-12", "get", 1, 0), ("2026-12", "put", 1, 5),
    ]  # fmt: skip
    assert len(last.rows("2026-12")) == 2
    assert last.since_ms == 1_795_000_000_000
    disk.close()


async def test_a_damaged_meter_file_is_told_not_zeroed(tmp_path: Path) -> None:
    path = tmp_path / "meter.json"
    for damage in (b"{", b"[]", b'{"format": "other"}', b'{"format":"hotlog-meter","version":1,"since_ms":0,"rows":[[1]]}'):
        path.write_bytes(damage)
        with pytest.raises(Corrupt, match="move it away"):
            await Meter(HandClock(NOVEMBER_2026), disk=PosixDisk(), path=str(path)).load()
    assert path.exists()


def test_the_meter_is_bounded() -> None:
    clock = HandClock(NOVEMBER_2026)
    meter = Meter(clock)
    for number in range(TOPICS_MAX + 50):
        meter.add(f"topic-{number}", "upload", "put", "ok")
    assert len({row.line.topic for row in meter.rows()}) == TOPICS_MAX + 1
    assert sum(row.requests for row in meter.rows() if row.line.topic == OVERFLOW_TOPIC) == 50
    small = Meter(clock)
    for _ in range(MONTHS_KEPT + 5):
        small.add("x", "upload", "put", "ok")
        clock.ms += 31 * 24 * 3600 * 1000
    kept = json.loads(small.encode())
    assert len({row[0] for row in kept["rows"]}) == MONTHS_KEPT
    assert month_of(kept["since_ms"]) == min(row[0] for row in kept["rows"]), "the window starts where the counts do"
    assert small.since_ms == kept["since_ms"]
    assert month_of(0) == "1970-01"


async def test_a_newer_meter_file_is_refused_by_name_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "meter.json"
    newer = b'{"format":"hotlog-meter","version":3,"since_ms":0,"rows":[]}'
    path.write_bytes(newer)
    meter = Meter(HandClock(NOVEMBER_2026), disk=PosixDisk(), path=str(path))
    with pytest.raises(UnknownVersion, match="meter file has format version 3"):
        await meter.load()
    meter.add("clicks", "upload", "put", "ok")
    await meter.save()
    assert path.read_bytes() == newer


def test_meter_files_of_this_release_and_the_one_before_mean_the_same() -> None:
    """Written by release and version; before storage classes were told apart, all was in the standard one."""
    before = b'{"format": "hotlog-meter", "version": 1, "since_ms": 7, "rows": [["2026-11", "clicks", "upload", "put", "ok", 3, 40, 0]]}'
    now = (
        b'{"format": "hotlog-meter", "version": 2, "since_ms": 7,'
        b' "rows": [["2026-11", "clicks", "upload", "put", "ok", "STANDARD", 3, 40, 0]]}'
    )
    assert (
        decode(before, "meter.json")
        == decode(now, "meter.json")
        == (7, (Row(Line("2026-11", "clicks", "upload", "put", "ok"), 3, 40, 0),))
    )


def test_puts_are_billed_by_their_storage_class() -> None:
    """GLACIER_IR, as S3 calls it, is glacier-ir in the book; a class that the book has not is billed as the plan says."""

    def bill(*classes: str) -> float:
        lines = [Row(Line("2026-11", "clicks", "upload", "put", "ok", name), 1_000_000, 0, 0) for name in classes]
        return dollars(
            cost_report(Usage(topics=[], meter=lines, window_s=f.MONTH_SECONDS), load_book()), "clicks", "cold", "upload"
        )

    aws = load_book().provider()
    assert bill("STANDARD") == bill("SOMETHING_NEW") == pytest.approx(1_000 * aws.storage_class("standard").put_1k)
    assert bill("GLACIER_IR") == pytest.approx(1_000 * aws.storage_class("glacier-ir").put_1k)
    assert bill("GLACIER_IR") > bill("STANDARD")
    assert bill("STANDARD", "GLACIER_IR") == pytest.approx(bill("STANDARD") + bill("GLACIER_IR"))
