"""The gate before a store that nobody has examined: no write of any kind passes, reads do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from hotlog.kernel.errors import StoreUnavailable
from hotlog.world.ports import ByteSource, ObjectStore, PendingUpload
from tests.conftest import OpenStore
from tiering.store.gated import GatedStore
from tiering.store.sources import BytesSource

WRITES: dict[str, Callable[[ObjectStore], Awaitable[object]]] = {
    "put": lambda store: store.put("a", b"new"),
    "put if absent": lambda store: store.put("b", b"new", if_absent=True),
    "upload": lambda store: store.put_source("a", source()),
    "delete": lambda store: store.delete(["a"]),
    "abort": lambda store: store.abort_upload(PendingUpload("a", "1", 0)),
}


def source() -> ByteSource:
    return BytesSource(b"new")


@pytest.mark.parametrize("write", WRITES)
async def test_no_write_passes_a_closed_gate(write: str, tmp_path: Path, open_test_store: OpenStore) -> None:
    inner = await open_test_store(f"file://{tmp_path}/store")
    await inner.put("a", b"old")
    gated = GatedStore(inner, lambda: False).bind(topic="clicks", purpose="upload")
    with pytest.raises(StoreUnavailable, match="not examined yet"):
        await WRITES[write](gated)
    assert bytes((await gated.get("a")).data) == b"old"
    assert [info.key async for info in gated.list("")] == ["a"]
    await gated.close()


async def test_an_open_gate_is_not_there(tmp_path: Path, open_test_store: OpenStore) -> None:
    inner = await open_test_store(f"file://{tmp_path}/store")
    gated = GatedStore(inner, lambda: True).bind(topic="clicks", purpose="upload")
    await gated.put_source("a", source())
    assert bytes((await gated.get("a")).data) == b"new"
    await gated.delete(["a"])
    assert [info.key async for info in gated.list("")] == []
    await gated.close()
