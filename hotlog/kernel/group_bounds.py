"""What bounds a broker key about groups, for the broker itself and for what its groups may be given: (least, most).

Source: org.apache.kafka.coordinator.group.GroupCoordinatorConfig.
"""

from __future__ import annotations

GROUP_BOUNDS = {
    "group.consumer.session.timeout.ms": ("group.consumer.min.session.timeout.ms", "group.consumer.max.session.timeout.ms"),
    "group.consumer.heartbeat.interval.ms": (
        "group.consumer.min.heartbeat.interval.ms",
        "group.consumer.max.heartbeat.interval.ms",
    ),
    "group.consumer.assignment.interval.ms": (
        "group.consumer.min.assignment.interval.ms",
        "group.consumer.max.assignment.interval.ms",
    ),
}
