"""Deletes by the thousand, and one by one where a store does not know DeleteObjects."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conftest import OpenStore
from tests.fixtures import faulty_s3 as faults
from tests.fixtures.faulty_s3 import Rule
from tests.fixtures.s3_servers import S3Server

COUNT = 40


@pytest.mark.parametrize(("status", "code"), [(501, "NotImplemented"), (405, "MethodNotAllowed")])
async def test_a_store_without_delete_objects_is_asked_once_for_it(
    status: int, code: str, minio: S3Server, s3_url: Callable[[S3Server], str], open_test_store: OpenStore
) -> None:
    url = s3_url(minio)
    async with faults.faulty_proxy(minio.endpoint) as proxy:
        store = await open_test_store(url.replace(minio.endpoint, proxy.endpoint))
        keys = [f"data/{number}" for number in range(COUNT)]
        for key in keys:
            await store.put(key, b"x")
        proxy.rules.append(Rule("POST", "delete", faults.answer(status, code)))
        await store.delete([*keys[:30], "data/never-there"])
        await store.delete(keys[30:])
        assert [info.key async for info in store.list("data/")] == []
        assert proxy.count("POST", "delete") == 1
        assert proxy.count("DELETE") == COUNT + 1


async def test_a_thousand_keys_go_with_one_request(
    minio: S3Server, s3_url: Callable[[S3Server], str], open_test_store: OpenStore
) -> None:
    url = s3_url(minio)
    async with faults.faulty_proxy(minio.endpoint) as proxy:
        store = await open_test_store(url.replace(minio.endpoint, proxy.endpoint))
        keys = [f"data/{number}" for number in range(1500)]
        for key in keys[:5]:
            await store.put(key, b"x")
        await store.delete(keys)
        assert [info.key async for info in store.list("data/")] == []
        assert (proxy.count("POST", "delete"), proxy.count("DELETE")) == (2, 0)
