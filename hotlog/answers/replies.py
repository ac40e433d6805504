"""Small things that many handlers share: durations, nodes, and an error as a (code, message) pair.

Invariants: an error nobody foresaw is logged here with its trace and answered without its text.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import NamedTuple

from kio.schema.errors import ErrorCode

from hotlog.answers.api import RequestContext
from hotlog.wire.error_codes import code_for, is_expected, message_for

LOG = logging.getLogger(__name__)
NO_THROTTLE = timedelta(0)
NO_OPERATIONS = -(2**31)  # "authorized operations were not asked for" (KIP-430)
# What may be done with a thing at all, a bit for each AclOperation; everybody may do all of it while there is no authorizer.
TOPIC_OPERATIONS = 0b1101_1111_1000  # read, write, create, delete, alter, describe, describe and alter configs
CLUSTER_OPERATIONS = 0b1_1111_1010_0000  # create, alter, describe, cluster action, describe and alter configs, idempotent write
GROUP_OPERATIONS = 0b1101_0100_1000  # read, delete, describe, describe and alter configs


def milliseconds(duration: timedelta) -> int:
    """Whole milliseconds."""
    return duration // timedelta(milliseconds=1)


class Refusal(NamedTuple):
    """An error as clients see it."""

    code: ErrorCode
    message: str


def refusal(context: RequestContext, error: Exception) -> Refusal:
    """The code and message of `error`; marks the request as failed."""
    context.has_failed = True
    if not is_expected(error):
        LOG.error("API %d version %d failed", context.api_key, context.version, exc_info=error)
    else:
        LOG.debug("API %d version %d is refused to client %r: %s", context.api_key, context.version, context.client_id, error)
    return Refusal(code_for(error), message_for(error))
