"""The fixtures of the store tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest_asyncio

from hotlog.world.posix import SystemClock
from tests.conftest import OpenStore
from tests.fixtures import faulty_s3 as faults
from tests.fixtures.s3_servers import S3Server
from tests.store.trouble import PATIENT, Time, Trouble
from tiering.cost.meter import Meter
from tiering.store.resilient import ResilientStore


@pytest_asyncio.fixture
async def trouble(minio: S3Server, s3_url: Callable[[S3Server], str], open_test_store: OpenStore) -> AsyncIterator[Trouble]:
    """An empty store on a real MinIO, behind a proxy without rules."""
    url = s3_url(minio)
    async with faults.faulty_proxy(minio.endpoint) as proxy:
        meter = Meter(SystemClock())
        store = await open_test_store(url.replace(minio.endpoint, proxy.endpoint), meter=meter, settings=PATIENT)
        assert isinstance(store, ResilientStore)
        time = Time()
        yield Trouble(store, proxy, meter, time)
        time.restore()
        await store.close()
