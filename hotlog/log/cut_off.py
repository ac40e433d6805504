"""Cuts the end off a log that is closed, before it is opened again."""

from __future__ import annotations

from hotlog.log import files
from hotlog.log.marks import Watermark
from hotlog.log.pool import FilePool
from hotlog.world.ports import Disk


def cut_off(disk: Disk, pool: FilePool, directory: str, end: Watermark) -> None:
    """Have the log in `directory` end at `end`.  Blocks.  Raises OSError."""
    for name in disk.listdir(directory):
        base, path = name.partition(".")[0], f"{directory}/{name}"
        if not base.isdigit():
            continue
        if int(base) > end.base:
            disk.remove(path)
        elif int(base) == end.base and name.endswith(files.LOG):
            file = disk.open(path)
            if file.size > end.position:
                file.truncate(end.position)
                file.sync()
            file.close()
        pool.forget(path)
    disk.sync_dir(directory)
