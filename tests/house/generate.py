"""Prints the pages of docs/ that come from code: cli.md, configuration.md, groups.md, metrics.md, protocol.md.  `make docs` writes them; a test compares.

Invariants: the same code gives the same bytes; no page is edited by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hotlog.kernel.client_metrics_config import CLIENT_METRICS_KEYS
from hotlog.kernel.configdef import INT_MAX, LONG_MAX, ConfigKey
from hotlog.kernel.group_config import GROUP_KEYS
from hotlog.kernel.metrics import Metrics
from hotlog.kernel.settings import BROKER_KEYS
from hotlog.kernel.topic_config import TOPIC_KEYS

DOCS = Path(__file__).resolve().parents[2] / "docs"
_NOTE = "<!-- Printed from the code by `make docs`; a test compares. -->\n\n"


def _default(key: ConfigKey) -> str:
    value = key.default
    if value is None or value in {"", ()}:
        return "(none)"
    if value == LONG_MAX or (value == INT_MAX and key.kind == "int"):
        return "unlimited"
    return f"`{key.text(value)}`"


def _effect(key: ConfigKey) -> str:
    return key.doc if key.acts else f"*Accepted, without effect yet.* {key.doc}"


def _keys(keys: list[ConfigKey]) -> str:
    lines = ["| key | default | allowed | changes live | what it does |", "|---|---|---|---|---|"]
    for key in sorted(keys, key=lambda k: k.name):
        lines.append(
            f"| `{key.name}` | {_default(key)} | {key.allowed} | {'yes' if key.dynamic else 'at start'} | {_effect(key)} |"
        )
    return "\n".join(lines) + "\n"


def configuration() -> str:
    """docs/configuration.md"""
    mirrored = {key.synonym for key in TOPIC_KEYS.values() if key.synonym}
    own = [key for key in BROKER_KEYS.values() if key.name not in mirrored]
    defaults = [key for key in BROKER_KEYS.values() if key.name in mirrored]
    return (
        "# Configuration reference\n\n" + _NOTE + "Names are Kafka's where Kafka has the thing, `hotlog.` where it has not. "
        "`hotlog serve --config FILE` reads a Kafka-style properties file, `--set key=value` wins over it; "
        "what it makes of Kafka's other keys is in [operations.md](operations.md).\n\n"
        "## Topics\n\nSet with `hotlog topic create --config`, `hotlog topic alter --config`, or any Kafka admin client.\n\n"
        + _keys(list(TOPIC_KEYS.values()))
        + "\n## Broker\n\n"
        + _keys(own)
        + "\n## Broker-wide defaults of topic keys\n\nEach is what a topic gets that does not set its own. Times may also be given in Kafka's coarser "
        "forms (`log.retention.hours`, `log.retention.minutes`, `log.roll.hours`, `log.roll.jitter.hours`); the finest given wins.\n\n"
        + _keys(defaults)
        + "\n## Groups\n\nSet with `kafka-configs --entity-type groups`, also before there is such a group. A default is what the broker key of the same name "
        "with `group.` before it says. What was given counts within the broker's bounds (`group.consumer.min.*`, `group.consumer.max.*`), from each member's "
        "next heartbeat on.\n\n"
        + _keys(list(GROUP_KEYS.values()))
        + "\n## Client metrics\n\nSubscriptions (KIP-714), set with `kafka-configs --entity-type client-metrics`.\n\n"
        + _keys(list(CLIENT_METRICS_KEYS.values()))
    )


def metrics() -> str:
    """docs/metrics.md"""
    lines = ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    known = Metrics()
    for metric in sorted(vars(known).values(), key=lambda m: getattr(m, "_name", "")):
        if hasattr(metric, "_labelnames"):
            labels = ", ".join(metric._labelnames) or "-"
            lines.append(f"| `{metric._name}` | {metric._type} | {labels} | {metric._documentation} |")
    return (
        "# Metrics\n\n"
        + _NOTE
        + "`GET /metrics` on the `--http` address. Names of KIP-405 and KIP-958 where they exist.\n\n"
        + "\n".join(lines)
        + "\n"
    )


def protocol() -> str:
    """docs/protocol.md"""
    from hotlog.front.dispatch import load_apis

    lines = ["| key | API | versions | left out |", "|---|---|---|---|"]
    for api in sorted(load_apis(), key=lambda a: a.key):
        lines.append(f"| {api.key} | {api.name} | {api.versions[0]}–{api.versions[-1]} | {'; '.join(api.omits) or '-'} |")
    return (
        "# Protocol table\n\n"
        + _NOTE
        + "What ApiVersions answers. One file per API in `hotlog/apis/`, its number first. An API or version that is not here "
        "gets the protocol's own answer.\n\n" + "\n".join(lines) + "\n" + _differences()
    )


def _differences() -> str:
    from tests.twin.differences import ANY, TABLE

    def shown(value: object) -> str:
        return "" if value is ANY else f"`{getattr(value, 'value', value)}`"

    def field(text: str) -> str:
        return text.replace("|", r"\|") or "the whole answer"  # a line would end the cell

    rows = "".join(
        f"| {row.api.word} | `{field(row.field)}` | {shown(row.hotlog)} | {shown(row.kafka)} | {row.why} |\n" for row in TABLE
    )
    return (
        "\n## Deliberate differences\n\nThe same requests go to Hotlog and to Apache Kafka 4.3, in every version that both speak, and every "
        "field of the answers is compared (`tests/twin/`). These are all the differences that are left. Ids, ports, times and the words of error "
        "messages are each broker's own.\n\n| API | field | Hotlog | Kafka | why |\n|---|---|---|---|---|\n" + rows
    )


def groups() -> str:
    """docs/groups.md"""
    from hotlog.coordinators.moves import CLASSIC_GROUP, CONSUMER_GROUP, CONSUMER_MEMBER

    drawn = (
        ("A classic group", "The generation goes up when all have joined. `hotlog/coordinators/group.py`", CLASSIC_GROUP),
        (
            "A group of the new protocol (KIP-848)",
            "The state follows from three epochs: the group's, its assignment's and each member's."
            " `hotlog/coordinators/consumer/machine.py`",
            CONSUMER_GROUP,
        ),
        ("One of its members", "It keeps its epoch until it gave up what it has to. `hotlog/coordinators/consumer/reconcile.py`", CONSUMER_MEMBER),
    )  # fmt: skip
    pages = [f"\n## {title}\n\n{words}\n\n```mermaid\nstateDiagram-v2\n{_diagram(moves)}```\n" for title, words, moves in drawn]
    return "# States of groups\n\n" + _NOTE + "Drawn from `hotlog/coordinators/moves.py`.\n" + "".join(pages)


def _diagram(moves: Any) -> str:
    def name(state: Any) -> str:
        return str(state if isinstance(state, str) else state.name.title())

    return "".join(f"    {name(before)} --> {name(after)}: {why}\n" for (before, after), why in moves.items())


def cli() -> str:
    """docs/cli.md"""
    from hotlog.cli.app import EXITS
    from hotlog.cli.times import PLACES

    verbs = "".join(_verb(words, command) for words, command in _commands())
    return (
        "# The command line\n\n" + _NOTE + "Results go to standard output, everything else to standard error; `--json` prints JSON for programs. "
        "`-h` is help for every verb; `hotlog --install-completion` teaches the shell verbs, options and topic names. "
        "`HOTLOG_BOOTSTRAP` and `HOTLOG_STORE` stand for `--bootstrap` and `--store`; `HOTLOG_TRACEBACK=1` shows where an error came from.\n\n"
        "## Exit codes\n\n| code | meaning |\n|---|---|\n" + "".join(f"| {code} | {meaning} |\n" for code, meaning in EXITS.items())
        + "\n## Places: `--from` and `--until`\n\nThe same words in every verb. `--from` is the first record, `--until` the first that is not "
        "part of it. A reader with an end stops where each partition ended when it began. An offset past the end of every partition is refused, "
        "and so is a number that can only be ms since the epoch.\n\n| word | place |\n|---|---|\n"
        + "".join(f"| {', '.join(f'`{word}`' for word in words.split(', '))} | {meaning} |\n" for words, meaning in PLACES.items())
        + "\n## Verbs\n" + verbs
    )  # fmt: skip


def _commands() -> Iterator[tuple[str, Any]]:
    import importlib

    import typer

    from hotlog.cli.app import VERBS

    def below(words: str, command: Any) -> Iterator[tuple[str, Any]]:
        for name, each in (getattr(command, "commands", None) or {}).items():
            yield from below(f"{words} {name}", each)
        if not getattr(command, "commands", None):
            yield words, command

    for verb, (module, _) in VERBS.items():
        yield from below(verb, typer.main.get_command(importlib.import_module(f"hotlog.cli.{module}").app))


def _verb(words: str, command: Any) -> str:
    described = " ".join(str(command.help or "").split("Example:")[0].split())
    shown = [param for param in command.params if param.param_type_name == "option" and param.name != "help" and not param.hidden]
    arguments = " ".join(str(param.metavar or param.name) for param in command.params if param.param_type_name == "argument")
    rows = "".join(
        f"| {_option(param)} | {' '.join((param.help or '').split()).replace('|', chr(92) + '|')} |\n" for param in shown
    )
    return f"\n### hotlog {f'{words} {arguments}'.strip()}\n\n{described}\n\n| option | |\n|---|---|\n{rows}"


def _option(param: Any) -> str:
    metavar = f" {param.metavar}".replace("|", "\\|") if param.metavar else ""
    return ", ".join(f"`{name}`" for name in [*sorted(param.opts, key=len), *param.secondary_opts]) + (
        f" {metavar.strip()}" if metavar else ""
    )


PAGES: dict[str, Callable[[], str]] = {
    "cli.md": cli,
    "configuration.md": configuration,
    "groups.md": groups,
    "metrics.md": metrics,
    "protocol.md": protocol,
}


def main() -> None:
    for name, page in PAGES.items():
        (DOCS / name).write_text(page())


if __name__ == "__main__":
    main()
