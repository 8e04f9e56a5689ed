"""JSON schemas that callers ask for: checked before a run is paid for.

The validator is imported when the first schema comes.
"""

from __future__ import annotations

from typing import Any

from ..errors import InvalidRequest
from ..types import Json

# Of a regular expression, compiled. Those that look around are allowed: zod writes them for e-mail addresses.
PATTERN_BYTES = 1 << 20


def check(schema: Json, field: str) -> None:
    """Raises InvalidRequest naming the place in ``field`` that is wrong. Nothing is fetched."""
    import jsonschema_rs

    remote = _remote(schema, field)
    if remote:
        raise InvalidRequest(
            f"{remote} refers to another document, and this gateway fetches none: put the definition into $defs and "
            "refer to it as #/$defs/<name>",
            param=remote,
        )
    try:
        jsonschema_rs.validator_for(schema, offline=True, pattern_options=patterns())
    except jsonschema_rs.ValidationError as error:
        where = ".".join([field, *map(str, error.instance_path)])
        raise InvalidRequest(_wrong(where, error.kind.name), param=where) from None
    except (jsonschema_rs.ReferencingError, ValueError):
        raise InvalidRequest(f"{field} is nested too deeply, or is no JSON schema", param=field) from None


def patterns(backtracks: int | None = None) -> Any:
    import jsonschema_rs

    return jsonschema_rs.FancyRegexOptions(
        backtrack_limit=backtracks, size_limit=PATTERN_BYTES, dfa_size_limit=PATTERN_BYTES
    )


def _wrong(where: str, keyword: str) -> str:
    if keyword == "format":
        return f"{where} is not a regular expression that this gateway can check"
    if keyword == "$ref":
        return f"{where} has a $ref that leads nowhere; refer to definitions as #/$defs/<name>"
    return f"{where} is not valid JSON schema (its {keyword} is wrong)"


def _remote(schema: Json, field: str) -> str | None:
    """The place of the first reference to another document."""
    waiting: list[tuple[Any, str]] = [(schema, field)]
    while waiting:
        node, where = waiting.pop()
        if isinstance(node, list):
            waiting += [(item, f"{where}[{number}]") for number, item in enumerate(node)]
        elif isinstance(node, dict):
            for name in ("$ref", "$dynamicRef", "$recursiveRef"):
                if isinstance(node.get(name), str) and not node[name].startswith("#"):
                    return f"{where}.{name}"
            waiting += [(value, f"{where}.{name}") for name, value in node.items() if name not in ("const", "enum")]
    return None
