"""Every fault is played to each of the HTTP engines."""

from __future__ import annotations

import pytest

from ..conftest import ScriptedUpstream
from .bench import ENGINES, Bench


@pytest.fixture(params=ENGINES, ids=lambda engine: engine or "default")
def engine(request: pytest.FixtureRequest) -> str | None:
    chosen: str | None = request.param
    return chosen


@pytest.fixture
def bench(engine: str | None, upstream: ScriptedUpstream, other_upstream: ScriptedUpstream) -> Bench:
    return Bench(engine, upstream, other_upstream)
