"""Every metric in one described table, on prometheus_client; what every request counts are plain numbers (hotlog.kernel.tallies).

Names follow KIP-405 and KIP-958 where they exist there (BrokerTopicMetrics RemoteCopyLagBytes ->
kafka_server_brokertopicmetrics_remotecopylagbytes and so on), `hotlog_` otherwise.  docs/metrics.md is printed
from here.

Invariants: a metric is declared here and nowhere else; gauges that can be derived from state are set from state at scrape time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, disable_created_metrics
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector

from hotlog.kernel.tallies import Series, Spreads, Tallies

_LATENCY_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_BROKER_TOPIC = "kafka_server_brokertopicmetrics_"
disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each counter and histogram, of which nobody asks when it began


class Table(Collector):
    """A gauge whose series are measured whole: `rows` is replaced by one assignment, and is made text by whoever prints it, off the loop."""

    _type = "gauge"

    def __init__(self, name: str, documentation: str, labelnames: list[str], *, registry: CollectorRegistry) -> None:
        self._name, self._documentation, self._labelnames = name, documentation, tuple(labelnames)
        self.rows: Mapping[tuple[str, ...], float] = {}
        registry.register(self)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(self._name, self._documentation, labels=self._labelnames)
        for labels, value in self.rows.items():
            family.add_metric(labels, value)
        yield family


class Metrics:
    """The metric objects of one node, on a registry of their own (several nodes may live in one test process)."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        r = self.registry
        topic = ["topic"]
        ProcessCollector(registry=r)  # process_resident_memory_bytes, process_cpu_seconds_total, process_open_fds and so on
        self.build = Info("hotlog_build", "Which Hotlog this is.", registry=r)
        # Requests
        self.requests = Tallies("kafka_network_requests", "Requests answered.", ["api"], registry=r)
        self.request_errors = Tallies("kafka_network_request_errors", "Requests answered with an error.", ["api"], registry=r)
        self.request_seconds = Spreads(
            "kafka_network_request_seconds", "Time from whole request to response written.", ["api"],
            registry=r, buckets=_LATENCY_SECONDS,
        )  # fmt: skip
        self.loop_lag_seconds = Histogram(
            "hotlog_loop_lag_seconds", "How late the event loop runs what is due (all requests go through it).",
            registry=r, buckets=_LATENCY_SECONDS,
        )  # fmt: skip
        self.cold_read_rate_limit = Gauge(
            "hotlog_cold_read_limit_bytes_per_second", "What reads from the store are held to, by setting or to spare the tail (0: nothing).",
            registry=r,
        )  # fmt: skip
        self.connections = Gauge("hotlog_connections", "Open client connections.", registry=r)
        self.request_bytes = Gauge(
            "hotlog_request_bytes", "Memory held for requests: in work, waiting, and half received.", registry=r
        )
        self.metadata_kept_bytes = Gauge("hotlog_metadata_kept_bytes", "Memory held for Metadata answers.", registry=r)
        self.connections_refused = Counter("hotlog_connections_refused", "Connections closed by a limit.", ["reason"], registry=r)
        self.connections_failed = Counter(
            "hotlog_connections_malformed", "Connections closed for malformed input.", ["reason"], registry=r
        )
        # Hot log
        self.bytes_in = Tallies(_BROKER_TOPIC + "bytesin", "Bytes appended.", topic, registry=r)
        self.bytes_out = Tallies(_BROKER_TOPIC + "bytesout", "Bytes fetched.", topic, registry=r)
        self.messages_in = Tallies(_BROKER_TOPIC + "messagesin", "Records appended.", topic, registry=r)
        self.produce_failed = Counter(_BROKER_TOPIC + "failedproducerequests", "Refused produce partitions.", topic, registry=r)
        self.fetch_failed = Counter(_BROKER_TOPIC + "failedfetchrequests", "Refused fetch partitions.", topic, registry=r)
        self.flush_seconds = Histogram("kafka_log_flush_seconds", "fsync of a segment.", registry=r, buckets=_LATENCY_SECONDS)
        self.partitions = Gauge("kafka_server_partitions", "Partitions on this broker.", registry=r)
        self.log_size_bytes = Gauge("kafka_log_size_bytes", "Local bytes of a topic.", topic, registry=r)
        self.group_lag = Table(
            "hotlog_group_lag", "Records that a group has not committed, by the tier that has its next one.", ["group", "topic", "tier"],
            registry=r,
        )  # fmt: skip
        self.disk_free_bytes = Gauge(
            "hotlog_disk_free_bytes", "Free bytes of the data directory's file system; below hotlog.disk.reserve.bytes nothing is taken.",
            registry=r,
        )  # fmt: skip
        self.storage_failed = Gauge("hotlog_log_storage_failed", "Partition logs that stopped after a disk error.", registry=r)
        self.scrub_bytes = Counter("hotlog_scrub_bytes", "Bytes of local logs that a scrub checked.", registry=r)
        self.scrub_ended = Gauge(
            "hotlog_scrub_round_end_timestamp_seconds", "When the last whole scrub ended, since 1970; 0: none yet.", registry=r
        )
        self.scrub_repairs = Counter(
            "hotlog_scrub_repairs", "Times that damaged local segments were dropped for the store's copy.", topic, registry=r
        )
        self.damaged_segments = Gauge("hotlog_log_damaged_segments", "Local segments known to be damaged.", topic, registry=r)
        # Log compaction
        self.cleaner_buffer = Gauge(
            "kafka_log_logcleaner_max_buffer_utilization_percent",
            "How full the map of keys of the last cleaning was.",
            registry=r,
        )
        self.cleaner_recopy = Gauge(
            "kafka_log_logcleaner_cleaner_recopy_percent", "What the last cleaning wrote, of what it read.", registry=r
        )
        self.cleaner_seconds = Gauge("kafka_log_logcleaner_max_clean_time_secs", "How long the last cleaning took.", registry=r)
        self.cleaner_delay = Gauge(
            "kafka_log_logcleaner_max_compaction_delay_secs",
            "How much longer than max.compaction.lag.ms a log has waited.",
            registry=r,
        )
        self.cleaner_dirty = Gauge(
            "kafka_log_logcleanermanager_max_dirty_percent", "Dirty share of the log with most of it.", registry=r
        )
        self.cleaner_last_run = Gauge(
            "kafka_log_logcleanermanager_last_run_timestamp_seconds",
            "When compacted logs were looked at last, since 1970.",
            registry=r,
        )
        self.uncleanable_count = Gauge(
            "kafka_log_logcleanermanager_uncleanable_partitions_count", "Partitions that cannot be cleaned.", registry=r
        )
        self.uncleanable_bytes = Table(
            "kafka_log_logcleanermanager_uncleanable_bytes",
            "Bytes of a partition that cannot be cleaned.",
            ["topic", "partition"],
            registry=r,
        )
        self.cleaned_bytes = Counter("hotlog_cleaner_bytes", "Bytes that cleanings read and wrote.", ["direction"], registry=r)
        self.cleaned_records = Counter("hotlog_cleaner_records", "Records that cleanings looked at.", ["outcome"], registry=r)
        # Cold tier (KIP-405, KIP-958)
        self.remote_copy_bytes = Counter(_BROKER_TOPIC + "remotecopybytes", "Bytes copied to the store.", topic, registry=r)
        self.remote_copy_requests = Counter(_BROKER_TOPIC + "remotecopyrequests", "Segment copies begun.", topic, registry=r)
        self.remote_copy_errors = Counter(_BROKER_TOPIC + "remotecopyerrors", "Segment copies failed.", topic, registry=r)
        self.remote_fetch_bytes = Counter(_BROKER_TOPIC + "remotefetchbytes", "Bytes read from the store.", topic, registry=r)
        self.remote_fetch_requests = Counter(_BROKER_TOPIC + "remotefetchrequests", "Cold reads begun.", topic, registry=r)
        self.remote_fetch_errors = Counter(_BROKER_TOPIC + "remotefetcherrors", "Cold reads failed.", topic, registry=r)
        self.remote_delete_requests = Counter(_BROKER_TOPIC + "remotedeleterequests", "Object deletes begun.", topic, registry=r)
        self.remote_delete_errors = Counter(_BROKER_TOPIC + "remotedeleteerrors", "Object deletes failed.", topic, registry=r)
        self.remote_copy_lag_bytes = Gauge(
            _BROKER_TOPIC + "remotecopylagbytes", "Closed bytes not yet copied.", topic, registry=r
        )
        self.remote_copy_lag_segments = Gauge(
            _BROKER_TOPIC + "remotecopylagsegments", "Closed segments not yet copied.", topic, registry=r
        )
        self.remote_delete_lag_bytes = Gauge(
            _BROKER_TOPIC + "remotedeletelagbytes", "Expired bytes not deleted.", topic, registry=r
        )
        self.remote_delete_lag_segments = Gauge(
            _BROKER_TOPIC + "remotedeletelagsegments", "Expired segments not deleted.", topic, registry=r
        )
        self.remote_log_size_bytes = Gauge(_BROKER_TOPIC + "remotelogsizebytes", "Committed remote bytes.", topic, registry=r)
        self.remote_metadata_count = Gauge(
            _BROKER_TOPIC + "remotelogmetadatacount", "Committed remote segments.", topic, registry=r
        )
        self.oldest_untiered_seconds = Gauge(
            "hotlog_oldest_untiered_segment_age_seconds",
            "Age of the oldest closed segment that is not copied.",
            topic,
            registry=r,
        )
        self.store_requests = Counter(
            "hotlog_store_requests", "Object store calls.", ["topic", "purpose", "kind", "outcome"], registry=r
        )
        self.store_bytes = Counter("hotlog_store_bytes", "Object store bytes.", ["topic", "purpose", "kind"], registry=r)
        self.store_up = Gauge(
            "hotlog_store_up", "Whether the object store answers (1) or does not serve this broker (0).", registry=r
        )
        self.store_seconds = Histogram(
            "hotlog_store_seconds", "Object store call time.", ["kind"], registry=r, buckets=_LATENCY_SECONDS
        )
        self.cache_hits = Counter("hotlog_cache_hits", "Chunk cache hits.", ["layer"], registry=r)
        self.cache_misses = Counter("hotlog_cache_misses", "Chunk cache misses (one GET each).", registry=r)
        self.cache_bytes = Gauge("hotlog_cache_bytes", "Chunk cache size.", ["layer"], registry=r)
        self.corruption = Counter("hotlog_corruption", "Bytes that failed a check.", ["where"], registry=r)
        self.worker_ticks = Counter("hotlog_worker_ticks", "Worker ticks.", ["worker", "outcome"], registry=r)
        self.orphans = Gauge(
            "hotlog_store_orphans", "Unreferenced objects seen by the last reconciliation.", ["state"], registry=r
        )

    def forget_topics(self, topics: AbstractSet[str]) -> None:
        """Drop every series of topics that are no more: they would stay until the process ends."""
        for metric in vars(self).values():
            if isinstance(metric, MetricWrapperBase | Series) and "topic" in metric._labelnames:
                _forget(metric, topics)


def _forget(metric: MetricWrapperBase | Series[Any], topics: AbstractSet[str]) -> None:
    names = metric._labelnames
    gone: list[tuple[str, ...]]
    if len(names) == 1:
        gone = [(topic,) for topic in topics]
    else:  # looked through once for all topics
        told = [sample.labels for family in metric.collect() for sample in family.samples if sample.labels["topic"] in topics]
        gone = [*{tuple(str(labels[name]) for name in names): None for labels in told}]
    for labels in gone:
        try:
            metric.remove(*labels)
        except KeyError:
            continue  # this one was never counted
