"""Makes golden data with the code of the checkout that PYTHONPATH names: `python tests/golden/make.py NAME` (see README.md).

The archive holds one cluster at two moments, `stopped` (a clean stop) and `killed` (kill -9 some records later), each with its data
directory, its directory store and `facts.json`: what clients saw just before.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import zstandard
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType

from hotlog.cli.raw import EARLIEST_LOCAL, LATEST, LATEST_TIERED, tier_borders
from tests.golden.clients import PARTITIONS, SETTINGS, TIERED, facts, produce
from tests.tools.hotlog_server import HotlogServer
from tests.tools.patience import PATIENCE_S

BASE_MS = 1_700_000_000_000
SMALL = {"retention.ms": "-1", "index.interval.bytes": "300", "file.delete.delay.ms": "100"}
CONFIGS = {
    "long": {**SMALL, "segment.bytes": "1024"},
    "mixed": {**SMALL, "segment.bytes": "6000"},
    "latest": {**SMALL, "cleanup.policy": "compact", "segment.bytes": "6000"},
    "hot": {**SMALL, "remote.storage.enable": "false", "segment.bytes": "6000"},
    "holed": {**SMALL, "segment.bytes": "4000"},
    "gone": {**SMALL, "segment.bytes": "2000"},
}


def main(name: str) -> None:
    here = Path(__file__).parent
    with tempfile.TemporaryDirectory() as room:
        folder = Path(room)
        server = HotlogServer(folder=folder / "made", settings=SETTINGS, store=f"file://{folder}/made/store")
        try:
            first_life(server)
            server.stop()
            shutil.rmtree(server.data)  # the disk is lost: what was not copied is a hole, every leader epoch rises
            server.command_extra = ["--adopt"]
            server.start()
            server.command_extra = []
            second_life(server)
            keep(server, folder / "stopped", facts(server.bootstrap), is_clean=True)
            server.start()
            third_life(server)
            keep(server, folder / "killed", facts(server.bootstrap), is_clean=False)
        finally:
            server.stop()
        pack(folder, here / f"{name}.tar.zst")


def first_life(server: HotlogServer) -> None:
    server.start()
    at = server.bootstrap
    admin = AdminClient({"bootstrap.servers": at})
    wanted = [NewTopic(t, num_partitions=PARTITIONS.get(t, 1), replication_factor=1, config=c) for t, c in CONFIGS.items()]
    for future in admin.create_topics(wanted, request_timeout=PATIENCE_S).values():
        future.result(PATIENCE_S)
    keys = ["follower.replication.throttled.replicas", "leader.replication.throttled.replicas"]
    for number in range(80):  # metadata pages and a snapshot
        padding = ",".join(f"{1000 + number + step}:0" for step in range(145))
        for topic in CONFIGS:
            alter(server, topic, dict.fromkeys(keys, padding), admin)
    for topic in CONFIGS:
        alter(server, topic, dict.fromkeys(keys, None), admin)
    produce(at, "long", plain(0, 1400), batch_records=7)
    for number, codec in enumerate(["none", "gzip", "snappy", "lz4", "zstd"]):
        produce(at, "mixed", mixed(number, 60), batch_records=12, **{"compression.type": codec})
    produce(at, "latest", ({"key": b"k%d" % (n % 9), "value": b"v%d" % n} for n in range(200)), batch_records=10)
    produce(at, "holed", plain(0, 60), batch_records=10)
    produce(at, "gone", plain(0, 200), batch_records=10)
    for topic in ("long", "mixed", "holed"):
        roll(server, topic, now_ms())
    produce(at, "holed", plain(60, 20), batch_records=20)  # never copied
    produce(at, "hot", plain(0, 50), batch_records=10)
    eventually(lambda: tier_borders(at, "gone", [0], LATEST_TIERED)[0] > 100)


def second_life(server: HotlogServer) -> None:
    at = server.bootstrap
    admin = AdminClient({"bootstrap.servers": at})
    produce(at, "long", plain(1400, 350), batch_records=7)
    for number, codec in enumerate(["zstd", "none"]):
        produce(at, "mixed", mixed(10 + number, 60), batch_records=12, **{"compression.type": codec})
    produce(at, "latest", ({"key": b"k%d" % (n % 9), "value": b"w%d" % n} for n in range(100)), batch_records=10)
    produce(at, "holed", plain(80, 30), batch_records=10)
    produce(at, "hot", plain(50, 200), batch_records=10)
    roll(server, "long", now_ms())
    roll(server, "holed", now_ms())
    alter(server, "long", {"local.retention.ms": "1"})
    eventually(lambda: tier_borders(at, "long", [0], EARLIEST_LOCAL) == tier_borders(at, "long", [0], LATEST))
    cut = admin.delete_records([TopicPartition("long", 0, 300)], request_timeout=PATIENCE_S)  # garbage, some of it below a page
    assert cut[TopicPartition("long", 0)].result(PATIENCE_S).low_watermark == 300
    admin.delete_topics(["gone"], request_timeout=PATIENCE_S)["gone"].result(PATIENCE_S)
    alter_broker(server, {"log.cleaner.threads": "2"})
    commit(server)
    time.sleep(3)  # the upkeep has dealt with what was cut and deleted


def third_life(server: HotlogServer) -> None:
    at = server.bootstrap
    produce(at, "hot", plain(250, 40), batch_records=10)
    produce(at, "mixed", mixed(20, 60), batch_records=12, **{"compression.type": "lz4"})
    produce(at, "long", plain(1750, 14), batch_records=7)
    commit(server)


def plain(first: int, count: int) -> list[dict[str, Any]]:
    """Records of about 100 bytes, one second apart."""
    return [
        {"key": b"k%05d" % n, "value": b"v%05d " % n + b"." * 90, "timestamp": BASE_MS + n * 250, "partition": 0}
        for n in range(first, first + count)
    ]


def mixed(seed: int, count: int) -> list[dict[str, Any]]:
    """Records of every shape, over both partitions; timestamps go to and fro."""
    chance = random.Random(seed)
    made = []
    for n in range(count):
        record: dict[str, Any] = {
            "value": None if chance.random() < 0.1 else chance.randbytes(chance.randrange(0, 60)),
            "partition": n % 2,
            "timestamp": BASE_MS + (seed * 1000 + n) * 20 + chance.randrange(-900, 900),
        }
        if chance.random() < 0.7:
            record["key"] = f"key-{chance.randrange(50)}".encode()
        if chance.random() < 0.3:
            record["headers"] = [("h", b"1"), ("h", b"2"), ("none", None)]
        made.append(record)
    return made


def commit(server: HotlogServer) -> None:
    """Two groups: one that joined and left, one that only commits."""
    joined = Consumer({
        "bootstrap.servers": server.bootstrap, "group.id": "readers", "auto.offset.reset": "earliest", "enable.auto.commit": False,
    })  # fmt: skip
    joined.subscribe(["mixed"])
    assert joined.consume(30, PATIENCE_S)  # fewer than there are, or it would wait
    joined.commit(asynchronous=False)
    joined.close()
    alone = Consumer({"bootstrap.servers": server.bootstrap, "group.id": "assigned", "enable.auto.commit": False})
    places = [TopicPartition("long", 0, 777, "half way"), TopicPartition("hot", 0, 60)]
    alone.commit(offsets=places, asynchronous=False)
    alone.close()


def roll(server: HotlogServer, topic: str, now_ms: int) -> None:
    """All of a topic into the store; `now_ms` is the broker's time."""
    indexes = list(range(PARTITIONS[topic]))
    ends = tier_borders(server.bootstrap, topic, indexes, LATEST)
    alter(server, topic, {"hotlog.segment.roll.before.ms": str(now_ms)})
    eventually(
        lambda: all(tiered + 1 == ends[i] for i, tiered in tier_borders(server.bootstrap, topic, indexes, LATEST_TIERED).items())
    )
    assert topic in TIERED


