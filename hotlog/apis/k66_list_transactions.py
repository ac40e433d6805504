"""ListTransactions (66): the transactional ids that this broker coordinates (KIP-664).

Versions 0 to 2: those whose transaction is older than a duration from 1 (KIP-994), those whose id matches a pattern from 2 (KIP-1152).

Invariants: a filter that names an unknown state says so, and lets none through for it; a pattern matches a whole id.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from hotlog.answers.api import Api, RequestContext
from hotlog.answers.replies import NO_THROTTLE
from hotlog.answers.slices import slices
from hotlog.coordinators.transaction_types import Status, Transaction
from hotlog.kernel.errors import Invalid
from hotlog.kernel.expressions import compiled
from hotlog.wire import apis

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

LOG = logging.getLogger(__name__)
KEY = 66
_NAMES = {status.value: status for status in Status}


async def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Those that pass all filters."""
    shapes = apis.responses(KEY, context.version)
    pattern = getattr(request, "transactional_id_pattern", None)
    try:
        expression = compiled(pattern) if pattern else None
    except Invalid as wrong:
        LOG.debug("%r is no expression: %s", pattern, wrong)
        context.has_failed = True
        return shapes.ListTransactionsResponse(
            throttle_time=NO_THROTTLE,
            error_code=ErrorCode.invalid_regular_expression,
            unknown_state_filters=(),
            transaction_states=(),
        )
    unknown = tuple(name for name in request.state_filters if name not in _NAMES)
    statuses = {_NAMES[name] for name in request.state_filters if name in _NAMES}
    ids, older_ms = set(request.producer_id_filters), getattr(request, "duration_filter", -1)
    now_ms = broker.clock.now_ms()

    def passes(txn: Transaction) -> bool:
        if (request.state_filters and txn.status not in statuses) or (ids and txn.producer_id not in ids):
            return False
        if expression is not None and not expression.fullmatch(txn.transactional_id):
            return False
        return older_ms < 0 or now_ms - txn.start_ms > older_ms

    found = []
    async for some in slices(await broker.transactions.listed()):
        found += [
            shapes.TransactionState(
                transactional_id=txn.transactional_id, producer_id=txn.producer_id, transaction_state=txn.status.value
            )
            for txn in some
            if passes(txn)
        ]
    return shapes.ListTransactionsResponse(
        throttle_time=NO_THROTTLE, error_code=ErrorCode.none, unknown_state_filters=unknown, transaction_states=tuple(found)
    )


API = Api(key=KEY, name="ListTransactions", versions=range(3), handle=handle)
