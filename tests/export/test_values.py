"""JSON values become columns that say them exactly, whatever their neighbours are and in whatever order they come."""

from __future__ import annotations

import json
import random
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hotlog.kernel.errors import Invalid
from tiering.export.json_values import DEPTH_MAX, NotAnObject, is_candidate, is_deep, parse
from tiering.export.numbers import Real
from tiering.export.shapes import COLUMNS_MAX, Fields, Items, Kind, Shape, leaves, widened
from tiering.export.value_schema import parse_kept, parse_schema, print_shape
from tiering.export.values import ValueColumns, column_name

Row = tuple[bool, dict[str, Any]]


def rows_of(values: list[bytes | None], columns: ValueColumns) -> list[Row]:
    """(stays in `value`, cells) of each value."""
    parsed = columns.parse(values)
    assert all(len(column) == len(values) for column in parsed.columns.values())
    lists = {name: column.to_pylist() for name, column in parsed.columns.items()}
    return [(parsed.is_raw[n], {name: column[n] for name, column in lists.items()}) for n in range(len(values))]


def learned(*blocks: list[bytes | None], kept: Shape | None = None) -> ValueColumns:
    columns = ValueColumns(kept, is_open=True)
    for block in blocks:
        columns.learn_shapes(block)
    columns.fix()
    return columns


def auto(values: list[bytes | None]) -> list[Row]:
    return rows_of(values, learned(values))


def lines(*objects: Any) -> list[bytes | None]:
    return [json.dumps(item).encode() for item in objects]


# -- what fits ----------------------------------------------------------------------------------------------------------------------------


def test_objects_become_columns_and_the_rest_stays() -> None:
    values = [
        b'{"a": 1, "b": "x"}', None, b"not json", b' {"a": 2}\n', b"[1]", b'{"a": 3, "c": [1, 2]}', b'{"a": 4, "b": "\xff"}', b"", b"{}",
    ]  # fmt: skip
    rows = auto(values)
    assert [raw for raw, _ in rows] == [False, False, True, False, True, False, True, True, True]
    assert [row["a"] for _, row in rows] == [1, None, None, 2, None, 3, None, None, None]
    assert rows[5][1] == {"a": 3, "b": None, "c": [1, 2]}


ODD = [
    b"not json", b'{"n": 7, "s": "\xff"}', b'{"n": 9223372036854775808, "s": "x"}', b'{"n": 1, "n": 2}', b'{"s": "\\ud800"}', b"[1]",
    b'{"n": NaN}', b"{", b'{"n": 1e999, "s": "y"}',
]  # fmt: skip


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("schema", ["auto", '{"n": "int64", "s": "string"}'])
def test_one_odd_value_in_a_hundred_costs_no_other_its_columns(odd: bytes, schema: str) -> None:
    values: list[bytes | None] = [odd if n % 100 == 50 else b'{"n": %d, "s": "v%d"}' % (n, n) for n in range(20_000)]
    rows = auto(values) if schema == "auto" else rows_of(values, ValueColumns(parse_schema(schema, "s"), is_open=False))
    for n, (is_raw, row) in enumerate(rows):
        if n % 100 == 50:
            assert is_raw
            assert not any(row.values())
        else:
            assert (is_raw, row) == (False, {"n": n, "s": f"v{n}"})


@pytest.mark.parametrize(
    "tricky",
    [
        [b'{"a":{}', b'{"b":2}}'],  # two halves of one object
        [b'{"a":1}{"a":2}', b'{"a":3}'],  # two objects in one value
        [b'{"a":"x', b'y"}'],
        [b'{"a":1},{"a":5}', b'{"a":2}'],
        [b'{"a":1', b'"b":2}'],
        [b'{"a":1,"a":2}', b'{"a":{"x":1,"x":2}}'],
    ],
)
def test_text_that_would_shift_rows_is_kept_as_bytes(tricky: list[bytes]) -> None:
    values: list[bytes | None] = [b'{"a":10}', *tricky, b'{"a":20}']
    rows = auto(values)
    assert [row["a"] for _, row in rows][0 :: len(values) - 1] == [10, 20]
    for value, (raw, row) in zip(values, rows, strict=True):
        try:
            fine = parse(value or b"")
        except NotAnObject:
            assert raw
            continue
        assert (raw, row["a"]) == (False, fine["a"])


