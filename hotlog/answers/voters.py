"""Why the voters of the metadata log do not change: there are none, as each node may claim its lease (KIP-853)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kio.schema.errors import ErrorCode

from hotlog.answers.replies import Refusal

if TYPE_CHECKING:
    from hotlog.broker.broker import Broker

CONTROLLERS = "CONTROLLER"  # what their listener is called in Kafka


def judged(broker: Broker, request: Any) -> Refusal:
    """What AddRaftVoter and RemoveRaftVoter are answered: Kafka looks at what is asked for first."""
    if request.cluster_id is not None and request.cluster_id != broker.cluster_id:
        return Refusal(ErrorCode.inconsistent_cluster_id, f"this is cluster {broker.cluster_id}")
    if request.voter_id < 0 or request.voter_directory_id is None:
        return Refusal(ErrorCode.invalid_request, "a voter has an id that is not negative, and the id of a directory")
    if hasattr(request, "listeners") and all(listener.name != CONTROLLERS for listener in request.listeners):
        return Refusal(ErrorCode.invalid_request, f"a voter has a listener {CONTROLLERS}")
    return Refusal(ErrorCode.unsupported_version, "nodes are given by configuration: kraft.version is 0")
