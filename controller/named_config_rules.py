"""What may be done to configurations of groups and of client metrics, which need not be there: requests against an image, answered with records.

Rules: org.apache.kafka.controller.ConfigurationControlManager and ControllerConfigurationValidator (behaviour, not code).

Invariants: pure; their number and the length of their names are bounded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kio.schema.errors import ErrorCode

from controller.config_rules import ConfigChange, Scope, check_sizes, difference, given_values, stepped
from controller.image import ClusterImage
from controller.records import NamedConfigsChanged, NamedKind, Record
from hotlog.kernel.client_metrics_config import check_client_metrics
from hotlog.kernel.errors import InvalidConfig
from hotlog.kernel.group_config import check_group
from hotlog.kernel.limits import NAMED_CONFIGS_MAX
from hotlog.wire.error_codes import Refused

NAME_CHARS_MAX = 1024


def plan_named_configs(
    image: ClusterImage, kind: NamedKind, name: str, wanted: Mapping[str, str | None], scope: Scope
) -> Record | None:
    """The record that makes `wanted` the settings of a group or subscription, or None if they are already.

    Raises:
        InvalidConfig, Invalid, Refused
    """
    check_sizes(wanted)
    own = given_values(wanted)
    there = image.named_configs(kind)
    changes = difference(there.get(name, {}), own)
    _check_name(kind, name)
    if kind is NamedKind.GROUP:
        check_group(own, scope.settings)
    else:
        check_client_metrics(own)
    if own and name not in there and len(there) >= NAMED_CONFIGS_MAX:
        raise Refused(ErrorCode.policy_violation, f"{len(there)} names of this kind have configurations; no more are kept")
    return NamedConfigsChanged(kind=kind, name=name, configs=changes) if changes else None


def step_named_configs(
    image: ClusterImage, kind: NamedKind, name: str, steps: Sequence[ConfigChange], scope: Scope
) -> Record | None:
    """The record that changes some of them.  As in Kafka none of their keys may be appended to.

    Raises:
        InvalidConfig, Invalid, Refused
    """
    return plan_named_configs(image, kind, name, stepped(image.named_configs(kind).get(name, {}), {}, steps, {}), scope)


def _check_name(kind: NamedKind, name: str) -> None:
    if not name:
        raise Refused(ErrorCode.invalid_request, f"configurations of a {kind.value} need its name")
    if len(name) > NAME_CHARS_MAX:
        raise InvalidConfig(f"a name of {len(name)} characters has no configurations; at most {NAME_CHARS_MAX} are allowed")
