"""Broker settings from text: what is refused before anything is opened, and what is named because it changes nothing."""

from __future__ import annotations

import pytest

from hotlog.kernel.addresses import Endpoint, advertised_addresses, parse_listeners
from hotlog.kernel.errors import Invalid, InvalidConfig
from hotlog.kernel.settings import Settings


@pytest.mark.parametrize("text", ["here", "here:", ":9092", "PLAINTEXT://:9092", "here:port", "here:0", "here:65536", "here:-1"])
def test_an_address_that_no_client_could_reach_is_refused(text: str) -> None:
    with pytest.raises(InvalidConfig, match="HOST:PORT"):
        Settings.resolve({"advertised.listeners": text})


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("", {}),
        ("here:9092", {"PLAINTEXT": ("here", 9092)}),
        ("PLAINTEXT://10.0.0.7:19092", {"PLAINTEXT": ("10.0.0.7", 19092)}),
        ("PLAINTEXT://[::1]:9092", {"PLAINTEXT": ("::1", 9092)}),
        ("PLAINTEXT://one:1,CONTROLLER://two:2", {"PLAINTEXT": ("one", 1), "CONTROLLER": ("two", 2)}),
    ],
)
def test_advertised_listeners_are_found_by_name(text: str, addresses: dict[str, tuple[str, int]]) -> None:
    assert Settings.resolve({"advertised.listeners": text}).advertised() == addresses


def test_clients_are_told_the_address_of_the_listener_they_came_by() -> None:
    inside, outside = Endpoint("INSIDE", "10.0.0.7", 9092), Endpoint("OUTSIDE", "0.0.0.0", 19092)
    listed = {"OUTSIDE": ("broker.example", 443)}
    assert advertised_addresses([inside, outside], listed) == {"INSIDE": ("10.0.0.7", 9092), "OUTSIDE": ("broker.example", 443)}
    assert advertised_addresses([inside, outside], {}, "machine") == {"INSIDE": ("10.0.0.7", 9092), "OUTSIDE": ("machine", 19092)}
    assert advertised_addresses([outside], {}, "machine") == {"OUTSIDE": ("machine", 19092)}
    assert advertised_addresses([inside], listed) == {"INSIDE": ("broker.example", 443)}  # the first that is listed


def test_what_changes_nothing_is_named_and_defaults_are_not() -> None:
    given = {
        "zookeeper.connect": "zk:2181",
        "min.insync.replicas": "2",
        "compression.type": "producer",
        "log.retention.hours": "1",
    }
    settings = Settings.resolve(given)
    assert sorted(settings.ignored) == ["min.insync.replicas", "zookeeper.connect"]
    assert settings.number("log.retention.ms") == 3_600_000


@pytest.mark.parametrize(
    ("given", "listeners"),
    [
        ({}, []),
        ({"listeners": "127.0.0.1:9092"}, ["PLAINTEXT://127.0.0.1:9092"]),
        (
            {"listeners": "PLAINTEXT://:9092,CONTROLLER://:9093", "controller.listener.names": "CONTROLLER"},
            ["PLAINTEXT://0.0.0.0:9092"],
        ),
        (
            {"listeners": "CONTROLLER://:9093, PLAINTEXT://[::1]:9092", "controller.listener.names": "CONTROLLER"},
            ["PLAINTEXT://[::1]:9092"],
        ),
        ({"listeners": "INSIDE://a:1", "listener.security.protocol.map": "INSIDE:PLAINTEXT,OUTSIDE:SSL"}, ["INSIDE://a:1"]),
        (
            {"listeners": "INSIDE://a:1, OUTSIDE://b:2", "listener.security.protocol.map": "INSIDE:PLAINTEXT,OUTSIDE:PLAINTEXT"},
            ["INSIDE://a:1", "OUTSIDE://b:2"],
        ),
    ],
)
def test_the_listeners_for_clients_are_found(given: dict[str, str], listeners: list[str]) -> None:
    assert list(map(str, parse_listeners(given))) == listeners


def test_two_listeners_do_not_share_a_name() -> None:
    with pytest.raises(Invalid, match="PLAINTEXT"):
        parse_listeners({"listeners": "PLAINTEXT://:1,PLAINTEXT://:2"})


@pytest.mark.parametrize(
    "given",
    [
        {"listeners": "SSL://:9093"},
        {"listeners": "SASL_PLAINTEXT://:9092"},
        {"listeners": "OUTSIDE://:9092", "listener.security.protocol.map": "OUTSIDE:SASL_SSL"},
        {"listeners": "NOBODY_MAPPED_THIS://:9092"},
    ],
)
def test_no_listener_opens_without_the_protection_it_asks_for(given: dict[str, str]) -> None:
    with pytest.raises(Invalid, match="only PLAINTEXT"):
        parse_listeners(given)


@pytest.mark.parametrize("text", ["", "1_000", "7d", "1.5", "0x10", "\u0663", "9223372036854775808", "-2"])
def test_a_number_that_kafka_would_not_read_is_refused(text: str) -> None:
    with pytest.raises(InvalidConfig, match="retention"):
        Settings.resolve({"log.retention.ms": text})


@pytest.mark.parametrize("grace", ["0", "1", "119999"])
def test_the_grace_of_garbage_is_as_long_as_a_read_of_the_store(grace: str) -> None:
    with pytest.raises(InvalidConfig, match=r"hotlog\.garbage\.grace\.ms"):
        Settings.resolve({"hotlog.garbage.grace.ms": grace})
    assert Settings.resolve({"hotlog.garbage.grace.ms": "120000"}).number("hotlog.garbage.grace.ms") == 120_000
