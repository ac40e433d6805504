"""EndTxn (26): commit or abort a transaction.

Versions 0 to 5: PRODUCER_FENCED from 2 (KIP-588); from 5 on the answer has the id and epoch of the next transaction (KIP-890).

Invariants: answered after the decision is in the transaction log; the partitions are told meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hotlog.answers.api import Api, RequestContext
from hotlog.answers.group_replies import coordinator_error
from hotlog.answers.replies import NO_THROTTLE
from hotlog.answers.transaction_replies import code_of
from hotlog.coordinators.transaction_types import NO_EPOCH, NO_ID, V0, V2
from hotlog.wire import apis

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 26
FENCED_FROM, BUMPS_FROM = 2, 5


async def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """End it."""
    producer_id, epoch = NO_ID, NO_EPOCH
    try:
        ended = await broker.transactions.end(
            request.transactional_id,
            request.producer_id,
            request.producer_epoch,
            is_commit=request.committed,
            version=V2 if context.version >= BUMPS_FROM else V0,
        )
        code = code_of(context, ended.code, fenced_from=FENCED_FROM)
        producer_id, epoch = ended.producer_id, ended.epoch
    except Exception as problem:
        code = coordinator_error(context, problem)
    return apis.responses(KEY, context.version).EndTxnResponse(
        throttle_time=NO_THROTTLE, error_code=code, producer_id=producer_id, producer_epoch=epoch
    )


API = Api(key=KEY, name="EndTxn", versions=range(6), handle=handle)
