"""Cooldowns of keys across a restart: identified by the key itself, not by its name, and never for too long."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.core.errors import UpstreamAuth, UpstreamQuota, UpstreamRateLimited
from app.core.types import Key
from app.routing.cooldowns import SavedCooldowns
from app.routing.key_state import Cooldown, fingerprint
from app.routing.lease import Lease
from app.routing.limits import Cost, RateLimits
from app.routing.pool import COOLDOWN_SECONDS, Pool
from app.server.app import create_app
from app.storage.ledger_file import LedgerFile

from ..conftest import ScriptedUpstream, replies, running_gateway
from ..ledger import path_of
from ..server.test_admin import ONE, TWO, VECTORS, states, two_keys

A, B = Key(ONE, "a"), Key(TWO, "b")
FAILURES = {"rate limited": UpstreamRateLimited("slow", retry_after=60), "refused": UpstreamAuth("no")}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[LedgerFile]:
    with closing(LedgerFile(tmp_path / "torii.db", flush_seconds=0.001)) as database:
        yield database


def remembered(database: LedgerFile) -> list[Cooldown]:
    """The stored cooldowns, once all are written."""
    while database.waiting:
        threading.Event().wait(0.001)
    return SavedCooldowns(database).remembered()


def pool(database: LedgerFile, *keys: Key) -> Pool:
    """A pool as in a new process."""
    made = Pool("jina", [(key, RateLimits()) for key in keys or (A, B)], remember=SavedCooldowns(database).remember)
    made.recall(remembered(database))
    return made


def fails(keys: Pool, failure: Any) -> None:
    keys.failed(Lease(keys, keys.states[0], time.monotonic()), failure)


async def first(keys: Pool) -> str:
    return (await keys.lease(Cost())).key.alias


@pytest.mark.parametrize("cause", FAILURES)
async def test_a_key_rests_on_after_a_restart(database: LedgerFile, cause: str) -> None:
    fails(pool(database), FAILURES[cause])
    again = pool(database)
    assert await first(again) == "b"
    assert [row["cause"] for row in again.state()] == [cause, None]
    assert 50 < again.states[0].cooldown_until - time.monotonic() <= COOLDOWN_SECONDS


async def test_another_key_under_the_same_name_does_not_rest(database: LedgerFile) -> None:
    fails(pool(database), UpstreamAuth("no"))
    assert await first(pool(database, Key("another-key-of-jina", "a"), B)) == "a"
    assert await first(pool(database, Key(ONE, "renamed"), B)) == "b"


async def test_a_key_that_works_again_is_forgotten(database: LedgerFile) -> None:
    keys = pool(database, A)
    fails(keys, UpstreamQuota("empty"))
    assert len(remembered(database)) == 1
    keys.succeeded(await keys.lease(Cost()))
    assert remembered(database) == []


@pytest.mark.parametrize(("until", "seconds"), [(1e12, COOLDOWN_SECONDS), (-1e12, 0)])
@pytest.mark.parametrize("cause", ["rate limited", "account empty"])
def test_a_clock_that_was_set_locks_nobody_out(database: LedgerFile, cause: Any, until: float, seconds: float) -> None:
    SavedCooldowns(database).remember(Cooldown("jina", fingerprint("jina", A), "a", cause, time.time() + until))
    [row, _] = pool(database).state()
    rests = pool(database).states[0].cooldown_until - time.monotonic()
    assert rests <= seconds
    assert row["state"] == ("resting" if seconds else "healthy" if cause == "rate limited" else "trial")


def test_the_key_is_not_in_the_file(database: LedgerFile, tmp_path: Path) -> None:
    keys = pool(database)
    for failure in (*FAILURES.values(), UpstreamQuota("empty")):
        fails(keys, failure)
    [rest] = remembered(database)
    assert (rest.upstream, rest.alias, rest.cause, len(rest.fingerprint)) == ("jina", "a", "account empty", 64)
    assert fingerprint("other", A) != fingerprint("jina", A)
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"account empty" in content
    assert ONE.encode() not in content
    assert ONE[-8:].encode() not in content


async def test_the_application_remembers(database: LedgerFile) -> None:
    given = two_keys("http://127.0.0.1:9")
    SavedCooldowns(database).remember(
        Cooldown("jina", fingerprint("jina", Key(ONE)), "x", "refused", time.time() + 100)
    )
    assert len(remembered(database)) == 1
    app = create_app(given, database=database)
    async with app.router.lifespan_context(app):
        [state, other] = app.state.generations.now.pools["jina"].states
        assert (state.cause, state.key.alias, other.cause) == ("refused", "jina-one", "")
        assert state.probing is not None
    assert state.probing is None or state.probing.done()


async def test_a_reload_asks_no_file_and_tells_no_old_rest_again(
    database: LedgerFile, upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    """The state of a key learned since the start is kept, whatever the file contains by now."""
    upstream.plays(replies(VECTORS))
    rest = Cooldown("jina", fingerprint("jina", Key(ONE)), "x", "rate limited", time.time() + 100)
    SavedCooldowns(database).remember(rest)
    assert remembered(database) == [rest]
    async with running_gateway(two_keys(upstream.url), database) as gateway:
        assert (await states(gateway))["jina-one"]["cause"] == "rate limited"
        SavedCooldowns(database).remember(replace(rest, fingerprint=fingerprint("jina", Key(TWO))))
        assert len(remembered(database)) == 2
        gateway.server.renew(two_keys(upstream.url))
        path_of(database).unlink()
        gateway.server.renew(two_keys(upstream.url))
        assert {key: row["cause"] for key, row in (await states(gateway)).items()} == {
            "jina-one": "rate limited",
            "jina-two": None,
        }
    said = [record.getMessage() for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    assert said == ["jina: key jina-one is still in cooldown: rate limited"]