def now_ms() -> int:
    return int(time.time() * 1000)


def alter(server: HotlogServer, topic: str, pairs: Mapping[str, str | None], admin: AdminClient | None = None) -> None:
    _alter(server, ResourceType.TOPIC, topic, pairs, admin)


def alter_broker(server: HotlogServer, pairs: Mapping[str, str | None]) -> None:
    _alter(server, ResourceType.BROKER, "1", pairs, None)


def _alter(
    server: HotlogServer, kind: ResourceType, name: str, pairs: Mapping[str, str | None], admin: AdminClient | None
) -> None:
    kinds = {True: AlterConfigOpType.DELETE, False: AlterConfigOpType.SET}
    entries = [ConfigEntry(key, value, incremental_operation=kinds[value is None]) for key, value in pairs.items()]
    resource = ConfigResource(kind, name, incremental_configs=entries)
    admin = admin or AdminClient({"bootstrap.servers": server.bootstrap})  # must outlive its future
    admin.incremental_alter_configs([resource], request_timeout=PATIENCE_S)[resource].result(PATIENCE_S)


def eventually(what: Any) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < give_up, "it did not come to be"
        time.sleep(0.1)


def keep(server: HotlogServer, folder: Path, seen: dict[str, Any], *, is_clean: bool) -> None:
    """A copy of what the broker left, and what was seen before."""
    if is_clean:
        server.stop()
    else:
        server.kill()
    seen["made_ms"] = now_ms()
    shutil.copytree(server.data, folder / "data")
    shutil.copytree(server.folder / "store", folder / "store")
    shutil.rmtree(folder / "data" / "cache", ignore_errors=True)
    (folder / "facts.json").write_text(json.dumps(seen))


def pack(folder: Path, to: Path) -> None:
    with tempfile.TemporaryFile() as plain_tar:
        with tarfile.open(fileobj=plain_tar, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name in ("stopped", "killed"):
                tar.add(folder / name, name, filter=_nobody)
        plain_tar.seek(0)
        parameters = zstandard.ZstdCompressionParameters.from_level(19, window_log=27, enable_ldm=True)
        body = zstandard.ZstdCompressor(compression_params=parameters).compress(plain_tar.read())
    to.write_bytes(body)
    print(f"{to.name}: {len(body)} bytes")


def _nobody(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info


if __name__ == "__main__":
    main(sys.argv[1])
