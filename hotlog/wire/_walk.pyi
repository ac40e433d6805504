"""hotlog/wire/_walk.c: built where a compiler is at hand."""

from hotlog.world.ports import Buffer

def walk(batch: Buffer, count: int, base_timestamp: int, /) -> tuple[int, int, bool] | None:
    """As hotlog.wire.record_walk.walk."""
