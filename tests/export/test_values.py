"""JSON values become columns without losing or misplacing one."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotlog.kernel.errors import Invalid
from tiering.export.value_schema import parse_schema, print_schema, settle, settled, unify
from tiering.export.values import ValueColumns, column_name


def rows_of(values: list[bytes | None], columns: ValueColumns) -> list[tuple[bool, dict[str, Any]]]:
    parsed = columns.parse(values)
    assert all(len(column) == len(values) for column in parsed.columns.values())
    lists = {name: column.to_pylist() for name, column in parsed.columns.items()}
    return [(bool(parsed.is_raw[n]), {name: column[n] for name, column in lists.items()}) for n in range(len(values))]


def auto() -> ValueColumns:
    return ValueColumns(None, is_open=True)


def test_objects_become_columns_and_the_rest_stays() -> None:
    values = [
        b'{"a": 1, "b": "x"}',
        None,
        b"not json",
        b' {"a": 2}\n',
        b"[1]",
        b'{"a": 3, "c": [1, 2]}',
        b'{"a": 4, "b": "\xff"}',
        b"",
    ]
    rows = rows_of(values, auto())
    assert [raw for raw, _ in rows] == [False, False, True, False, True, False, True, True]
    assert [row["a"] for _, row in rows] == [1, None, None, 2, None, 3, None, None]
    assert rows[5][1] == {"a": 3, "b": None, "c": [1, 2]}


@pytest.mark.parametrize(
    "tricky",
    [
        [b'{"a":{}', b'{"b":2}}'],  # two halves of one object
        [b'{"a":1}{"a":2}', b'{"a":3}'],  # two objects in one value
        [b'{"a":"x', b'y"}'],
        [b'{"a":1},{"a":5}', b'{"a":2}'],
        [b'{"a":1', b'"b":2}'],
    ],
)
def test_text_that_would_shift_rows_is_kept_as_bytes(tricky: list[bytes]) -> None:
    values: list[bytes | None] = [b'{"a":10}', *tricky, b'{"a":20}']
    rows = rows_of(values, auto())
    assert [row.get("a") for _, row in rows][0 :: len(values) - 1] == [10, 20]
    for value, (raw, row) in zip(values, rows, strict=True):
        try:
            fine = isinstance(json.loads(value or b""), dict)
        except ValueError:
            fine = False
        assert raw != fine
        assert not fine or row["a"] == json.loads(value or b"")["a"]


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False), st.text()
)
OBJECTS = st.dictionaries(
    st.sampled_from(["a", "b", "c", "offset"]),
    st.one_of(SCALARS, st.lists(st.integers(0, 9)), st.dictionaries(st.sampled_from(["x", "y"]), SCALARS)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.one_of(st.none(), st.binary(max_size=5), OBJECTS), max_size=12), max_size=4))
def test_every_value_is_in_its_columns_or_in_value(blocks: list[list[Any]]) -> None:
    columns = auto()
    for block in blocks:
        values = [json.dumps(item).encode() if isinstance(item, dict) else item for item in block]
        before = columns.schema
        for item, value, (raw, row) in zip(block, values, rows_of(values, columns), strict=True):
            if not isinstance(item, dict):
                assert raw == (value is not None)
                assert all(cell is None for cell in row.values())
            elif not raw:
                assert same(item, row), (item, row)
        assert unify(before, columns.schema) == columns.schema, "types only widen"
        assert parse_schema(print_schema(columns.schema), "kept") == columns.schema if len(columns.schema) else True


def same(item: Any, cell: Any) -> bool:
    """Equal but for what a column cannot tell: missing and null, empty object and null, text that is a time."""
    if isinstance(item, dict):
        cell = cell or {}
        return all(same(part, cell.get(name)) for name, part in item.items()) and all(
            part is None for name, part in cell.items() if name not in item
        )
    if isinstance(item, list):
        return (item or None) == (cell or None)
    if isinstance(item, float | int) and not isinstance(item, bool) and cell is not None:
        return float(cell) == pytest.approx(float(item))
    if isinstance(item, str) and not isinstance(cell, str):
        return cell is not None
    return bool(item == cell)


def test_columns_widen_over_blocks() -> None:
    columns = auto()
    assert rows_of([b'{"n": null, "t": "2013-01-01T05:00:00Z"}'], columns)[0][1].keys() == {"t"}
    rows_of([b'{"n": 1}'], columns)
    rows_of([b'{"n": 1.5, "t": "soon", "o": {"x": null}}'], columns)
    rows = rows_of([b'{"n": 2, "o": {"y": 1}}', b'{"o": {}}'], columns)
    assert columns.schema.field("n").type == pa.float64()
    assert columns.schema.field("t").type == pa.string()
    assert rows[0] == (False, {"n": 2.0, "t": None, "o": {"y": 1}})


def test_a_type_that_cannot_widen_leaves_the_value_whole() -> None:
    columns = auto()
    rows_of([b'{"a": 1}'], columns)
    assert rows_of([b'{"a": "text"}', b'{"a": 2}'], columns) == [(True, {"a": None}), (False, {"a": 2})]


def test_a_given_schema_ignores_other_fields() -> None:
    schema = parse_schema('{"delay": "double", "at": "timestamp[ms, tz=UTC]", "o": {"x": "int32"}, "l": ["string"]}', "s.json")
    columns = ValueColumns(schema, is_open=False)
    rows = rows_of([b'{"delay": 3, "other": 1, "o": {"x": 7}, "l": ["q"]}', b'{"delay": "late"}'], columns)
    assert rows[0][0] is False
    assert (rows[0][1]["delay"], rows[0][1]["o"], rows[0][1]["l"]) == (3.0, {"x": 7}, ["q"])
    assert rows[1][0] is True
    assert "other" not in columns.schema.names


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"a": "integer"}', '{"a": []}', '{"a": 3}', '{"o": {"x": "nope"}}'])
def test_a_bad_schema_is_named(text: str) -> None:
    with pytest.raises(Invalid, match=r"s\.json"):
        parse_schema(text, "s.json")


def test_names_that_the_export_uses_are_prefixed() -> None:
    assert [column_name(name) for name in ("offset", "Value", "value_offset", "hour", "origin", "value_x")] == [
        "value_offset", "value_Value", "value_value_offset", "value_hour", "origin", "value_x",
    ]  # fmt: skip


def test_open_types_are_left_out() -> None:
    type_ = pa.struct(
        [
            ("a", pa.null()),
            ("b", pa.int64()),
            ("c", pa.struct([])),
            ("d", pa.list_(pa.struct([("e", pa.null()), ("f", pa.bool_())]))),
        ]
    )
    wanted = settled(type_)
    assert wanted == pa.struct([("b", pa.int64()), ("d", pa.list_(pa.struct([("f", pa.bool_())])))])
    column = pa.array([{"b": 1, "d": [{"f": True}, None]}, None, {"b": None, "d": None}], type_)
    assert settle(column, wanted).to_pylist() == [{"b": 1, "d": [{"f": True}, None]}, None, {"b": None, "d": None}]
