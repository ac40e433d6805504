"""A register that is looked at again and again: only what has changed is decoded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest_asyncio

from hotlog.world.ports import ObjectStore
from hotlog.world.register import Register
from tests.admin.node import open_directory_store
from tests.support.faulty_store import Faults, FaultyStore


class Page(NamedTuple):
    text: str


class Counted:
    """Pages as text; counts what it decodes."""

    def __init__(self) -> None:
        self.decoded = 0

    def encode(self, value: Page) -> bytes:
        return value.text.encode()

    def decode(self, raw: bytes) -> Page:
        self.decoded += 1
        return Page(raw.decode())

    def nonces_of(self, value: Page) -> tuple[str, ...]:
        return (value.text,)


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[ObjectStore]:
    opened = await open_directory_store(tmp_path / "store")
    yield opened
    await opened.close()


async def test_what_is_still_the_same_is_not_decoded_again(store: ObjectStore) -> None:
    codec = Counted()
    register: Register[Page] = Register(store, "page", codec)
    written = await register.commit(lambda _: Page("one"))
    assert (await register.load()).value is written
    assert codec.decoded == 0
    other: Register[Page] = Register(store, "page", Counted())
    await other.load()
    await other.commit(lambda _: Page("two"))
    changed = await register.load()
    assert changed.value == Page("two")
    assert codec.decoded == 1
    assert (await register.load()).value is changed.value
    assert codec.decoded == 1
    assert await register.commit(lambda page: Page(f"{page.text} and three") if page else None) == Page("two and three")


async def test_other_bytes_are_decoded_whatever_the_etag_says(store: ObjectStore) -> None:
    faults, codec = Faults(), Counted()
    register: Register[Page] = Register(FaultyStore(store, faults), "page", codec)
    await register.commit(lambda _: Page("one"))
    faults.is_damaging = True
    assert (await register.load()).value != Page("one")
    assert codec.decoded == 1
