"""ApiVersions (18): what is served, in which versions.  KIP-35, KIP-511, KIP-584.

Versions 0 to 4.  A version above is answered by dispatch with error 35 in the layout of version 0.  Features: none is finalized, so that
clients keep to transaction version 1 and the classic group protocol.

Invariants: the answer is what dispatch says that it serves (`broker.served`), nothing else.
"""

from __future__ import annotations

from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from hotlog.answers.api import Api, RequestContext, Spliced
from hotlog.wire import apis

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker


def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """The table, as this version writes it."""
    return _table(context.version, broker.served)


@cache
def _table(version: int, served: tuple[tuple[int, int, int], ...]) -> Spliced:
    """Encoded once for each version: every connection begins with this question."""
    shapes = apis.responses(API.key, version)
    keys = tuple(shapes.ApiVersion(api_key=key, min_version=first, max_version=last) for key, first, last in served)
    body = apis.encoded(shapes.ApiVersionsResponse(error_code=ErrorCode.none, api_keys=keys, throttle_time=timedelta(0)))
    return Spliced([body], len(body))


API = Api(key=18, name="ApiVersions", versions=range(5), handle=handle)
