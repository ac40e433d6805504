"""InitProducerId (22): a producer id and epoch for idempotent produce (KIP-98).

Versions 0 to 6.  Ids come from blocks that the metadata log hands out, so none is ever given twice.  Transactions are not built yet: a
transactional id is answered with TRANSACTIONAL_ID_AUTHORIZATION_FAILED, the one refusal that every client takes as final (librdkafka asks
again for ever after UNSUPPORTED_VERSION or INVALID_REQUEST).

Invariants: an id is answered only after the block it comes from is committed; the epoch of a fresh id is 0.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from hotlog.answers.api import Api, RequestContext
from hotlog.kernel.errors import Retry
from hotlog.wire import apis
from hotlog.wire.error_codes import code_for, is_expected

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

LOG = logging.getLogger(__name__)


def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """A fresh id; a given one (KIP-360) is replaced by a fresh one as well, as Kafka does without a transactional id."""
    if request.transactional_id is not None:
        broker.transactions_refused += 1
        if broker.transactions_refused.bit_count() == 1:  # the 1st, 2nd, 4th, ...: clients may be many, or restart for ever
            LOG.warning(
                "client %r asks for transactions (transactional.id %r), which are not built yet: it is refused; %d refused so far",
                context.client_id, request.transactional_id[:100], broker.transactions_refused,
            )  # fmt: skip
        return _response(context, ErrorCode.transactional_id_authorization_failed, -1)
    return _allocate(broker, context)


async def _allocate(broker: Broker, context: RequestContext) -> Any:
    try:
        producer_id = await broker.allocate_producer_id()
    except Exception as error:
        if not is_expected(error):
            raise
        # Clients retry this one while the metadata log cannot be written; other codes are final for them.
        is_weather = isinstance(error, Retry)
        return _response(context, ErrorCode.coordinator_load_in_progress if is_weather else code_for(error), -1)
    return _response(context, ErrorCode.none, producer_id)


def _response(context: RequestContext, code: ErrorCode, producer_id: int) -> Any:
    context.has_failed = bool(code)
    return apis.responses(context.api_key, context.version).InitProducerIdResponse(
        throttle_time=timedelta(0), error_code=code, producer_id=producer_id, producer_epoch=-1 if code else 0
    )


API = Api(key=22, name="InitProducerId", versions=range(7), handle=handle, omits=("transactional ids",))
