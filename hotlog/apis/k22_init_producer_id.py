"""InitProducerId (22): a producer id and epoch for idempotent produce (KIP-98) and for transactions.

Versions 0 to 6: a producer that goes on after an error names its id and epoch from 3 (KIP-360), PRODUCER_FENCED from 4 (KIP-588); two-phase commit (6,
KIP-939) is refused as where transaction.two.phase.commit.enable is false.  Ids come from blocks that the metadata log hands out, so none is ever
given twice.

Invariants: an id is answered only after the block it comes from is committed; the epoch of a fresh id is 0; with a transactional id nothing is
answered before the transaction log has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from hotlog.answers.api import Api, RequestContext
from hotlog.answers.group_replies import coordinator_error
from hotlog.answers.replies import NO_THROTTLE, milliseconds
from hotlog.answers.transaction_replies import code_of
from hotlog.kernel.errors import Retry
from hotlog.wire import apis
from hotlog.wire.error_codes import code_for, is_expected

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

FENCED_FROM = 4


async def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """A fresh id; a given one without a transactional id is replaced by a fresh one, as Kafka does."""
    known = getattr(request, "producer_id", -1), getattr(request, "producer_epoch", -1)
    if (known[0] < 0) != (known[1] < 0):
        return _response(context, ErrorCode.invalid_request, -1, -1)
    if request.transactional_id is None:
        return await _allocate(broker, context)
    try:
        answer = await broker.transactions.init_id(
            request.transactional_id,
            timeout_ms=milliseconds(request.transaction_timeout),
            expected=known if known[0] >= 0 else None,
            is_two_phase=getattr(request, "enable2_pc", False),
            keeps_prepared=getattr(request, "keep_prepared_txn", False),
        )
    except Exception as problem:
        return _response(context, coordinator_error(context, problem), -1, -1)
    return _response(context, code_of(context, answer.code, fenced_from=FENCED_FROM), answer.producer_id, answer.epoch)


async def _allocate(broker: Broker, context: RequestContext) -> Any:
    try:
        producer_id = await broker.allocate_producer_id()
    except Exception as error:
        if not is_expected(error):
            raise
        # Clients retry this one while the metadata log cannot be written; other codes are final for them.
        is_weather = isinstance(error, Retry)
        return _response(context, ErrorCode.coordinator_load_in_progress if is_weather else code_for(error), -1, -1)
    return _response(context, ErrorCode.none, producer_id, 0)


def _response(context: RequestContext, code: ErrorCode, producer_id: int, epoch: int) -> Any:
    context.has_failed = bool(code)
    return apis.responses(context.api_key, context.version).InitProducerIdResponse(
        throttle_time=NO_THROTTLE, error_code=code, producer_id=producer_id, producer_epoch=epoch
    )


API = Api(key=22, name="InitProducerId", versions=range(7), handle=handle, omits=("two-phase commit",))
