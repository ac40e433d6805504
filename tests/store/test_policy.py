"""infra/minio/policy.json is enough for a broker, and opens nothing else: tried on MinIO with credentials cut down to it."""

from __future__ import annotations

import json
from pathlib import Path

import boto3
import pytest

from hotlog.kernel.errors import StoreRefused
from hotlog.kernel.settings import Settings
from tests.conftest import OpenStore
from tests.fixtures.s3_servers import REGION, S3Server
from tiering.store.check import check_store

POLICY = Path(__file__).resolve().parents[2] / "infra" / "minio" / "policy.json"


@pytest.fixture
def confined(minio: S3Server, monkeypatch: pytest.MonkeyPatch) -> tuple[S3Server, str]:
    """MinIO with temporary credentials (STS) that may do what the policy says for one bucket."""
    if "SeaweedFS" in minio.kind:
        pytest.skip("the stand-in has no STS; CI demands MinIO")
    bucket = minio.make_bucket()
    sts = boto3.session.Session().client(
        "sts", endpoint_url=minio.endpoint, region_name=REGION, aws_access_key_id=minio.access_key,
        aws_secret_access_key=minio.secret_key,
    )  # fmt: skip
    policy = POLICY.read_text().replace(":::hotlog", f":::{bucket}")
    given = sts.assume_role(RoleArn="arn:x:ignored:by:minio", RoleSessionName="broker", Policy=json.dumps(json.loads(policy)))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", given["Credentials"]["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", given["Credentials"]["SecretAccessKey"])
    monkeypatch.setenv("AWS_SESSION_TOKEN", given["Credentials"]["SessionToken"])
    return minio, bucket


async def test_the_policy_is_enough_for_every_promise(confined: tuple[S3Server, str], open_test_store: OpenStore) -> None:
    server, bucket = confined
    store = await open_test_store(server.url(bucket, "cluster"))
    report = await check_store(store)
    assert [result for result in report.results if not result.ok] == []


async def test_the_policy_opens_nothing_else(confined: tuple[S3Server, str], open_test_store: OpenStore) -> None:
    server, bucket = confined
    other = await open_test_store(server.url(server.make_bucket(), "x"), settings=Settings.resolve({}))
    with pytest.raises(StoreRefused, match="AccessDenied"):
        await other.put("x", b"x")
    with pytest.raises(StoreRefused, match="AccessDenied"):
        await other.get("x")
    with pytest.raises(StoreRefused, match="AccessDenied"):
        [info async for info in other.list("")]
    client = boto3.session.Session().client("s3", endpoint_url=server.endpoint, region_name=REGION)
    for forbidden in (
        lambda: client.delete_bucket(Bucket=bucket),
        lambda: client.put_bucket_lifecycle_configuration(
            Bucket=bucket,
            LifecycleConfiguration={"Rules": [{"ID": "x", "Status": "Enabled", "Filter": {}, "Expiration": {"Days": 1}}]},
        ),
        lambda: client.put_bucket_policy(Bucket=bucket, Policy="{}"),
    ):
        with pytest.raises(client.exceptions.ClientError, match="AccessDenied"):
            forbidden()
