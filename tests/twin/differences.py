"""The differences that stay, each with its reason.  docs/protocol.md prints them.

`field` is a path in the answer as `topics.partitions.leader_epoch`; `[name]` names one element (`api_keys[17]`), `*` stands for any part of
a name; `a|b` and `[a|b]` are several names.  `hotlog` and `kafka` say what the two answer, where it is always the same.

Invariants: a row that nothing needs fails (`python -m tests.twin` prints what does not fit); rows stand in the order of their API's number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

from tests.twin.comparing import MISSING, Difference
from tests.twin.keys import Key


class _Any:
    """Whatever it is."""


ANY = _Any()


@dataclass(frozen=True)
class Row:
    """One kind of difference.  `stories`: those in which it may be seen, a pattern of names; `what`: the questions, likewise."""

    api: Key
    field: str
    why: str
    hotlog: Any = ANY
    kafka: Any = ANY
    stories: str = "*"
    what: str = "*"
    may_rest: bool = False  # it depends on timing, so that a run may be without it

    def allows(self, story: str, seen: Difference) -> bool:
        """Whether this difference is the one meant."""
        return (
            seen.key == self.api
            and fnmatchcase(story, self.stories)
            and fnmatchcase(seen.what, self.what)
            and self._path.fullmatch(seen.path) is not None
            and (self.hotlog is ANY or self.hotlog == seen.hotlog)
            and (self.kafka is ANY or self.kafka == seen.kafka)
        )

    @cached_property
    def _path(self) -> re.Pattern[str]:
        steps = []
        for name, bracket in re.findall(r"([^.\[\]]+)(\[[^\]]*\])?", self.field):
            names = [re.escape(one).replace(r"\*", r"[^\]]*") for one in bracket[1:-1].split("|")]
            element = rf"\[({'|'.join(names)})\]" if bracket else r"(\[[^\]]*\])?"
            fields = "|".join(re.escape(one).replace(r"\*", r"[^.\[]*") for one in name.split("|"))
            steps.append((r"\." if steps else "") + f"(?:{fields})" + element)
        return re.compile("".join(steps))


_OWN_KEYS = "keys of Hotlog's own, and KIP-1241's, which are not in Kafka 4.3"
_TIERED = "topics are tiered unless told otherwise"
_ELR = "a new Kafka stores this as a dynamic default of the cluster (KIP-966)"
_TWICE = "a partition that is named twice is answered twice"
_NO_PARTITIONS = "a topic that is named without partitions is so in the answer"
_BOUNDS = (
    "*.topic.num.partitions|transaction.state.log.num.partitions|num.recovery.threads.*|max.connections|queued.max.*|remote.log.*"
)
_OWN_PLACES, _PLACES = "advertised.listeners|listeners|log.dirs|node.id", "each broker was given its own, or none"
_NO_NAME = "no group is without a name, but for commits of simple consumers"

TABLE: tuple[Row, ...] = (
    Row(Key.PRODUCE, "responses.partition_responses.log_append_time", "a batch that is repeated has no append time where clients set the time; Kafka tells its largest time then", None),
    Row(Key.PRODUCE, "responses", _NO_PARTITIONS, kafka=MISSING, what="a topic without partitions"),
    Row(Key.PRODUCE, "responses.partition_responses.error_code|base_offset|log_start_offset", "bytes behind a batch are refused; Kafka drops them", what="more behind it"),
    Row(Key.PRODUCE, "responses.partition_responses.error_code|base_offset", "attributes that only brokers set are refused", what="a delete horizon"),
    Row(Key.PRODUCE, "responses.partition_responses.error_code|base_offset", "attributes that nobody knows are refused", what="an attribute that nobody knows"),
    Row(Key.PRODUCE, "responses.partition_responses.error_code|base_offset", "offsets in a batch must be 0, 1, 2 and so on: readers rely on it", what="offset deltas that*"),
    Row(Key.PRODUCE, "responses.partition_responses.error_code|base_offset", "a producer id comes with an epoch", what="a producer id without its epoch"),
    Row(Key.PRODUCE, "responses.partition_responses.error_code", "records that cannot be read are invalid ones; Kafka fails", "invalid_record", "unknown_server_error"),
    Row(Key.PRODUCE, "responses.partition_responses.log_start_offset", "the same; before version 7 it fails before it has looked", 0, -1, what="codec *"),
    Row(Key.FETCH, "responses.partitions.high_watermark|last_stable_offset|log_start_offset", "an offset out of range is answered with where the log begins and ends", kafka=-1),
    Row(Key.FETCH, "responses.partitions.error_code", "a size below 0 is no bytes; Kafka fails", "none", "unknown_server_error", what="*-1 bytes*"),
    Row(Key.FETCH, "responses.partitions.records.batches", "the same", what="*-1 bytes*"),
    Row(Key.FETCH, "responses.partitions.error_code", "followers' reads are not served, so no epoch diverges", "none", "offset_out_of_range", what="last read 1 later"),
    Row(Key.FETCH, "responses.partitions.records.batches", "the same", kafka=MISSING, what="last read 1 later"),
    Row(Key.FETCH, "session_id", "a fetch of nothing begins no session", 0, what="one without partitions"),
    Row(Key.FETCH, "responses.partitions.error_code", "a topic that was deleted has an id that nobody knows", "unknown_topic_id", "unknown_topic_or_partition", stories="a_session_sees_topics_come_and_go"),
    Row(Key.FETCH, "responses.partitions.high_watermark|last_stable_offset", "what Produce took and refused", 0, what="after *"),
    Row(Key.FETCH, "responses.partitions.records.batches", "the same", MISSING, what="after *"),
    Row(Key.LIST_OFFSETS, "topics.partitions.offset|leader_epoch", _TIERED + ": there is a first offset that waits to be copied", kafka=-1, what="special -6*"),
    Row(Key.LIST_OFFSETS, "topics.partitions.error_code|offset|leader_epoch", _TWICE, what="a partition twice"),
    Row(Key.LIST_OFFSETS, "topics.partitions", _TWICE, kafka=MISSING, what="a partition twice"),
    Row(Key.LIST_OFFSETS, "topics", _NO_PARTITIONS, kafka=MISSING, what="no partitions"),
    Row(Key.METADATA, "", "a list of -2 topics is malformed: the connection is closed. Kafka takes it for null", what="a list of minus two topics"),
    Row(Key.METADATA, "", "text that is not UTF-8 is malformed: the connection is closed", what="a name that is no text"),
    Row(Key.METADATA, "brokers|cluster_id|controller_id|topics|error_code", "a topic with neither name nor id is an invalid one; in Kafka this request fails as a whole", what="by neither"),
    Row(Key.METADATA, "topics.error_code|topic_id|partitions", "a topic that is created by asking is there when this is answered; Kafka has clients ask again", stories="asking_creates", what="at first"),
    Row(Key.FIND_COORDINATOR, "error_message", "no words where nothing is wrong", None, "NONE"),
    Row(Key.HEARTBEAT, "error_code", _NO_NAME, stories="a_group_without_a_name"),
    Row(Key.LEAVE_GROUP, "error_code|members", _NO_NAME, stories="a_group_without_a_name"),
    Row(Key.SYNC_GROUP, "error_code", _NO_NAME, stories="a_group_without_a_name"),
    Row(Key.DESCRIBE_GROUPS, "groups", "a group that is named twice is answered once: an answer is much longer than a name", MISSING, what="several, one unknown"),
    Row(Key.API_VERSIONS, "api_keys[22].max_version", "two-phase commit (KIP-939) is not stable in Kafka 4.3, which serves it all the same when told to", 6, 5),
    Row(Key.API_VERSIONS, "api_keys[17|29|30|31|36|38|39|40|41|51]", "access control, SASL and delegation tokens: not yet", MISSING),
    Row(Key.API_VERSIONS, "api_keys[49]", "quotas: not yet", MISSING),
    Row(Key.API_VERSIONS, "api_keys[76|77|78|79|83|84|85|86|87|90|91|92]", "share groups (KIP-932): not planned", MISSING),
    Row(Key.API_VERSIONS, "api_keys[88|89]", "streams groups (KIP-1071): not planned", MISSING),
    Row(Key.API_VERSIONS, "supported_features", "levels of what is not built, and of Kafka's own metadata log, are not told", MISSING),
    Row(Key.API_VERSIONS, "finalized_features", "the same", MISSING),
    Row(Key.CREATE_TOPICS, "topics.configs[hotlog.*|remote.copy.lag.*]", _OWN_KEYS, kafka=MISSING),
    Row(Key.CREATE_TOPICS, "topics.configs[remote.storage.enable].value", _TIERED, "true", "false"),
    Row(Key.CREATE_TOPICS, "topics.configs[min.insync.replicas].config_source", _ELR, 5, 3),
    Row(Key.CREATE_TOPICS, "topics.configs[segment.ms].config_source", "as DescribeConfigs tells it of a coarser key (log.roll.hours); Kafka tells it in two ways", 5, 4),
    Row(Key.CREATE_TOPICS, "topics.configs.value", "values are told as they are understood, without spaces or in one spelling", stories="every_value_is_judged"),
    Row(Key.DELETE_RECORDS, "topics.partitions.low_watermark", _TWICE, what="a partition twice"),
    Row(Key.DELETE_RECORDS, "topics.partitions", _TWICE, kafka=MISSING, what="a partition twice"),
    Row(Key.DELETE_RECORDS, "topics", _NO_PARTITIONS, kafka=MISSING, what="no partitions"),
    Row(Key.OFFSET_FOR_LEADER_EPOCH, "topics.partitions.leader_epoch|end_offset", "no epoch is negative", what="negative"),
    Row(Key.DESCRIBE_CONFIGS, "results.configs[hotlog.*|remote.copy.lag.*|log.remote.copy.lag.*]", _OWN_KEYS, kafka=MISSING),
    Row(Key.DESCRIBE_CONFIGS, "results.configs[remote.storage.enable|remote.log.storage.system.enable].value", _TIERED, "true", "false"),
    Row(Key.DESCRIBE_CONFIGS, "results.configs[remote.storage.enable].config_source", _TIERED, 1, 5),
    Row(Key.DESCRIBE_CONFIGS, "results.configs[remote.storage.enable].synonyms", _TIERED, kafka=MISSING),
    Row(Key.DESCRIBE_CONFIGS, "results.configs[remote.log.storage.system.enable].synonyms.value", _TIERED, "true", "false"),
    Row(Key.DESCRIBE_CONFIGS, "results.configs[min.insync.replicas].config_source", _ELR, 5, 3),
    Row(Key.DESCRIBE_CONFIGS, "results.configs[min.insync.replicas].synonyms.source", _ELR, 5, 3),
    Row(Key.DESCRIBE_CONFIGS, "results.configs[min.insync.replicas].synonyms", _ELR, MISSING),
    Row(Key.DESCRIBE_CONFIGS, "results.configs[min.insync.replicas]", _ELR, MISSING),
    Row(Key.DESCRIBE_CONFIGS, f"results.configs[{_OWN_PLACES}].value", _PLACES),
    Row(Key.DESCRIBE_CONFIGS, f"results.configs[{_OWN_PLACES}].config_source", _PLACES, 5, 4),
    Row(Key.DESCRIBE_CONFIGS, f"results.configs[{_OWN_PLACES}].synonyms.value|source", _PLACES),
    Row(Key.DESCRIBE_CONFIGS, "results.configs[advertised.listeners].synonyms", _PLACES, MISSING),
    Row(Key.DESCRIBE_CONFIGS, f"results.configs[{_BOUNDS}].value", "internal topics have fewer partitions, queues and connections bounds, threads follow the machine"),
    Row(Key.DESCRIBE_CONFIGS, f"results.configs[{_BOUNDS}].synonyms.value", "the same"),
    Row(Key.DESCRIBE_CONFIGS, "results.configs.read_only", "can be changed while the broker runs", False, True),
    Row(Key.DESCRIBE_CONFIGS, "results.configs.read_only", "takes a restart", True, False),
    Row(Key.DESCRIBE_CONFIGS, "results.configs.documentation", "keys that do nothing here are not explained", ""),
    Row(Key.DESCRIBE_CONFIGS, "results.configs[log.retention.hours].value", "what the file says of a coarser key is told also while the finer one is changed", "5", "168"),
    Row(Key.DESCRIBE_CONFIGS, "results.configs", "keys that do nothing here are told only where somebody set them", MISSING),
    Row(Key.DESCRIBE_CONFIGS, "results", "a resource that is named twice is told once: an answer is much longer than a name", MISSING, what="twice"),
    Row(Key.DESCRIBE_LOG_DIRS, "results", "bytes in the store are told as a directory of their own", kafka=MISSING),
    Row(Key.INCREMENTAL_ALTER_CONFIGS, "responses.error_code", "an operation that nobody knows is an invalid request; Kafka fails", "invalid_request", "unknown_server_error"),
    Row(Key.OFFSET_DELETE, "error_code", _NO_NAME, stories="a_group_without_a_name"),
    Row(Key.DESCRIBE_QUORUM, "topics.partitions.*_*", "each has a metadata log of its own", what="of the metadata"),
    Row(Key.DESCRIBE_QUORUM, "topics.partitions.current_voters.log_end_offset", "the same"),
    Row(Key.DESCRIBE_QUORUM, "nodes.listeners", "controllers have no listeners of their own: those of the broker are told"),
    Row(Key.UPDATE_FEATURES, "results.error_message", "no words where nothing is wrong", None, "NONE"),
    Row(Key.PUSH_TELEMETRY, "error_code", "what is pushed is dropped unread", "none", "invalid_record"),
    Row(Key.DESCRIBE_TOPIC_PARTITIONS, "topics.error_code|topic_authorized_operations", "an empty name is an unknown topic; Kafka fails", what="no name"),
)  # fmt: skip
