"""GET /admin/upstreams: whether each key works, what it does now, and how much of its limits is used."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from starlette.types import Scope

from ...core.types import Json
from ...routing.pool import Pool


class Upstreams:
    """``clean`` takes out of a text what must not be told, such as a key that was given to itself as a name."""

    def __init__(self, pools: Sequence[Pool], clean: Callable[[str], str]) -> None:
        self._pools = pools
        self._clean = clean

    def states(self, scope: Scope) -> Json:
        """OpenAI's form of a list; one entry for each key, in the order of the upstreams."""
        rows = [row for pool in self._pools for row in pool.state()]
        return {"object": "list", "data": [{**row, "key": self._clean(row["key"])} for row in rows]}
