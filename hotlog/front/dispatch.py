"""API key and version to its door, and the protocol's own answer where there is none.

Unknown API or version: Kafka answers only for ApiVersions (error 35 in the layout of version 0, KIP-511) and closes the connection for
everything else; so do we.

Invariants: MODULES is the one list of what is served, and ApiVersions answers exactly that list; a door is entered through its guard.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple

from kio.schema.errors import ErrorCode

from hotlog.answers.api import Api, Caller, Handler, Quick, RequestContext, Spliced
from hotlog.answers.slices import is_wide
from hotlog.broker.broker import Broker
from hotlog.front.guard import Guard
from hotlog.kernel.errors import Invalid
from hotlog.kernel.metrics import Metrics
from hotlog.kernel.tallies import Spread, Tally
from hotlog.wire import apis
from hotlog.wire.error_codes import code_for, is_expected
from hotlog.wire.short_bodies import NOT_SHORT
from hotlog.world.ports import Buffer, Streamed

LOG = logging.getLogger(__name__)

MODULES = (
    "k00_produce", "k01_fetch", "k02_list_offsets", "k03_metadata", "k08_offset_commit", "k09_offset_fetch", "k10_find_coordinator",
    "k11_join_group", "k12_heartbeat", "k13_leave_group", "k14_sync_group", "k15_describe_groups", "k16_list_groups",
    "k18_api_versions", "k19_create_topics", "k20_delete_topics", "k21_delete_records", "k22_init_producer_id",
    "k23_offset_for_leader_epoch", "k32_describe_configs", "k33_alter_configs", "k35_describe_log_dirs", "k37_create_partitions", "k42_delete_groups",
    "k44_incremental_alter_configs", "k47_offset_delete", "k60_describe_cluster", "k75_describe_topic_partitions",
)  # fmt: skip


class UnknownApi(Invalid):
    """An API key or version that is not served: the connection is closed."""


class Door(NamedTuple):
    """An API behind its guard, with its metrics; looked up once per request."""

    api: Api
    handle: Handler
    quick: Quick | None
    requests: Tally
    errors: Tally
    seconds: Spread


@cache
def load_apis() -> tuple[Api, ...]:
    """Every API in MODULES, by key."""
    return tuple(importlib.import_module(f"hotlog.apis.{name}").API for name in MODULES)


class Dispatch:
    """The table of doors."""

    def __init__(self, metrics: Metrics, served: Iterable[Api] | None = None, guard: Guard | None = None) -> None:
        guard = guard or Guard()
        self.apis = {api.key: api for api in (load_apis() if served is None else served)}
        self._doors = {
            key: Door(
                api,
                guard.before(api),
                guard.quick_before(api),
                metrics.requests.labels(api.name),
                metrics.request_errors.labels(api.name),
                metrics.request_seconds.labels(api.name),
            )
            for key, api in self.apis.items()
        }

    @property
    def served(self) -> tuple[tuple[int, int, int], ...]:
        """(API key, first version, last version) of each API, by key: what ApiVersions answers."""
        return tuple((key, api.versions.start, api.versions.stop - 1) for key, api in sorted(self.apis.items()))

    def door(self, key: int, version: int) -> Door:
        """The door for this key and version.

        Raises:
            UnknownApi: not served.
        """
        door = self._doors.get(key)
        if door is None:
            raise UnknownApi(f"API key {key} is not served")
        if version not in door.api.versions:
            served = door.api.versions
            raise UnknownApi(f"{door.api.name} version {version} is not served; {served.start} to {served.stop - 1} are")
        return door

    def decode(self, door: Door, version: int, frame: memoryview, position: int) -> Any:
        """The request structure; `position` is after the client id of the header.

        Raises:
            Invalid: malformed.
        """
        key = door.api.key
        if apis.is_flexible(key, version):
            position = apis.skip_tags(frame, position)
        if door.api.decode is not None:
            return door.api.decode(version, frame, position)
        return apis.decode_request(key, version, frame, position)

    def quick(self, door: Door, broker: Broker, caller: Caller, version: int, frame: memoryview, position: int) -> bytes | None:
        """All of the response behind its correlation id, by the door's short way; `position` is after the client id of the header.  None: the
        request goes the long way."""
        assert door.quick is not None
        if apis.is_flexible(door.api.key, version):
            if position >= len(frame) or frame[position]:  # tags that nobody here knows
                return None
            position += 1
        try:
            return door.quick(broker, caller, version, frame, position)
        except NOT_SHORT:
            return None

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

    def is_wide(self, response: Any) -> bool:
        """Whether writing it would hold up the loop."""
        return response is not None and type(response) is not Spliced and is_wide(response)

    def encode(self, context: RequestContext, response: Any) -> list[Buffer | Streamed]:
        """A response as buffers, size first."""
        key, version = context.api_key, context.version
        if type(response) is Spliced:
            head = apis.response_head(key, version, context.correlation_id, response.size)
            return [head, *response.buffers]
        return [apis.encode_response(key, response.__version__, context.correlation_id, response)]


def default_refusal(key: int, version: int, code: ErrorCode) -> Any:
    """The response with only its top-level error code set; None if it has none, or needs more than defaults."""
    return apis.empty_response(key, version, error_code=code)
