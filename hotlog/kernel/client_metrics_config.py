"""What clients are asked to measure and send (KIP-714): configurations of a subscription, with Kafka's names, rules and defaults.

Rules: org.apache.kafka.server.metrics.ClientMetricsConfigs.  They are kept and told; no client is asked for anything yet.

Invariants: pure; an expression is one of RE2, so that none takes long.
"""

from __future__ import annotations

from collections.abc import Mapping

from hotlog.kernel.configdef import ConfigKey, parse_all, table
from hotlog.kernel.errors import Invalid, InvalidConfig
from hotlog.kernel.expressions import compiled

PUSH_INTERVAL_MS_MIN, PUSH_INTERVAL_MS_MAX = 100, 3_600_000
CLIENT_PROPERTIES = frozenset({
    "client_instance_id", "client_id", "client_software_name", "client_software_version", "client_source_address", "client_source_port",
})  # fmt: skip

CLIENT_METRICS_KEYS = table([
    ConfigKey(name="metrics", kind="list", default=(), acts=False, doc="What clients are asked to send: beginnings of names; * is all."),
    ConfigKey(name="interval.ms", kind="int", default=300_000, unit="ms", acts=False, doc="How often clients send."),
    ConfigKey(name="match", kind="list", default=(), acts=False, doc="Which clients: PROPERTY=REGEX, all of them; none is every client."),
])  # fmt: skip


def check_client_metrics(own: Mapping[str, str]) -> None:
    """That a subscription may say `own`.

    Raises:
        InvalidConfig: a value that cannot be read.  Invalid: an unknown key, or an interval that is too short or too long.
    """
    for name in own:
        if name not in CLIENT_METRICS_KEYS:
            raise Invalid(f"unknown configuration {name!r} of client metrics; known are {', '.join(CLIENT_METRICS_KEYS)}")
    values = parse_all(CLIENT_METRICS_KEYS, own)
    interval_ms = values.get("interval.ms", PUSH_INTERVAL_MS_MAX)
    assert isinstance(interval_ms, int)
    if not PUSH_INTERVAL_MS_MIN <= interval_ms <= PUSH_INTERVAL_MS_MAX:
        raise Invalid(f"interval.ms={interval_ms} must be from {PUSH_INTERVAL_MS_MIN} to {PUSH_INTERVAL_MS_MAX}")
    for name, listed in values.items():
        if isinstance(listed, tuple) and own[name].strip() and not all(part.strip() for part in own[name].split(",")):
            raise InvalidConfig(f"{name}={own[name]!r} has nothing between two commas")
    matches = values.get("match", ())
    assert isinstance(matches, tuple)
    for match in matches:
        _check_match(match)


def _check_match(match: str) -> None:
    name, _, regex = match.partition("=")
    if name.strip() not in CLIENT_PROPERTIES or not regex.strip() or "=" in regex:
        raise InvalidConfig(f"match={match!r} is not PROPERTY=REGEX; properties are {', '.join(sorted(CLIENT_PROPERTIES))}")
    try:
        compiled(regex.strip())
    except Invalid as why:
        raise InvalidConfig(f"match={match!r} has no regular expression: {why}") from None