# -- exactness ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "cell"),
    [
        ("9007199254740992", 9007199254740992.0),
        ("9007199254740993", None),
        ("-9007199254740993", None),
        ("12345678901234567890", None),
        ("18446744073709551616", 18446744073709551616.0),
        ("0.1", 0.1),
        ("0.30000000000000004", 0.30000000000000004),
        ("0.1000000000000000055511151231257827021181583404541015625", 0.1),
        ("0.10000000000000000555", None),
        ("3.14159265358979323846", None),
        ("1e2", 100.0),
        ("1e400", None),
        ("1e-400", None),
        ("123456789012345678e-17", None),
        ("5e-324", 5e-324),
        ("-0.0", 0.0),
    ],
)
def test_a_column_of_doubles_says_a_number_exactly_or_not_at_all(number: str, cell: float | None) -> None:
    values: list[bytes | None] = [b'{"n": 0.5}', f'{{"n": {number}}}'.encode()]
    assert auto(values) == [(False, {"n": 0.5}), (cell is None, {"n": cell})]


@pytest.mark.parametrize(
    ("type_", "text", "cell"),
    [
        ("float", "0.1", pytest.approx(0.1)), ("float", "16777217", None), ("float", "0.5", 0.5), ("float", "0.123456789", None),
        ("int32", "2147483648", None), ("int32", "-5", -5), ("uint8", "-1", None), ("uint8", "1.0", None), ("string", "1", None),
        ("timestamp[s]", '"2013-01-01T05:00:00.5Z"', None), ("date32", '"2013-02-30"', None), ("double", "NaN", None),
    ],
)  # fmt: skip
def test_a_given_type_says_a_value_exactly_or_not_at_all(type_: str, text: str, cell: Any) -> None:
    columns = ValueColumns(parse_schema(json.dumps({"v": type_}), "s.json"), is_open=False)
    values: list[bytes | None] = [f'{{"v": {text}}}'.encode()]
    for neighbours in ([], [b"{"], [b'{"v": {}}']):
        assert rows_of(values + neighbours, columns)[0] == (cell is None, {"v": cell})


def test_times_come_out_however_they_are_read() -> None:
    columns = ValueColumns(parse_schema('{"t": "timestamp[ms, tz=UTC]", "d": "date32"}', "s.json"), is_open=False)
    values: list[bytes | None] = [b'{"t": "2013-01-01T05:00:00.25Z"}', b'{"d": "2013-01-02", "t": "2013-01-01T07:00:00+02:00"}']
    table = columns.parse(values)
    assert table.is_raw == [False, False]
    assert table.columns["t"].cast(pa.int64()).to_pylist() == [1_357_016_400_250, 1_357_016_400_000]
    assert str(table.columns["d"][1]) == "2013-01-02"


def test_text_says_numbers_as_they_were_spelled_and_strings_that_cannot_be_mistaken() -> None:
    values = [b'{"a": "x"}', b'{"a": 1.50}', b'{"a": 12345678901234567890123}', b'{"a": true}', b'{"a": [1, {"b": 2e5}]}', b'{"a": "1.50"}',
              b'{"a": "-"}', b'{"a": "true"}', b'{"a": "[x"}']  # fmt: skip
    rows = auto(list(values))
    assert [row["a"] for _, row in rows] == [
        "x",
        "1.50",
        "12345678901234567890123",
        "true",
        '[1,{"b":2e5}]',
        None,
        "-",
        None,
        "[x",
    ]
    assert [raw for raw, _ in rows] == [False] * 5 + [True, False, True, False]


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False), st.text()
)  # fmt: skip
OBJECTS = st.dictionaries(
    st.sampled_from(["a", "b", "c", "C", "offset"]),
    st.one_of(
        SCALARS, st.lists(st.integers(0, 9)), st.lists(SCALARS, max_size=3), st.dictionaries(st.sampled_from(["x", "y"]), SCALARS)
    ),
)
BLOCKS = st.lists(st.lists(st.one_of(st.none(), st.binary(max_size=5), OBJECTS), max_size=12), min_size=1, max_size=4)


def as_json(shape: Shape, cell: Any) -> Any:
    """What a cell says, by its shape alone."""
    if cell is None or (isinstance(shape, Kind) and shape is not Kind.TEXT):
        return cell
    if isinstance(shape, Items):
        return [as_json(shape.item, item) for item in cell]
    if isinstance(shape, Fields):
        return {name: as_json(part, cell[name]) for name, part in shape.shapes.items()}
    try:
        found = json.loads(cell)
    except ValueError:
        return cell
    return cell if isinstance(found, str) or found is None else found


def same(item: Any, cell: Any) -> bool:
    """Equal but for what a column cannot tell: missing and null; 1 and 1.0.  A double says its exact value, and the shortest decimal it has."""
    if isinstance(item, dict):
        return isinstance(cell, dict) and all(same(item.get(name), cell.get(name)) for name in {*item, *cell})
    if isinstance(item, list):
        return isinstance(cell, list) and len(item) == len(cell) and all(map(same, item, cell))
    if isinstance(item, bool) or isinstance(cell, bool) or item is None or cell is None or isinstance(item, str):
        return item is cell or (type(item) is type(cell) and bool(item == cell))
    return not isinstance(cell, str | list | dict) and Decimal(repr(item)) in (Decimal(repr(cell)), Decimal(cell))


