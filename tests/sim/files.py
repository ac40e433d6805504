"""What the simulated disk is made of: files that know which of their bytes are durable, directories that know which of their entries are.

Model.  A file's writes and truncations since its last fsync may each survive a power loss wholly, not at all, by sector (512 bytes, the
rest old or zero), in any combination.  A directory's entry changes since its last fsync survive as a prefix of their order; a rename is
one change.  A file whose entry is lost is lost, however often it was synced.  This is stricter than ext4 or XFS.

Invariants: synced bytes under a synced name survive every power loss; after a failed fsync the bytes in doubt stay in doubt, even if
a later fsync succeeds (the kernel marked them clean).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

SECTOR_BYTES = 512
UNSYNCED_MAX = 512  # above it the kernel writes the older half back on its own, as it does after some seconds


@dataclass
class Write:
    """One change to a file: `new` at `offset` over `old` (shorter where the file ended), or a truncation to `offset`."""

    offset: int
    old: bytes
    new: bytes
    size_before: int
    is_truncation: bool = False
    durable: bool = False
    doubtful: bool = False  # an fsync that should have covered it failed


@dataclass(eq=False)
class Inode:
    """A file's content as the page cache has it, and the changes since what the device has."""

    data: bytearray = field(default_factory=bytearray)
    writes: list[Write] = field(default_factory=list)
    modified_ms: int = 0

    def write(self, offset: int, new: bytes) -> None:
        size = len(self.data)
        old = bytes(self.data[offset : offset + len(new)])
        if offset > size:
            old, new, offset = b"", bytes(offset - size) + new, size
        self._note(Write(offset, old, new, size))
        self.data[offset : offset + len(new)] = new

    def truncate(self, size: int) -> None:
        before = len(self.data)
        if size >= before:
            if size > before:
                self.write(before, bytes(size - before))
            return
        self._note(Write(size, bytes(self.data[size:]), b"", before, is_truncation=True))
        del self.data[size:]

    def _note(self, write: Write) -> None:
        self.writes.append(write)
        if len(self.writes) > UNSYNCED_MAX:
            del self.writes[: UNSYNCED_MAX // 2]

    def sync(self) -> None:
        for write in self.writes:
            if not write.doubtful:
                write.durable = True
        self._forget()

    def sync_failed(self) -> None:
        for write in self.writes:
            if not write.durable:
                write.doubtful = True

    def _forget(self) -> None:
        """Drop the durable changes that nothing doubtful precedes: they need no undoing."""
        kept = 0
        while kept < len(self.writes) and self.writes[kept].durable:
            kept += 1
        del self.writes[:kept]

    def lose_power(self, random: Random) -> None:
        """Keep what is durable and a random choice of the rest."""
        for write in reversed(self.writes):
            if write.is_truncation:
                self.data[write.offset :] = write.old
            else:
                self.data[write.offset : write.offset + len(write.new)] = write.old
                del self.data[write.size_before :]
        writes, self.writes = self.writes, []
        if not writes:
            return
        fate = random.choice(("lost", "kept", "prefix", "each"))
        cut = random.randint(0, len(writes) - 1)
        for index, write in enumerate(writes):
            if write.durable or fate == "kept" or (fate == "prefix" and index < cut):
                self._apply(write, write.new)
            elif fate == "each" or (fate == "prefix" and index == cut):
                self._apply_torn(write, random)

    def _apply(self, write: Write, new: bytes) -> None:
        if write.is_truncation:
            del self.data[write.offset :]
            return
        if write.offset > len(self.data):
            self.data.extend(bytes(write.offset - len(self.data)))
        self.data[write.offset : write.offset + len(new)] = new

    def _apply_torn(self, write: Write, random: Random) -> None:
        """Some sectors new, some old, some zero; perhaps cut short."""
        if write.is_truncation:
            if random.random() < 0.5:
                self._apply(write, b"")
            return
        fate = random.choice(("lost", "sectors", "zeros", "cut"))
        if fate == "lost":
            return
        new = bytearray(write.new)
        if fate == "zeros":
            start = random.randint(0, len(new))
            new[start:] = bytes(len(new) - start)
        elif fate == "cut":
            del new[random.randint(0, len(new)) :]
        else:
            self._tear_sectors(write, new, random)
        self._apply(write, bytes(new))

    @staticmethod
    def _tear_sectors(write: Write, new: bytearray, random: Random) -> None:
        old = write.old + bytes(max(0, len(new) - len(write.old)))
        position = 0
        while position < len(new):
            step = SECTOR_BYTES - (write.offset + position) % SECTOR_BYTES
            if random.random() < 0.5:
                new[position : position + step] = old[position : position + step][: len(new) - position]
            position += step


@dataclass(eq=False)
class Dir:
    """A directory's entries, as they are now and as the device has them."""

    now: dict[str, Node] = field(default_factory=dict)
    durable: dict[str, Node] = field(default_factory=dict)


Node = Inode | Dir


class Change(NamedTuple):
    """One atomic change of directory entries: (directory, name) that goes, (directory, name, node) that comes."""

    removed: tuple[Dir, str] | None
    added: tuple[Dir, str, Node] | None

    def dirs(self) -> list[Dir]:
        touched = [side[0] for side in (self.removed, self.added) if side is not None]
        return touched[:1] if len(touched) == 2 and touched[0] is touched[1] else touched

    def touches(self, home: Dir) -> bool:
        removed, added = self
        return (removed is not None and removed[0] is home) or (added is not None and added[0] is home)

    def apply(self, *, durable: bool) -> None:
        if self.removed is not None:
            home, name = self.removed
            (home.durable if durable else home.now).pop(name, None)
        if self.added is not None:
            home, name, node = self.added
            (home.durable if durable else home.now)[name] = node


class Tree:
    """The name space below "/"."""

    def __init__(self) -> None:
        self.root = Dir()
        self._pending: list[Change] = []

    def find(self, path: str) -> Node | None:
        """The node at an absolute, normalised path."""
        node: Node | None = self.root
        for name in path.split("/")[1:]:
            if name:
                node = node.now.get(name) if isinstance(node, Dir) else None
        return node

    def change(self, removed: tuple[Dir, str] | None, added: tuple[Dir, str, Node] | None) -> None:
        change = Change(removed, added)
        change.apply(durable=False)
        self._pending.append(change)
        if len(self._pending) > UNSYNCED_MAX:
            for old in self._pending[: UNSYNCED_MAX // 2]:
                old.apply(durable=True)
            del self._pending[: UNSYNCED_MAX // 2]

    def sync_dir(self, home: Dir) -> None:
        """Make durable, in order, every change that touches an entry of `home`."""
        kept = []
        for change in self._pending:
            if change.touches(home):
                change.apply(durable=True)
            else:
                kept.append(change)
        self._pending = kept

    def lose_power(self, random: Random) -> None:
        """Keep a prefix of each directory's pending changes, and of each file what `Inode.lose_power` says."""
        homes: list[Dir] = []
        for change in self._pending:
            homes.extend(home for home in change.dirs() if home not in homes)
        left = [random.randint(0, sum(home in change.dirs() for change in self._pending)) for home in homes]
        for change in self._pending:
            touched = [homes.index(home) for home in change.dirs()]
            survives = all(left[index] > 0 for index in touched)
            for index in touched:
                left[index] = left[index] - 1 if survives else 0
            if survives:
                change.apply(durable=True)
        self._pending = []
        self._restore(self.root, random)

    def _restore(self, home: Dir, random: Random) -> None:
        home.now = dict(home.durable)
        for name in sorted(home.now):
            node = home.now[name]
            if isinstance(node, Dir):
                self._restore(node, random)
            else:
                node.lose_power(random)

    def files(self, home: Dir | None = None, path: str = "") -> Iterator[tuple[str, Inode]]:
        """Every file with its path, sorted."""
        home = home or self.root
        for name in sorted(home.now):
            node = home.now[name]
            if isinstance(node, Dir):
                yield from self.files(node, f"{path}/{name}")
            else:
                yield f"{path}/{name}", node


def parent(path: str) -> str:
    return path.rsplit("/", 1)[0] or "/"
