"""What administrators do by Kafka's own admin client and tools, in one JVM (tests/clients/java/Administration.java), and by those of others.

Here stands what Apache Kafka 4.3 tells (HOTLOG_CLIENTS_AGAINST=kafka proves that).
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from confluent_kafka import ElectionType, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from kafka import TopicPartition as KafkaTopicPartition
from kafka.admin import KafkaAdminClient
from kafka.admin import NewTopic as KafkaNewTopic

from tests.clients.conftest import not_here
from tests.clients.python_clients import PATIENCE_MS, REQUEST_MS
from tests.tools.cache import ToolMissing
from tests.tools.clients import java_command, run_client
from tests.tools.patience import PATIENCE_S

TOPIC = "admin"
FAIL = {"upgrade --dry-run --feature transaction.version=7"}  # as they should
NEEDED_NOT = {"0": "ElectionNotNeededException", "7": "UnknownTopicOrPartitionException"}
ANSWERS: dict[str, Any] = {
    "created where it is said": "2 1234567", "created nowhere": "InvalidReplicaAssignmentException",
    "widened where it is said": None, "widened nowhere": "InvalidReplicaAssignmentException",
    "elected PREFERRED": NEEDED_NOT, "elected UNCLEAN": NEEDED_NOT, "elected all": None,
    "reassigned to where it is": None, "reassigned to nowhere": "InvalidReplicaAssignmentException",
    "reassigned, unknown": "UnknownTopicOrPartitionException", "reassignment cancelled": "NoReassignmentInProgressException",
    "reassignments": 0,
    "directory": {"sizes": True, "has it": True, "moved to where it is": True},
    "directories": "LogDirNotFoundException",
    "quorum": "1 [1] [] [1] true", "voter added": "UnsupportedVersionException", "voter removed": "UnsupportedVersionException",
    "broker forgotten": "BrokerIdNotRegisteredException",
    "feature, at first": "2-2", "feature, lower as a trial": None, "feature, lower": None, "feature, lowered": "1-1",
    "feature, higher": None, "feature, raised": "2-2", "feature, unknown": "InvalidUpdateVersionException",
    "quotas": 0, "transactions -.*": 1, "transactions -": 0, "transactions [": "InvalidRegularExpression",
}  # fmt: skip
# class, arguments -> what is found in what the tool prints; FOLDER is one of files
TOOLS: dict[tuple[str, str], list[str]] = {
    ("org.apache.kafka.tools.FeatureCommand", "describe"): [r"Feature: transaction\.version\s.*FinalizedVersionLevel: 2"],
    ("org.apache.kafka.tools.FeatureCommand", "downgrade --feature transaction.version=1"): [
        "transaction.version was downgraded to 1"
    ],
    ("org.apache.kafka.tools.FeatureCommand", "upgrade --feature transaction.version=2"): [
        "transaction.version was upgraded to 2"
    ],
    ("org.apache.kafka.tools.FeatureCommand", "upgrade --dry-run --feature transaction.version=7"): ["Can not upgrade"],
    ("org.apache.kafka.tools.MetadataQuorumCommand", "describe --status"): [
        r"LeaderId:\s+1\n",
        r"CurrentVoters:\s+\[\{\"id\": 1",
    ],
    ("org.apache.kafka.tools.MetadataQuorumCommand", "describe --replication"): [r"\n1\s.*Leader"],
    ("org.apache.kafka.tools.LogDirsCommand", "--describe --topic-list admin"): [r'"partition":"admin-0"'],
    ("org.apache.kafka.tools.LeaderElectionCommand", "--election-type preferred --topic admin --partition 0"): [
        "Valid replica already elected for partitions admin-0"
    ],
    ("org.apache.kafka.tools.LeaderElectionCommand", "--election-type preferred --all-topic-partitions"): [],
    ("org.apache.kafka.tools.reassign.ReassignPartitionsCommand", "--list"): ["No partition reassignments found."],
    ("org.apache.kafka.tools.reassign.ReassignPartitionsCommand", "--execute --reassignment-json-file FOLDER/moves.json"): [
        "Successfully started partition reassignments? for admin-0"
    ],
    ("org.apache.kafka.tools.reassign.ReassignPartitionsCommand", "--verify --reassignment-json-file FOLDER/moves.json"): [
        "Reassignment of partition admin-0 is completed."
    ],
    ("kafka.admin.ConfigCommand", "--describe --entity-type users"): [r"\A\Z"],
    ("kafka.admin.ConfigCommand", "--describe --entity-type clients --entity-default"): [r"\A\Z"],
    ("org.apache.kafka.tools.TransactionsCommand", "list --transactional-id-pattern admin.*"): ["admin-id"],
    ("org.apache.kafka.tools.BrokerApiVersionsCommand", ""): [r"UpdateFeatures\(57\): 0 to 2"],
}


@pytest.fixture(scope="module")
def told(broker: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All that the program was told."""
    try:
        command = java_command("Administration")
    except ToolMissing as missing:
        not_here("java", missing)
    folder = tmp_path_factory.mktemp("administration")
    moves = {"version": 1, "partitions": [{"topic": TOPIC, "partition": 0, "replicas": [1], "log_dirs": ["any"]}]}
    (folder / "moves.json").write_text(json.dumps(moves))
    tools = [[tool, "--bootstrap-server", broker.bootstrap, *said.replace("FOLDER", str(folder)).split()] for tool, said in TOOLS]
    found: dict[str, Any] = json.loads(run_client([*command, broker.bootstrap, TOPIC, json.dumps(tools)]).splitlines()[-1])
    return found


