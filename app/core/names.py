"""Names that callers send: how to print them, the nearest known names, the allowed values."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from .errors import InvalidRequest

_SHOWN = 64


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """One to three of ``names``, the most similar first; empty only if ``names`` is empty."""
    by_lower = {candidate.lower(): candidate for candidate in names}
    wanted = name[:_SHOWN].lower()
    alike = difflib.get_close_matches(wanted, by_lower, n=3) or difflib.get_close_matches(wanted, by_lower, 1, 0.0)
    return [by_lower[candidate] for candidate in alike]


def shown(name: str) -> str:
    """A caller's text for use in a message: one line, printable, cut after 64 characters."""
    cut = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in name[:_SHOWN])
    return cut if len(name) <= _SHOWN else f"{cut}..."


def not_one_of(field: str, value: Any, allowed: Iterable[str], model: str = "") -> InvalidRequest:
    """The error for a value that is not allowed. It lists the allowed values, and for a text the nearest one."""
    allowed = list(allowed)
    place = f" for {model}" if model else ""
    near = f". Nearest: {nearest(value, allowed)[0]}" if isinstance(value, str) and value else ""
    return InvalidRequest(f"{field} must be one of {', '.join(allowed)}{place}{near}", param=field)
