"""The short forms of the shows: three processes of the real program over real servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..team.test_team import held
from . import shows
from .replicas import STORES, replicas


@pytest.mark.parametrize("kind", STORES)
async def test_no_budget_or_limit_is_passed_by_three_processes(kind: str, tmp_path: Path) -> None:
    """And faults leave no hold, reports have the rows of all, and a revoked key is refused without the push."""
    async with replicas(tmp_path, kind, **shows.FAULTY) as there:
        held(await shows.burst(there, calls=300, amount=40))
        if kind == "postgres":
            held(await shows.faults(there, seconds=1))
        held(await shows.reports(there, calls=60))
        held(await shows.revoked(there, grace=1))
