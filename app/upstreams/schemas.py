"""Fast checks of callers' JSON schemas. The checks that may take long are in app/gateway/conformity.py.

The validator is imported with the first schema.
"""

from __future__ import annotations

from typing import Any

from ..core.errors import InvalidRequest
from ..core.types import Json

VALUES = ("const", "enum", "default", "examples")  # keywords that contain values, not schemas


def check(schema: Json, field: str) -> None:
    """Raises InvalidRequest for an invalid schema, and names the place in ``field``. Remote references are never
    fetched."""
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
    """The place of a reference to another document; None if there is none."""
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
