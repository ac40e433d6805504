"""Addresses as people write them: HOST:PORT, with a listener's name before it, and Kafka's `listeners`.

Invariants: pure; no listener is taken that asks for a protection this broker has not got.
"""

from __future__ import annotations

from collections.abc import Mapping

from hotlog.kernel.errors import Invalid

PLAINTEXT = "PLAINTEXT"


def parse_address(text: str, *, what: str) -> tuple[str, int]:
    """`HOST:PORT`, `[::1]:PORT` or `NAME://HOST:PORT` -> (host, port).

    Raises:
        Invalid: naming `what`, the value and the form.
    """
    host, mark, port = text.rpartition("://")[2].rpartition(":")
    if not mark or not port.isdigit() or int(port) > 65535:
        raise Invalid(f"{what} {text!r} is not HOST:PORT with a port of 0 to 65535")
    return host.strip("[]") or "0.0.0.0", int(port)


def parse_listeners(given: Mapping[str, str]) -> tuple[str, int] | None:
    """The address in `listeners` that clients are to use (the first that is not a controller's); None if there is none.

    Raises:
        Invalid: it is not HOST:PORT, or one asks for protection that this broker has not got: serving without it would be a hole.
    """
    found = client_listeners(given)
    return parse_address(found[0], what="listeners") if found else None


def client_listeners(given: Mapping[str, str]) -> list[str]:
    """All of `listeners` that are not a controller's.

    Raises:
        Invalid: as parse_listeners.
    """
    controllers = [name.strip() for name in given.get("controller.listener.names", "").split(",")]
    pairs = (pair.partition(":") for pair in given.get("listener.security.protocol.map", "").split(","))
    protocols = {name.strip().upper(): protocol.strip().upper() for name, _, protocol in pairs}
    found: list[str] = []
    for listener in filter(None, (part.strip() for part in given.get("listeners", "").split(","))):
        name = listener.partition("://")[0] if "://" in listener else PLAINTEXT
        if name in controllers:
            continue
        protocol = protocols.get(name.upper(), name.upper())
        if protocol != PLAINTEXT:
            raise Invalid(f"listeners={listener!r} asks for {protocol}; this broker speaks only {PLAINTEXT} yet")
        found.append(listener)
    return found


def printed_address(address: tuple[str, int]) -> str:
    """(host, port) as HOST:PORT."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
