"""API key and version to its door, and the protocol's own answer where there is none.

Unknown API or version: Kafka answers only for ApiVersions (error 35 in the layout of version 0, KIP-511) and closes the connection for
everything else; so do we.

Invariants: MODULES is the one list of what is served, and ApiVersions answers exactly that list, but for what is not told of in Kafka either; a door is entered through its guard.
"""

from __future__ import annotations

import importlib
import logging
import struct
from bisect import bisect_left
from collections.abc import Iterable
from functools import cache
from typing import Any

from kio.schema.errors import ErrorCode

from hotlog.answers.api import Api, Caller, Pending, RequestContext, Short, Spliced
from hotlog.answers.slices import is_wide
from hotlog.broker.broker import Broker
from hotlog.front.guard import Guard
from hotlog.kernel.errors import Invalid
from hotlog.kernel.metrics import Metrics
from hotlog.wire import apis
from hotlog.wire.error_codes import code_for, is_expected
from hotlog.wire.short_bodies import NOT_SHORT
from hotlog.world.ports import Buffer, Streamed

LOG = logging.getLogger(__name__)

MODULES = (
    "k00_produce", "k01_fetch", "k02_list_offsets", "k03_metadata", "k08_offset_commit", "k09_offset_fetch", "k10_find_coordinator",
    "k11_join_group", "k12_heartbeat", "k13_leave_group", "k14_sync_group", "k15_describe_groups", "k16_list_groups", "k18_api_versions",
    "k19_create_topics", "k20_delete_topics", "k21_delete_records", "k22_init_producer_id", "k23_offset_for_leader_epoch",
    "k24_add_partitions_to_txn", "k25_add_offsets_to_txn", "k26_end_txn", "k27_write_txn_markers", "k28_txn_offset_commit",
    "k32_describe_configs", "k33_alter_configs", "k34_alter_replica_log_dirs", "k35_describe_log_dirs", "k37_create_partitions",
    "k42_delete_groups", "k43_elect_leaders", "k44_incremental_alter_configs", "k45_alter_partition_reassignments",
    "k46_list_partition_reassignments", "k47_offset_delete", "k48_describe_client_quotas", "k50_describe_user_scram_credentials", "k55_describe_quorum", "k57_update_features", "k60_describe_cluster",
    "k61_describe_producers", "k64_unregister_broker", "k65_describe_transactions", "k66_list_transactions",
    "k68_consumer_group_heartbeat", "k69_consumer_group_describe", "k71_get_telemetry_subscriptions", "k72_push_telemetry", "k74_list_config_resources",
    "k75_describe_topic_partitions", "k80_add_raft_voter",
    "k81_remove_raft_voter",
)  # fmt: skip

CLIENT_ID_OFFSET = 10  # in a request
_SHORT = struct.Struct(">h")
_SIZE = struct.Struct(">i")
_RESPONSE_HEAD = struct.Struct(">ii")  # size, correlation id
_TAGGED_HEAD = struct.Struct(">iiB")  # the same, and no tags


class UnknownApi(Invalid):
    """An API key or version that is not served: the connection is closed."""


class Door:
    """One version of an API behind its guard, with what every request of it needs: looked up once per request."""

    __slots__ = ("api", "errors", "handle", "is_flexible", "is_tagged", "quick", "requests", "seconds", "version")

    def __init__(self, api: Api, version: int, guard: Guard, metrics: Metrics) -> None:
        self.api = api
        self.version = version
        self.handle = guard.before(api)
        self.quick = guard.quick_before(api)
        self.requests = metrics.requests.labels(api.name)
        self.errors = metrics.request_errors.labels(api.name)
        self.seconds = metrics.request_seconds.labels(api.name)
        self.is_flexible = apis.is_flexible(api.key, version)
        self.is_tagged = apis.has_flexible_response_header(api.key, version)

    def count(self, seconds: float, has_failed: bool) -> None:
        """Account for a request that was answered after so many seconds."""
        self.requests.value += 1
        if has_failed:
            self.errors.value += 1
        self.seconds.observe(seconds)

    def decode(self, frame: memoryview, position: int) -> Any:
        """The request structure; `position` is after the client id of the header.

        Raises:
            Invalid: malformed.
        """
        if self.is_flexible:
            position = apis.skip_tags(frame, position)
        if self.api.decode is not None:
            return self.api.decode(self.version, frame, position)
        return apis.decode_request(self.api.key, self.version, frame, position)

    def encode(self, correlation_id: int, response: Any) -> list[Buffer | Streamed]:
        """A response as buffers, size first."""
        if type(response) is Spliced:
            buffers, size = response
        else:
            body = apis.encoded(response)
            buffers, size = [body], len(body)
        if self.is_tagged:
            return [_TAGGED_HEAD.pack(size + 5, correlation_id, 0), *buffers]
        return [_RESPONSE_HEAD.pack(size + 4, correlation_id), *buffers]


