"""The most tokens and dollars that a call can cost, known before it is sent. No I/O."""

from __future__ import annotations

from typing import NamedTuple


class Bound(NamedTuple):
    """The most that a call can cost. ``tokens`` None: nobody knows. ``cost`` is in nano-dollars, None without a price.
    ``field`` names what a caller can send to bound the call, ``max_tokens`` for instance."""

    tokens: int | None
    cost: int | None = None
    field: str = ""
