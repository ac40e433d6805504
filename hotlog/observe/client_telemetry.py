"""Telemetry of clients, which nobody here takes: each client that asks is told that no metrics are wanted, and what it pushes is dropped (KIP-714).

Kafka without a receiver answers so too, and does not tell clients that they may ask.

Invariants: an instance of a client asks once in PUSH_INTERVAL_MS and pushes as often; of at most INSTANCES_MAX it is known when they did so,
the longest silent being forgotten first.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from uuid import UUID

from crc32c import crc32c
from kio.schema.errors import ErrorCode

from hotlog.wire.error_codes import Refused
from hotlog.world.ports import Clock, Entropy

PUSH_INTERVAL_MS = 300_000
FORGOTTEN_AFTER_MS = 3_600_000
INSTANCES_MAX = 16_384
PUSH_BYTES_MAX = 1_048_576
CODECS = (4, 3, 1, 2)  # zstd, lz4, gzip, snappy: what is liked best comes first
NO_CODEC = 0
_RESERVED = (UUID(int=0), UUID(int=1))
_LONG, _INT = (1 << 64) - 1, (1 << 32) - 1


@dataclass(slots=True)
class _Instance:
    """One client.  Times in ms of the wall clock, 0 for never; `may_ask_again`: it was told that its subscription is not the one there is."""

    asked_ms: int = 0
    pushed_ms: int = 0
    seen_ms: int = 0
    is_terminating: bool = False
    may_ask_again: bool = False


class ClientTelemetry:
    """All clients of this node."""

    def __init__(self, clock: Clock, entropy: Entropy) -> None:
        self._clock = clock
        self._entropy = entropy
        self._known: OrderedDict[UUID, _Instance] = OrderedDict()

    def asked(self, instance_id: UUID | None) -> UUID:
        """GetTelemetrySubscriptions: the id of the client, a new one if it has none.

        Raises:
            Refused: it asks too often.
        """
        if instance_id is None:
            instance_id = self._entropy.uuid()
        now_ms = self._clock.now_ms()
        instance = self._instance(instance_id, now_ms)
        if now_ms - max(instance.asked_ms, instance.pushed_ms) >= PUSH_INTERVAL_MS:
            instance.asked_ms = now_ms
        elif not instance.may_ask_again:
            raise Refused(ErrorCode.throttling_quota_exceeded, f"client {instance_id} asks before {PUSH_INTERVAL_MS} ms are over")
        instance.may_ask_again = False
        return instance_id

    def pushed(self, instance_id: UUID | None, subscription: int, codec: int, *, is_last: bool, is_too_large: bool) -> None:
        """PushTelemetry: what it holds is dropped.  `is_last`: the client ends.

        Raises:
            Refused
        """
        if instance_id is None or instance_id in _RESERVED:
            raise Refused(ErrorCode.invalid_request, f"{instance_id} is no id of a client")
        now_ms = self._clock.now_ms()
        instance = self._instance(instance_id, now_ms)
        code = self._refusal(instance, now_ms, instance_id, subscription, codec, is_last, is_too_large)
        instance.is_terminating = is_last
        instance.may_ask_again = code in (ErrorCode.unknown_subscription_id, ErrorCode.unsupported_compression_type)
        if code is not ErrorCode.none:
            raise Refused(code, f"telemetry of client {instance_id} is refused: {code.name}")

    def _refusal(
        self,
        instance: _Instance,
        now_ms: int,
        instance_id: UUID,
        subscription: int,
        codec: int,
        is_last: bool,
        is_too_large: bool,
    ) -> ErrorCode:
        """In the order in which Kafka looks."""
        if instance.is_terminating:
            return ErrorCode.invalid_request
        if instance.asked_ms > instance.pushed_ms or now_ms - instance.pushed_ms >= PUSH_INTERVAL_MS:
            instance.pushed_ms = now_ms
        elif not is_last:
            return ErrorCode.throttling_quota_exceeded
        if subscription != subscription_id(instance_id):
            return ErrorCode.unknown_subscription_id
        if codec != NO_CODEC and codec not in CODECS:
            return ErrorCode.unsupported_compression_type
        return ErrorCode.telemetry_too_large if is_too_large else ErrorCode.none

    def _instance(self, instance_id: UUID, now_ms: int) -> _Instance:
        instance = self._known.get(instance_id)
        if instance is None or now_ms - instance.seen_ms > FORGOTTEN_AFTER_MS:
            instance = self._known[instance_id] = _Instance()
        instance.seen_ms = now_ms
        self._known.move_to_end(instance_id)
        while len(self._known) > INSTANCES_MAX:
            self._known.popitem(last=False)
        return instance


def subscription_id(instance_id: UUID) -> int:
    """Of a client's subscription, which is that of no metrics: KIP-714 makes it from what is wanted and from who is asked."""
    wanted = crc32c(f"[]{PUSH_INTERVAL_MS}".encode())
    halves = (instance_id.int >> 64) ^ (instance_id.int & _LONG)
    number = (wanted ^ (halves >> 32) ^ halves) & _INT
    return number - (1 << 32) if number >> 31 else number
