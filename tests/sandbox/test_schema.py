"""Values that the sandbox makes for a JSON schema."""

from __future__ import annotations

from typing import Any

import pytest

from app.sandbox.schema import Filler

TEXT = "Green tea is brewed at 80 degrees."
TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
            },
            "required": ["name", "children"],
        }
    },
    "$ref": "#/$defs/node",
}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "string"}, TEXT),
        ({"type": "string", "maxLength": 9}, "Green tea"),
        ({"type": "string", "format": "date"}, "2026-09-01"),
        ({"type": ["null", "boolean"]}, True),
        ({"type": "null"}, None),
        ({"const": 7}, 7),
        ({"enum": ["coffee", "tea"]}, "tea"),
        ({"enum": ["coffee", "milk"]}, "coffee"),
        ({"type": "integer"}, 1),
        ({"type": "integer", "minimum": 10}, 10),
        ({"type": "integer", "maximum": -3}, -3),
        ({"type": "integer", "multipleOf": 5, "minimum": 11}, 15),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, 0.5),
        ({"anyOf": [{"type": "null"}, {"type": "boolean"}]}, True),
        ({"oneOf": [{"type": "null"}]}, None),
        ({"items": {"const": 1}, "minItems": 3}, [1, 1, 1]),
        ({"type": "array", "items": {"const": 1}, "maxItems": 0}, []),
        ({"type": "object"}, {}),
        ({"properties": {"Title": {"type": "string"}, "url": {"type": "string"}}}, {"Title": "Tea", "url": TEXT}),
        (
            {"allOf": [{"properties": {"a": {"const": 1}}}, {"properties": {"b": {"const": 2}}, "required": ["b"]}]},
            {"a": 1, "b": 2},
        ),
        (True, TEXT),
    ],
)
def test_a_value_fits_its_schema(schema: Any, value: Any) -> None:
    assert Filler(schema, TEXT, {"title": "Tea"}).value() == value


def test_a_schema_that_holds_itself_ends() -> None:
    value, depth = Filler(TREE, TEXT).value(), 0
    while value["children"]:
        value, depth = value["children"][0], depth + 1
    assert value == {"name": TEXT, "children": []}
    assert depth == 2


@pytest.mark.parametrize(
    "schema", [{"$ref": "#"}, {"type": "object", "properties": 3}, {"type": "array", "minItems": "x"}]
)
def test_what_is_no_schema_is_refused(schema: Any) -> None:
    with pytest.raises(ValueError, match="Unsupported schema type"):
        Filler(schema, TEXT).value()