def count_together(doors: list[Door], seconds: float) -> None:
    """Account for requests that came together and are answered together after so many seconds, each at its door."""
    for door in set(doors) if len(doors) > 1 else doors:
        times, spread = doors.count(door), door.seconds
        door.requests.value += times
        spread.counts[bisect_left(spread.bounds, seconds)] += times  # as `observe`
        spread.sum += seconds * times


@cache
def load_apis() -> tuple[Api, ...]:
    """Every API in MODULES, by key."""
    return tuple(importlib.import_module(f"hotlog.apis.{name}").API for name in MODULES)


class Dispatch:
    """The table of doors."""

    def __init__(self, metrics: Metrics, served: Iterable[Api] | None = None, guard: Guard | None = None) -> None:
        self._guard = guard or Guard()
        self._metrics = metrics
        self.apis = {api.key: api for api in (load_apis() if served is None else served)}
        self.short_doors: dict[int, tuple[Door, Short]] = {}  # by the first four bytes of a request: API key and version
        self._doors: dict[tuple[int, int], Door] = {}  # made when they are first asked for: most versions never are
        for api in self.apis.values():
            metrics.requests.labels(api.name)  # there from the start, as zeros
            metrics.request_errors.labels(api.name)
            metrics.request_seconds.labels(api.name)

    def open_short_ways(self, broker: Broker) -> None:
        """Make the short ways, which know the broker."""
        for api in self.apis.values():
            make = self._guard.short_before(api)
            for version in api.versions:
                door, key = self.door(api.key, version), (api.key << 16) + version
                if make is not None:
                    self.short_doors[key] = door, make(broker, version)
                elif door.quick is not None:
                    self.short_doors[key] = door, short_by_quick(broker, door)

    @property
    def served(self) -> tuple[tuple[int, int, int], ...]:
        """(API key, first version, last version) of each API that is told, by key: what ApiVersions answers."""
        return tuple((key, api.versions.start, api.versions.stop - 1) for key, api in sorted(self.apis.items()) if api.is_told)

    def door(self, key: int, version: int) -> Door:
        """The door for this key and version.

        Raises:
            UnknownApi: not served.
        """
        door = self._doors.get((key, version))
        return self._made(key, version) if door is None else door

    def _made(self, key: int, version: int) -> Door:
        api = self.apis.get(key)
        if api is None:
            raise UnknownApi(f"API key {key} is not served")
        if version not in api.versions:
            served = api.versions
            raise UnknownApi(f"{api.name} version {version} is not served; {served.start} to {served.stop - 1} are")
        door = self._doors[key, version] = Door(api, version, self._guard, self._metrics)
        return door

    def refuse(self, door: Door, context: RequestContext, request: Any, error: BaseException) -> Any:
        """A response for an error that left the handler, or None where the protocol has no place for it."""
        if not is_expected(error):
            LOG.error("%s version %d failed", door.api.name, context.version, exc_info=error)
        else:
            LOG.debug("%s version %d is refused to client %r: %s", door.api.name, context.version, context.client_id, error)
        context.has_failed = True
        if door.api.refuse is not None:
            return door.api.refuse(context, request, error)
        return default_refusal(door.api.key, context.version, code_for(error))

    def unknown_version(self, correlation_id: int) -> bytes:
        """ApiVersions in a version above ours: error 35 in version 0, with ApiVersions' own range so that the client can choose."""
        shapes = apis.responses(apis.API_VERSIONS_KEY, 0)
        served = self.apis[apis.API_VERSIONS_KEY].versions
        own = shapes.ApiVersion(api_key=apis.API_VERSIONS_KEY, min_version=served.start, max_version=served.stop - 1)
        response = shapes.ApiVersionsResponse(error_code=ErrorCode.unsupported_version, api_keys=(own,))
        return apis.encode_response(apis.API_VERSIONS_KEY, 0, correlation_id, response)


def short_by_quick(broker: Broker, door: Door) -> Short:
    """A quick way as a short one: the heads of request and answer are dealt with here."""
    quick, version, is_flexible = door.quick, door.version, door.is_flexible
    assert quick is not None

    def short(caller: Caller, data: memoryview, start: int, end: int) -> bytes | Pending | None:
        frame = data[start:end]
        try:
            length = _SHORT.unpack_from(frame, CLIENT_ID_OFFSET - 2)[0]
            position = CLIENT_ID_OFFSET
            if length > 0:
                position += length
                str(frame[CLIENT_ID_OFFSET:position], "utf-8")
            if length < -1 or position > len(frame):
                return None
            if is_flexible:
                if frame[position]:  # tags that nobody here knows
                    return None
                position += 1
            rest = quick(broker, caller, version, frame, position)
        except (*NOT_SHORT, Invalid):  # the long way says what is wrong with it
            return None
        return _SIZE.pack(4 + len(rest)) + frame[4:8] + rest if type(rest) is bytes else rest

    return short


def is_slow_to_write(response: Any) -> bool:
    """Whether writing it would hold up the loop."""
    return response is not None and type(response) is not Spliced and is_wide(response)


def default_refusal(key: int, version: int, code: ErrorCode) -> Any:
    """The response with only its top-level error code set; None if it has none, or needs more than defaults."""
    return apis.empty_response(key, version, error_code=code)
