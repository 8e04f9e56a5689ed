"""Every fault is played to each of the HTTP engines."""

from __future__ import annotations

import pytest

from ..conftest import ScriptedUpstream
from .bench import ENGINES, Bench


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture
def bench(engine: str, upstream: ScriptedUpstream, other_upstream: ScriptedUpstream) -> Bench:
    return Bench(engine, upstream, other_upstream)
