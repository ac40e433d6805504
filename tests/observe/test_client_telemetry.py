"""Telemetry of clients: who asks or pushes too often is told so, for as long as it matters, in bounded memory."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kio.schema.errors import ErrorCode

from hotlog.observe import client_telemetry
from hotlog.observe.client_telemetry import FORGOTTEN_AFTER_MS, PUSH_INTERVAL_MS, ClientTelemetry, subscription_id
from hotlog.wire.error_codes import Refused
from hotlog.world.posix import SystemEntropy

CLIENT = UUID(int=77 << 64 | 5)


class Hand:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.ms = 1_700_000_000_000

    def now_ms(self) -> int:
        return self.ms


def telemetry(clock: Hand) -> ClientTelemetry:
    clock_: Any = clock
    return ClientTelemetry(clock_, SystemEntropy())


def push(to: ClientTelemetry, client: UUID = CLIENT, **other: Any) -> ErrorCode:
    said = {"subscription": subscription_id(client), "codec": 0, "is_last": False, "is_too_large": False, **other}
    try:
        to.pushed(client, **said)
    except Refused as why:
        return why.code
    return ErrorCode.none


def ask(to: ClientTelemetry, client: UUID = CLIENT) -> ErrorCode:
    try:
        assert to.asked(client) == client
    except Refused as why:
        return why.code
    return ErrorCode.none


def test_a_client_asks_and_pushes_once_in_an_interval() -> None:
    clock = Hand()
    to = telemetry(clock)
    assert [ask(to), ask(to), push(to), push(to), ask(to)] == [
        ErrorCode.none, ErrorCode.throttling_quota_exceeded, ErrorCode.none, ErrorCode.throttling_quota_exceeded,
        ErrorCode.throttling_quota_exceeded,
    ]  # fmt: skip
    clock.ms += PUSH_INTERVAL_MS
    assert [push(to), ask(to)] == [ErrorCode.none, ErrorCode.throttling_quota_exceeded]
    clock.ms += PUSH_INTERVAL_MS
    assert [ask(to), push(to)] == [ErrorCode.none, ErrorCode.none]


def test_a_client_that_was_wrong_about_its_subscription_may_ask_again_once() -> None:
    to = telemetry(Hand())
    assert [ask(to), push(to, subscription=subscription_id(CLIENT) + 1), ask(to), ask(to)] == [
        ErrorCode.none, ErrorCode.unknown_subscription_id, ErrorCode.none, ErrorCode.throttling_quota_exceeded,
    ]  # fmt: skip
    assert push(telemetry(Hand()), codec=5) is ErrorCode.unsupported_compression_type
    assert push(telemetry(Hand()), is_too_large=True) is ErrorCode.telemetry_too_large


def test_the_last_push_is_taken_at_any_time_and_nothing_behind_it() -> None:
    clock = Hand()
    to = telemetry(clock)
    assert [push(to), push(to, is_last=True), push(to, is_last=True)] == [
        ErrorCode.none, ErrorCode.none, ErrorCode.invalid_request,
    ]  # fmt: skip
    clock.ms += FORGOTTEN_AFTER_MS + 1
    assert push(to) is ErrorCode.none, "forgotten"


def test_ids_are_given_and_reserved_ones_are_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_telemetry, "INSTANCES_MAX", 10)
    to = telemetry(Hand())
    assert len({to.asked(None) for _ in range(100)}) == 100
    assert len(to._known) == 10
    for number in (0, 1):
        assert push(to, UUID(int=number)) is ErrorCode.invalid_request


@given(st.integers(0, (1 << 128) - 1))
def test_the_id_of_a_subscription_is_32_bits_with_a_sign(number: int) -> None:
    assert -(1 << 31) <= subscription_id(UUID(int=number)) < 1 << 31
