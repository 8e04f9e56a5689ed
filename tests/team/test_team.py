"""The short forms of the shows: against the real program, over HTTP, with one and with several workers."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import shows


def held(lines: shows.Lines) -> None:
    assert lines
    assert [finding for finding in lines if not finding.held] == []


@pytest.mark.parametrize("workers", [1, 3])
async def test_a_budget_of_requests_is_never_passed(workers: int, tmp_path: Path) -> None:
    held(await shows.burst(tmp_path, workers, calls=120, amount=40))


async def test_a_budget_of_tokens_is_never_passed(tmp_path: Path) -> None:
    held(await shows.tokens(tmp_path, 2, calls=120, amount=1500))


async def test_faults_and_departures_leave_no_hold(tmp_path: Path) -> None:
    held(await shows.faults(tmp_path, 2, seconds=1))


async def test_a_revoked_key_and_a_rotated_secret_are_refused(tmp_path: Path) -> None:
    held(await shows.revoked(tmp_path, 2, grace=1))


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York"])
async def test_windows_end_in_the_time_zone(zone: str, tmp_path: Path) -> None:
    held(await shows.zones(tmp_path, zone))
