"""DescribeConfigs (32): topics, brokers and their loggers, groups and client metrics (KIP-133, KIP-226, KIP-412, KIP-524, KIP-569, KIP-714, KIP-848).

Versions 1 to 4: source and synonyms from 1, type and documentation from 3.  A broker is named by its id; the empty name is what is set
for all brokers.

Invariants: every key there is, sorted, or those asked for; a password is answered as null.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from controller.records import NamedKind
from controller.topic_rules import check_name
from hotlog.answers.api import Api, RequestContext
from hotlog.answers.config_entries import (
    Entry,
    broker_entries,
    client_metrics_entries,
    group_entries,
    logger_entries,
    topic_entries,
)
from hotlog.answers.config_resources import BrokerResource, NamedResource, Resource, TopicResource, config_resource
from hotlog.answers.replies import NO_THROTTLE, refusal
from hotlog.answers.slices import breathe
from hotlog.answers.uncleanable import uncleanable_entries
from hotlog.wire.apis import responses
from hotlog.wire.error_codes import Refused

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 32
RESOURCES_AT_ONCE = 4  # in one turn of the loop: each has up to some hundred entries


async def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Describe each resource; what is asked twice is answered once: an answer is a thousand times as long as its name."""
    shapes = responses(KEY, context.version)
    with_docs = getattr(request, "include_documentation", False)
    results = []
    resources = {(each.resource_type, each.resource_name, each.configuration_keys): each for each in request.resources}
    for number, resource in enumerate(resources.values(), 1):
        if number % RESOURCES_AT_ONCE == 0:
            await breathe()
        code, message = ErrorCode.none, None
        entries: list[Entry] = []
        try:
            entries = _entries(broker, resource) + uncleanable_entries(broker, resource)
        except Exception as problem:
            code, message = refusal(context, problem)
        results.append(
            shapes.DescribeConfigsResult(
                error_code=code,
                error_message=message,
                resource_type=resource.resource_type,
                resource_name=resource.resource_name,
                configs=tuple(_result(shapes, entry, request.include_synonyms, with_docs) for entry in entries),
            )
        )
    return shapes.DescribeConfigsResponse(throttle_time=NO_THROTTLE, results=tuple(results))


def _entries(broker: Broker, resource: Any) -> list[Entry]:
    entries = _all_entries(broker, config_resource(broker, resource))
    asked = resource.configuration_keys
    return entries if asked is None or not asked else [entry for entry in entries if entry.name in asked]


def _all_entries(broker: Broker, resource: Resource) -> list[Entry]:
    match resource:
        case TopicResource(name):
            topic = broker.topic(name)
            if topic is None:
                check_name(name)
                raise Refused(ErrorCode.unknown_topic_or_partition, f"topic {name!r} does not exist")
            return topic_entries(broker, topic)
        case BrokerResource(node_id):
            return broker_entries(broker, node_id)
        case NamedResource(NamedKind.GROUP, name):
            return group_entries(broker, name)
        case NamedResource(_, name):
            return client_metrics_entries(broker, name)
        case _:
            return logger_entries()


def _result(shapes: Any, entry: Entry, with_synonyms: bool, with_docs: bool) -> Any:
    synonyms = entry.synonyms if with_synonyms else ()
    return shapes.DescribeConfigsResourceResult(
        name=entry.name,
        value=entry.value,
        read_only=entry.is_read_only,
        config_source=entry.source,
        is_sensitive=entry.is_sensitive,
        synonyms=tuple(shapes.DescribeConfigsSynonym(name=s.name, value=s.value, source=s.source) for s in synonyms),
        config_type=entry.kind,
        documentation=entry.doc if with_docs else None,
    )


API = Api(key=KEY, name="DescribeConfigs", versions=range(1, 5), handle=handle)
