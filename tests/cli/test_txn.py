"""hotlog txn: what is going on, and how it is ended."""

from __future__ import annotations

import json
import uuid

import pytest
from confluent_kafka import KafkaException, Producer

from hotlog.cli.raw import EARLIEST, tier_borders
from tests.cli.conftest import Run
from tests.tools.hotlog_server import HotlogServer
from tests.tools.patience import PATIENCE_S


def begun(broker: HotlogServer, topic: str) -> tuple[str, Producer]:
    """A transaction with a record in partition 0, not ended."""
    name = f"txn-{uuid.uuid4().hex[:8]}"
    producer = Producer({"bootstrap.servers": broker.bootstrap, "transactional.id": name})
    producer.init_transactions(PATIENCE_S)
    producer.begin_transaction()
    producer.produce(topic, b"x", partition=0)
    assert producer.flush(PATIENCE_S) == 0
    return name, producer


def test_what_is_going_on_is_listed_and_described(broker: HotlogServer, run: Run, topic: str) -> None:
    name, producer = begun(broker, topic)
    shown = json.loads(run("txn", "list", "--state", "Ongoing", "--json").out)
    assert [one["state"] for one in shown if one["transactional_id"] == name] == ["Ongoing"]
    assert name not in run("txn", "list", "--older-than", "1h").out
    found = json.loads(run("txn", "describe", name, "--json").out)
    assert (found["state"], found["partitions"]) == ("Ongoing", [{"topic": topic, "partition": 0}])
    assert f"{topic}\t0" in run("txn", "describe", name).out
    producer.commit_transaction(PATIENCE_S)
    assert json.loads(run("txn", "describe", name, "--json").out)["partitions"] == []


def test_an_id_is_aborted_and_its_producer_fenced(broker: HotlogServer, run: Run, topic: str) -> None:
    name, producer = begun(broker, topic)
    assert run("txn", "abort", name, "--yes").code == 0
    with pytest.raises(KafkaException) as fenced:
        producer.commit_transaction(PATIENCE_S)
    assert fenced.value.args[0].fatal()
    assert run("consume", topic, "-e").out == ""


def test_one_that_hangs_is_aborted_where_it_hangs(broker: HotlogServer, run: Run, topic: str) -> None:
    begun(broker, topic)
    start = tier_borders(broker.bootstrap, topic, [0], EARLIEST)[0]
    said = run("txn", "abort", "-t", topic, "-o", str(start + 7), "-y")
    assert (said.code, f"begin at [{start}]" in said.err) == (1, True)
    assert run("txn", "abort", "-t", topic, "-o", str(start), "-y").code == 0
    assert run("consume", topic, "-e").out == ""


def test_what_is_not_there_is_told(run: Run, topic: str) -> None:
    assert "is not known" in run("txn", "describe", "nobody").err
    assert "is not known" in run("txn", "abort", "nobody", "-y").err
    assert run("txn", "list", "--state", "Going").code == 2
    assert run("txn", "abort").code == 2
    assert run("txn", "abort", "-t", topic, "-p", "9", "-o", "0", "-y").code == 1
