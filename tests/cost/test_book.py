"""The price book: complete, dated, and overridable without silent typos."""

from __future__ import annotations

import pytest

from hotlog.kernel.errors import InvalidConfig
from tiering.cost import formulas as f
from tiering.cost import load_book


def test_every_shipped_provider_is_dated_and_sourced() -> None:
    book = load_book()
    assert set(book.providers) == {"aws-us-east-1", "gcp-us-central1", "azure-westus", "minio-own-disks"}
    for provider in book.providers.values():
        assert provider.date.year >= 2023
        assert len(provider.source) > 20
        assert provider.storage_class().storage[-1][0] == 0


def test_an_override_changes_what_it_names_and_nothing_else() -> None:
    book = load_book(
        "[providers.aws-us-east-1.classes.standard]\nput_1k = 0.1\n\n[providers.aws-us-east-1]\ncross_zone_gb = 0.005\n"
    )
    aws, shipped = book.provider(), load_book().provider()
    assert aws.storage_class().put_1k == 0.1
    assert aws.storage_class().get_1k == shipped.storage_class().get_1k
    assert aws.cross_zone_gb == 0.005
    assert aws.disk() == shipped.disk()


def test_a_new_provider_can_be_added() -> None:
    book = load_book(
        'default = "cellar"\n[providers.cellar]\ntitle = "The cellar"\ndate = 2026-01-01\nsource = "our own invoice"\n'
        'gb_bytes = 1000000000\ndefault_class = "c"\ndefault_disk = "d"\ncross_zone_gb = 0\nnat_gb = 0\nvcpu_hour = 0\n'
        "[providers.cellar.classes.c]\nstorage = [[0, 0.001]]\nput_1k = 0\nget_1k = 0\n[providers.cellar.disks.d]\ngb_month = 0.01\n"
    )
    assert book.provider().title == "The cellar"
    assert book.provider().instance_hour() == 0.0


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("providers = [", "not TOML"),
        ("version = 2", "version 2"),
        ("provider = {}", "unknown key 'provider'"),
        ("[providers.aws-us-east-1]\ncross_zone = 0.1", "providers.aws-us-east-1.cross_zone"),
        ("[providers.aws-us-east-1.classes.standard]\nput_1k = -1", "put_1k is -1"),
        ("[providers.aws-us-east-1.classes.standard]\nput_1k = 'free'", "put_1k is 'free'"),
        ("[providers.aws-us-east-1.classes.standard]\nstorage = [[0, 1], [5, 2]]", "storage"),
        ("[providers.aws-us-east-1.classes.new]\nstorage = [[0, 1]]", "put_1k"),
        ("[providers.aws-us-east-1]\ndefault_class = 'none'", "'none'"),
        ("[providers.aws-us-east-1]\ngb_bytes = 0", "gb_bytes"),
        ("default = 'mars'", "'mars'"),
    ],
)
def test_a_wrong_override_is_refused_and_named(override: str, told: str) -> None:
    with pytest.raises(InvalidConfig, match="price book") as error:
        load_book(override)
    assert told in str(error.value)


def test_graduated_prices() -> None:
    standard = load_book().provider().storage_class("standard")
    assert f.average_price(standard, 0) == 0.023
    assert f.average_price(standard, 50_000) == 0.023
    assert f.average_price(standard, 500_000) == pytest.approx((50_000 * 0.023 + 450_000 * 0.022) / 500_000)
    assert f.average_price(standard, 1e12) == pytest.approx(0.021, rel=1e-4)


def test_small_objects_pay_the_minimum() -> None:
    aws = load_book().provider()
    kind = aws.storage_class("standard-ia")
    small = f.object_storage(aws, kind, 1000 * 1000, objects=1000)
    assert small.dollars == pytest.approx(1000 * 131_072 / 2**30 * 0.0125)
    assert f.object_storage(aws, kind, 10**9, objects=3).dollars == pytest.approx(10**9 / 2**30 * 0.0125)


def test_deletes_are_free_and_everything_else_has_a_class() -> None:
    from tiering.cost.meter import KINDS

    kind = load_book().provider().storage_class("standard")
    prices = {call: f.requests(kind, call, 1000).dollars for call in KINDS}
    assert {call for call, price in prices.items() if price == 0} == {"delete", "abort_upload"}
    assert prices["put"] == prices["list"] == prices["put_part"] == 0.005
    assert prices["get"] == prices["head"] == 0.0004
