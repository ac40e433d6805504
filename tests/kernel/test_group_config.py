"""Configurations of groups and of client metrics: what may be given, and what of it holds within the bounds of a broker."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotlog.kernel.client_metrics_config import check_client_metrics
from hotlog.kernel.errors import Invalid, InvalidConfig
from hotlog.kernel.group_bounds import GROUP_BOUNDS
from hotlog.kernel.group_config import GROUP_KEYS, GroupTimes, check_group, group_times
from hotlog.kernel.settings import Settings, broker_key

PLAIN = Settings.resolve({})
SESSION, BEAT, INTERVAL = "consumer.session.timeout.ms", "consumer.heartbeat.interval.ms", "consumer.assignment.interval.ms"
numbers = st.integers(-1, 70_000) | st.sampled_from([45_000, 60_000, 5_000, 15_000])


def test_a_group_that_was_given_nothing_has_what_the_broker_has() -> None:
    assert group_times({}, PLAIN) == GroupTimes(45_000, 5_000, 1_000)
    given_more = Settings.resolve({"group.consumer.session.timeout.ms": "50000", "group.consumer.assignment.interval.ms": "7"})
    assert group_times({}, given_more) == GroupTimes(50_000, 5_000, 7)


def test_every_key_has_a_broker_key_that_gives_its_default() -> None:
    for key in GROUP_KEYS.values():
        assert not key.synonym or broker_key(key.synonym) is not None
        assert key.acts == (key.synonym in GROUP_BOUNDS)


@given(st.dictionaries(st.sampled_from([SESSION, BEAT, INTERVAL]), numbers.map(str) | st.just("x")))
def test_what_holds_lies_within_the_bounds_and_is_what_was_given_where_that_was_allowed(own: dict[str, str]) -> None:
    times = group_times(own, PLAIN)
    for value, (least, most) in zip(times, GROUP_BOUNDS.values(), strict=True):
        assert PLAIN.number(least) <= value <= PLAIN.number(most)
    try:
        check_group(own, PLAIN)
    except InvalidConfig:
        return
    assert times == GroupTimes(int(own.get(SESSION, 45_000)), int(own.get(BEAT, 5_000)), int(own.get(INTERVAL, 1_000)))
    assert times.session_ms > times.heartbeat_ms


@pytest.mark.parametrize(
    ("own", "word"),
    [
        ({SESSION: "44999"}, "group.consumer.min.session.timeout.ms"),
        ({SESSION: "60001"}, "group.consumer.max.session.timeout.ms"),
        ({BEAT: "4999"}, "group.consumer.min.heartbeat.interval.ms"),
        ({BEAT: "15001"}, "group.consumer.max.heartbeat.interval.ms"),
        ({INTERVAL: "15001"}, "group.consumer.max.assignment.interval.ms"),
        ({"share.delivery.count.limit": "11"}, "group.share.max.delivery.count.limit"),
        ({"streams.num.standby.replicas": "3"}, "group.streams.max.standby.replicas"),
        ({"share.auto.offset.reset": "by_duration:-PT1H"}, "by_duration"),
        ({"session.timeout.ms": "45000"}, "session.timeout.ms"),
    ],
)
def test_what_a_group_may_not_be_given_is_refused_with_what_bounds_it(own: dict[str, str], word: str) -> None:
    with pytest.raises(InvalidConfig, match=word):
        check_group(own, PLAIN)


def test_a_session_is_longer_than_a_heartbeat_also_where_one_of_them_is_the_brokers() -> None:
    broad = {"group.consumer.min.session.timeout.ms": "1000", "group.consumer.min.heartbeat.interval.ms": "100"}
    settings = Settings.resolve({**broad, "group.consumer.session.timeout.ms": "9000"})
    check_group({BEAT: "8999"}, settings)
    with pytest.raises(InvalidConfig, match="must be above"):
        check_group({BEAT: "9000"}, settings)
    with pytest.raises(InvalidConfig, match="must be above"):
        check_group({SESSION: "5000"}, settings)


@pytest.mark.parametrize(
    "given_keys",
    [
        {"group.consumer.session.timeout.ms": "44999"},
        {"group.consumer.heartbeat.interval.ms": "15001"},
        {"group.consumer.min.session.timeout.ms": "60001"},
        {"group.consumer.assignment.interval.ms": "15001"},
        {"group.consumer.max.heartbeat.interval.ms": "4999"},
    ],
)
def test_a_broker_does_not_start_outside_of_its_own_bounds(given_keys: dict[str, str]) -> None:
    with pytest.raises(InvalidConfig, match=r"group\.consumer"):
        Settings.resolve(given_keys)


@pytest.mark.parametrize(
    ("own", "kind"),
    [
        ({"interval.ms": "99"}, Invalid),
        ({"interval.ms": "3600001"}, Invalid),
        ({"interval.ms": "x"}, InvalidConfig),
        ({"no.such.key": "1"}, Invalid),
        ({"metrics": "a,,b"}, InvalidConfig),
        ({"match": "client_id"}, InvalidConfig),
        ({"match": "x=a"}, InvalidConfig),
        ({"match": "client_id=("}, InvalidConfig),
        ({"match": "client_id=a=b"}, InvalidConfig),
    ],
)
def test_what_client_metrics_may_not_say(own: dict[str, str], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        check_client_metrics(own)


def test_what_client_metrics_may_say() -> None:
    check_client_metrics({})
    check_client_metrics({"metrics": "a,a", "match": ""})
    check_client_metrics({"metrics": "*", "interval.ms": "100", "match": "client_id = a.*, client_software_name=java"})
