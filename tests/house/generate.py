"""Prints the pages of docs/ that come from code: configuration.md, metrics.md, protocol.md.  `make docs` writes them; a test compares.

Invariants: the same code gives the same bytes; no page is edited by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hotlog.kernel.configdef import INT_MAX, LONG_MAX, ConfigKey
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
    from hotlog.apis.dispatch import load_apis

    lines = ["| key | API | versions | left out |", "|---|---|---|---|"]
    for api in sorted(load_apis(), key=lambda a: a.key):
        lines.append(f"| {api.key} | {api.name} | {api.versions[0]}–{api.versions[-1]} | {'; '.join(api.omits) or '-'} |")
    return (
        "# Protocol table\n\n"
        + _NOTE
        + "What ApiVersions answers. One file per API in `hotlog/apis/`, its number first. An API or version that is not here "
        "gets the protocol's own answer.\n\n" + "\n".join(lines) + "\n"
    )


PAGES: dict[str, Callable[[], str]] = {"configuration.md": configuration, "metrics.md": metrics, "protocol.md": protocol}


def main() -> None:
    for name, page in PAGES.items():
        (DOCS / name).write_text(page())


if __name__ == "__main__":
    main()
