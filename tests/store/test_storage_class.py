"""Objects are put in a storage class: S3 is told it, the meter files the puts under it, and nothing that is read changes."""

from __future__ import annotations

import os

from hotlog.kernel.limits import MiB
from hotlog.world.posix import SystemClock
from tests.conftest import OpenStore
from tests.store.test_contract import SMALL_PARTS
from tiering.cost.meter import Meter
from tiering.store.resilient import ResilientStore
from tiering.store.s3 import S3Store
from tiering.store.sources import BytesSource


async def test_a_storage_class_is_filed_and_changes_nothing_that_is_read(store_url: str, open_test_store: OpenStore) -> None:
    meter = Meter(SystemClock())
    opened = await open_test_store(store_url, meter=meter)
    assert isinstance(opened, ResilientStore)
    store = opened.limited(SMALL_PARTS)
    name = "REDUCED_REDUNDANCY"  # the one besides STANDARD that MinIO knows
    body = os.urandom(6 * MiB)
    await store.put("small", b"hello", storage_class=name)
    await store.put_source("middle", BytesSource(body[:100]), storage_class=name)
    await store.put_source("large", BytesSource(body), storage_class=name)
    await store.put("plain", b"hello")
    assert bytes((await store.get("small")).data) == b"hello"
    assert bytes((await store.get("middle")).data) == body[:100]
    assert bytes((await store.get("large")).data) == body
    writes = [row.line for row in meter.rows() if "put" in row.line.kind or "upload" in row.line.kind]
    assert {line.storage_class for line in writes} == {"STANDARD", name}
    assert sum(row.bytes_sent for row in meter.rows() if row.line.storage_class == name) == 5 + 100 + len(body)
    assert {row.line.storage_class for row in meter.rows() if row.line.kind == "get"} == {"STANDARD"}
    if isinstance(inner := store._store, S3Store):
        bucket = inner._bucket
        heads = [
            await bucket.client.head_object(Bucket=bucket.name, Key=bucket.full(key))
            for key in ("small", "middle", "large", "plain")
        ]
        assert [head.get("StorageClass", "STANDARD") for head in heads] == [name, name, name, "STANDARD"]
