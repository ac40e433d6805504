"""Per-topic configuration with Kafka's names, rules and defaults (org.apache.kafka.storage.internals.log.LogConfig).

Invariants: a TopicConfig is frozen and was checked as a whole; a change makes a new one.  Tiering rules are those of KIP-405,
KIP-950 and KIP-1241.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hotlog.kernel.configdef import LONG_MAX, ConfigKey, Value, parse_all, table
from hotlog.kernel.errors import InvalidConfig

DAY_MS = 24 * 60 * 60 * 1000

_THROTTLED, _THROTTLED_WORDS = r"(\*|\d+:\d+(,\d+:\d+)*)?", "* or a list of PARTITION:BROKER"

TOPIC_KEYS = table([
    ConfigKey(name="cleanup.policy", kind="list", default=("delete",), choices=("delete", "compact"), synonym="log.cleanup.policy",
              doc="How old data leaves: `delete` by time and size, `compact` by key (older records of a key go, tombstones after"
                  " delete.retention.ms), or both; empty: not at all."),
    ConfigKey(name="compression.gzip.level", kind="int", default=-1, minimum=1, maximum=9, also=-1, synonym="compression.gzip.level",
              acts=False, doc="How hard gzip works; batches are stored as they were produced."),
    ConfigKey(name="compression.lz4.level", kind="int", default=9, minimum=1, maximum=17, synonym="compression.lz4.level", acts=False,
              doc="How hard lz4 works; batches are stored as they were produced."),
    ConfigKey(name="compression.zstd.level", kind="int", default=3, minimum=-131_072, maximum=22, synonym="compression.zstd.level",
              acts=False, doc="How hard zstd works; batches are stored as they were produced."),
    ConfigKey(name="compression.type", kind="string", default="producer", synonym="compression.type",
              choices=("producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"), acts=False,
              doc="Batches are stored as they were produced, whatever this says."),
    ConfigKey(name="delete.retention.ms", kind="long", default=DAY_MS, minimum=0, unit="ms", synonym="log.cleaner.delete.retention.ms",
              doc="How long a compacted topic keeps a tombstone, from the first cleaning that saw it (KIP-534)."),
    ConfigKey(name="file.delete.delay.ms", kind="long", default=60_000, minimum=0, unit="ms", synonym="log.segment.delete.delay.ms",
              doc="How long a removed local segment file is kept for readers that hold it."),
    ConfigKey(name="flush.messages", kind="long", default=LONG_MAX, minimum=1, unit="records", synonym="log.flush.interval.messages",
              doc="fsync after this many records (page-cache durability); 1 is fsync before every ack."),
    ConfigKey(name="flush.ms", kind="long", default=LONG_MAX, minimum=0, unit="ms", synonym="log.flush.interval.ms",
              doc="fsync after this time (page-cache durability)."),
    ConfigKey(name="follower.replication.throttled.replicas", kind="list", default=(), acts=False, pattern=_THROTTLED,
              pattern_words=_THROTTLED_WORDS, doc="Replicas whose catching up is throttled; a partition has one replica yet."),
    ConfigKey(name="index.interval.bytes", kind="int", default=4096, minimum=0, unit="bytes", synonym="log.index.interval.bytes",
              doc="One offset index entry per this many log bytes at most."),
    ConfigKey(name="leader.replication.throttled.replicas", kind="list", default=(), acts=False, pattern=_THROTTLED,
              pattern_words=_THROTTLED_WORDS, doc="Replicas whose reading from the leader is throttled; a partition has one replica yet."),
    ConfigKey(name="local.retention.bytes", kind="long", default=-2, minimum=-2, unit="bytes", synonym="log.local.retention.bytes",
              doc="Local size to keep once tiered; -2 means retention.bytes, -1 no limit."),
    ConfigKey(name="local.retention.ms", kind="long", default=-2, minimum=-2, unit="ms", synonym="log.local.retention.ms",
              doc="Local age to keep once tiered; -2 means retention.ms, -1 no limit."),
    ConfigKey(name="max.compaction.lag.ms", kind="long", default=LONG_MAX, minimum=1, unit="ms",
              synonym="log.cleaner.max.compaction.lag.ms",
              doc="A compacted log is cleaned, however small its dirty share, once a closed segment is this old (KIP-354); segments roll by then."),
    ConfigKey(name="max.message.bytes", kind="int", default=1_048_588, minimum=0, unit="bytes", synonym="message.max.bytes",
              doc="Largest record batch accepted."),
    ConfigKey(name="message.timestamp.after.max.ms", kind="long", default=3_600_000, minimum=0, unit="ms",
              synonym="log.message.timestamp.after.max.ms", doc="How far in the future a record's timestamp may lie (CreateTime)."),
    ConfigKey(name="message.timestamp.before.max.ms", kind="long", default=LONG_MAX, minimum=0, unit="ms",
              synonym="log.message.timestamp.before.max.ms", doc="How far in the past a record's timestamp may lie (CreateTime)."),
    ConfigKey(name="message.timestamp.type", kind="string", default="CreateTime", choices=("CreateTime", "LogAppendTime"),
              synonym="log.message.timestamp.type", doc="Whose clock stamps records."),
    ConfigKey(name="min.cleanable.dirty.ratio", kind="double", default=0.5, minimum=0, maximum=1,
              synonym="log.cleaner.min.cleanable.ratio",
              doc="A compacted log is cleaned once this share of its closed bytes was not cleaned yet."),
    ConfigKey(name="min.compaction.lag.ms", kind="long", default=0, minimum=0, unit="ms",
              synonym="log.cleaner.min.compaction.lag.ms", doc="A closed segment with a record younger than this is not cleaned yet (KIP-58)."),
    ConfigKey(name="min.insync.replicas", kind="int", default=1, minimum=1, synonym="min.insync.replicas", acts=False,
              doc="Replicas that must have a batch before acks=all is answered; as in Kafka never more than a partition has, which is one yet."),
    ConfigKey(name="preallocate", kind="boolean", default=False, synonym="log.preallocate", acts=False,
              doc="Make segment files in their full size at once."),
    ConfigKey(name="remote.copy.lag.bytes", kind="long", default=-1, minimum=-1, unit="bytes", synonym="log.remote.copy.lag.bytes",
              doc="Copy a closed segment once this many newer bytes exist; -1 is as late as local retention allows (KIP-1241)."),
    ConfigKey(name="remote.copy.lag.ms", kind="long", default=0, minimum=-1, unit="ms", synonym="log.remote.copy.lag.ms",
              doc="Copy a closed segment once it is this old; 0 is at once, -1 as late as local retention allows (KIP-1241)."),
    ConfigKey(name="remote.log.copy.disable", kind="boolean", default=False, synonym="",
              doc="Stop copying to the store; what is there stays readable (KIP-950)."),
    ConfigKey(name="remote.log.delete.on.disable", kind="boolean", default=False,
              doc="Must be true to turn remote.storage.enable off: the remote part is then deleted (KIP-950)."),
    ConfigKey(name="remote.storage.enable", kind="boolean", default=True, synonym="hotlog.remote.storage.enable",
              doc="Copy closed segments to the object store (KIP-405).  Hotlog's default is true for topics that are not compacted.  A topic"
                  " that becomes compacted later keeps what the store has, and says so with its own `true`.  Segments of a compacted topic are"
                  " copied once they were cleaned, and cleaned in the store as well where that pays."),
    ConfigKey(name="retention.bytes", kind="long", default=-1, unit="bytes", synonym="log.retention.bytes",
              doc="Size of a partition over both tiers; -1 no limit, as is, in Kafka too, everything below."),
    ConfigKey(name="retention.ms", kind="long", default=7 * DAY_MS, minimum=-1, unit="ms", synonym="log.retention.ms",
              doc="Age over both tiers, by record timestamp; -1 no limit."),
    ConfigKey(name="segment.bytes", kind="int", default=1024**3, minimum=1024, unit="bytes", synonym="log.segment.bytes",
              doc="A segment rolls at this size."),
    ConfigKey(name="segment.index.bytes", kind="int", default=10 * 1024**2, minimum=4, unit="bytes", synonym="log.index.size.max.bytes",
              doc="A segment rolls when its index reaches this size."),
    ConfigKey(name="segment.jitter.ms", kind="long", default=0, minimum=0, unit="ms", synonym="log.roll.jitter.ms",
              doc="Random time taken off segment.ms, so that segments do not roll all at once."),
    ConfigKey(name="segment.ms", kind="long", default=7 * DAY_MS, minimum=1, unit="ms", synonym="log.roll.ms",
              doc="A segment rolls at this age even if small."),
    ConfigKey(name="unclean.leader.election.enable", kind="boolean", default=False, synonym="unclean.leader.election.enable", acts=False,
              doc="Let a replica lead that may lack acknowledged records."),
    ConfigKey(name="hotlog.durability", kind="string", default="fsync", choices=("fsync", "page-cache"), synonym="hotlog.durability",
              doc="`fsync`: acks=all and acks=1 wait for a group-committed fsync.  `page-cache`: as Kafka, the operating system writes back."),
    ConfigKey(name="hotlog.retention.clock", kind="string", default="record", choices=("record", "append", "close"),
              synonym="hotlog.retention.clock",
              doc="What ages a segment: its largest record timestamp (never later than its close), or the time it was appended or closed."),
    ConfigKey(name="hotlog.segment.roll.before.ms", kind="long", default=-1, minimum=-1, unit="ms",
              doc="Active segments whose first append is older than this time (since the epoch) roll within a second, so that they are copied now;"
                  " `hotlog topic roll` sets it to the present.  -1 rolls nothing."),
    ConfigKey(name="hotlog.untiered.overflow", kind="string", default="block", choices=("block", "drop"),
              synonym="hotlog.untiered.overflow",
              doc="When the store is away and total retention by size is reached by data never copied: refuse produce, or drop the oldest"
                  " and record the hole."),
])  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TopicConfig:
    """The settings of one topic, resolved and checked.  Units are in the names; -1 is "no limit" where Kafka says so."""

    segment_bytes: int
    segment_ms: int
    segment_jitter_ms: int
    segment_index_bytes: int
    index_interval_bytes: int
    message_bytes_max: int
    retention_ms: int
    retention_bytes: int
    delete_retention_ms: int
    compaction_lag_min_ms: int
    compaction_lag_max_ms: int
    cleanable_ratio_min: float
    local_retention_ms: int  # resolved: -2 has become retention_ms
    local_retention_bytes: int
    remote_copy_lag_ms: int  # resolved: -1 has become the local retention (or 0 if that is unlimited)
    remote_copy_lag_bytes: int  # -1: no byte rule
    flush_messages: int
    flush_ms: int
    file_delete_delay_ms: int
    timestamp_before_max_ms: int
    timestamp_after_max_ms: int
    is_log_append_time: bool
    is_compacted: bool
    is_deleted: bool
    remote_enabled: bool
    is_copied: bool  # closed segments go to the store
    is_local_only: bool  # the topic itself says so; no default does
    is_remote_given_up: bool  # and that its remote part is to go (KIP-950)
    is_fsynced: bool  # an ack waits for the fsync: by hotlog.durability, or by flush.messages=1, as Kafka has it
    retention_clock: str
    roll_before_ms: int  # -1: nothing
    untiered_overflow: str
    values: Mapping[str, Value]
    overrides: Mapping[str, str]

    @classmethod
    def resolve(
        cls, overrides: Mapping[str, str | None], defaults: Mapping[str, Value] | None = None, *, is_tiering: bool = True
    ) -> TopicConfig:
        """Settings from a topic's own `overrides` over the broker's `defaults` (topic key -> value) over Kafka's.

        `is_tiering` false: this broker has no cold tier, whatever the topic says.

        Raises:
            InvalidConfig: an unknown key, a bad value, or a relation that does not hold.
        """
        own = parse_all(TOPIC_KEYS, overrides)
        values: dict[str, Value] = {name: key.default for name, key in TOPIC_KEYS.items() if key.default is not None}
        values.update(defaults or {})
        values.update(own)
        is_left_open = "compact" in _strings(values["cleanup.policy"]) and "remote.storage.enable" not in own
        if is_left_open or not is_tiering:
            values["remote.storage.enable"] = False
        result = _build(cls, values, own, {name: str(text) for name, text in overrides.items()})
        _check(result)
        return result


def _strings(value: Value) -> tuple[str, ...]:
    return value if isinstance(value, tuple) else ()


def _int(value: Value) -> int:
    assert isinstance(value, int)
    return value


def _float(value: Value) -> float:
    assert isinstance(value, (int, float))
    return float(value)


def _build(cls: type[TopicConfig], v: Mapping[str, Value], own: Mapping[str, Value], overrides: Mapping[str, str]) -> TopicConfig:
    retention_ms, retention_bytes = _int(v["retention.ms"]), max(_int(v["retention.bytes"]), -1)
    local_ms, local_bytes = _int(v["local.retention.ms"]), _int(v["local.retention.bytes"])
    local_ms = retention_ms if local_ms == -2 else local_ms
    local_bytes = retention_bytes if local_bytes == -2 else local_bytes
    lag_ms = _int(v["remote.copy.lag.ms"])
    is_compacted, remote_enabled = "compact" in _strings(v["cleanup.policy"]), bool(v["remote.storage.enable"])
    is_local_only = own.get("remote.storage.enable") is False
    copy_disabled, delete_on_disable = bool(v["remote.log.copy.disable"]), bool(v["remote.log.delete.on.disable"])
    return cls(
        segment_bytes=_int(v["segment.bytes"]),
        segment_ms=min(_int(v["segment.ms"]), _int(v["max.compaction.lag.ms"]) if is_compacted else LONG_MAX),
        segment_jitter_ms=_int(v["segment.jitter.ms"]),
        segment_index_bytes=_int(v["segment.index.bytes"]),
        index_interval_bytes=_int(v["index.interval.bytes"]),
        message_bytes_max=_int(v["max.message.bytes"]),
        delete_retention_ms=_int(v["delete.retention.ms"]),
        compaction_lag_min_ms=_int(v["min.compaction.lag.ms"]),
        compaction_lag_max_ms=_int(v["max.compaction.lag.ms"]),
        cleanable_ratio_min=_float(v["min.cleanable.dirty.ratio"]),
        retention_ms=retention_ms,
        retention_bytes=retention_bytes,
        local_retention_ms=local_ms,
        local_retention_bytes=local_bytes,
        remote_copy_lag_ms=max(local_ms, 0) if lag_ms == -1 else lag_ms,
        remote_copy_lag_bytes=_int(v["remote.copy.lag.bytes"]),
        flush_messages=_int(v["flush.messages"]),
        flush_ms=_int(v["flush.ms"]),
        file_delete_delay_ms=_int(v["file.delete.delay.ms"]),
        timestamp_before_max_ms=_int(v["message.timestamp.before.max.ms"]),
        timestamp_after_max_ms=_int(v["message.timestamp.after.max.ms"]),
        is_log_append_time=v["message.timestamp.type"] == "LogAppendTime",
        is_compacted=is_compacted,
        is_deleted="delete" in _strings(v["cleanup.policy"]),
        remote_enabled=remote_enabled,
        is_copied=remote_enabled and not copy_disabled,
        is_local_only=is_local_only,
        is_remote_given_up=is_local_only and delete_on_disable,
        is_fsynced=v["hotlog.durability"] == "fsync" or _int(v["flush.messages"]) <= 1,
        roll_before_ms=_int(v["hotlog.segment.roll.before.ms"]),
        retention_clock=str(v["hotlog.retention.clock"]),
        untiered_overflow=str(v["hotlog.untiered.overflow"]),
        values=v,
        overrides=overrides,
    )


def _check(config: TopicConfig) -> None:
    """Relations between keys, as LogConfig.validateValues and its remote-storage part have them."""
    v = config.values
    if _int(v["min.compaction.lag.ms"]) > _int(v["max.compaction.lag.ms"]):
        raise InvalidConfig("min.compaction.lag.ms must not be above max.compaction.lag.ms")
    if not config.remote_enabled:
        return
    for unit in ("ms", "bytes"):
        local, total = _int(v[f"local.retention.{unit}"]), max(_int(v[f"retention.{unit}"]), -1)
        if total != -1 and (local == -1 or local > total):
            raise InvalidConfig(
                f"local.retention.{unit}={local} must not be above retention.{unit}={total} (-1 is unlimited, -2 the same)"
            )
        if v["remote.log.copy.disable"] and local not in (-2, total):
            raise InvalidConfig(
                f"local.retention.{unit}={local} must be -2 or equal to retention.{unit}={total} while remote.log.copy.disable=true"
            )
    local_ms, lag_ms = config.local_retention_ms, _int(v["remote.copy.lag.ms"])
    if local_ms >= 0 and lag_ms > local_ms:
        raise InvalidConfig(f"remote.copy.lag.ms={lag_ms} must not be above the local retention of {local_ms} ms")
    local_bytes, lag_bytes = config.local_retention_bytes, _int(v["remote.copy.lag.bytes"])
    if local_bytes >= 0 and lag_bytes > local_bytes:
        raise InvalidConfig(f"remote.copy.lag.bytes={lag_bytes} must not be above the local retention of {local_bytes} bytes")


def check_change(before: TopicConfig, after: TopicConfig) -> None:
    """Rules about a change of a topic's settings (KIP-950).

    Raises:
        InvalidConfig: remote.storage.enable turned off without remote.log.delete.on.disable=true.
    """
    if before.remote_enabled and not after.remote_enabled and not after.is_remote_given_up:
        raise InvalidConfig(
            "remote.storage.enable cannot be turned off while remote.log.delete.on.disable=false: the remote part would be lost;"
            " set remote.log.copy.disable=true to keep it readable"
        )
