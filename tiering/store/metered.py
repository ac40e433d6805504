"""The account of a store: every request is counted by (topic, purpose, kind, bytes, outcome, storage class), attempts and failures too.

An adapter wraps each single request (not each call: a multipart upload is many requests) in `account.call(kind)`, below the retries,
since every attempt is billed.

Invariants: no request leaves an adapter uncounted; a count never changes what a call does or raises.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

from hotlog.kernel.errors import NotFound, OutcomeUnknown, PreconditionFailed
from hotlog.kernel.metrics import Metrics
from hotlog.world.ports import STANDARD, Clock, Purpose
from tiering.cost.meter import NO_TOPIC, Kind, Meter


class Account:
    """Whom calls are charged to.  Cheap: one is made per `bind`."""

    __slots__ = ("clock", "meter", "metrics", "purpose", "topic")

    def __init__(
        self, clock: Clock, metrics: Metrics, meter: Meter, *, topic: str = NO_TOPIC, purpose: Purpose = "other"
    ) -> None:
        self.clock = clock
        self.metrics = metrics
        self.meter = meter
        self.topic = topic
        self.purpose: Purpose = purpose

    def bind(self, *, topic: str | None, purpose: Purpose | None) -> Account:
        """The same books under another name; None keeps what is there."""
        return Account(
            self.clock,
            self.metrics,
            self.meter,
            topic=self.topic if topic is None else topic,
            purpose=self.purpose if purpose is None else purpose,
        )

    def call(self, kind: Kind, storage_class: str = STANDARD) -> Call:
        """Context manager around one request; set `.sent` and `.received` to its payload bytes."""
        return Call(self, kind, storage_class)


class Call:
    """One request being made."""

    __slots__ = ("_account", "_class", "_kind", "_started", "received", "sent")

    def __init__(self, account: Account, kind: Kind, storage_class: str) -> None:
        self._account = account
        self._kind = kind
        self._class = storage_class
        self._started = 0.0
        self.sent = 0
        self.received = 0

    def __enter__(self) -> Call:
        self._started = self._account.clock.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        account, metrics = self._account, self._account.metrics
        outcome = _outcome(value)
        account.meter.add(
            account.topic, account.purpose, self._kind, outcome, sent=self.sent, received=self.received, storage_class=self._class
        )
        metrics.store_requests.labels(account.topic, account.purpose, self._kind, outcome).inc()
        if moved := self.sent + self.received:
            metrics.store_bytes.labels(account.topic, account.purpose, self._kind).inc(moved)
        metrics.store_seconds.labels(self._kind).observe(max(0.0, account.clock.monotonic() - self._started))


def _outcome(error: BaseException | None) -> str:
    match error:
        case None:
            return "ok"
        case NotFound():
            return "not-found"
        case PreconditionFailed():
            return "precondition-failed"
        case OutcomeUnknown():
            return "unknown"
        case asyncio.CancelledError() | TimeoutError():
            return "deadline"
        case _:
            return "error"
