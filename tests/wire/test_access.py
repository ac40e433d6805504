"""The one place before all doors: the table of permissions against Kafka's and against what is served, refusals, and waits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kio.schema.errors import ErrorCode

from hotlog.answers.api import ANONYMOUS, Api, Caller, Later, Principal, RequestContext
from hotlog.broker.broker import Broker
from hotlog.front.access import CLUSTER_NAME, NEEDS, Operation, Resource
from hotlog.front.connections import Connections
from hotlog.front.dispatch import Dispatch, load_apis
from hotlog.front.guard import Guard
from hotlog.front.listeners import Listeners
from hotlog.kernel.addresses import PLAINTEXT, Endpoint
from hotlog.kernel.errors import NotFound
from hotlog.kernel.metrics import Metrics
from hotlog.wire import apis
from hotlog.wire.error_codes import Refused
from hotlog.wire.peer import connect
from hotlog.world.network import TcpNetwork
from tests.admin.node import running
from tests.sim.loop import SimLoop, run
from tests.tools.patience import PATIENCE_S
from tests.wire.serving import batch_of, fetch, produce
from tests.wire.strategies import entities

SERVED = [(api.key, version) for api in load_apis() for version in api.versions]
T_ID, UNKNOWN_ID = UUID(int=7), UUID(int=8)

# Kafka 4.3's documentation, API by API: (operation, resource), as far as the API is served here; but see NOT_ASKED.
DOCUMENTED = {
    0: {"Write TransactionalId", "IdempotentWrite Cluster", "Write Topic"},
    1: {"ClusterAction Cluster", "Read Topic"},
    2: {"Describe Topic"},
    3: {"Describe Topic", "Create Cluster", "Create Topic"},
    8: {"Read Group", "Read Topic"},
    9: {"Describe Group", "Describe Topic"},
    10: {"Describe Group", "Describe TransactionalId"},
    11: {"Read Group"},
    12: {"Read Group"},
    13: {"Read Group"},
    14: {"Read Group"},
    15: {"Describe Group"},
    16: {"Describe Cluster", "Describe Group"},
    18: set(),
    19: {"Create Cluster", "Create Topic"},
    20: {"Delete Topic"},
    21: {"Delete Topic"},
    22: {"Write TransactionalId", "IdempotentWrite Cluster"},
    23: {"ClusterAction Cluster", "Describe Topic"},
    24: {"ClusterAction Cluster", "Write TransactionalId", "Write Topic"},
    25: {"Write TransactionalId", "Read Group"},
    26: {"Write TransactionalId"},
    27: {"Alter Cluster", "ClusterAction Cluster"},
    28: {"Write TransactionalId", "Read Group", "Read Topic"},
    32: {"DescribeConfigs Cluster", "DescribeConfigs Topic", "DescribeConfigs Group"},
    33: {"AlterConfigs Cluster", "AlterConfigs Topic", "AlterConfigs Group"},
    34: {"Alter Cluster"},
    35: {"Describe Cluster"},
    37: {"Alter Topic"},
    42: {"Delete Group"},
    43: {"Alter Cluster"},
    44: {"AlterConfigs Cluster", "AlterConfigs Topic", "AlterConfigs Group"},
    45: {"Alter Cluster"},
    46: {"Describe Cluster"},
    47: {"Delete Group", "Read Topic"},
    48: {"DescribeConfigs Cluster"},
    50: {"Describe Cluster"},
    55: {"Describe Cluster"},
    57: {"Alter Cluster"},
    60: {"Describe Cluster"},
    61: {"Read Topic"},
    64: {"Alter Cluster"},
    65: {"Describe TransactionalId"},
    66: {"Describe TransactionalId"},
    68: {"Read Group", "Describe Topic"},
    69: {"Describe Group"},
    71: set(),
    72: set(),
    74: {"DescribeConfigs Cluster"},
    75: {"Describe Topic"},
    80: {"Alter Cluster"},
    81: {"Alter Cluster"},
}
NOT_ASKED = {0: {"IdempotentWrite Cluster"}}  # since KIP-679 whoever may write to a topic may do so idempotently


def camel(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))


def test_every_api_that_is_served_has_a_row_and_no_other() -> None:
    assert set(NEEDS) == {api.key for api in load_apis()}


def test_the_table_says_what_kafkas_documentation_says() -> None:
    told = {
        key: {f"{camel(need.operation.name)} {camel(need.resource.name)}" for need in needs}
        | {f"{camel(need.unless.name)} Cluster" for need in needs if need.unless is not None}
        for key, needs in NEEDS.items()
    }
    assert told == {key: rows - NOT_ASKED.get(key, set()) for key, rows in DOCUMENTED.items()}


def there() -> Broker:
    """A broker that has the topics `t` (with an id) and `other`, and the group `g` that committed to `t`."""
    topics = {"t": SimpleNamespace(name="t"), "other": SimpleNamespace(name="other")}

    def offsets(group: str) -> dict[tuple[str, int], int]:
        if group != "g":
            raise NotFound(group)
        return {("t", 0): 1, ("t", 1): 2}

    return cast(
        Broker,
        SimpleNamespace(
            topic=topics.get,
            topic_by_id={T_ID: topics["t"]}.get,
            image=SimpleNamespace(topics=topics),
            settings=SimpleNamespace(flag=lambda name: True),
            groups=SimpleNamespace(kept_ids=lambda: ["g"], offsets=offsets),
            transactions=SimpleNamespace(all=lambda: [SimpleNamespace(transactional_id="tx")]),
        ),
    )


def as_received(key: int, version: int, request: Any) -> Any:
    """The request as its door gets it."""
    dispatch = Dispatch(Metrics())
    frame = memoryview(bytearray(apis.encode_request(1, "c", request)[4:]))
    _, position = apis.parse_header(frame)
    return dispatch.door(key, version).decode(frame, position)


def named(key: int, request: Any) -> dict[str, list[str]]:
    return {
        f"{need.operation.name} {need.resource.name}": names
        for need in NEEDS[key]
        if (names := list(need.names(there(), request)))
    }


@pytest.mark.parametrize(("key", "version"), SERVED)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_names_are_found_in_whatever_a_client_can_send(key: int, version: int, data: st.DataObject) -> None:
    request = as_received(key, version, data.draw(entities(apis.request_type(key, version))))
    assert all(type(name) is str for names in named(key, request).values() for name in names)


def of(key: int, version: int, name: str, /, **fields: Any) -> Any:
    return as_received(key, version, getattr(apis.requests(key, version), name)(**fields))


def topics(key: int, version: int, structure: str, *named: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(getattr(apis.requests(key, version), structure)(**one) for one in named)


CASES: list[tuple[int, Any, dict[str, list[str]]]] = [
    (0, as_received(0, 9, produce("t", {0: batch_of(b"x")}, transactional_id="tx")), {"WRITE TRANSACTIONAL_ID": ["tx"], "WRITE TOPIC": ["t"]}),
    (0, as_received(0, 13, produce("", {0: batch_of(b"x")}, version=13, topic_id=T_ID)), {"WRITE TOPIC": ["t"]}),
    (0, as_received(0, 13, produce("", {0: batch_of(b"x")}, version=13, topic_id=UNKNOWN_ID)), {}),
    (1, as_received(1, 12, fetch("t", {0: 0, 1: 0})), {"READ TOPIC": ["t"]}),
    (1, as_received(1, 13, fetch("", {0: 0}, version=13, topic_id=T_ID)), {"READ TOPIC": ["t"]}),
    (3, of(3, 1, "MetadataRequest", topics=None), {"DESCRIBE TOPIC": ["t", "other"]}),
    (
        3,
        of(3, 4, "MetadataRequest", topics=topics(3, 4, "MetadataRequestTopic", {"name": "t"}, {"name": "new"}), allow_auto_topic_creation=True),
        {"DESCRIBE TOPIC": ["t", "new"], "CREATE TOPIC": ["new"]},
    ),
    (
        3,
        of(3, 4, "MetadataRequest", topics=topics(3, 4, "MetadataRequestTopic", {"name": "new"}), allow_auto_topic_creation=False),
        {"DESCRIBE TOPIC": ["new"]},
    ),
    (9, of(9, 5, "OffsetFetchRequest", group_id="g", topics=None), {"DESCRIBE GROUP": ["g"], "DESCRIBE TOPIC": ["t"]}),
    (9, of(9, 5, "OffsetFetchRequest", group_id="nobody", topics=None), {"DESCRIBE GROUP": ["nobody"]}),
    (10, of(10, 3, "FindCoordinatorRequest", key="g", key_type=0), {"DESCRIBE GROUP": ["g"]}),
    (10, of(10, 4, "FindCoordinatorRequest", key_type=1, coordinator_keys=("a", "b")), {"DESCRIBE TRANSACTIONAL_ID": ["a", "b"]}),
    (15, of(15, 0, "DescribeGroupsRequest", groups=("g", "h")), {"DESCRIBE GROUP": ["g", "h"]}),
    (16, of(16, 0, "ListGroupsRequest"), {"DESCRIBE GROUP": ["g"]}),
    (18, of(18, 0, "ApiVersionsRequest"), {}),
    (20, of(20, 1, "DeleteTopicsRequest", topic_names=("t", "u"), timeout=apis.timedelta(0)), {"DELETE TOPIC": ["t", "u"]}),
    (
        20,
        of(20, 6, "DeleteTopicsRequest", topics=topics(20, 6, "DeleteTopicState", {"name": None, "topic_id": T_ID}), timeout=apis.timedelta(0)),
        {"DELETE TOPIC": ["t"]},
    ),
    (
        32,
        of(
            32, 1, "DescribeConfigsRequest", include_synonyms=False,
            resources=topics(
                32, 1, "DescribeConfigsResource",
                *({"resource_type": kind, "resource_name": name, "configuration_keys": None} for kind, name in [(2, "t"), (4, "1"), (32, "g")]),
            ),
        ),
        {"DESCRIBE_CONFIGS TOPIC": ["t"], "DESCRIBE_CONFIGS CLUSTER": [CLUSTER_NAME], "DESCRIBE_CONFIGS GROUP": ["g"]},
    ),
    (
        24,
        of(
            24, 3, "AddPartitionsToTxnRequest", v3_and_below_transactional_id="tx", v3_and_below_producer_id=1,
            v3_and_below_producer_epoch=0, v3_and_below_topics=topics(24, 3, "AddPartitionsToTxnTopic", {"name": "t", "partitions": (0,)}),
        ),
        {"WRITE TRANSACTIONAL_ID": ["tx"], "WRITE TOPIC": ["t"]},
    ),
    (24, of(24, 5, "AddPartitionsToTxnRequest", transactions=()), {"CLUSTER_ACTION CLUSTER": [CLUSTER_NAME]}),
    (66, of(66, 0, "ListTransactionsRequest", state_filters=(), producer_id_filters=()), {"DESCRIBE TRANSACTIONAL_ID": ["tx"]}),
    (60, of(60, 0, "DescribeClusterRequest", include_cluster_authorized_operations=False), {"DESCRIBE CLUSTER": [CLUSTER_NAME]}),
    (
        68,
        of(68, 1, "ConsumerGroupHeartbeatRequest", group_id="g", member_id="m", member_epoch=0, topic_partitions=None, subscribed_topic_names=("t",)),
        {"READ GROUP": ["g"], "DESCRIBE TOPIC": ["t"]},
    ),
    (69, of(69, 1, "ConsumerGroupDescribeRequest", group_ids=("g", "h"), include_authorized_operations=False), {"DESCRIBE GROUP": ["g", "h"]}),
]  # fmt: skip


@pytest.mark.parametrize(("key", "request_", "names"), CASES, ids=lambda one: str(one) if isinstance(one, int) else "")
def test_a_request_names_its_resources(key: int, request_: Any, names: dict[str, list[str]]) -> None:
    assert named(key, request_) == names


# The guard


def test_where_everybody_may_a_door_is_entered_directly() -> None:
    assert all(Guard().before(api) is api.handle for api in load_apis())


class Listed:
    """Allows what is listed, as "OPERATION RESOURCE name"; remembers who asked."""

    def __init__(self, *allowed: str) -> None:
        self.allowed = allowed
        self.asked: list[tuple[Principal, str]] = []

    def allows(self, principal: Principal, host: str, operation: Operation, resource: Resource, name: str) -> bool:
        self.asked.append((principal, host))
        return f"{operation.name} {resource.name} {name}" in self.allowed


CONTEXT = RequestContext(0, 0, 1, None, Caller(("10.0.0.7", 1), 1), 0.0)


def handled(api: Api) -> Api:
    return replace(api, handle=lambda broker, context, request: "done")


@pytest.mark.parametrize(("key", "request_", "names"), CASES, ids=lambda one: str(one) if isinstance(one, int) else "")
def test_one_permission_that_is_missing_keeps_the_door_shut(key: int, request_: Any, names: dict[str, list[str]]) -> None:
    api = handled(next(api for api in load_apis() if api.key == key))
    everything = [f"{need} {name}" for need, found in names.items() for name in found]
    assert Guard(Listed(*everything)).before(api)(there(), CONTEXT, request_) == "done"
    for missing in everything:
        handle = Guard(Listed(*(one for one in everything if one != missing))).before(api)
        with pytest.raises(Refused, match="User:ANONYMOUS may not") as refused:
            handle(there(), CONTEXT, request_)
        assert refused.value.code.name.endswith("authorization_failed")


def test_what_is_allowed_for_the_cluster_is_allowed_for_each() -> None:
    api = handled(next(api for api in load_apis() if api.key == 16))
    request = of(16, 0, "ListGroupsRequest")
    assert Guard(Listed(f"DESCRIBE CLUSTER {CLUSTER_NAME}")).before(api)(there(), CONTEXT, request) == "done"


async def test_a_client_is_told_and_nothing_is_done(tmp_path: Path) -> None:
    authorizer = Listed("DESCRIBE TOPIC t", "READ TOPIC t")
    async with running(tmp_path) as broker:
        await broker.create_topic("t", 1)
        dispatch = Dispatch(broker.metrics, guard=Guard(authorizer))
        listeners = Listeners(Connections(broker, dispatch, broker.settings, broker.metrics, broker.clock), TcpNetwork())
        (bound,) = await listeners.listen([Endpoint(PLAINTEXT, "127.0.0.1", 0)])
        node = await connect(TcpNetwork(), bound.host, bound.port, client_id="c")
        try:
            answer = await node.call(produce("t", {0: batch_of(b"no")}), within_s=PATIENCE_S)
            (partition,) = answer.responses[0].partition_responses
            assert partition.error_code is ErrorCode.topic_authorization_failed
            found = broker.partition("t", 0)
            assert found is not None and found.log.log_end_offset == 0
            answer = await node.call(fetch("t", {0: 0}), within_s=PATIENCE_S)
            assert answer.responses[0].partitions[0].error_code is ErrorCode.none
            assert set(authorizer.asked) == {(ANONYMOUS, "127.0.0.1")}
        finally:
            node.close()
            await listeners.close()


class Slow:
    """Everybody waits."""

    def delay_s(self, caller: Caller, client_id: str | None, api_key: int) -> float:
        return 3.0


@pytest.mark.parametrize("kind", ["plain", "awaitable", "later"])
def test_who_is_too_fast_waits_before_the_door(kind: str) -> None:
    async def main(loop: SimLoop) -> None:
        entered: list[float] = []

        async def late() -> str:
            return "done"

        def handle(broker: Any, context: Any, request: Any) -> Any:
            entered.append(loop.time())
            if kind == "plain":
                return "done"
            return late() if kind == "awaitable" else Later(late())

        guarded = Guard(quotas=Slow()).before(Api(key=0, name="x", versions=range(1), handle=handle))
        assert await guarded(there(), CONTEXT, None) == "done"
        assert entered == [3.0]

    run(main)
