"""CreateTopics (19).

Versions 2 to 7: the error in words from 1, the created configuration from 5 (KIP-525), the topic id from 7 (KIP-516).

Invariants: topics are judged one by one, in the order asked, and those accepted are one commit; a name given twice is refused both times and creates nothing;
`validate_only` changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from controller.image import TopicImage
from controller.topic_rules import NewTopic
from hotlog.answers.api import Api, RequestContext
from hotlog.answers.config_entries import topic_entries
from hotlog.answers.replies import NO_THROTTLE, refusal
from hotlog.wire.apis import responses
from hotlog.wire.error_codes import Refused

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 19


async def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Create all topics in one commit."""
    counts = Counter(wanted.name for wanted in request.topics)
    topics = {wanted.name: wanted for wanted in request.topics}.values()  # what is named twice is answered once
    parsed = [_parse(wanted, counts[wanted.name]) for wanted in topics]
    sound = [wanted for wanted in parsed if isinstance(wanted, NewTopic)]
    outcomes: Iterator[TopicImage | Exception]
    try:
        outcomes = iter(await broker.create_topics(sound, validate_only=request.validate_only) if sound else [])
    except Exception as problem:
        outcomes = iter([problem] * len(sound))
    results = []
    for wanted, parse in zip(topics, parsed, strict=True):
        outcome = next(outcomes) if isinstance(parse, NewTopic) else parse
        if isinstance(outcome, Exception):
            results.append(_failed(context, wanted.name, outcome))
        else:
            results.append(_created(broker, context, outcome))
    return responses(KEY, context.version).CreateTopicsResponse(throttle_time=NO_THROTTLE, topics=tuple(results))


def _parse(wanted: Any, times: int) -> NewTopic | Refused:
    """The topic that is wanted, or why it cannot be meant."""
    if times > 1:
        return Refused(ErrorCode.invalid_request, f"topic {wanted.name!r} is named {times} times in one request")
    configs = {config.name: config.value for config in wanted.configs}  # of two for one key the last counts, as in Kafka
    assignments = tuple((part.partition_index, tuple(part.broker_ids)) for part in wanted.assignments)
    return NewTopic(wanted.name, wanted.num_partitions, wanted.replication_factor, configs, assignments)


def _failed(context: RequestContext, name: str, problem: Exception) -> Any:
    why = refusal(context, problem)
    return responses(KEY, context.version).CreatableTopicResult(
        name=name,
        topic_id=None,
        error_code=why.code,
        error_message=why.message,
        num_partitions=-1,
        replication_factor=-1,
        configs=(),
    )


def _created(broker: Broker, context: RequestContext, topic: TopicImage) -> Any:
    shapes = responses(KEY, context.version)
    configs_from = 5
    configs = []
    if context.version >= configs_from:
        configs = [
            shapes.CreatableTopicConfigs(
                name=entry.name,
                value=entry.value,
                read_only=entry.is_read_only,
                config_source=entry.source,
                is_sensitive=entry.is_sensitive,
            )
            for entry in topic_entries(broker, topic)
        ]
    return shapes.CreatableTopicResult(
        name=topic.name,
        topic_id=topic.topic_id,
        error_code=ErrorCode.none,
        error_message=None,
        num_partitions=len(topic.partitions),
        replication_factor=len(topic.partitions[0].replicas),
        configs=tuple(configs),
    )


API = Api(key=KEY, name="CreateTopics", versions=range(2, 8), handle=handle, omits=("timeout: the answer comes when it is done",))
