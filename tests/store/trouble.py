"""A store behind a proxy that fails on request, as the tests of this folder use it.

Invariants: the store is patient, so that a slow machine is never taken for a fault; where a deadline is the subject, it passes because
the test moves the time on (`Time`), never because real time went by.
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from aiohttp import web

from hotlog.kernel.settings import Settings
from tests.fixtures import faulty_s3 as faults
from tests.fixtures.faulty_s3 import FaultyProxy
from tests.tools.patience import PATIENT_STORE
from tiering.cost.meter import Meter
from tiering.store import s3_get
from tiering.store.resilient import ResilientStore, Retrier

READERS = 3
PATIENT = Settings.resolve({**PATIENT_STORE, "remote.log.reader.threads": str(READERS)})
ATTEMPT_S = 60.0  # the deadlines of `Trouble.impatient`: beyond any stall of a machine, so that only `Time.leap` gets there
TOTAL_S = 120.0


class Time:
    """The running loop's time, and a clock that goes by it: real time and what the test leaps over."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._real = self._loop.time
        self._leapt = 0.0
        self._loop.time = self.monotonic  # type: ignore[method-assign]

    def monotonic(self) -> float:
        return self._real() + self._leapt

    def now_ms(self) -> int:
        return int(self.monotonic() * 1000)

    def leap(self, seconds: float) -> None:
        self._leapt += seconds

    def restore(self) -> None:
        self._loop.time = self._real  # type: ignore[method-assign]


class Trouble(NamedTuple):
    """A store behind a proxy, the proxy, what the store's requests were counted as, and the time they go by."""

    store: ResilientStore
    proxy: FaultyProxy
    meter: Meter
    time: Time

    @property
    def one_try(self) -> Any:
        """The same store below its deadlines and retries."""
        return self.store._store

    @property
    def reader(self) -> s3_get.Reader:
        reader: s3_get.Reader = self.one_try._bucket.reader
        return reader

    @property
    def impatient(self) -> ResilientStore:
        """The same store with deadlines of ATTEMPT_S and TOTAL_S, in the time that a test moves."""
        retrier = self.store._retrier
        policy = retrier.policy._replace(attempt=ATTEMPT_S, total=TOTAL_S)
        return ResilientStore(self.store._store, Retrier(policy, self.time, retrier._entropy))

    def late(self, act: faults.Act, seconds: float = 1.1 * ATTEMPT_S) -> faults.Act:
        """`act`, and so much time with it."""

        async def leap_and_act(request: web.Request, forward: faults.Forward) -> web.StreamResponse:
            self.time.leap(seconds)
            return await act(request, forward)

        return leap_and_act

    async def do_and_hang(self, request: web.Request, forward: faults.Forward) -> web.StreamResponse:
        """The store does it, and never says so: the attempt's deadline passes after that."""
        await forward()
        return await self.late(faults.hang)(request, forward)

    async def trickle(self, request: web.Request, forward: faults.Forward) -> web.StreamResponse:
        """A byte now and then, the waits between them short and the whole too long."""
        whole = await forward()
        response = await faults.begin(request, whole)
        for at in range(22):
            await response.write(whole.body[at : at + 1])  # type: ignore[index]
            self.time.leap(ATTEMPT_S / 20)
            await asyncio.sleep(0.001)
        return await faults.hang(request, forward)

    def metered(self, outcome: str, kind: str = "get") -> int:
        rows = self.meter.rows()
        return sum(row.requests for row in rows if (row.line.kind, row.line.outcome) == (kind, outcome))
