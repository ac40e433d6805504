"""What the group APIs share: codes of the coordinator as Kafka's, and its refusals as top-level errors.

Invariants: every Code of the state machine has the kio ErrorCode of the same name (checked on import).
"""

from __future__ import annotations

from kio.schema.errors import ErrorCode

from hotlog.answers.api import RequestContext
from hotlog.answers.replies import refusal
from hotlog.coordinators.group_types import Code
from hotlog.coordinators.tenure import Loading, NotCoordinator, NotServed
from hotlog.wire.error_codes import Refused

GROUPS_ARE_OFF = "the cluster has finalized group.version 0: there are no groups of the new protocol"
CODES: dict[Code, ErrorCode] = {code: ErrorCode[code.value] for code in Code}


def code_of(context: RequestContext, code: Code) -> ErrorCode:
    """The protocol's code; marks the request as failed if it is one."""
    if code is not Code.NONE:
        context.has_failed = True
    return CODES[code]


def coordinator_error(context: RequestContext, error: Exception) -> ErrorCode:
    """The code for an error of the coordinator itself: what is retriable makes a client look for the coordinator again or wait."""
    if isinstance(error, NotServed):
        context.has_failed = True
        if isinstance(error, Loading):
            return ErrorCode.coordinator_load_in_progress
        return ErrorCode.not_coordinator if isinstance(error, NotCoordinator) else ErrorCode.coordinator_not_available
    code = refusal(context, error).code
    if isinstance(error, Refused):
        return ErrorCode.coordinator_not_available if code is ErrorCode.request_timed_out else code
    return ErrorCode.coordinator_not_available if code.retriable else code
