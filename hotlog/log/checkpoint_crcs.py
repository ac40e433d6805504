"""CRC-32Cs of the offset checkpoints, in a file beside them: Kafka's text has none, and a digit that rots becomes another digit.  Pure.

For each file at most two: of the content that is about to be written, and of the one that it replaces, so that a stop between the two
writes is no damage.  Text: one line a file, `name crc crc`, then `crc32c` and the CRC of these lines.

Invariants: a list that does not pass its own CRC says nothing about anything.
"""

from __future__ import annotations

from collections.abc import Mapping

from crc32c import crc32c

from hotlog.kernel.errors import Corrupt

Crcs = Mapping[str, tuple[int, ...]]


def print_crcs(crcs: Crcs) -> bytes:
    lines = "".join(f"{name} {' '.join(f'{crc:08x}' for crc in known)}\n" for name, known in sorted(crcs.items())).encode()
    return lines + b"crc32c %08x\n" % crc32c(lines)


def parse_crcs(raw: bytes) -> dict[str, tuple[int, ...]]:
    """Raises Corrupt if `raw` is not what `print_crcs` makes."""
    lines = raw.splitlines(keepends=True)
    body = b"".join(lines[:-1])
    if not lines or lines[-1] != b"crc32c %08x\n" % crc32c(body):
        raise Corrupt(f"the list of checkpoint CRCs fails its own: {raw[:60]!r}")
    crcs = {}
    for line in body.decode("ascii").splitlines():
        name, *known = line.split(" ")
        crcs[name] = tuple(int(crc, 16) for crc in known)
    return crcs


def is_known(crcs: Crcs, name: str, raw: bytes) -> bool:
    """Whether `raw` may be the content of the file `name`; a file that is not in the list may have any."""
    known = crcs.get(name)
    return known is None or crc32c(raw) in known


def before_writing(crcs: Crcs, name: str, new: bytes) -> dict[str, tuple[int, ...]]:
    """The list to be on the device before `new` is written to `name`: what stands first there now is still good."""
    return {**crcs, name: (crc32c(new), *crcs.get(name, ())[:1])}
