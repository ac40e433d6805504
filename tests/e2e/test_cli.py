"""Every verb of the command line, run as a person would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import FLEETING, create, eventually, hotlog, hotlog_json, produce, read, wait_all_cold
from tests.tools.hotlog_server import HotlogServer
from tests.tools.patience import PATIENCE_S

BASE_MS = 1_359_676_800_000  # 2013-02-01
DAY_MS = 86_400_000
DEMO_SECONDS_MAX = 4 * PATIENCE_S  # it has much to do, and waits for things as patiently as a test


@pytest.fixture
def history(server: HotlogServer) -> HotlogServer:
    """Sixty days of events, all of them in the bucket only."""
    create(server, "events", 2, **FLEETING)
    records: list[dict[str, Any]] = [
        {
            "value": json.dumps({"day": day, "n": n, "name": f"é{n}"}),
            "key": f"k{n}",
            "timestamp": BASE_MS + day * DAY_MS + n * 1000,
            "partition": n % 2,
            "headers": [("a", b"1")],
        }
        for day in range(60)
        for n in range(20)
    ]
    produce(server, "events", records, **{"batch.num.messages": 15})
    wait_all_cold(server, "events", 2)
    return server


def store_of(server: HotlogServer) -> list[str]:
    assert server.store is not None
    return ["--store", server.store]


def at(server: HotlogServer) -> list[str]:
    return ["--bootstrap", server.bootstrap]


def test_topics_are_made_shown_changed_and_deleted(server: HotlogServer) -> None:
    hotlog("topic", "create", "shop", "-p", "3", "-c", "retention.ms=-1", *at(server))
    assert {"topic": "shop", "partitions": 3} in hotlog_json("topic", "list", *at(server))
    hotlog("topic", "alter", "shop", "-c", "local.retention.ms=5000", "-p", "4", *at(server))
    shown = hotlog_json("topic", "describe", "shop", *at(server))
    assert shown["configs"]["local.retention.ms"] == "5000"
    assert [row["latest"] for row in shown["partitions"]] == [0, 0, 0, 0]
    hotlog("topic", "alter", "shop", "--remove", "local.retention.ms", *at(server))
    assert hotlog_json("topic", "describe", "shop", *at(server))["configs"]["local.retention.ms"] == "-2"
    hotlog("topic", "delete", "shop", "--yes", *at(server))
    assert "shop" not in hotlog("topic", "list", *at(server))


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["topic", "create", "a/b"], 1, "a/b"),
        (["topic", "create", "ok", "-c", "retention.mss=1"], 1, "retention.mss"),
        (["topic", "create", "ok", "-c", "retention.ms=soon"], 1, "soon"),
        (["topic", "create", "ok", "-c", "cleanup.policy"], 2, "KEY=VALUE"),
        (["topic", "describe", "nowhere"], 1, "nowhere"),
        (["topic", "alter", "nowhere"], 2, "nothing to alter"),
        (["consume", "nowhere", "-n", "1"], 1, "nowhere"),
        (["consume", "nowhere", "--from", "yesterday-ish", "-n", "1"], 2, "yesterday"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_words_get_one_clear_line(server: HotlogServer, arguments: list[str], code: int, says: str) -> None:
    said = hotlog(*arguments, *at(server), code=code)
    assert says in said
    assert "Traceback" not in said


def test_produce_and_consume_are_inverse(server: HotlogServer) -> None:
    lines = [
        {"partition": 0, "key": "k", "value": "v", "timestamp": 5, "headers": [["h", "1"], ["h", "2"]]},
        {"partition": 0, "key": None, "value": {"base64": "/w=="}, "timestamp": 6, "headers": []},
        {"partition": 0, "key": "k", "value": None, "timestamp": 7, "headers": []},
    ]
    create(server, "pipe", **{"retention.ms": "-1"})
    hotlog("produce", "pipe", "--json", *at(server), input="".join(json.dumps(line) + "\n" for line in lines))
    out = [json.loads(line) for line in hotlog("consume", "pipe", "-e", "--json", *at(server)).splitlines()]
    assert [{"headers": []} | line for line in out] == [line | {"offset": n} for n, line in enumerate(lines)]
    assert hotlog("consume", "pipe", "--from", "1", "-n", "1", "--json", *at(server)).count("\n") == 1


def test_replay_direct_and_through_the_broker_give_the_same(history: HotlogServer, tmp_path: Path) -> None:
    span = ["--from", "2013-02-10", "--until", "2013-02-20"]
    direct, through = tmp_path / "direct.jsonl", tmp_path / "through.jsonl"
    hotlog("replay", "events", *span, "--direct", "--to", str(direct), *store_of(history))
    hotlog("replay", "events", *span, "--to", str(through), *at(history))
    rows = sorted(direct.read_text().splitlines())
    assert len(rows) == 200
    assert rows == sorted(through.read_text().splitlines())
    times = [json.loads(row)["timestamp"] for row in rows]
    assert (min(times), max(times) // DAY_MS) == (BASE_MS + 9 * DAY_MS, (BASE_MS + 18 * DAY_MS) // DAY_MS)


def test_replay_writes_raw_logs_and_makes_no_topic_by_mistake(history: HotlogServer, tmp_path: Path) -> None:
    from hotlog.wire.batch import walk

    hotlog("replay", "events", "--direct", "--to", f"{tmp_path}/raw/", *store_of(history))
    logs = {path.name: path.read_bytes() for path in (tmp_path / "raw").iterdir()}
    assert {name: next(h.base_offset for _, h in walk(body)) for name, body in logs.items()} == {
        "events-0.log": 0,
        "events-1.log": 0,
    }
    assert sum(header.record_count for body in logs.values() for _, header in walk(body)) == 1200
    assert "./out.txt" in hotlog("replay", "events", "--direct", "--to", "out.txt", *store_of(history), *at(history), code=1)
    assert "out.txt" not in hotlog("topic", "list", *at(history))
    assert "--direct" in hotlog("replay", "events", "--to", f"{tmp_path}/raw2/", *at(history), code=2)


def test_replay_into_a_topic_keeps_key_value_headers_and_time(history: HotlogServer) -> None:
    create(history, "again", 1, **{"retention.ms": "-1"})
    hotlog("replay", "events", "--until", "2013-02-03", "--direct", "--to", "again", *store_of(history), *at(history))
    again = sorted(row[2:] for row in read(history, "again"))
    assert again == sorted(row[2:] for row in read(history, "events", 2) if row[2] < BASE_MS + 2 * DAY_MS)
    assert len(again) == 40


def test_export_is_exactly_once_and_duckdb_reads_it(history: HotlogServer, tmp_path: Path) -> None:
    import duckdb

    to = ["--to", str(tmp_path / "lake"), "--schema", "auto", "--partition-by", "day", *store_of(history)]
    first = hotlog_json("export", "events", "--until", "2013-02-11", *to)
    second = hotlog_json("export", "events", *to)
    third = hotlog_json("export", "events", *to)
    assert (first["rows"], second["rows"], third["rows"]) == (200, 1000, 0)
    sql = f'select count(*), count(distinct ("partition", "offset")), count(distinct date), max(n), min(name) from \'{tmp_path}/lake/*/*.parquet\''
    assert duckdb.sql(sql).fetchall() == [(1200, 1200, 60, 19, "é0")]


def test_verify_finds_damage_and_names_it(history: HotlogServer) -> None:
    import boto3

    from tiering.store.urls import S3Url, parse_store_url

    good = hotlog_json("manifest", "verify", "events", *store_of(history))
    assert sum(report["records"] for report in good) == 1200
    assert all(report["is_sound"] for report in good)
    where = parse_store_url(history.store or "")
    assert isinstance(where, S3Url)
    client = boto3.session.Session().client("s3", endpoint_url=where.endpoint, region_name=where.region or "us-east-1")
    keys = [item["Key"] for item in client.list_objects_v2(Bucket=where.bucket, Prefix=where.prefix)["Contents"]]
    strangers = {key for report in good for key in report["unreferenced"]}  # an upload that had to be done again leaves one
    victim = next(key for key in keys if key.endswith(".seg") and not any(key.endswith(stranger) for stranger in strangers))
    body = bytearray(client.get_object(Bucket=where.bucket, Key=victim)["Body"].read())
    body[len(body) // 3] ^= 1
    client.put_object(Bucket=where.bucket, Key=victim, Body=bytes(body))
    said = hotlog("manifest", "verify", "events", *store_of(history), code=4)
    assert victim.rsplit("/", 1)[1] in said
    assert hotlog_json("manifest", "show", "events", *store_of(history))[0]["end_offset"] == 600


def test_store_check_and_cost_tell_what_they_should(history: HotlogServer) -> None:
    assert hotlog_json("store", "check", *store_of(history))["ok"] is True
    http = f"127.0.0.1:{history.http_port}"

    def has_uploads() -> bool:
        bill = hotlog_json("cost", "--data-dir", str(history.data), "--http", http, *store_of(history))
        return any(row["purpose"] == "upload" and row["topic"] == "events" and row["dollars"] > 0 for row in bill["rows"])

    eventually(has_uploads)
    bill = hotlog_json("cost", "--data-dir", str(history.data), "--http", http, *store_of(history))
    assert bill["compared_dollars_month"]["storage"] > 0
    proven = sum(part["totals"]["log_bytes"] for part in hotlog_json("manifest", "show", "events", *store_of(history)))
    assert bill["log_bytes"] == proven > 0, "each byte of a log that is all in the store counts once"
    asked = ["cost", "--data-dir", str(history.data), "--http", http, *store_of(history)]
    assert "= $" in hotlog(*asked, "--explain")
    table = hotlog(*asked)
    assert not [line for line in table.splitlines() if line.endswith("$0.00")], "lines that cost nothing are counted, not shown"
    assert "Both sides: 1 replica in 1 zone" in table
    assert hotlog(*asked, "--csv").splitlines()[0] == "topic,tier,purpose,dollars,spent,formula"


def test_cost_says_what_another_policy_would_cost(history: HotlogServer) -> None:
    http = f"127.0.0.1:{history.http_port}"
    asked = ["cost", "--data-dir", str(history.data), "--http", http, "--topic", "events", *store_of(history)]
    two = hotlog_json(*asked, "--what-if", "local.retention.ms=3600000", "--what-if", "retention.ms=864000000")
    assert two["what_if"]["log_bytes"] < two["now"]["log_bytes"], "ten days of records, not all of them"
    assert {row["topic"] for row in two["now"]["rows"]} == {"events"}
    assert "difference" in hotlog(*asked, "--what-if", "retention.ms=864000000")
    assert "allowed are" in hotlog(*asked, "--what-if", "flush.ms=1", code=2)
    assert "--topic" in hotlog("cost", "--what-if", "retention.ms=1", code=2)
    assert "no-such" in hotlog(*asked[:-3], "no-such", *store_of(history), code=1)


def test_worker_retention_expires_without_a_broker(history: HotlogServer, tmp_path: Path) -> None:
    history.stop()
    history.settings = {**history.settings, "log.retention.check.interval.ms": "3600000"}  # the broker leaves it to the worker
    history.start()
    hotlog("topic", "alter", "events", "-c", "retention.ms=86400000000", *at(history))  # a thousand days: all of it is older
    create(history, "default", **{"segment.ms": "300"})  # its retention is the broker's own: not for a worker to guess
    history.stop()
    guessed = hotlog_json("worker", "retention", "--once", *store_of(history))
    assert (guessed["partitions"], guessed["expired"]) == (0, []), "the brokers' file may say that nothing is deleted by time"
    brokers_file = tmp_path / "server.properties"
    brokers_file.write_text("log.cleanup.policy=compact\n")
    kept = hotlog_json("worker", "retention", "--once", "--config", str(brokers_file), *store_of(history))
    assert kept["expired"] == []
    brokers_file.write_text("num.partitions=1\n")
    done = hotlog_json("worker", "retention", "--once", "--config", str(brokers_file), *store_of(history))
    assert (done["partitions"], done["expired"] != []) == (2, True)
    report = hotlog_json("manifest", "show", "events", *store_of(history))
    assert [(part["log_start_offset"], part["totals"]["records"]) for part in report] == [(600, 0), (600, 0)]


@pytest.mark.timeout(4 * DEMO_SECONDS_MAX)
def test_the_demo_tells_its_story(tmp_path: Path) -> None:
    told = hotlog("demo", "--once", "--data-dir", str(tmp_path / "demo"), timeout=DEMO_SECONDS_MAX)
    assert "336,776 records acknowledged" in told
    assert "82,175 records" in told
    assert "rain\t" in told
    assert "local disks alone, total" in told


def test_a_group_is_shown_with_the_tier_that_it_reads_from(history: HotlogServer) -> None:
    at_end = hotlog_json("group", "offsets", "reset", "reader", "-t", "events:0", "--to", "latest", "--yes", *at(history))
    hotlog("group", "offsets", "reset", "reader", "-t", "events:1", "--to", "2013-03-01", "--yes", *at(history))
    ahead, behind = hotlog_json("group", "describe", "reader", *at(history))["offsets"]
    assert (ahead["tier"], ahead["lag"], ahead["committed"]) == ("hot", 0, at_end[0]["after"])
    assert (behind["tier"], behind["lag"]) == ("cold", behind["latest"] - behind["committed"])
    assert behind["lag"] > 0
