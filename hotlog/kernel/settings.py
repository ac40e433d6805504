"""Broker settings: Kafka's names where Kafka has the thing, `hotlog.` names where it has not.

A Kafka server.properties is accepted as it is: keys we do not act on are collected, to be named once in a warning.

Invariants: Settings is frozen and was checked as a whole, relations included; components are never settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from hotlog.kernel.addresses import listener_name
from hotlog.kernel.configdef import INT_MAX, LONG_MAX, ConfigKey, Value, table
from hotlog.kernel.errors import InvalidConfig
from hotlog.kernel.group_bounds import GROUP_BOUNDS
from hotlog.kernel.kafka_keys import KAFKA_KEYS
from hotlog.kernel.limits import DECOMPRESSED_BATCH_BYTES_MAX, DECOMPRESSED_READ_BYTES_MAX, FETCH_SESSION_PARTITIONS_MAX, GiB, MiB
from hotlog.kernel.topic_config import TOPIC_KEYS, TopicConfig

_OWN = [
    ConfigKey(name="node.id", kind="int", default=1, minimum=0, dynamic=False, doc="This broker's number, unique in the cluster."),
    ConfigKey(name="broker.rack", kind="string", default="", dynamic=False, is_open=True, doc="This broker's zone."),
    ConfigKey(name="advertised.listeners", kind="list", default=(), dynamic=False, is_open=True,
              doc="HOST:PORT told to clients, with the listener's name before :// where there are several; empty: the address listened on."),
    ConfigKey(name="num.partitions", kind="int", default=1, minimum=1, doc="Partitions of a topic created without a number."),
    ConfigKey(name="default.replication.factor", kind="int", default=1, minimum=1, doc="Replicas of a topic created without a number."),
    ConfigKey(name="auto.create.topics.enable", kind="boolean", default=True, doc="Create a topic when a client asks for it."),
    ConfigKey(name="delete.topic.enable", kind="boolean", default=True, doc="Allow DeleteTopics."),
    ConfigKey(name="log.retention.check.interval.ms", kind="long", default=300_000, dynamic=False, minimum=1, unit="ms",
              doc="How often the retention worker looks at each partition (local and remote)."),
    # Log compaction
    ConfigKey(name="log.cleaner.enable", kind="boolean", default=True, dynamic=False, doc="Clean compacted topics at all."),
    ConfigKey(name="log.cleaner.threads", kind="int", default=1, minimum=0, doc="Logs that are cleaned at once."),
    ConfigKey(name="log.cleaner.backoff.ms", kind="long", default=15_000, minimum=0, unit="ms",
              doc="How often it is looked whether a log is to be cleaned."),
    ConfigKey(name="log.cleaner.dedupe.buffer.size", kind="long", default=128 * MiB, unit="bytes",
              doc="Memory for the keys of what is cleaned, of all cleanings at once: 24 bytes a key.  A log with more new keys is cleaned in several"
                  " passes."),
    ConfigKey(name="log.cleaner.io.buffer.load.factor", kind="double", default=0.9, unit="",
              doc="Share of log.cleaner.dedupe.buffer.size that is used, at most 0.9."),
    ConfigKey(name="log.cleaner.io.buffer.size", kind="int", default=512 * 1024, minimum=0, unit="bytes",
              doc="Memory for what is read and written, of all cleanings at once."),
    ConfigKey(name="log.cleaner.io.max.bytes.per.second", kind="double", default=1.7976931348623157e308, unit="bytes/s",
              doc="Most that cleanings read and write in a second."),
    ConfigKey(name="hotlog.compaction.prices", kind="string", default="", dynamic=False, is_open=True,
              doc="Whose prices decide whether a cleaning of the store pays (hotlog cost --provider); empty: the price book's default."),
    ConfigKey(name="log.flush.offset.checkpoint.interval.ms", kind="int", default=60_000, dynamic=False, minimum=0, unit="ms",
              doc="How often the recovery point is written."),
    ConfigKey(name="num.recovery.threads.per.data.dir", kind="int", default=8, dynamic=False, minimum=1, doc="Threads that open logs at start."),
    ConfigKey(name="socket.request.max.bytes", kind="int", default=100 * MiB, minimum=1024, unit="bytes", doc="Largest request."),
    ConfigKey(name="queued.max.request.bytes", kind="long", default=512 * MiB, dynamic=False, minimum=-1, unit="bytes",
              doc="Bytes of requests in work over all connections; reading pauses above it (-1: no limit)."),
    ConfigKey(name="max.connections", kind="int", default=20_000, minimum=0, doc="Connections in all."),
    ConfigKey(name="max.connections.per.ip", kind="int", default=INT_MAX, minimum=0, doc="Connections from one address."),
    ConfigKey(name="connections.max.idle.ms", kind="long", default=600_000, minimum=0, unit="ms",
              doc="Close a connection this long without a whole request."),
    ConfigKey(name="fetch.max.bytes", kind="int", default=55 * MiB, minimum=1024, unit="bytes", doc="Most a fetch is answered with."),
    ConfigKey(name="max.incremental.fetch.session.cache.slots", kind="int", default=1000, minimum=0,
              doc=f"Fetch sessions kept (KIP-227), with {FETCH_SESSION_PARTITIONS_MAX} partitions in all of them."),
    ConfigKey(name="producer.id.expiration.ms", kind="int", default=86_400_000, dynamic=False, minimum=1, unit="ms",
              doc="Forget an idempotent producer this long after its last batch."),
    ConfigKey(name="transactional.id.expiration.ms", kind="int", default=604_800_000, dynamic=False, minimum=1, unit="ms",
              doc="Forget a transactional id this long after its last use."),
    ConfigKey(name="transaction.max.timeout.ms", kind="int", default=900_000, dynamic=False, minimum=1, unit="ms",
              doc="Longest transaction that a producer may ask for."),
    ConfigKey(name="transaction.partition.verification.enable", kind="boolean", default=True,
              doc="Ask the coordinator before a record begins a transaction in a partition (KIP-890)."),
    ConfigKey(name="transaction.state.log.num.partitions", kind="int", default=8, minimum=1, dynamic=False,
              doc="Partitions of __transaction_state when it is made."),
    ConfigKey(name="transaction.state.log.segment.bytes", kind="int", default=100 * MiB, minimum=14, dynamic=False, unit="bytes",
              doc="Segment size of __transaction_state when it is made."),
    ConfigKey(name="offsets.topic.num.partitions", kind="int", default=8, minimum=1, dynamic=False,
              doc="Partitions of __consumer_offsets when it is made."),
    ConfigKey(name="offsets.retention.minutes", kind="int", default=10_080, minimum=1, unit="minutes",
              doc="Keep an empty group's offsets this long."),
    ConfigKey(name="offset.metadata.max.bytes", kind="int", default=4096, minimum=0, unit="bytes", doc="Metadata with a commit."),
    ConfigKey(name="group.min.session.timeout.ms", kind="int", default=6_000, minimum=1, unit="ms", doc="Shortest session timeout."),
    ConfigKey(name="group.max.session.timeout.ms", kind="int", default=1_800_000, minimum=1, unit="ms", doc="Longest session timeout."),
    ConfigKey(name="group.initial.rebalance.delay.ms", kind="int", default=3_000, minimum=0, unit="ms",
              doc="Wait for more members before a group's first rebalance."),
    ConfigKey(name="group.max.size", kind="int", default=INT_MAX, minimum=1, doc="Members of one group."),
    # Groups of the new protocol, KIP-848
    ConfigKey(name="group.consumer.session.timeout.ms", kind="int", default=45_000, dynamic=False, minimum=1, unit="ms",
              doc="A member that is not heard of for this long is gone."),
    ConfigKey(name="group.consumer.heartbeat.interval.ms", kind="int", default=5_000, dynamic=False, minimum=1, unit="ms",
              doc="How often members are told to be heard of."),
    ConfigKey(name="group.consumer.min.session.timeout.ms", kind="int", default=45_000, dynamic=False, minimum=1, unit="ms",
              doc="Shortest session timeout that a group may be given."),
    ConfigKey(name="group.consumer.max.session.timeout.ms", kind="int", default=60_000, dynamic=False, minimum=1, unit="ms",
              doc="Longest session timeout that a group may be given."),
    ConfigKey(name="group.consumer.min.heartbeat.interval.ms", kind="int", default=5_000, dynamic=False, minimum=1, unit="ms",
              doc="Shortest heartbeat interval that a group may be given."),
    ConfigKey(name="group.consumer.max.heartbeat.interval.ms", kind="int", default=15_000, dynamic=False, minimum=1, unit="ms",
              doc="Longest heartbeat interval that a group may be given."),
    ConfigKey(name="group.consumer.min.assignment.interval.ms", kind="int", default=0, dynamic=False, minimum=0, unit="ms",
              doc="Shortest assignment interval that a group may be given."),
    ConfigKey(name="group.consumer.max.assignment.interval.ms", kind="int", default=15_000, dynamic=False, minimum=0, unit="ms",
              doc="Longest assignment interval that a group may be given."),
    ConfigKey(name="group.consumer.max.size", kind="int", default=INT_MAX, dynamic=False, minimum=1, doc="Members of one group."),
    ConfigKey(name="group.consumer.assignors", kind="list", default=("uniform", "range"), dynamic=False, choices=("uniform", "range"),
              doc="Assignors that members may ask for; the first is for those that ask for none."),
    ConfigKey(name="group.consumer.assignment.interval.ms", kind="int", default=1_000, minimum=0, unit="ms",
              doc="Compute a group's assignment at most this often (KIP-1263)."),
    ConfigKey(name="group.consumer.migration.policy", kind="string", default="bidirectional", dynamic=False,
              choices=("bidirectional", "upgrade", "downgrade", "disabled"),
              doc="Whether a group may change between the classic protocol and the new one while it has members."),
    # Tiering, KIP-405 and KIP-956 names
    ConfigKey(name="remote.log.storage.system.enable", kind="boolean", default=True, dynamic=False, doc="Tiering at all."),
    ConfigKey(name="remote.log.manager.task.interval.ms", kind="long", default=30_000, dynamic=False, minimum=1, unit="ms",
              doc="How often each partition is looked at for segments to copy."),
    ConfigKey(name="remote.log.manager.copier.thread.pool.size", kind="int", default=4, minimum=1, doc="Segment copies at once."),
    ConfigKey(name="remote.log.manager.copy.max.bytes.per.second", kind="long", default=LONG_MAX, minimum=1, unit="bytes/s",
              doc="Copy rate of this broker (KIP-956)."),
    ConfigKey(name="remote.log.manager.fetch.max.bytes.per.second", kind="long", default=LONG_MAX, minimum=1, unit="bytes/s",
              doc="Cold read rate of this broker (KIP-956): what a replay may take from those who read the tail."),
    ConfigKey(name="remote.log.reader.threads", kind="int", default=10, dynamic=False, minimum=1, doc="GETs in flight for fetches."),
    ConfigKey(name="remote.log.reader.max.pending.tasks", kind="int", default=1000, dynamic=False, minimum=1, doc="Cold reads waiting for a turn."),
    ConfigKey(name="remote.fetch.max.wait.ms", kind="int", default=500, minimum=1, unit="ms",
              doc="How long a fetch waits for the store before it is answered with what is there; the read goes on into the cache."),
    ConfigKey(name="remote.list.offsets.request.timeout.ms", kind="long", default=30_000, minimum=1, unit="ms",
              doc="How long ListOffsets waits for the store."),
    ConfigKey(name="remote.log.index.file.cache.total.size.bytes", kind="long", default=64 * MiB, dynamic=False, minimum=1, unit="bytes",
              doc="Memory for segment footers (indexes) of the cold tier."),
    # Hotlog's own
    ConfigKey(name="hotlog.remote.storage.enable", kind="boolean", default=True, doc="Default of remote.storage.enable for new topics."),
    ConfigKey(name="hotlog.durability", kind="string", default="fsync", choices=("fsync", "page-cache"),
              doc="Default of the topic key of the same name."),
    ConfigKey(name="hotlog.retention.clock", kind="string", default="record", choices=("record", "append", "close"),
              doc="Default of the topic key of the same name."),
    ConfigKey(name="hotlog.untiered.overflow", kind="string", default="block", choices=("block", "drop"),
              doc="Default of the topic key of the same name."),
    ConfigKey(name="hotlog.batch.decompressed.bytes.max", kind="long", default=DECOMPRESSED_BATCH_BYTES_MAX, minimum=16 * MiB,
              maximum=DECOMPRESSED_READ_BYTES_MAX, unit="bytes",
              doc="Most that a produced batch may decompress to; more is refused with MESSAGE_TOO_LARGE. Every batch is opened at the door,"
                  " in at most 8 threads with 24 MiB each; what needs more (this much, and a zstd window of up to 128 MiB) is opened"
                  " one at a time."),
    ConfigKey(name="hotlog.group.max.bytes", kind="int", default=16 * MiB, minimum=64 * 1024, unit="bytes",
              doc="Memory for what the members of one classic group say (JoinGroup) and are assigned (SyncGroup); a member beyond it is"
                  " answered GROUP_MAX_SIZE_REACHED."),
    ConfigKey(name="hotlog.groups.max.bytes", kind="long", default=256 * MiB, minimum=64 * 1024, unit="bytes",
              doc="The same for all groups of this broker; a join beyond it is answered COORDINATOR_NOT_AVAILABLE, and asked again."),
    ConfigKey(name="hotlog.queued.max.response.bytes", kind="long", default=256 * MiB, minimum=1024, unit="bytes",
              doc="Bytes of answers that slow clients have not taken yet; as this fills up, fetches are answered with less,"
                  " down to one batch."),
    ConfigKey(name="hotlog.cache.memory.bytes", kind="long", default=256 * MiB, minimum=0, dynamic=False, unit="bytes",
              doc="Chunk cache in memory."),
    ConfigKey(name="hotlog.cache.disk.bytes", kind="long", default=4 * GiB, minimum=0, dynamic=False, unit="bytes",
              doc="Chunk cache on disk, kept over restarts; a sixteenth is for footers; 0 is none."),
    ConfigKey(name="hotlog.readahead.bytes", kind="long", default=64 * MiB, minimum=0, dynamic=False, unit="bytes",
              doc="Most that is read ahead of one cold reader."),
    ConfigKey(name="hotlog.store.attempt.timeout.ms", kind="long", default=30_000, minimum=1, dynamic=False, unit="ms",
              doc="Deadline of one store call."),
    ConfigKey(name="hotlog.store.total.timeout.ms", kind="long", default=120_000, minimum=1, dynamic=False, unit="ms",
              doc="Deadline of a store call with its retries."),
    ConfigKey(name="hotlog.garbage.grace.ms", kind="long", default=24 * 60 * 60 * 1000, minimum=1, unit="ms",
              doc="How long a condemned object is kept for readers that may still hold it; at least hotlog.store.total.timeout.ms."),
    ConfigKey(name="hotlog.reconcile.interval.ms", kind="long", default=6 * 60 * 60 * 1000, minimum=1, unit="ms",
              doc="How often the bucket is listed to find orphans."),
    ConfigKey(name="hotlog.scrub.interval.ms", kind="long", default=24 * 60 * 60 * 1000, minimum=-1, unit="ms",
              doc="How often every byte of the local logs is read and checked; the first round begins at the start (-1: never)."),
    ConfigKey(name="hotlog.scrub.bytes.per.second", kind="long", default=32 * MiB, minimum=64 * 1024, unit="bytes/s",
              doc="Most that a scrub reads in a second (a batch counts as 1 KiB at least); a round that does not end within its interval"
                  " is followed by the next at once."),
    ConfigKey(name="hotlog.replay.yield.lag.ms", kind="int", default=2, minimum=-1, unit="ms",
              doc="While records are produced and the event loop is later than this, reads from the store are slowed, as far as 64 MiB/s,"
                  " until it is not (-1: never)."),
    ConfigKey(name="hotlog.disk.reserve.bytes", kind="long", default=64 * MiB, dynamic=False, minimum=0, unit="bytes",
              doc="Free space below which produce is refused, so that checkpoints and indexes can still be written."),
]  # fmt: skip

_BY_SYNONYM = {key.synonym: key for key in TOPIC_KEYS.values() if key.synonym}
_OWN_NAMES = {key.name for key in _OWN}
# Coarser forms of a ms key; the finest that is given wins (KafkaConfig.getLogRetentionTimeMillis).
_COARSER = {
    "log.retention.ms": (("log.retention.minutes", 60_000), ("log.retention.hours", 3_600_000)),
    "log.roll.ms": (("log.roll.hours", 3_600_000),),
    "log.roll.jitter.ms": (("log.roll.jitter.hours", 3_600_000),),
}
_OPEN = {*_COARSER, "log.flush.interval.ms"}
_MIRRORED = [
    replace(key, name=synonym, doc=f"Default of the topic key {key.name}.  {key.doc}", is_open=synonym in _OPEN, synonym="")
    for synonym, key in _BY_SYNONYM.items()
    if synonym not in _OWN_NAMES
]
BROKER_KEYS = table([*_OWN, *_MIRRORED])

# What may give a broker key its value, the first that is given (DynamicBrokerConfig.brokerConfigSynonyms).
_FAMILIES = [
    *((name, *(form for form, _ in forms)) for name, forms in _COARSER.items()),
    ("log.flush.interval.ms", "log.flush.scheduler.interval.ms"),
]
KEY_FAMILIES = {name: family for family in _FAMILIES for name in family if name != "log.flush.scheduler.interval.ms"}


def broker_key(name: str) -> ConfigKey | None:
    """The definition of a broker key, acted on or only known; None: Kafka has no such key either."""
    return BROKER_KEYS.get(name) or KAFKA_KEYS.get(name)


@dataclass(frozen=True)
class Settings:
    """The broker's settings: every key has a value; `given` are those that were set, `others` what was set beside them.

    `ignored` are those given that change nothing: keys we do not know, and keys that do not act (yet).
    """

    values: Mapping[str, Value]
    given: Mapping[str, str]
    ignored: tuple[str, ...]
    others: Mapping[str, str]

    @classmethod
    def resolve(cls, given: Mapping[str, str]) -> Settings:
        """Settings from text pairs, such as a server.properties file.

        Raises:
            InvalidConfig: a bad value or relation, naming key, value and what is allowed.
        """
        values: dict[str, Value] = {name: key.default for name, key in BROKER_KEYS.items() if key.default is not None}
        ignored = []
        known = {}
        coarse = {name: (key, factor) for key, forms in _COARSER.items() for name, factor in forms}
        for name, text in given.items():
            if name in BROKER_KEYS:
                values[name] = BROKER_KEYS[name].parse(text)
                known[name] = text
                if not BROKER_KEYS[name].acts and values[name] != BROKER_KEYS[name].default:
                    ignored.append(name)
            elif name not in coarse:
                ignored.append(name)
        for name, forms in _COARSER.items():
            for form, factor in forms:
                if name not in known and form in given:
                    number = ConfigKey(name=form, kind="int", default=None, doc="").parse(given[form])
                    assert isinstance(number, int)
                    values[name] = number * factor if number >= 0 else -1
                    known[form] = given[form]
                    break
        settings = cls(values, known, tuple(ignored), {name: text for name, text in given.items() if name not in known})
        TopicConfig.resolve({}, settings.topic_defaults())  # relations between the defaults hold too
        settings.advertised()
        _check_relations(settings)
        return settings

    def topic_defaults(self) -> dict[str, Value]:
        """What a topic key is worth on this broker when the topic does not set it."""
        return {key.name: self.values[synonym] for synonym, key in _BY_SYNONYM.items()}

    def advertised(self) -> dict[str, tuple[str, int]]:
        """advertised.listeners by listener name, in their order: where clients are told to go; empty: where is listened.

        Raises:
            InvalidConfig: one is not HOST:PORT.
        """
        listed = self.values["advertised.listeners"]
        assert isinstance(listed, tuple)
        found: dict[str, tuple[str, int]] = {}
        for text in listed:
            host, _, port = text.rpartition("://")[2].rpartition(":")
            if not (host and port.isascii() and port.isdigit() and 0 < int(port) <= 65_535):
                raise InvalidConfig(
                    f"advertised.listeners={text!r} is not allowed; expected HOST:PORT with a port of 1 to 65535, which clients can reach"
                )
            found.setdefault(listener_name(text), (host.strip("[]"), int(port)))
        return found

    def told(self, name: str) -> Value | None:
        """What a broker key is worth, also one that is only told (what cannot be read of it counts as not given); None: it has no value."""
        if name in BROKER_KEYS:
            return self.values.get(name)
        with suppress(KeyError, InvalidConfig):
            return KAFKA_KEYS[name].parse(self.others[name])
        return KAFKA_KEYS[name].default

    def number(self, name: str) -> int:
        value = self.values[name]
        assert isinstance(value, int), name
        return value

    def real(self, name: str) -> float:
        value = self.values[name]
        assert isinstance(value, float), name
        return value

    def text(self, name: str) -> str:
        value = self.values[name]
        assert isinstance(value, str), name
        return value

    def words(self, name: str) -> tuple[str, ...]:
        value = self.values[name]
        assert isinstance(value, tuple), name
        return value

    def flag(self, name: str) -> bool:
        value = self.values[name]
        assert isinstance(value, bool), name
        return value


def _check_relations(settings: Settings) -> None:
    """Raise InvalidConfig where two keys contradict each other."""
    if settings.number("hotlog.store.attempt.timeout.ms") > settings.number("hotlog.store.total.timeout.ms"):
        raise InvalidConfig("hotlog.store.attempt.timeout.ms must not be above hotlog.store.total.timeout.ms")
    if settings.number("hotlog.garbage.grace.ms") < settings.number("hotlog.store.total.timeout.ms"):
        raise InvalidConfig(
            "hotlog.garbage.grace.ms must not be below hotlog.store.total.timeout.ms: a read of the store would outlive its object"
        )
    if settings.number("group.min.session.timeout.ms") > settings.number("group.max.session.timeout.ms"):
        raise InvalidConfig("group.min.session.timeout.ms must not be above group.max.session.timeout.ms")
    if not settings.words("group.consumer.assignors"):
        raise InvalidConfig("group.consumer.assignors must name one at least")
    if settings.number("group.consumer.heartbeat.interval.ms") >= settings.number("group.consumer.session.timeout.ms"):
        raise InvalidConfig("group.consumer.heartbeat.interval.ms must be below group.consumer.session.timeout.ms")
    for name, (least, most) in GROUP_BOUNDS.items():
        if settings.number(least) > settings.number(most):
            raise InvalidConfig(f"{least} must not be above {most}")
        if not settings.number(least) <= settings.number(name) <= settings.number(most):
            raise InvalidConfig(f"{name}={settings.number(name)} must be from {least} to {most}")
