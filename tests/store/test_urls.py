"""Store URLs: the two forms, and an error that says what is allowed for everything else."""

from __future__ import annotations

import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotlog.kernel.errors import Invalid
from tiering.store.keys import check_key
from tiering.store.urls import DirectoryUrl, S3Url, keeps_own_time, parse_store_url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("file:///var/lib/hotlog/store", DirectoryUrl("/var/lib/hotlog/store")),
        ("file:///with%20space/", DirectoryUrl("/with space")),
        ("file://localhost/x", DirectoryUrl("/x")),
        ("s3://bucket", S3Url("bucket", "")),
        ("s3://bucket/", S3Url("bucket", "")),
        ("s3://bucket/a/b/", S3Url("bucket", "a/b")),
        (
            "s3://bucket/prefix?endpoint=http://127.0.0.1:9000&region=us-east-1",
            S3Url("bucket", "prefix", "http://127.0.0.1:9000", "us-east-1", addressing="path"),
        ),
        ("s3://b-1.x/p?addressing=virtual&checksum=none", S3Url("b-1.x", "p", checksum="none", addressing="virtual")),
    ],
)
def test_good_urls(url: str, expected: DirectoryUrl | S3Url) -> None:
    assert parse_store_url(url) == expected
    if "=" not in url or "endpoint" in url:
        assert parse_store_url(str(expected)) == expected


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("", "no scheme"),
        ("/var/lib", "no scheme"),
        ("gs://bucket/x", "'gs'"),
        ("http://127.0.0.1:9000/bucket", "'http'"),
        ("file://relative/path", "three slashes"),
        ("file:///", "not the root"),
        ("file://", "no usable path"),
        ("file:///x?y=z", "takes none"),
        ("s3://", "no good bucket name"),
        ("s3:///prefix", "no good bucket name"),
        ("s3://UPPER/x", "bucket"),
        ("s3://a/x", "3 to 63"),
        ("s3://bucket/../x", "element"),
        ("s3://bucket/x?endpint=http://h", "endpint"),
        ("s3://bucket/x?endpoint=127.0.0.1:9000", "http://HOST:PORT"),
        ("s3://bucket/x?endpoint=http://h:port", "http://HOST:PORT"),
        ("s3://bucket/x?endpoint=http://h/path", "http://HOST:PORT"),
        ("s3://bucket/x?region=a&region=b", "once each"),
        ("s3://bucket/x?region=", "region"),
        ("s3://bucket/x?addressing=dns", "path or virtual or auto"),
        ("s3://bucket/x?checksum=md5", "crc32c or none"),
        ("s3://bucket/x#y", "fragment"),
    ],
)
def test_bad_urls_are_refused_with_what_is_allowed(url: str, told: str) -> None:
    with pytest.raises(Invalid, match="store URL") as error:
        parse_store_url(url)
    assert told in str(error.value)


@pytest.mark.parametrize("url", ["s3://KEY:hunter2@bucket/x", "s3://bucket/x?endpoint=http://KEY:hunter2@h:1"])
def test_credentials_in_a_url_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(Invalid, match="AWS chain") as error:
        parse_store_url(url)
    assert "hunter2" not in str(error.value)


SECRET = "wJalr{}XUtnFEMI"


@pytest.mark.parametrize(
    "mark", ["/", "@", ":", "?", "#", "&", "=", "%", "%2F", "%40", "+", " ", "[", "]", "\N{DIVISION SLASH}", ""]
)
@pytest.mark.parametrize(
    "form",
    [
        "s3://AKIAKEY:{}@bucket/prefix",
        "s3://AKIAKEY:{}",
        "s3://bucket/x?endpoint=http://AKIAKEY:{}@127.0.0.1:9000",
        "s3://bucket/x?endpoint=http%3A%2F%2FAKIAKEY%3A{}%40127.0.0.1",
        "s3://bucket/x?region=eu&secret_key={}",
        "s3://bucket/x?region=eu&{}",
        "s3://bucket/x?endpoint=http://AKIAKEY:{}",
        "http://AKIAKEY:{}@host/bucket",
        "file://AKIAKEY:{}@host/x",
        "file:///x?secret={}",
        "AKIAKEY:{}@bucket",
        "s3:AKIAKEY:{}@bucket",
    ],
)
def test_no_error_repeats_a_secret_however_the_url_is_malformed(form: str, mark: str) -> None:
    secret = SECRET.format(mark)
    with pytest.raises(Invalid) as error:
        parse_store_url(form.format(secret))
    told = f"{error.value} {''.join(traceback.format_exception(error.value))}"
    assert [part for part in ("wJalr", "XUtnFEMI") if part in told] == []


@given(st.text())
def test_junk_is_parsed_or_refused(text: str) -> None:
    for url in (text, "s3://" + text, "file:///" + text):
        try:
            parse_store_url(url)
        except Invalid:
            continue


@given(st.text(alphabet="ab./\\\0\n-é~", max_size=40))
def test_an_accepted_key_stays_under_its_root(key: str) -> None:
    import posixpath

    try:
        check_key(key)
    except Invalid:
        return
    assert posixpath.normpath("/base/" + key) == "/base/" + key


@pytest.mark.parametrize(
    ("url", "own"),
    [
        ("file:///data/store", False),
        ("s3://logs-eu/hotlog", True),
        ("s3://logs-eu/hotlog?endpoint=https://minio.example:9000", True),
        ("s3://logs-eu/hotlog?endpoint=http://127.0.0.1:9000", False),
        ("s3://logs-eu/hotlog?endpoint=http://localhost:9000", False),
        ("s3://logs-eu/hotlog?endpoint=http://[::1]:9000", False),
    ],
)
def test_only_a_store_elsewhere_has_a_clock_of_its_own(url: str, own: bool) -> None:
    assert keeps_own_time(parse_store_url(url)) is own
