"""AddOffsetsToTxn (25): a transaction commits offsets of a group, so that the group's partition of __consumer_offsets is part of it.

Versions 0 to 4: PRODUCER_FENCED from 2 (KIP-588).

Invariants: answered after the transaction log has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hotlog.answers.api import Api, RequestContext
from hotlog.answers.group_replies import coordinator_error
from hotlog.answers.replies import NO_THROTTLE
from hotlog.answers.transaction_replies import code_of
from hotlog.coordinators.transaction_types import V0
from hotlog.wire import apis

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 25
FENCED_FROM = 2


async def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Add the group's partition."""
    try:
        await broker.groups.ensure()
        place = broker.groups.place_of(request.group_id)
        code = await broker.transactions.add(request.transactional_id, request.producer_id, request.producer_epoch, (place,), V0)
        answer = code_of(context, code, fenced_from=FENCED_FROM)
    except Exception as problem:
        answer = coordinator_error(context, problem)
    return apis.responses(KEY, context.version).AddOffsetsToTxnResponse(throttle_time=NO_THROTTLE, error_code=answer)


API = Api(key=KEY, name="AddOffsetsToTxn", versions=range(5), handle=handle)
