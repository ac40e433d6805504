"""How fast the object store itself gives bytes on this machine: ranged GETs by bare HTTP, nothing of Hotlog.

Cold replay cannot be faster than this, and store, broker and client share the machine; so its share is printed too.

Invariants:
- URLs are signed beforehand; a GET is one request on a kept connection and a read into a buffer that is used again.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Mapping
from urllib.parse import parse_qs, urlsplit

import boto3
from botocore.config import Config

from tests.bench.settings import MiB

OBJECT_BYTES = 64 * MiB
RANGE_BYTES = 8 * MiB
CONNECTIONS = 4
PASSES = 4
URL_SECONDS = 600


def store_rate(url: str, environment: Mapping[str, str]) -> float:
    """GB/s of OBJECT_BYTES x PASSES in ranges of RANGE_BYTES over CONNECTIONS; leaves no object behind."""
    parts = urlsplit(url)
    options = {name: values[0] for name, values in parse_qs(parts.query).items()}
    client = boto3.client(
        "s3",
        endpoint_url=options.get("endpoint"),
        region_name=options.get("region"),
        aws_access_key_id=environment.get("AWS_ACCESS_KEY_ID"),
        aws_secret_access_key=environment.get("AWS_SECRET_ACCESS_KEY"),
        config=Config(s3={"addressing_style": "path"}),
    )
    place = {"Bucket": parts.netloc, "Key": f"{parts.path.strip('/')}/bench-rate".lstrip("/")}
    client.put_object(Body=bytes(OBJECT_BYTES), **place)
    try:
        signed = client.generate_presigned_url("get_object", Params=place, ExpiresIn=URL_SECONDS)
        return _timed(signed)
    finally:
        client.delete_object(**place)


def _timed(signed: str) -> float:
    starts = [start for _ in range(PASSES) for start in range(0, OBJECT_BYTES, RANGE_BYTES)]
    failures: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            _get_ranges(signed, starts[number::CONNECTIONS])
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(CONNECTIONS)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return OBJECT_BYTES * PASSES / (time.perf_counter() - began) / 1e9


def _get_ranges(signed: str, starts: list[int]) -> None:
    parts = urlsplit(signed)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.netloc, timeout=60)
    buffer = memoryview(bytearray(RANGE_BYTES))
    for start in starts:
        wanted = {"Range": f"bytes={start}-{start + RANGE_BYTES - 1}"}
        connection.request("GET", f"{parts.path}?{parts.query}", headers=wanted)
        answer = connection.getresponse()
        assert answer.status == 206, f"GET {parts.path}: {answer.status} {answer.read()[:300]!r}"
        got = 0
        while got < RANGE_BYTES:
            count = answer.readinto(buffer[got:])
            assert count, f"GET {parts.path}: the answer ended after {got} of {RANGE_BYTES} bytes"
            got += count
        answer.read()
    connection.close()
