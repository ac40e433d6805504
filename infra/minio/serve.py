#!/usr/bin/env python3
"""MinIO without Docker: find the native binary, or build it with Go into the user's cache, and serve a bucket on loopback.

    python infra/minio/serve.py                     serve ./minio-data on 127.0.0.1:9000 with the bucket "hotlog", until Ctrl-C
    python infra/minio/serve.py --print-binary      only say where the binary is (building it if need be)
    python infra/minio/serve.py --build rclone      the S3 server that our tests refuse

The binary is looked for in $HOTLOG_MINIO_BINARY, in the user's cache (hotlog-dev/bin/minio) and on PATH.  MinIO's licence is AGPL-3.0:
it is a tool beside Hotlog, never a part of it.

Invariants: only 127.0.0.1 is listened on; a build becomes visible in one rename; two builds never run at once.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from platformdirs import user_cache_path

MODULES = {
    "minio": "github.com/minio/minio@latest",
    "rclone": "github.com/rclone/rclone@v1.68.2",  # a version whose `serve s3` ignores conditions on writes: the tests refuse it
}
BUILD_SECONDS_MAX = 1800
ACCESS_KEY, SECRET_KEY = "hotlog-broker", "hotlog-broker-secret"


class NoBinary(Exception):
    """MinIO is neither here nor can it be built; the message says why."""


def find_binary(name: str = "minio", proof: tuple[str, ...] = ("--version",)) -> str | None:
    """Path of a binary that is already here ($HOTLOG_MINIO_BINARY and so on, the cache, PATH) and can run `proof`."""
    for candidate in (os.environ.get(f"HOTLOG_{name.upper()}_BINARY"), str(cache_folder() / name), shutil.which(name)):
        if candidate and os.access(candidate, os.X_OK):
            done = subprocess.run([candidate, *proof], capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
            if done.returncode == 0:
                return candidate
    return None


def cache_folder() -> Path:
    return user_cache_path("hotlog-dev") / "bin"


def go_binary() -> str | None:
    """The Go tool: on PATH, or where its installer puts it."""
    return shutil.which("go") or next((path for path in ("/usr/local/go/bin/go",) if os.access(path, os.X_OK)), None)


def build(name: str = "minio") -> str:
    """Build a Go program into the cache; its path.

    Raises:
        NoBinary: no Go, or the build failed.
    """
    go, module = go_binary(), MODULES[name]
    if go is None:
        raise NoBinary(f"{name} is neither on PATH nor in the user's cache, and Go (which could build it) is not installed")
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.access(folder / name, os.X_OK):
            return str(folder / name)
        print(f"building {module} into {folder} (minutes, once)", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            command = [go, "install", "-trimpath", "-ldflags", "-s -w", module]
            environment = {**os.environ, "GOBIN": scratch, "CGO_ENABLED": "0"}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=BUILD_SECONDS_MAX)
            if done.returncode != 0:
                raise NoBinary(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
            (Path(scratch) / name).rename(folder / name)
        return str(folder / name)


def make_bucket(endpoint: str, bucket: str) -> None:
    """Create the bucket once the server answers."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1",
                          aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY)  # fmt: skip
    for _ in range(100):
        try:
            names = [each["Name"] for each in client.list_buckets()["Buckets"]]
        except (BotoCoreError, ClientError):
            time.sleep(0.1)
            continue
        if bucket not in names:
            client.create_bucket(Bucket=bucket)
        return
    raise SystemExit(f"MinIO did not answer on {endpoint} in 10 s")


def serve(data: str, port: int, bucket: str) -> int:
    """Run MinIO until it is interrupted."""
    environment = {**os.environ, "MINIO_ROOT_USER": ACCESS_KEY, "MINIO_ROOT_PASSWORD": SECRET_KEY, "MINIO_UPDATE": "off"}
    command = [find_binary() or build(), "server", "--quiet", "--address", f"127.0.0.1:{port}"]
    command += [
        "--console-address",
        f"127.0.0.1:{port + 1}",
        data,
    ]  # without it MinIO listens on all addresses, on a port of its choice
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that MinIO is ended too
    process = subprocess.Popen(command, env=environment)
    try:
        make_bucket(f"http://127.0.0.1:{port}", bucket)
        print(
            f"MinIO is ready.  In another terminal:\n\n  export AWS_ACCESS_KEY_ID={ACCESS_KEY} AWS_SECRET_ACCESS_KEY={SECRET_KEY}"
        )
        print(
            f"  hotlog serve --store 's3://{bucket}/demo?endpoint=http://127.0.0.1:{port}&region=us-east-1'\n\nCtrl-C ends it.",
            flush=True,
        )
        return process.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        process.terminate()
        process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description="MinIO without Docker: find or build the native binary and serve a bucket.")
    parser.add_argument("--data", default="./minio-data", help="folder of the data (default: %(default)s)")
    parser.add_argument("--port", type=int, default=9000, help="port on 127.0.0.1 (default: %(default)s)")
    parser.add_argument("--bucket", default="hotlog", help="bucket to make (default: %(default)s)")
    parser.add_argument("--print-binary", action="store_true", help="print the binary's path and end")
    parser.add_argument("--build", choices=sorted(MODULES), help="build this program into the cache, print its path and end")
    given = parser.parse_args()
    try:
        if given.build:
            print(build(given.build))
            return 0
        if given.print_binary:
            print(find_binary() or build())
            return 0
        return serve(given.data, given.port, given.bucket)
    except NoBinary as missing:
        print(missing, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
