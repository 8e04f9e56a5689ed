"""JSON schemas that callers ask for: the checks that take no time. Those that may are in app/gateway/conformity.py.

The validator is imported when the first schema comes.
"""

from __future__ import annotations

from typing import Any

from ..core.errors import InvalidRequest
from ..core.types import Json

VALUES = ("const", "enum", "default", "examples")  # whose contents are no schemas


def check(schema: Json, field: str) -> None:
    """Raises InvalidRequest naming the place in ``field`` that is wrong. Nothing is fetched."""
    import jsonschema_rs

    remote = _remote(schema, field)
    if remote:
        raise InvalidRequest(
            f"{remote} refers to another document, which is never fetched: put the definition into $defs and "
            "refer to it as #/$defs/<name>",
            param=remote,
        )
    try:
        jsonschema_rs.meta.validate(schema)
    except jsonschema_rs.ValidationError as error:
        where = ".".join([field, *map(str, error.instance_path)])
        raise InvalidRequest(
            f"{where} is not a valid JSON schema (its {error.kind.name} is wrong)", param=where
        ) from None
    except jsonschema_rs.ReferencingError:
        where = f"{field}.$schema"
        raise InvalidRequest(f"{where} is not a JSON schema version that this gateway supports", param=where) from None
    except ValueError:
        raise InvalidRequest(f"{field} is nested too deeply, or is not a JSON schema", param=field) from None


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
            waiting += [(value, f"{where}.{name}") for name, value in node.items() if name not in VALUES]
    return None
