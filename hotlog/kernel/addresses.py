"""Addresses as people write them: HOST:PORT, with a listener's name before it, and Kafka's `listeners`.

Invariants: pure; no listener is taken that asks for a protection this broker has not got.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hotlog.kernel.errors import Invalid

PLAINTEXT = "PLAINTEXT"
WILDCARDS = ("0.0.0.0", "::")  # every address of the machine: no address to go to


class Endpoint(NamedTuple):
    """A listener: what it is called, and where it listens."""

    name: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.name}://{printed_address((self.host, self.port))}"


def parse_address(text: str, *, what: str) -> tuple[str, int]:
    """`HOST:PORT`, `[::1]:PORT` or `NAME://HOST:PORT` -> (host, port).

    Raises:
        Invalid: naming `what`, the value and the form.
    """
    host, mark, port = text.rpartition("://")[2].rpartition(":")
    if not mark or not port.isdigit() or int(port) > 65535:
        raise Invalid(f"{what} {text!r} is not HOST:PORT with a port of 0 to 65535")
    return host.strip("[]") or "0.0.0.0", int(port)


def parse_listeners(given: Mapping[str, str]) -> list[Endpoint]:
    """All of `listeners` that are not a controller's, in their order; a listener without a name is called PLAINTEXT.

    Raises:
        Invalid: one is not HOST:PORT, has another's name, or asks for protection that this broker has not got: serving without it
        would be a hole.
    """
    controllers = [name.strip() for name in given.get("controller.listener.names", "").split(",")]
    pairs = (pair.partition(":") for pair in given.get("listener.security.protocol.map", "").split(","))
    protocols = {name.strip().upper(): protocol.strip().upper() for name, _, protocol in pairs}
    found: dict[str, Endpoint] = {}
    for listener in filter(None, (part.strip() for part in given.get("listeners", "").split(","))):
        name = listener_name(listener)
        if name in controllers:
            continue
        protocol = protocols.get(name.upper(), name.upper())
        if protocol != PLAINTEXT:
            raise Invalid(f"listeners={listener!r} asks for {protocol}; this broker speaks only {PLAINTEXT} yet")
        if name in found:
            raise Invalid(
                f"listeners={given['listeners']!r} has two listeners that are called {name}; give each a name of its own"
            )
        found[name] = Endpoint(name, *parse_address(listener, what="listeners"))
    return list(found.values())


def listener_name(text: str) -> str:
    """The name before `://`; PLAINTEXT where there is none."""
    return text.partition("://")[0] if "://" in text else PLAINTEXT


def advertised_addresses(
    bound: Sequence[Endpoint], listed: Mapping[str, tuple[str, int]], machine_name: str = ""
) -> dict[str, tuple[str, int]]:
    """Where clients that came by each listener find this broker.

    `listed` is advertised.listeners by name.  A listener that is not in it is told as the address listened on, or as `machine_name` where
    that is every address; a single listener is whatever is listed first.
    """
    if len(bound) == 1 and listed:
        return {bound[0].name: listed.get(bound[0].name) or next(iter(listed.values()))}
    return {
        name: listed.get(name) or (machine_name if machine_name and host in WILDCARDS else host, port)
        for name, host, port in bound
    }


def printed_address(address: tuple[str, int]) -> str:
    """(host, port) as HOST:PORT."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
