"""DescribeTransactions (65): state, producer and partitions of transactional ids (KIP-664).

Version 0.

Invariants: an error of one id is that id's alone.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from hotlog.answers.api import Api, RequestContext
from hotlog.answers.group_replies import coordinator_error
from hotlog.answers.replies import NO_THROTTLE
from hotlog.answers.slices import sliced
from hotlog.wire import apis

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 65
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


async def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Each id."""
    shapes = apis.responses(KEY, context.version)

    def described(transactional_id: str) -> Any:
        code, txn = ErrorCode.none, None
        try:
            txn = broker.transactions.describe(transactional_id)
        except Exception as problem:
            code = coordinator_error(context, problem)
        if txn is None:
            return shapes.TransactionState(
                error_code=code or ErrorCode.transactional_id_not_found, transactional_id=transactional_id, transaction_state="",
                transaction_timeout=timedelta(0), transaction_start_time=_time(0), producer_id=0, producer_epoch=0, topics=(),
            )  # fmt: skip
        topics: dict[str, list[int]] = {}
        for topic, index in sorted(txn.partitions):
            topics.setdefault(topic, []).append(index)
        return shapes.TransactionState(
            error_code=code,
            transactional_id=transactional_id,
            transaction_state=txn.status.value,
            transaction_timeout=timedelta(milliseconds=txn.timeout_ms),
            transaction_start_time=_time(txn.start_ms),
            producer_id=txn.producer_id,
            producer_epoch=txn.epoch,
            topics=tuple(shapes.TopicData(topic=name, partitions=tuple(found)) for name, found in topics.items()),
        )

    states = await sliced(tuple(dict.fromkeys(request.transactional_ids)), described)
    return shapes.DescribeTransactionsResponse(throttle_time=NO_THROTTLE, transaction_states=tuple(states))


def _time(at_ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=at_ms)


API = Api(key=KEY, name="DescribeTransactions", versions=range(1), handle=handle)
