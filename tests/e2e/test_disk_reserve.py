"""A disk below its reserve, as clients and operators see it: the answer, the log, /ready and the metrics name it."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

from tests.bench.wire import Connection, answer_of, produce_frame, produce_response, record_batch
from tests.e2e.conftest import create, eventually, hotlog, metric, running
from tests.tools.hotlog_server import HotlogServer
from tests.tools.patience import PATIENCE_S


def ready(server: HotlogServer) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/ready", timeout=PATIENCE_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()


def test_a_full_disk_is_named_everywhere(tmp_path: Path) -> None:
    with running(HotlogServer(folder=tmp_path / "broker", settings={"hotlog.disk.reserve.bytes": str(1 << 60)})) as server:
        create(server, "full")
        status, text = eventually(lambda: found if (found := ready(server))[0] == 503 else None)
        assert (status, "the disk is full" in text, "hotlog.disk.reserve.bytes" in text) == (503, True, True)
        client = Connection(server.bootstrap)
        client.send(produce_frame("full", 0, record_batch([b"x"])))
        (refused,) = answer_of(produce_response.ProduceResponse, client.receive()).responses[0].partition_responses
        client.close()
        assert refused.error_code.name == "kafka_storage_error"
        assert "the disk is full" in refused.error_message
        told = hotlog("produce", "full", "--bootstrap", server.bootstrap, input="x\n", code=1)
        assert f"the broker's disk is full, {server.data}" in told, "librdkafka asks again and again, and says nothing of why"
        assert 0 < metric(server, "hotlog_disk_free_bytes") < 1 << 60
        assert metric(server, "hotlog_build_info") == 1
        said = server.errors.read_text()
    assert sum("the disk is full" in line and "ERROR" in line.upper() for line in said.splitlines()) == 1
