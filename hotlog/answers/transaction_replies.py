"""What the transaction APIs share: codes of the coordinator as Kafka's.

Invariants: every TxnCode has the kio ErrorCode of the same name (checked on import).
"""

from __future__ import annotations

from kio.schema.errors import ErrorCode

from hotlog.answers.api import RequestContext
from hotlog.coordinators.transaction_types import TxnCode

CODES: dict[TxnCode, ErrorCode] = {code: ErrorCode[code.value] for code in TxnCode}


def code_of(context: RequestContext, code: TxnCode, *, fenced_from: int) -> ErrorCode:
    """The protocol's code; PRODUCER_FENCED is known to clients from version `fenced_from` of the API on (KIP-588)."""
    if code is TxnCode.NONE:
        return ErrorCode.none
    context.has_failed = True
    if code is TxnCode.PRODUCER_FENCED and context.version < fenced_from:
        return ErrorCode.invalid_producer_epoch
    return CODES[code]
