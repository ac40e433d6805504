"""hotlog group: list, describe, delete, and where a group reads on, over the ordinary admin protocol.

Invariants: nothing is changed before it was shown, and --dry-run changes nothing; a group that has members keeps its offsets: it would read on from
where it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import typer
from confluent_kafka import ConsumerGroupState, ConsumerGroupTopicPartitions, ConsumerGroupType, TopicPartition

from hotlog.cli.client import WAIT_SECONDS, admin, answered, consumer, error_of
from hotlog.cli.complete import BOOTSTRAP_DEFAULT
from hotlog.cli.options import Bootstrap, ClientPairs, Json, client_pairs
from hotlog.cli.output import say, show_json, show_rows
from hotlog.cli.raw import EARLIEST, EARLIEST_LOCAL, LATEST, tier_borders
from hotlog.cli.reading import offsets_at, partitions_of
from hotlog.cli.times import parse_position
from hotlog.kernel.errors import HotlogError, Invalid, NotFound

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="List, describe and delete consumer groups, and reset their offsets."
)
offsets_app = typer.Typer(no_args_is_help=True, add_completion=False, help="Where a group reads on.")
app.add_typer(offsets_app, name="offsets")


def _texts(words: Any) -> Any:
    """Refuse what is no UTF-8: the client library in C would end the process on it."""
    for word in [words] if isinstance(words, str) else words or ():
        try:
            word.encode()
        except UnicodeEncodeError:
            raise typer.BadParameter(f"{word!r} is not a text in UTF-8") from None
    return words


Group = Annotated[str, typer.Argument(metavar="GROUP", callback=_texts)]
Groups = Annotated[list[str], typer.Argument(metavar="GROUP...", callback=_texts)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
STATES = {state.name.lower().replace("_", "-"): state for state in ConsumerGroupState if state.name != "UNKNOWN"}
TYPES = {kind.name.lower(): kind for kind in ConsumerGroupType if kind.name != "UNKNOWN"}
UNKNOWN = -1
Place = tuple[str, int]  # topic, partition


class Progress(NamedTuple):
    """Where a group is in a partition; offsets, -1 unknown.  `tier`: from which its next record comes, None at no place."""

    committed: int
    earliest: int
    latest: int
    tier: str | None

    @property
    def lag(self) -> int | None:
        """Records that it has not read."""
        return None if self.committed < 0 or self.latest < 0 else max(self.latest - max(self.committed, self.earliest), 0)


# List, describe


@app.command("list")
def list_groups(
    state: Annotated[list[str] | None, typer.Option("--state", metavar="STATE", help=f"Only these: {', '.join(STATES)}.")] = None,
    kind: Annotated[list[str] | None, typer.Option("--type", metavar="TYPE", help=f"Only these: {', '.join(TYPES)}.")] = None,
    json: Json = False,
    bootstrap: Bootstrap = BOOTSTRAP_DEFAULT,
    extra: ClientPairs = None,
) -> None:
    """List groups."""
    client = admin(bootstrap, client_pairs(extra))
    wanted: dict[str, Any] = {"request_timeout": WAIT_SECONDS}
    if state:
        wanted["states"] = {_named(word, STATES, "--state") for word in state}
    if kind:
        wanted["types"] = {_named(word, TYPES, "--type") for word in kind}
    found = answered(lambda: client.list_consumer_groups(**wanted).result(WAIT_SECONDS), bootstrap)
    if found.errors:
        raise error_of(found.errors[0].args[0], bootstrap)
    rows = sorted((each.group_id, _word(each.type), _word(each.state)) for each in found.valid)
    if json:
        show_json([{"group": group, "type": kind, "state": state} for group, kind, state in rows])
    else:
        show_rows(["group", "type", "state"], rows)


def _named(word: str, allowed: Mapping[str, Any], option: str) -> Any:
    try:
        return allowed[word.lower().replace("_", "-")]
    except KeyError:
        raise Invalid(f"{option} {word!r} is not one of {', '.join(allowed)}") from None


def _word(value: Any) -> str:
    return str(value.name).lower().replace("_", "-") if value is not None else "-"


@app.command()
def describe(groups: Groups, json: Json = False, bootstrap: Bootstrap = BOOTSTRAP_DEFAULT, extra: ClientPairs = None) -> None:
    """Members with their partitions, and of each partition the offset, the lag and the tier that the next record comes from."""
    client = admin(bootstrap, client_pairs(extra))
    found = [_described(client, group, bootstrap) for group in dict.fromkeys(groups)]
    if json:
        show_json(found if len(found) > 1 else found[0])
        return
    for each in found:
        show_rows(
            ["group", "type", "state", "assignor", "members"],
            [[each["group"], each["type"], each["state"], each["assignor"], len(each["members"])]],
        )
        rows = [[m["member"], m["instance"] or "-", m["client"], m["host"], _places(m["partitions"])] for m in each["members"]]
        show_rows(["member", "instance", "client", "host", "partitions"], rows)
        columns = ["topic", "partition", "committed", "latest", "lag", "tier", "member"]
        cells = [[_cell(row[column]) for column in columns] for row in each["offsets"]]
        show_rows(columns, cells, numeric=["partition", "committed", "latest", "lag"])


def _cell(value: Any) -> Any:
    return "-" if value is None else value


def _places(partitions: Sequence[Mapping[str, Any]]) -> str:
    indexes: dict[str, list[int]] = {}
    for place in partitions:
        indexes.setdefault(place["topic"], []).append(place["partition"])
    return " ".join(f"{topic}:{','.join(map(str, sorted(found)))}" for topic, found in sorted(indexes.items())) or "-"


def _described(client: Any, group: str, at: str) -> dict[str, Any]:
    """Raises NotFound: there is no such group."""
    about = _about(client, group, at)
    holders = {
        (part.topic, part.partition): member.member_id for member in about.members for part in member.assignment.topic_partitions
    }
    committed = _committed(client, group, at)
    if _word(about.state) == "dead" and not committed:
        raise NotFound(f"group {group!r} does not exist")
    progress = _progress(client, {**dict.fromkeys(holders, UNKNOWN), **committed}, at)
    return {
        "group": group,
        "type": _word(about.type),
        "state": _word(about.state),
        "assignor": about.partition_assignor or "-",
        "members": [
            {
                "member": member.member_id,
                "instance": member.group_instance_id,
                "client": member.client_id,
                "host": member.host,
                "partitions": [
                    {"topic": part.topic, "partition": part.partition}
                    for part in sorted(member.assignment.topic_partitions, key=lambda part: (part.topic, part.partition))
                ],
            }
            for member in sorted(about.members, key=lambda member: member.member_id)
        ],
        "offsets": [
            {
                "topic": topic,
                "partition": index,
                "committed": None if found.committed < 0 else found.committed,
                "earliest": found.earliest,
                "latest": found.latest,
                "lag": found.lag,
                "tier": found.tier,
                "member": holders.get((topic, index)),
            }
            for (topic, index), found in sorted(progress.items())
        ],
    }


def _about(client: Any, group: str, at: str) -> Any:
    return answered(
        lambda: client.describe_consumer_groups([group], request_timeout=WAIT_SECONDS)[group].result(WAIT_SECONDS), at
    )


def _committed(client: Any, group: str, at: str) -> dict[Place, int]:
    """Every offset that the group has committed."""
    asked = [ConsumerGroupTopicPartitions(group)]
    found = answered(lambda: client.list_consumer_group_offsets(asked)[group].result(WAIT_SECONDS), at)
    return {
        (part.topic, part.partition): part.offset for part in found.topic_partitions if part.error is None and part.offset >= 0
    }


def _progress(client: Any, committed: Mapping[Place, int], at: str) -> dict[Place, Progress]:
    """Where a group is, beside where its partitions begin and end in both tiers; -1 for what is not there any more."""
    there = answered(lambda: client.list_topics(timeout=WAIT_SECONDS), at).topics
    found: dict[Place, Progress] = {}
    for topic in sorted({topic for topic, _ in committed}):
        indexes = sorted(index for name, index in committed if name == topic)
        borders = [
            tier_borders(at, topic, indexes, which) if topic in there else {} for which in (EARLIEST, EARLIEST_LOCAL, LATEST)
        ]
        for index in indexes:
            offset = committed[topic, index]
            earliest, local, latest = (border.get(index, UNKNOWN) for border in borders)
            tier = None if offset < 0 or latest < 0 else "cold" if max(offset, earliest) < local else "hot"
            found[topic, index] = Progress(offset, earliest, latest, tier)
    return found


# Reset


@offsets_app.command()
def reset(
    group: Group,
    topic: Annotated[
        list[str] | None,
        typer.Option("--topic", "-t", metavar="TOPIC[:N,N]", help="A topic, or some partitions of it; may be repeated."),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to", "-o", metavar="PLACE", help="An offset, -N from the end, a time, earliest, latest; as --from of consume."
        ),
    ] = None,
    shift: Annotated[int | None, typer.Option("--shift", metavar="N", help="So many records on; back, if negative.")] = None,
    is_dry: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and leave.")] = False,
    yes: Yes = False,
    json: Json = False,
    bootstrap: Bootstrap = BOOTSTRAP_DEFAULT,
    extra: ClientPairs = None,
) -> None:
    """Have a group without members read on from elsewhere; without --topic in all partitions that it has offsets of.

    Example: hotlog group offsets reset billing --topic orders --to -2h --dry-run
    """
    if (to is None) == (shift is None):
        raise Invalid("--to PLACE or --shift N says where the group shall read on; one of them is needed")
    client = admin(bootstrap, client_pairs(extra))
    before = _committed(client, group, bootstrap)
    plan = _plan(bootstrap, before, topic, to, shift, client_pairs(extra))
    rows = [(name, index, before.get((name, index)), offset) for (name, index), offset in sorted(plan.items())]
    if json:
        show_json([{"topic": name, "partition": index, "before": was, "after": offset} for name, index, was, offset in rows])
    else:
        cells = [[name, index, _cell(was), offset] for name, index, was, offset in rows]
        show_rows(["topic", "partition", "before", "after"], cells, numeric=["partition", "before", "after"])
    if is_dry:
        return
    members = len(_about(client, group, bootstrap).members)
    if members:
        raise HotlogError(f"group {group!r} has {members} members, which would read on from where they are; stop them first")
    if not yes:
        typer.confirm(f"Reset {len(rows)} offsets of {group}?", abort=True)
    parts = [TopicPartition(name, index, offset) for (name, index), offset in plan.items()]
    wanted = [ConsumerGroupTopicPartitions(group, parts)]
    done = answered(lambda: client.alter_consumer_group_offsets(wanted)[group].result(WAIT_SECONDS), bootstrap)
    for part in done.topic_partitions:
        if part.error is not None:
            raise error_of(part.error, bootstrap)
    say(f"reset {len(parts)} offsets of {group}")


def _plan(
    bootstrap: str,
    before: Mapping[Place, int],
    topics: Sequence[str] | None,
    to: str | None,
    shift: int | None,
    extra: Mapping[str, str],
) -> dict[Place, int]:
    """The new offset of each partition, within what is there.

    Raises:
        NotFound: a topic or partition is not there, or the group has no offset.  Invalid: words that are no place.
    """
    kafka = consumer(bootstrap, extra)
    try:
        wanted: dict[str, list[int]] = {}
        for name, index in before if topics is None else ():
            wanted.setdefault(name, []).append(index)
        for word in topics or ():
            name, _, some = word.partition(":")
            wanted[name] = partitions_of(kafka, name, _indexes(word, some))
        if not wanted:
            raise NotFound("the group has no offsets; --topic names what to reset")
        plan: dict[Place, int] = {}
        for name, indexes in wanted.items():
            if to is not None:
                found = offsets_at(kafka, name, indexes, parse_position(to))
            else:
                first, ends = (offsets_at(kafka, name, indexes, parse_position(border)) for border in ("earliest", "latest"))
                known = [index for index in indexes if (name, index) in before]
                found = {index: min(max(before[name, index] + (shift or 0), first[index]), ends[index]) for index in known}
            plan.update({(name, index): offset for index, offset in found.items()})
        return plan
    finally:
        kafka.close()


def _indexes(word: str, text: str) -> list[int] | None:
    try:
        return [int(part) for part in text.split(",")] if text else None
    except ValueError:
        raise Invalid(f"--topic {word!r} is not TOPIC or TOPIC:N,N") from None


# Delete


@app.command()
def delete(groups: Groups, yes: Yes = False, bootstrap: Bootstrap = BOOTSTRAP_DEFAULT, extra: ClientPairs = None) -> None:
    """Forget groups without members, and their offsets."""
    names = list(dict.fromkeys(groups))
    client = admin(bootstrap, client_pairs(extra))
    if not yes:
        typer.confirm(f"Forget {', '.join(names)} and where they are?", abort=True)
    failed: list[HotlogError] = []
    for group, future in answered(lambda: client.delete_consumer_groups(names, request_timeout=WAIT_SECONDS), bootstrap).items():
        try:
            answered(lambda future=future: future.result(WAIT_SECONDS), bootstrap)  # type: ignore[misc]
            say(f"deleted {group}")
        except HotlogError as failure:
            say(f"not deleted: {group}: {failure}")
            failed.append(failure)
    if failed:
        raise failed[0]
