"""Trouble that comes from outside: a store that goes away, is unfit, wiped or another cluster's; a data directory in use."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from tests.e2e.conftest import FLEETING, HURRY, create, eventually, hotlog, metric, produce, read, running, wait_all_cold
from tests.fixtures.docker_engine import serve as minio_binary
from tests.fixtures.s3_servers import S3Server, native_minio, rclone, seaweedfs
from tests.tools.hotlog_server import HotlogServer, ServerFailed
from tests.tools.patience import PATIENCE_S


def refused(server: HotlogServer, *says: str) -> None:
    """The server does not start, and says why in words."""
    with pytest.raises(ServerFailed) as failure:
        server.start()
    for words in says:
        assert words in str(failure.value)
    assert "Traceback" not in str(failure.value)


def test_produce_and_hot_reads_go_on_while_the_store_is_away(tmp_path: Path, s3_url: Any) -> None:
    """Fault 23: local data is kept past local retention, and moves when the store is back."""
    binary = minio_binary.find_binary()
    stored = native_minio(binary, tmp_path / "minio") if binary else seaweedfs(tmp_path / "minio")
    with stored as store:
        server = HotlogServer(folder=tmp_path / "broker", settings=HURRY, store=s3_url(store))
        with running(server):
            create(server, "log", **FLEETING)
            produce(server, "log", [{"value": b"before"}])
            wait_all_cold(server, "log")
        # Only now impatient: a cluster is founded only where a store answers in time.
        server.settings = {**HURRY, "hotlog.store.attempt.timeout.ms": "3000", "hotlog.store.total.timeout.ms": "3000"}
        with running(server):
            # Nobody has asked this life of the broker for a producer id when the store goes away.
            produce(server, "log", [{"value": b"again"}], **{"enable.idempotence": False, "retries": 0})
            wait_all_cold(server, "log")
            with paused(store) as go_on:
                while_away(server, go_on)


def while_away(server: HotlogServer, go_on: Callable[[], None]) -> None:
    """The store answers nothing: copies fail, clients do not notice; `go_on` lets it answer, and all of it moves."""
    produce(server, "log", [{"value": b"during %d" % n} for n in range(200)])
    eventually(lambda: metric(server, 'kafka_server_brokertopicmetrics_remotecopyerrors_total{topic="log"}') > 0)
    assert [m.value() for m in read_from(server, "log", 2, 200)] == [b"during %d" % n for n in range(200)]
    go_on()
    wait_all_cold(server, "log")
    assert [row[1] for row in read(server, "log")] == list(range(202))


def read_from(server: HotlogServer, topic: str, offset: int, count: int) -> list[Any]:
    """What the hot tier alone answers, from `offset` on."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": server.bootstrap, "group.id": "hot", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, 0, offset)])
    found: list[Any] = []
    while len(found) < count:
        message = consumer.poll(PATIENCE_S)
        assert message is not None, f"silence after {len(found)} records"
        assert message.error() is None, message.error()
        found.append(message)
    consumer.close()
    return found


@contextmanager
def paused(store: S3Server) -> Iterator[Callable[[], None]]:
    """The store's process does nothing until the caller says that it may go on, or ends."""
    pause(store, signal.SIGSTOP)
    try:
        yield lambda: pause(store, signal.SIGCONT)
    finally:
        pause(store, signal.SIGCONT)


def pause(store: S3Server, number: signal.Signals) -> None:
    """Stop or continue the server's process, found by the port that its command line names."""
    port = store.endpoint.rsplit(":", 1)[1]
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if (f":{port}\0" in command and "minio" in command) or f"-s3.port={port}" in command:
            os.kill(int(folder.name), number)


def test_a_store_without_conditional_writes_is_refused(tmp_path: Path, s3_url: Any, rclone_binary: str) -> None:
    with rclone(rclone_binary, tmp_path / "rclone") as store:
        url = s3_url(store)
        refused(
            HotlogServer(folder=tmp_path / "broker", store=url), "is refused", "If-None-Match: *", "a stale If-Match was accepted"
        )
        assert "not fit for Hotlog" in hotlog("store", "check", "--store", url, code=1)


