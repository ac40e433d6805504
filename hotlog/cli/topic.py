"""hotlog topic: create, list, describe, alter, roll, delete, over the ordinary admin protocol.

Invariants: nothing is changed that was not asked for: alter uses IncrementalAlterConfigs (KIP-339); of several topics each is dealt with,
whatever becomes of the others, and any that failed makes the exit code.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from confluent_kafka import TopicCollection
from confluent_kafka.admin import (
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ConfigSource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

from hotlog.cli.client import WAIT_SECONDS, admin, answered, topic_meta
from hotlog.cli.complete import BOOTSTRAP_DEFAULT
from hotlog.cli.options import (
    Bootstrap,
    ClientPairs,
    ConfigPairs,
    Json,
    Topic,
    Topics,
    client_pairs,
    parse_pairs,
)
from hotlog.cli.output import say, show_json, show_rows
from hotlog.cli.raw import EARLIEST, EARLIEST_LOCAL, LATEST, LATEST_TIERED, tier_borders, tier_sizes, uncleanable
from hotlog.kernel.errors import HotlogError, Invalid, Retry

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Create, list, describe, alter, roll and delete topics.")
NewName = Annotated[str, typer.Argument(metavar="TOPIC")]
UNKNOWN = -1
ROLL_KEY, ROLL_SECONDS_MAX = "hotlog.segment.roll.before.ms", 120


@app.command()
def create(
    topic: NewName,
    partitions: Annotated[
        int,
        typer.Option("--partitions", "-p", min=-1, max=2**31 - 1, help="Number of partitions; -1: the broker's num.partitions."),
    ] = -1,
    replication: Annotated[
        int,
        typer.Option(
            "--replication-factor",
            "-r",
            min=-1,
            max=2**15 - 1,
            help="Copies of the hot log; -1: the broker's default.replication.factor.",
        ),
    ] = -1,
    config: ConfigPairs = None,
    bootstrap: Bootstrap = BOOTSTRAP_DEFAULT,
    extra: ClientPairs = None,
) -> None:
    """Create a topic.  Example: hotlog topic create clicks -p 8 -c retention.ms=-1 -c local.retention.ms=3600000"""
    pairs = parse_pairs(config)
    client = admin(bootstrap, client_pairs(extra))

    def create_it() -> None:
        wanted = NewTopic(topic, num_partitions=partitions, replication_factor=replication, config=pairs)
        client.create_topics([wanted])[topic].result(WAIT_SECONDS)

    answered(create_it, bootstrap)
    say(f"created {topic}")


@app.command("list")
def list_topics(
    json: Json = False,
    internal: Annotated[bool, typer.Option("--internal", help="Show internal topics too.")] = False,
    bootstrap: Bootstrap = BOOTSTRAP_DEFAULT,
    extra: ClientPairs = None,
) -> None:
    """List topics."""
    client = admin(bootstrap, client_pairs(extra))
    found = answered(lambda: client.list_topics(timeout=WAIT_SECONDS), bootstrap).topics
    rows = [(name, len(meta.partitions)) for name, meta in sorted(found.items()) if internal or not name.startswith("__")]
    if json:
        show_json([{"topic": name, "partitions": count} for name, count in rows])
    else:
        show_rows(["topic", "partitions"], rows, numeric=["partitions"])


@app.command()
def describe(topic: Topic, json: Json = False, bootstrap: Bootstrap = BOOTSTRAP_DEFAULT, extra: ClientPairs = None) -> None:
    """Partitions with their offsets and bytes in both tiers, leader and replicas, what cannot be cleaned and why, and every configuration that is not a
    default."""
    client = admin(bootstrap, client_pairs(extra))
    indexes = sorted(topic_meta(client, topic, bootstrap).partitions)
    found = _description(client, topic, bootstrap)
    latest, local, tiered = (tier_borders(bootstrap, topic, indexes, which) for which in (LATEST, EARLIEST_LOCAL, LATEST_TIERED))
    earliest, sizes = tier_borders(bootstrap, topic, indexes, EARLIEST), tier_sizes(bootstrap, topic, indexes)
    rows = [
        {
            "partition": part.id,
            "earliest": earliest.get(part.id, UNKNOWN),
            "tiered": tiered.get(part.id, UNKNOWN),
            "local": local.get(part.id, UNKNOWN),
            "latest": latest.get(part.id, UNKNOWN),
            "local_bytes": sizes[part.id].local,
            "tiered_bytes": sizes[part.id].tiered,
            "leader": part.leader.id if part.leader is not None else None,
            "replicas": [node.id for node in part.replicas],
            "isr": [node.id for node in part.isr],
        }
        for part in sorted(found.partitions, key=lambda part: part.id)
    ]
    stuck = uncleanable(bootstrap, topic)
    for row in rows:
        row["uncleanable"] = stuck.get(row["partition"])
    entries = _configs(client, topic, bootstrap)
    topic_id = str(found.topic_id)
    if json:
        configs = {name: entry.value for name, entry in sorted(entries.items())}
        show_json({"topic": topic, "id": topic_id, "partitions": rows, "configs": configs})
        return
    show_rows(
        ["topic", "id", "partitions", "replicas"], [[topic, topic_id, len(rows), max(len(row["replicas"]) for row in rows)]]
    )
    columns = ["partition", "earliest", "tiered", "local", "latest", "local bytes", "tiered bytes", "leader", "replicas", "isr"]
    show_rows(columns, [[_cell(value) for value in list(row.values())[: len(columns)]] for row in rows], numeric=columns[:8])
    if stuck:
        show_rows(["partition", "cannot be cleaned"], sorted(stuck.items()), numeric=["partition"])
    changed = {e.name: e.value for e in entries.values() if e.source == ConfigSource.DYNAMIC_TOPIC_CONFIG.value}
    show_rows(["configuration", "value"], sorted(changed.items()))


def _cell(value: Any) -> Any:
    return "-" if value is None else ",".join(map(str, value)) if isinstance(value, list) else value


def _description(client: Any, topic: str, at: str) -> Any:
    """Id, leaders and replicas."""
    return answered(lambda: client.describe_topics(TopicCollection([topic]))[topic].result(WAIT_SECONDS), at)


def _configs(client: Any, topic: str, at: str) -> dict[str, Any]:
    resource = ConfigResource(ResourceType.TOPIC, topic)
    found: dict[str, Any] = answered(lambda: client.describe_configs([resource])[resource].result(WAIT_SECONDS), at)
    return found


@app.command()
def alter(
    topic: Topic,
    config: ConfigPairs = None,
    remove: Annotated[list[str] | None, typer.Option("--remove", metavar="KEY", help="Back to the default.")] = None,
    partitions: Annotated[
        int | None, typer.Option("--partitions", "-p", min=1, max=2**31 - 1, help="New, higher number of partitions.")
    ] = None,
    bootstrap: Bootstrap = BOOTSTRAP_DEFAULT,
    extra: ClientPairs = None,
) -> None:
    """Change configuration or the number of partitions."""
    pairs = parse_pairs(config)
    if not pairs and not remove and partitions is None:
        raise Invalid("nothing to alter; give --config KEY=VALUE, --remove KEY or --partitions N")
    client = admin(bootstrap, client_pairs(extra))
    topic_meta(client, topic, bootstrap)
    if pairs or remove:
        entries = [ConfigEntry(k, v, incremental_operation=AlterConfigOpType.SET) for k, v in pairs.items()]
        entries += [ConfigEntry(k, None, incremental_operation=AlterConfigOpType.DELETE) for k in remove or []]
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
        answered(lambda: client.incremental_alter_configs([resource])[resource].result(WAIT_SECONDS), bootstrap)
    if partitions is not None:
        answered(lambda: client.create_partitions([NewPartitions(topic, partitions)])[topic].result(WAIT_SECONDS), bootstrap)
    say(f"altered {topic}")


@app.command()
def roll(
    topic: Topic,
    wait: Annotated[bool, typer.Option("--wait", help="Until all that is in the topic now is in the object store.")] = False,
    bootstrap: Bootstrap = BOOTSTRAP_DEFAULT,
    extra: ClientPairs = None,
) -> None:
    """Close the active segments now, so that they move to the object store."""
    client = admin(bootstrap, client_pairs(extra))
    indexes = sorted(topic_meta(client, topic, bootstrap).partitions)
    ends = tier_borders(bootstrap, topic, indexes, LATEST)
    now = ConfigEntry(ROLL_KEY, str(int(time.time() * 1000)), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[now])
    answered(lambda: client.incremental_alter_configs([resource])[resource].result(WAIT_SECONDS), bootstrap)
    if not wait:
        say(f"the active segments of {topic} close within a second; `hotlog topic describe {topic}` shows what is tiered")
        return
    if _configs(client, topic, bootstrap)["remote.storage.enable"].value != "true":
        raise Invalid(f"{topic} has remote.storage.enable=false: its segments are closed, and stay here")
    give_up = time.monotonic() + ROLL_SECONDS_MAX
    while left := _not_in_store(bootstrap, topic, ends):
        if time.monotonic() > give_up:
            raise Retry(
                f"partitions {left[:4]} of {topic} are not in the store after {ROLL_SECONDS_MAX} s; their segments are closed"
            )
        time.sleep(0.2)
    say(f"{topic} is in the store, up to where it ended when this began")


def _not_in_store(bootstrap: str, topic: str, ends: Mapping[int, int]) -> list[int]:
    """Partitions that have records below `ends` which are not in the store, and not deleted by retention either."""
    tiered, first = (tier_borders(bootstrap, topic, list(ends), which) for which in (LATEST_TIERED, EARLIEST))
    return [index for index, end in ends.items() if max(tiered[index] + 1, first[index]) < end]


@app.command()
def delete(
    topics: Topics,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    bootstrap: Bootstrap = BOOTSTRAP_DEFAULT,
    extra: ClientPairs = None,
) -> None:
    """Delete topics in both tiers."""
    names = list(dict.fromkeys(topics))
    client = admin(bootstrap, client_pairs(extra))
    for topic in names:
        topic_meta(client, topic, bootstrap)  # a mistyped name is told before anything is deleted
    if not yes:
        typer.confirm(f"Delete {', '.join(names)} with all history?", abort=True)
    failed: list[HotlogError] = []
    for topic, future in answered(lambda: client.delete_topics(names), bootstrap).items():
        try:
            answered(lambda future=future: future.result(WAIT_SECONDS), bootstrap)  # type: ignore[misc]
            say(f"deleted {topic}")
        except HotlogError as failure:
            say(f"not deleted: {topic}: {failure}")
            failed.append(failure)
    if failed:
        raise failed[0]