@settings(max_examples=200, deadline=None)
@given(BLOCKS)
@example([[{"a": 0.0}, {"a": 29590336099581952}]])  # exact, though the shortest decimal of that double is another integer
def test_every_value_is_said_exactly_by_its_columns_or_stays(blocks: list[list[Any]]) -> None:
    encoded = [[json.dumps(item).encode() if isinstance(item, dict) else item for item in block] for block in blocks]
    columns = learned(*encoded)
    for block, values in zip(blocks, encoded, strict=True):
        for item, value, (raw, row) in zip(block, values, rows_of(values, columns), strict=True):
            assert raw == (value is not None) or isinstance(item, dict)
            if raw or value is None:
                assert all(cell is None for cell in row.values())
            else:
                assert same(item, as_json(columns.columns, row)), (item, row)


@settings(max_examples=200, deadline=None)
@given(BLOCKS, st.randoms(use_true_random=False))
def test_order_blocks_and_runs_change_neither_types_nor_what_fits(blocks: list[list[Any]], chance: random.Random) -> None:
    values = [json.dumps(item).encode() if isinstance(item, dict) else item for block in blocks for item in block]
    columns = learned(values)
    assert parse_kept(print_shape(columns.shape), "kept") == columns.shape
    mixed = list(enumerate(values))
    chance.shuffle(mixed)
    cut = chance.randint(0, len(mixed))
    first = learned([value for _, value in mixed[:cut]])
    again = learned([value for _, value in mixed[cut:]], kept=parse_kept(print_shape(first.shape), "kept"))
    assert again.columns == columns.columns
    wanted = rows_of(values, columns)
    for (n, _), row in zip(mixed, rows_of([value for _, value in mixed], again), strict=True):
        assert row == wanted[n]
        assert rows_of([values[n]], columns) == [row], "neighbours do not matter"


# -- types --------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objects", "shape"),
    [
        ([{"n": 1}, {"n": 0.5}], {"n": "double"}),
        ([{"n": 1}, {"n": "late"}], {"n": "text"}),
        ([{"n": True}, {"n": 1}], {"n": "text"}),
        ([{"n": None}, {"o": {}}, {"l": []}, {"k": 1}], {"k": "int64", "l": ["text"], "o": "text"}),
        ([{"o": {}}, {"o": {"x": None}}, {"o": {"x": 1}}], {"o": {"x": "int64"}}),
        ([{"l": [[]]}, {"l": [None]}, {"l": [[2]]}], {"l": [["int64"]]}),
        ([{"o": {"x": 1}}, {"o": {"y": "a"}}], {"o": {"x": "int64", "y": "string"}}),
        ([{"l": [1]}, {"l": [0.5, None]}, {"l": []}], {"l": ["double"]}),
        ([{"l": [{"a": 1}]}, {"l": [{"b": [True]}]}], {"l": [{"a": "int64", "b": ["bool"]}]}),
        ([{"v": {"x": 1}}, {"v": [1]}], {"v": "text"}),
        ([{"t": "2013-01-01T05:00:00Z"}], {"t": "string"}),
        ([{"b": 1}, {"a": 1}], {"a": "int64", "b": "int64"}),
        ([{"A": 1}, {"a": "x"}], {"A": "int64"}),
        ([{"": 1, " x": 1, "\x00": 1, "x" * 256: 1, "\ud800": 1, "ok": 1}], {"ok": "int64"}),
    ],
)
def test_shapes_widen_the_same_in_either_order(objects: list[Any], shape: Any) -> None:
    for order in (objects, objects[::-1]):
        assert json.loads(print_shape(learned(lines(*order)).columns)) == shape


def test_what_is_always_empty_costs_no_value_its_columns() -> None:
    objects = lines(*({"n": n, "errors": [], "extra": {}, "deep": [{"z": None}], "never": None} for n in range(3000)))
    rows = auto(objects)
    assert rows[7] == (False, {"n": 7, "errors": [], "extra": "{}", "deep": ['{"z":null}']})
    assert not any(raw for raw, _ in rows)
    assert auto(lines({"e": []}, {"e": ["1"]}, {"e": ["x"]})) == [
        (False, {"e": []}),
        (False, {"e": ["1"]}),
        (False, {"e": ["x"]}),
    ]


def test_names_that_differ_in_case_alone_do_not_make_two_columns() -> None:
    rows = auto(lines({"Name": "x"}, {"name": "y"}, {"Name": "z", "name": "w"}))
    assert rows == [(False, {"Name": "x"}), (True, {"Name": None}), (True, {"Name": None})]