def test_another_clusters_bucket_and_a_wiped_one_are_refused(tmp_path: Path) -> None:
    """Fault 39: nothing is written there, nothing deleted."""
    stores = [(tmp_path / name).as_uri() for name in ("one", "two")]
    servers = [HotlogServer(folder=tmp_path / f"broker{n}", settings=HURRY, store=url) for n, url in enumerate(stores)]
    for server in servers:
        server.start()
        create(server, "t", **FLEETING)
        server.stop()
    before = sorted(str(path) for path in (tmp_path / "two").rglob("*"))
    servers[0].store = stores[1]
    refused(servers[0], "holds cluster", "check --store")
    assert sorted(str(path) for path in (tmp_path / "two").rglob("*")) == before
    shutil.rmtree(tmp_path / "one")
    servers[0].store = stores[0]
    refused(servers[0], "wiped")


def test_one_data_directory_has_one_broker(tmp_path: Path) -> None:
    first = HotlogServer(folder=tmp_path / "broker", settings=HURRY)
    first.start()
    try:
        second = HotlogServer(folder=tmp_path / "broker", settings=HURRY)
        refused(second, "in use by another process")
        create(first, "still-here")
        produce(first, "still-here", [{"value": b"x"}])
    finally:
        first.stop()
    first.settings = {**HURRY, "node.id": "7"}
    refused(first, "node.id=1", "node.id=7")


@pytest.mark.parametrize(
    ("pair", "says"),
    [
        ("log.retention.ms=soon", "soon"),
        ("log.local.retention.ms=99999999999", "must not be above"),
        ("hotlog.durability=maybe", "fsync, page-cache"),
        ("nonsense", "KEY=VALUE"),
        ("advertised.listeners=PLAINTEXT://:9092", "HOST:PORT"),
        ("listeners=SASL_SSL://:9093", "only PLAINTEXT"),
    ],
)
def test_bad_settings_stop_the_start(tmp_path: Path, pair: str, says: str) -> None:
    assert says in hotlog("serve", "--data-dir", str(tmp_path / "data"), "--set", pair, code=2)
    assert not (tmp_path / "data").exists()


def test_a_kafka_server_properties_is_accepted_and_what_has_no_effect_is_named_once(tmp_path: Path) -> None:
    config = tmp_path / "server.properties"
    config.write_text("# ours\nzookeeper.connect=zk:2181\nnum.network.threads=3\nlog.retention.hours=24\nnum.partitions=5\n")
    server = HotlogServer(folder=tmp_path / "broker")
    server.command_extra = ["--config", str(config)]
    server.start()
    try:
        admin = AdminClient({"bootstrap.servers": server.bootstrap})
        admin.create_topics([NewTopic("t", num_partitions=-1, replication_factor=-1)])["t"].result(PATIENCE_S)
        assert len(admin.list_topics(timeout=PATIENCE_S).topics["t"].partitions) == 5
    finally:
        server.stop()
    said = server.errors.read_text()
    assert said.count("zookeeper.connect") == said.count("num.network.threads") == 1
    assert "log.retention.hours" not in said


def test_who_listens_everywhere_tells_clients_a_name_to_go_to(tmp_path: Path) -> None:
    server = HotlogServer(folder=tmp_path / "broker")
    server.command()  # chooses the port
    server.command_extra = ["--listen", f"0.0.0.0:{server.port}"]
    server.start()
    try:
        (broker,) = AdminClient({"bootstrap.servers": server.bootstrap}).list_topics(timeout=PATIENCE_S).brokers.values()
        assert broker.host in {socket.getfqdn(), socket.gethostname()}  # the latter where a resolver is slow to answer one of us
        assert broker.port == server.port
    finally:
        server.stop()


def test_four_thousand_partitions_start_small(tmp_path: Path) -> None:
    server = HotlogServer(folder=tmp_path / "broker", settings={"hotlog.durability": "page-cache"})
    server.start()
    try:
        admin = AdminClient({"bootstrap.servers": server.bootstrap})
        for number in range(4):
            name = f"wide{number}"
            wanted = NewTopic(name, num_partitions=1000, replication_factor=1)
            admin.create_topics([wanted], request_timeout=PATIENCE_S)[name].result(PATIENCE_S)
        produce(server, "wide3", [{"value": b"x", "partition": n} for n in range(1000)])
        server.stop()
        server.start()
        meta = AdminClient({"bootstrap.servers": server.bootstrap}).list_topics(timeout=PATIENCE_S)
        assert sum(len(topic.partitions) for topic in meta.topics.values()) == 4000
        assert rss_bytes(server) < 1 << 30
        assert len(read(server, "wide3", 1000)) == 1000
    finally:
        server.stop()


def rss_bytes(server: HotlogServer) -> int:
    assert server.process is not None
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1]) * 1024
