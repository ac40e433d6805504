"""hotlog/wire/_keys.c: built where a compiler is at hand.  hotlog.wire.key_map says what the arguments mean."""

from mmap import mmap

from hotlog.world.ports import Buffer

def note(
    table: mmap, used: int, used_max: int, seed: bytes, batches: Buffer, from_offset: int, latest: int, flags: int, /
) -> tuple[int, int, int, int]: ...
def sift(
    table: mmap, seed: bytes, batches: Buffer, out: Buffer, latest: int, now_ms: int, horizon_ms: int, upper: int, flags: int, /
) -> tuple[int, int, int, int, int, int, int, int]: ...
