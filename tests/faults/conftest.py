"""Every fault is played to each of the HTTP engines. Faults above the wire are played to one engine only, except by
`make faults`."""

from __future__ import annotations

import pytest

from ..conftest import ScriptedUpstream
from .bench import ENGINES, Bench


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--every-engine", action="store_true", help="play each fault to all of the HTTP engines")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--every-engine", False):
        return
    dropped = [item for item in items if item.get_closest_marker("above_the_wire") and engine_of(item) != ENGINES[0]]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in dropped]


def engine_of(item: pytest.Item) -> object:
    assert isinstance(item, pytest.Function)
    return item.callspec.params["engine"]


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture
def bench(engine: str, upstream: ScriptedUpstream, other_upstream: ScriptedUpstream) -> Bench:
    return Bench(engine, upstream, other_upstream)
