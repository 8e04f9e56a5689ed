"""The sandbox without pauses, and a client with a key for it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from app.sandbox.server import Sandbox


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(pace=0) as running:
        yield running


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with httpx.Client(headers={"authorization": "Bearer sandbox-key"}, timeout=60) as client:
        yield client
