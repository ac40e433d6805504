"""A store behind a proxy that fails on request, as the tests of this folder use it.

Invariants: the store is patient, so that a slow machine is never taken for a fault; a test whose subject is a deadline asks for a
store that is not (`impatient`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from hotlog.kernel.settings import Settings
from tests.fixtures.faulty_s3 import FaultyProxy
from tiering.cost.meter import Meter
from tiering.store import s3_get
from tiering.store.resilient import ResilientStore, Retrier

READERS = 3
PATIENT = Settings.resolve(
    {
        "hotlog.store.attempt.timeout.ms": "60000",
        "hotlog.store.total.timeout.ms": "120000",
        "remote.log.reader.threads": str(READERS),
    }
)


class Trouble(NamedTuple):
    """A store behind a proxy, the proxy, and what the store's requests were counted as."""

    store: ResilientStore
    proxy: FaultyProxy
    meter: Meter

    @property
    def one_try(self) -> Any:
        """The same store below its deadlines and retries."""
        return self.store._store

    @property
    def reader(self) -> s3_get.Reader:
        reader: s3_get.Reader = self.one_try._bucket.reader
        return reader

    def impatient(self, *, attempt: float = 60.0, total: float = 120.0) -> ResilientStore:
        """The same store with deadlines of so many seconds."""
        retrier = self.store._retrier
        policy = retrier.policy._replace(attempt=attempt, total=total)
        return ResilientStore(self.store._store, Retrier(policy, retrier._clock, retrier._entropy))

    def metered(self, outcome: str, kind: str = "get") -> int:
        rows = self.meter.rows()
        return sum(row.requests for row in rows if (row.line.kind, row.line.outcome) == (kind, outcome))