def test_the_admin_client_is_answered_as_by_kafka(told: dict[str, Any]) -> None:
    assert {name: told.get(name, "not asked") for name in ANSWERS} == ANSWERS


@pytest.mark.parametrize(("tool", "said"), TOOLS)
def test_a_tool_of_kafka_is_content(tool: str, said: str, told: dict[str, Any]) -> None:
    code, text = told["tools"][list(TOOLS).index((tool, said))]
    assert code == (1 if said in FAIL else 0), text
    for pattern in TOOLS[tool, said]:
        assert re.search(pattern, text), text


def test_confluent_elects_leaders(bootstrap: str, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    admin.create_topics([NewTopic(topic, 2, 1)])[topic].result(PATIENCE_S)
    asked = [TopicPartition(topic, 0), TopicPartition(topic, 7)]
    found = admin.elect_leaders(ElectionType.PREFERRED, asked).result(PATIENCE_S)
    assert {partition.partition: error.name() for partition, error in found.items()} == {
        0: "ELECTION_NOT_NEEDED", 7: "UNKNOWN_TOPIC_OR_PART",
    }  # fmt: skip
    assert admin.elect_leaders(ElectionType.UNCLEAN, None).result(PATIENCE_S) == {}


def test_kafka_python_administers(bootstrap: str, topic: str) -> None:
    admin = KafkaAdminClient(bootstrap_servers=bootstrap, bootstrap_timeout_ms=PATIENCE_MS, request_timeout_ms=REQUEST_MS)
    try:
        admin.create_topics([KafkaNewTopic(topic, replica_assignments={0: [1], 1: [1]})])
        first = KafkaTopicPartition(topic, 0)
        (broker,) = admin.describe_log_dirs({topic: [0, 1]})
        (own,) = [each for each in broker["log_dirs"] if not each["log_dir"].startswith("remote:")]
        assert own["total_bytes"] >= own["usable_bytes"] > 0
        assert {part["partition_index"] for one in own["topics"] for part in one["partitions"]} <= {0, 1}
        moved = admin.alter_replica_log_dirs({(topic, 0, 1): own["log_dir"], (topic, 1, 1): "/no/such/directory"})
        assert {replica.partition: error.__name__ for replica, error in moved.items()} == {
            0: "NoError", 1: "LogDirNotFoundError",
        }  # fmt: skip
        admin.elect_leaders(0, {topic: [0, 1]})
        assert admin.alter_partition_reassignments({first: [1]}) is not None
        assert not admin.list_partition_reassignments()
        (quorum,) = admin.describe_metadata_quorum()["topics"][0]["partitions"]
        assert (quorum["leader_id"], [voter["replica_id"] for voter in quorum["current_voters"]]) == (1, [1])
        assert admin.describe_features()["transaction.version"]["finalized"] == (2, 2)
        assert admin.update_features({"transaction.version": 2}) == {"transaction.version": "OK"}
        assert not admin.describe_user_scram_credentials()
    finally:
        admin.close()