def test_too_many_names_stay_whole_the_first_ones_have_columns() -> None:
    names = [f"n{number:05d}" for number in range(12_000)]
    objects = lines(*({name: 1} for name in names))
    backwards = learned(objects[::-1])
    columns = learned(objects)
    assert columns.columns == backwards.columns
    assert list(columns.columns.shapes) == names[:COLUMNS_MAX]
    assert [raw for raw, _ in rows_of(objects[:2000:500], columns)] == [False, False, True, True]


def test_objects_used_as_maps_become_text() -> None:
    objects = lines(*({"id": n, "m": {f"user{n}": n}} for n in range(300)))
    for order in (objects, objects[::-1]):
        columns = learned(order)
        assert json.loads(print_shape(columns.shape)) == {"id": "int64", "m": "text"}
    assert rows_of([objects[7]], columns) == [(False, {"id": 7, "m": '{"user7":7}'})]


def test_columns_are_capped_over_all_depths(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = lines(*({f"n{n:02d}": {f"m{m}": m for m in range(60)}} for n in range(40)))
    assert leaves(learned(objects).columns) == COLUMNS_MAX // 60 * 60
    monkeypatch.setattr("tiering.export.values.LEAVES_MAX", 500)
    assert learned(objects).columns == Fields()


def test_a_list_of_numbers_learns_its_widest() -> None:
    shape: Shape = Kind.NOTHING
    for value in ([1], [], [None, Real("0.5")]):
        shape = widened(shape, value)
    assert shape == Items(Kind.FLOAT)


# -- depth --------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [DEPTH_MAX + 1, 50, 400, 1000, 20_000, 200_000])
@pytest.mark.parametrize("schema", ["auto", '{"a": "int64", "n": ["string"]}'])
def test_what_nests_too_deep_stays_raw(depth: int, schema: str) -> None:
    lists = b'{"a": 1, "n": ' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"
    objects = b'{"n":' * depth + b"1" + b"}" * depth
    values: list[bytes | None] = [b'{"a": 5}', lists, objects, b'{"a": 6}']
    rows = auto(values) if schema == "auto" else rows_of(values, ValueColumns(parse_schema(schema, "s"), is_open=False))
    assert [(raw, row["a"]) for raw, row in rows] == [(False, 5), (True, None), (True, None), (False, 6)]


def test_depth_is_counted_outside_of_strings() -> None:
    assert not is_deep(json.dumps({"a": "[" * 100, "b": '\\"{' * 100, "c": [[1]] * 100}).encode())
    assert is_candidate(json.dumps({"a": [{"b": n} for n in range(100)]}).encode())
    assert not is_candidate(b'{"a":' + b"[" * DEPTH_MAX + b"]" * DEPTH_MAX + b"}")


# -- schema files -------------------------------------------------------------------------------------------------------------------------


def test_a_given_schema_ignores_other_fields() -> None:
    schema = parse_schema('{"delay": "double", "at": "timestamp[ms, tz=UTC]", "o": {"x": "int32"}, "l": ["string"]}', "s.json")
    columns = ValueColumns(schema, is_open=False)
    rows = rows_of([b'{"delay": 3, "other": 1, "o": {"x": 7}, "l": ["q"]}', b'{"delay": "late"}', b'{"other": 1}'], columns)
    assert rows[0][0] is False
    assert (rows[0][1]["delay"], rows[0][1]["o"], rows[0][1]["l"]) == (3.0, {"x": 7}, ["q"])
    assert (rows[1][0], rows[2][0]) == (True, True)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"a": null}', '{"a": "integer"}', '{"a": []}', '{"a": 3}', '{"o": {"x": "nope"}}', '{"a": "halffloat"}', '"text"',
     '{"a": "int64", "A": "int64"}'],
)  # fmt: skip
def test_a_bad_schema_is_named(text: str) -> None:
    with pytest.raises(Invalid, match=r"s\.json"):
        parse_schema(text, "s.json")


def test_a_schema_that_an_earlier_release_kept_is_read() -> None:
    kept = '{"n": "int64", "t": "timestamp[s]", "o": {"x": "double", "t": ["timestamp[ns, tz=UTC]"]}}'
    assert json.loads(print_shape(parse_kept(kept, "kept"))) == {
        "n": "int64",
        "t": "string",
        "o": {"x": "double", "t": ["string"]},
    }


def test_names_that_the_export_uses_are_prefixed() -> None:
    assert [column_name(name) for name in ("offset", "Value", "value_offset", "hour", "origin", "value_x")] == [
        "value_offset", "value_Value", "value_value_offset", "value_hour", "origin", "value_x",
    ]  # fmt: skip
