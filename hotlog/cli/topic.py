"""hotlog topic: create, list, describe, alter, delete, over the ordinary admin protocol.

Invariants: nothing is changed that was not asked for: alter uses IncrementalAlterConfigs (KIP-339).
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from confluent_kafka import TopicPartition
from confluent_kafka.admin import (
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ConfigSource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from hotlog.cli.client import WAIT_SECONDS, admin, answered
from hotlog.cli.options import BOOTSTRAP_DEFAULT, Bootstrap, ConfigPairs, Json, parse_pairs
from hotlog.cli.output import say, show_json, show_rows
from hotlog.cli.raw import EARLIEST_LOCAL, LATEST_TIERED, tier_borders
from hotlog.kernel.errors import Invalid, NotFound

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Create, list, describe, alter and delete topics.")
Name = Annotated[str, typer.Argument(metavar="TOPIC")]


@app.command()
def create(
    topic: Name,
    partitions: Annotated[
        int, typer.Option("--partitions", "-p", help="Number of partitions; -1: the broker's num.partitions.")
    ] = -1,
    config: ConfigPairs = None,
    bootstrap: Bootstrap = BOOTSTRAP_DEFAULT,
) -> None:
    """Create a topic.  Example: hotlog topic create clicks -p 8 -c retention.ms=-1 -c local.retention.ms=3600000"""
    wanted = NewTopic(topic, num_partitions=partitions, replication_factor=-1, config=parse_pairs(config))
    client = admin(bootstrap)
    answered(lambda: client.create_topics([wanted])[topic].result(WAIT_SECONDS))
    say(f"created {topic}")


@app.command("list")
def list_topics(
    json: Json = False,
    internal: Annotated[bool, typer.Option("--internal", help="Show internal topics too.")] = False,
    bootstrap: Bootstrap = BOOTSTRAP_DEFAULT,
) -> None:
    """List topics."""
    found = answered(lambda: admin(bootstrap).list_topics(timeout=WAIT_SECONDS)).topics
    rows = [(name, len(meta.partitions)) for name, meta in sorted(found.items()) if internal or not name.startswith("__")]
    if json:
        show_json([{"topic": name, "partitions": count} for name, count in rows])
    else:
        show_rows(["topic", "partitions"], rows, numeric=["partitions"])


@app.command()
def describe(topic: Name, json: Json = False, bootstrap: Bootstrap = BOOTSTRAP_DEFAULT) -> None:
    """Partitions with their offsets in both tiers, and every configuration that is not a default."""
    client = admin(bootstrap)
    meta = answered(lambda: client.list_topics(timeout=WAIT_SECONDS)).topics.get(topic)  # asking for one by name would create it
    if meta is None:
        raise NotFound(f"topic {topic!r} does not exist")
    partitions = [_offsets(client, topic, index) for index in sorted(meta.partitions)]
    local = tier_borders(bootstrap, topic, sorted(meta.partitions), EARLIEST_LOCAL)
    tiered = tier_borders(bootstrap, topic, sorted(meta.partitions), LATEST_TIERED)
    for row in partitions:
        row |= {"local": local[row["partition"]], "tiered": tiered[row["partition"]]}
    entries = _configs(client, topic)
    changed = {e.name: e.value for e in entries.values() if e.source == ConfigSource.DYNAMIC_TOPIC_CONFIG.value}
    if json:
        show_json({"topic": topic, "partitions": partitions, "configs": {n: e.value for n, e in sorted(entries.items())}})
        return
    columns = ["partition", "earliest", "tiered", "local", "latest"]
    show_rows(columns, [[row[c] for c in columns] for row in partitions], title=topic, numeric=columns)
    show_rows(["configuration", "value"], sorted(changed.items()))


def _offsets(client: Any, topic: str, index: int) -> dict[str, int]:
    """Earliest and latest offset of one partition."""
    place = TopicPartition(topic, index)
    row = {"partition": index}
    for name, spec in (("earliest", OffsetSpec.earliest()), ("latest", OffsetSpec.latest())):
        futures = client.list_offsets({place: spec}, request_timeout=WAIT_SECONDS)
        row[name] = answered(lambda futures=futures: futures[place].result(WAIT_SECONDS)).offset  # type: ignore[misc]
    return row


def _configs(client: Any, topic: str) -> dict[str, Any]:
    resource = ConfigResource(ResourceType.TOPIC, topic)
    found: dict[str, Any] = answered(lambda: client.describe_configs([resource])[resource].result(WAIT_SECONDS))
    return found


@app.command()
def alter(
    topic: Name,
    config: ConfigPairs = None,
    remove: Annotated[list[str] | None, typer.Option("--remove", metavar="KEY", help="Back to the default.")] = None,
    partitions: Annotated[int | None, typer.Option("--partitions", "-p", help="New, higher number of partitions.")] = None,
    bootstrap: Bootstrap = BOOTSTRAP_DEFAULT,
) -> None:
    """Change configuration or the number of partitions."""
    pairs = parse_pairs(config)
    if not pairs and not remove and partitions is None:
        raise Invalid("nothing to alter; give --config KEY=VALUE, --remove KEY or --partitions N")
    client = admin(bootstrap)
    if pairs or remove:
        entries = [ConfigEntry(k, v, incremental_operation=AlterConfigOpType.SET) for k, v in pairs.items()]
        entries += [ConfigEntry(k, None, incremental_operation=AlterConfigOpType.DELETE) for k in remove or []]
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
        answered(lambda: client.incremental_alter_configs([resource])[resource].result(WAIT_SECONDS))
    if partitions is not None:
        answered(lambda: client.create_partitions([NewPartitions(topic, partitions)])[topic].result(WAIT_SECONDS))
    say(f"altered {topic}")


@app.command()
def delete(
    topic: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    bootstrap: Bootstrap = BOOTSTRAP_DEFAULT,
) -> None:
    """Delete a topic in both tiers."""
    if not yes:
        typer.confirm(f"Delete {topic} with all its history?", abort=True)
    client = admin(bootstrap)
    answered(lambda: client.delete_topics([topic])[topic].result(WAIT_SECONDS))
    say(f"deleted {topic}")
