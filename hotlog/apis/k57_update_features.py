"""UpdateFeatures (57): finalize other levels of features (KIP-584, KIP-778).

Versions 0 to 2: what kind of change, and trials, from 1; results of single features up to 1.  Version 0 has a flag that allows a downgrade,
which Kafka does not look at.

Invariants: all of it or nothing is changed; `validate_only` changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from controller.features import UPGRADE, FeatureUpdate
from hotlog.answers.api import Api, RequestContext
from hotlog.answers.replies import NO_THROTTLE, refusal
from hotlog.wire.apis import responses

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

KEY = 57


async def handle(broker: Broker, context: RequestContext, request: Any) -> Any:
    """Change them in one commit."""
    code, message = ErrorCode.none, None
    updates = tuple(FeatureUpdate(wanted.feature, wanted.max_version_level, _kind(wanted)) for wanted in request.feature_updates)
    try:
        await broker.update_features(updates, validate_only=getattr(request, "validate_only", False))
    except Exception as problem:
        code, message = refusal(context, problem)
    shapes = responses(KEY, context.version)
    results = ()
    if code is ErrorCode.none and shapes.has("UpdatableFeatureResult"):
        results = tuple(
            shapes.UpdatableFeatureResult(feature=name, error_code=ErrorCode.none, error_message=None)
            for name in dict.fromkeys(update.name for update in updates)
        )
    return shapes.UpdateFeaturesResponse(throttle_time=NO_THROTTLE, error_code=code, error_message=message, results=results)


def _kind(wanted: Any) -> int:
    kind: int = getattr(wanted, "upgrade_type", UPGRADE)
    return kind


API = Api(
    key=KEY,
    name="UpdateFeatures",
    versions=range(3),
    handle=handle,
    omits=("timeout: the answer comes when it is done",),
)
