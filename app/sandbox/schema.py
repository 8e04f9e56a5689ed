"""Values that fit a JSON schema, for structured answers and the arguments of tool calls."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

_DEEPEST = 6
_LONGEST = 1000
_FORMATS = {
    "date-time": "2026-09-01T08:00:00Z",
    "date": "2026-09-01",
    "time": "08:00:00",
    "email": "reader@example.org",
    "uri": "https://example.org/",
    "url": "https://example.org/",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "ipv4": "127.0.0.1",
    "hostname": "example.org",
}


@dataclass(frozen=True, slots=True)
class Filler:
    """Fills a schema. ``text`` is the value of strings, ``named`` maps names of properties to other texts.

    ``pattern``, ``not`` and conditions are ignored.
    """

    root: Any
    text: str
    named: dict[str, str] = field(default_factory=dict)

    def value(self) -> Any:
        """A value that fits the schema. Raises ValueError for an invalid schema."""
        try:
            return self._any(self.root, "", 0)
        except (TypeError, AttributeError, LookupError, ArithmeticError, RecursionError) as error:
            raise ValueError("Unsupported schema type") from error

    def _any(self, schema: Any, name: str, depth: int) -> Any:
        if not isinstance(schema, dict):
            return self.text
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return self._choice(schema["enum"])
        if isinstance(schema.get("$ref"), str):
            return self._any(self._resolve(schema["$ref"]), name, depth + 1)
        for union in ("anyOf", "oneOf"):
            if schema.get(union):
                return self._any(_best(schema[union], depth), name, depth + 1)
        if schema.get("allOf"):
            return self._any(_merged(schema, [self._plain(part) for part in schema["allOf"]]), name, depth + 1)
        return self._typed(schema, name, depth)

    def _typed(self, schema: dict[str, Any], name: str, depth: int) -> Any:
        kind = _kind(schema)
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            return self._array(schema, name, depth)
        if kind in ("integer", "number"):
            return _number(schema, integer=kind == "integer")
        if kind == "boolean":
            return True
        return None if kind == "null" else self._string(schema, name)

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        required = schema.get("required") or []
        properties = schema.get("properties") or {}
        wanted = [key for key in properties if key in required or depth < _DEEPEST]
        return {key: self._any(properties[key], key, depth + 1) for key in wanted}

    def _array(self, schema: dict[str, Any], name: str, depth: int) -> list[Any]:
        least = schema.get("minItems", 0)
        count = min(max(least, 0 if depth >= _DEEPEST else 1), _LONGEST)
        return [
            self._any(schema.get("items", {}), name, depth + 1)
            for _ in range(min(count, schema.get("maxItems", count)))
        ]

    def _string(self, schema: dict[str, Any], name: str) -> str:
        text = _FORMATS.get(schema.get("format", "")) or self.named.get(name.lower(), self.text)
        text = text.ljust(min(schema.get("minLength", 0), _LONGEST), ".")
        return text[: schema["maxLength"]] if isinstance(schema.get("maxLength"), int) else text

    def _choice(self, values: list[Any]) -> Any:
        """The value whose name is in the text, else the first."""
        text = self.text.casefold()
        return next((value for value in values if isinstance(value, str) and value.casefold() in text), values[0])

    def _plain(self, schema: Any) -> Any:
        return self._resolve(schema["$ref"]) if isinstance(schema, dict) and "$ref" in schema else schema

    def _resolve(self, reference: str) -> Any:
        found = self.root
        for step in reference.lstrip("#/").split("/") if reference not in ("#", "#/") else ():
            found = found.get(step.replace("~1", "/").replace("~0", "~"), {}) if isinstance(found, dict) else {}
        return found


def _kind(schema: dict[str, Any]) -> str:
    kind = schema.get("type", "object" if "properties" in schema else "array" if "items" in schema else "string")
    return next((one for one in kind if one != "null"), "null") if isinstance(kind, list) else str(kind)


def _best(options: list[Any], depth: int) -> Any:
    """The first option that is not null; null if the nesting is deep."""
    nulls = [option for option in options if isinstance(option, dict) and option.get("type") == "null"]
    others = [option for option in options if option not in nulls]
    return nulls[0] if nulls and (depth >= _DEEPEST or not others) else others[0]


def _merged(schema: dict[str, Any], parts: list[Any]) -> dict[str, Any]:
    merged: dict[str, Any] = {key: value for key, value in schema.items() if key != "allOf"}
    for part in (part for part in parts if isinstance(part, dict)):
        properties = {**merged.get("properties", {}), **part.get("properties", {})}
        required = [*merged.get("required", []), *part.get("required", [])]
        merged = {**merged, **part, **({"properties": properties, "required": required} if properties else {})}
    return merged


def _number(schema: dict[str, Any], *, integer: bool) -> int | float:
    """The first of a few likely numbers that is within the bounds."""
    low = schema.get("minimum", schema.get("exclusiveMinimum", -math.inf))
    high = schema.get("maximum", schema.get("exclusiveMaximum", math.inf))
    step = schema.get("multipleOf") or (1 if integer else 0)
    ends = [end for end in (low, high) if math.isfinite(end)]
    likely = [
        1,
        0,
        *ends,
        *(end + way for end in ends for way in (1, -1)),
        *([sum(ends) / 2] if len(ends) == 2 else []),
    ]
    found: list[int | float] = [math.ceil(number / step) * step if step else number for number in likely]
    return next((number for number in found if _within(number, schema, low, high)), found[0])


def _within(number: float, schema: dict[str, Any], low: float, high: float) -> bool:
    return low <= number <= high and number not in (schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum"))
