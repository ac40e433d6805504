"""ApiVersions (18): what is served, in which versions.  KIP-35, KIP-511, KIP-584.

Versions 0 to 4.  A version above is answered by dispatch with error 35 in the layout of version 0.  Of features (KIP-584) those are told that the cluster has finalized: clients
choose the transaction protocol by `transaction.version` (KIP-890), and know of groups of the new protocol by `group.version` (KIP-848).  One whose lowest version is 0 is left out below version 4, whose clients
cannot read it.

Invariants: the answer is what dispatch says that it serves (`broker.served`), nothing else; but that Produce is said to begin with version 0, as Kafka
says it too: older librdkafka take its compression from there (KAFKA-18659).
"""

from __future__ import annotations

import re
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from controller.features import Feature, levels
from hotlog.answers.api import Api, RequestContext, Spliced
from hotlog.wire import apis

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker


FEATURES_FROM, ZERO_FROM = 3, 4
PRODUCE = 0
CLIENT_SAYS_FROM = 3  # who it is, KIP-511
_SOFTWARE = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?")


def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """The table, as this version writes it."""
    if context.version >= CLIENT_SAYS_FROM:
        said = request.client_software_name, request.client_software_version
        if not all(_SOFTWARE.fullmatch(word) for word in said):
            context.has_failed = True
            return apis.empty_response(API.key, context.version, error_code=ErrorCode.invalid_request)
    image = broker.image
    return _table(context.version, broker.served, levels(image), image.features_epoch)


@lru_cache(16)
def _table(
    version: int, served: tuple[tuple[int, int, int], ...], features: tuple[tuple[Feature, int], ...], features_epoch: int
) -> Spliced:
    """Encoded once for each version: every connection begins with this question."""
    shapes = apis.responses(API.key, version)
    keys = tuple(
        shapes.ApiVersion(api_key=key, min_version=0 if key == PRODUCE else first, max_version=last)
        for key, first, last in served
    )
    told: dict[str, Any] = {}
    if version >= FEATURES_FROM:
        told["supported_features"] = tuple(
            shapes.SupportedFeatureKey(name=one.name, min_version=0, max_version=one.last)
            for one, _ in (features if version >= ZERO_FROM else ())
        )
        told["finalized_features"] = tuple(
            shapes.FinalizedFeatureKey(name=one.name, max_version_level=level, min_version_level=level)
            for one, level in features
            if level > 0
        )
        told["finalized_features_epoch"] = features_epoch
    response = shapes.ApiVersionsResponse(error_code=ErrorCode.none, api_keys=keys, throttle_time=timedelta(0), **told)
    body = apis.encoded(response)
    return Spliced([body], len(body))


API = Api(key=18, name="ApiVersions", versions=range(5), handle=handle)
