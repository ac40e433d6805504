"""A data directory as this process's own: its lock, whose it is (meta.properties), and whether its last owner stopped cleanly.

Invariants: two processes never have one directory (.lock); one of another node or cluster is refused; the clean-shutdown marker is removed
before anything is opened, and written last of all.
"""

from __future__ import annotations

from hotlog.kernel.errors import Invalid
from hotlog.log import checkpoints, files
from hotlog.world.ports import Disk, Entropy, File


class DataDirectory:
    """`cluster_id` is None, and `directory_id` "", as long as they are not known."""

    def __init__(self, disk: Disk, entropy: Entropy, path: str, node_id: int) -> None:
        self.path = path
        self.cluster_id: str | None = None
        self.directory_id = ""  # random, made with the directory (KIP-858)
        self._disk = disk
        self._entropy = entropy
        self._node_id = str(node_id)
        self._lock: File | None = None

    async def claim(self, cluster_id: str | None) -> None:
        """Take it for this process, and for that cluster if it is given; nothing, if it was taken before.

        Raises:
            Invalid: another process has it, it belongs to another node or cluster, or it cannot be written.
        """
        if self._lock is None:
            try:
                await self._disk.run(self._open, cluster_id)
            except BaseException:
                self.let_go()
                raise
        elif cluster_id is not None:
            await self.bind_cluster(cluster_id)

    def _open(self, cluster_id: str | None) -> None:
        disk, path = self._disk, f"{self.path}/{files.META_PROPERTIES}"
        try:
            disk.make_dirs(self.path)
            self._lock = disk.lock(f"{self.path}/{files.LOCK}")
        except BlockingIOError:
            raise Invalid(f"{self.path} is in use by another process") from None
        except OSError as error:
            raise Invalid(f"{self.path} cannot be used as a data directory: {error}") from error
        if not disk.exists(path):
            if any(files.parse_partition_directory(name) for name in disk.listdir(self.path)):
                raise Invalid(f"{self.path} holds partitions but no {files.META_PROPERTIES}: whose are they?")
            self._write_meta(cluster_id)
            return
        meta = checkpoints.parse_properties(disk.read(path))
        if meta.get("node.id") != self._node_id:
            raise Invalid(f"{self.path} belongs to node.id={meta.get('node.id')}; this broker is node.id={self._node_id}")
        self.cluster_id = meta.get("cluster.id") or None
        self.directory_id = meta.get("directory.id") or ""
        if cluster_id is not None and self.cluster_id not in (None, cluster_id):
            raise Invalid(f"{self.path} belongs to cluster {self.cluster_id}; this broker is of cluster {cluster_id}")
        if cluster_id is not None and self.cluster_id is None:
            self._write_meta(cluster_id)

    def _write_meta(self, cluster_id: str | None) -> None:
        self.directory_id = self.directory_id or checkpoints.print_uuid(self._entropy.uuid())
        values = {"version": "1", "node.id": self._node_id, "directory.id": self.directory_id}
        if cluster_id is not None:
            values["cluster.id"] = cluster_id
        self._disk.write_atomic(f"{self.path}/{files.META_PROPERTIES}", checkpoints.print_properties(values))
        self.cluster_id = cluster_id

    async def bind_cluster(self, cluster_id: str) -> None:
        """Mark it as this cluster's, once the cluster's id is known.  Raises Invalid if it is another's."""
        if self.cluster_id not in (None, cluster_id):
            raise Invalid(f"{self.path} belongs to cluster {self.cluster_id}, not to {cluster_id}")
        if self.cluster_id is None:
            await self._disk.run(self._write_meta, cluster_id)

    async def begin(self) -> tuple[list[str], bool]:
        """(the names in it, whether its last owner stopped cleanly); from here on it has an owner that did not yet."""
        names = await self._disk.run(self._disk.listdir, self.path)
        is_clean = files.CLEAN_SHUTDOWN in names
        await self._disk.run(self._take_over, is_clean)
        return names, is_clean

    def _take_over(self, is_clean: bool) -> None:
        """What a killed process renamed is relied on from here on, so it must be on the device, as the end of the marker must."""
        if is_clean:
            self._disk.remove(f"{self.path}/{files.CLEAN_SHUTDOWN}")
        self._disk.sync_dir(self.path)

    async def end(self) -> None:
        """Everything in it is on the device, as it was left."""
        await self._disk.run(self._disk.write_atomic, f"{self.path}/{files.CLEAN_SHUTDOWN}", checkpoints.print_clean_shutdown())

    def let_go(self) -> None:
        """Another process may have it."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None
