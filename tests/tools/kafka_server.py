"""One Apache Kafka broker and controller in one process (KRaft) on loopback, for the bench and for comparisons.

Invariants:
- Listens on 127.0.0.1 only, on free ports; its data stays inside the folder it was given.
- A server that was started is stopped by its own process handle, kindly first, then by force.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.tools.cache import ToolMissing
from tests.tools.kafka_jars import KafkaJars
from tests.tools.patience import PATIENCE_S
from tests.tools.ports import free_ports

CLUSTER_ID = "aG90bG9nLWJlbmNoLTAwMA"
# The heap and collector of Kafka's own start script (bin/kafka-server-start.sh, bin/kafka-run-class.sh).
JVM_OPTIONS = (
    "-Xmx1G",
    "-Xms1G",
    "-server",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
    "-XX:MaxInlineLevel=15",
    "-Djava.awt.headless=true",
)


@dataclass(kw_only=True)
class KafkaServer:
    """A single-node Kafka whose data, configuration and output live under `folder`."""

    jars: KafkaJars
    folder: Path
    properties: Mapping[str, str] = field(default_factory=dict)
    jvm_options: Sequence[str] = JVM_OPTIONS
    process: subprocess.Popen[bytes] | None = None
    port: int = 0

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def config(self) -> Path:
        return self.folder / "server.properties"

    def format(self) -> None:
        """Write server.properties and format the storage (kafka.tools.StorageTool). Raises ToolMissing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port, controller = free_ports(2)
        lines = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "log.dirs": str(self.folder / "data"),
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            **self.properties,
        }
        self.config.write_text("".join(f"{key}={value}\n" for key, value in lines.items()))
        arguments = ("format", "--config", str(self.config), "--cluster-id", CLUSTER_ID)
        done = self.jars.run("kafka.tools.StorageTool", *arguments)
        if done.returncode != 0:
            raise ToolMissing(f"Kafka's StorageTool failed: {(done.stdout + done.stderr)[-1_000:]}")

    def start(self) -> None:
        """Start the process on the formatted folder; readiness is for the caller to ask by protocol."""
        with (self.folder / "server.out").open("ab") as output:
            command = self.jars.command("kafka.Kafka", str(self.config), options=self.jvm_options)
            self.process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)

    def wait_ready(self) -> None:
        """Wait until a metadata request is answered. Raises ToolMissing with the server's last words."""
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        give_up = time.monotonic() + PATIENCE_S
        while time.monotonic() < give_up:
            if self.process is None or self.process.poll() is not None:
                break
            try:
                if admin.list_topics(timeout=10).brokers:
                    return
            except KafkaException:
                continue
        raise ToolMissing(f"Apache Kafka did not start: {(self.folder / 'server.out').read_text()[-2_000:]}")

    def stop(self) -> None:
        """End the process: SIGTERM, then SIGKILL when it does not end in time."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def kill(self) -> None:
        """kill -9: no log is closed."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
