"""Large calls, which are sent upstream in parts, and the ledger: good answers are kept, and billed tokens are
booked."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ..cli.test_cli import ROOT, SECONDS, environment
from ..conftest import Script, Seen, replies
from ..program import Program
from .crowd import (
    Provider,
    after,
    aihubmix_at,
    asks,
    booked,
    cost,
    crowd,
    gateway,
    jina_at,
    key_of,
    provider,
    reply,
    right,
    secret,
    texts_of,
    wrongs,
)
from .scripts import head, json_of, whole, wire
from .test_failover import ERROR, changed, fewer

INPUTS, PARTS = 5000, 10  # of 512 inputs each; the last part has the rest
FAILURES: dict[str, Script] = {
    "503": replies(ERROR, 503),
    "500": replies(ERROR, 500),
    "half a head": wire(head("content-length: 2")[:30]),
    "half JSON": changed(lambda right: json_of(right)[:-9]),
}
REFUSALS: dict[str, Script] = {
    "401": replies({"detail": "Invalid API key"}, 401),
    "402": replies({"detail": "Insufficient balance"}, 402),
    "429": replies({"detail": "slow down"}, 429, retry_after="30"),
}


def nth(number: int, script: Script) -> Callable[[Seen], Script | None]:
    """Plays the script for the ``number``-th call, counted from 1."""
    came = [0]

    def faults(request: Seen) -> Script | None:
        came[0] += 1
        return script if came[0] == number else None

    return faults


def answered_once(*providers: Provider) -> None:
    """Check that only failed parts were sent again, and nothing was billed twice."""
    billed = sum(sum(each.billed.values()) for each in providers)
    assert billed == 3 * INPUTS + PARTS


async def assert_books(program: Program, calls: int, providers: dict[str, Provider]) -> list[dict[str, Any]]:
    """Check that each upstream asked has a row with the call's id and all tokens it billed for the call.

    An unreadable answer may have been billed too, so an estimate is added for it.
    """
    asked = {
        (request.headers["x-request-id"], name) for name, provider in providers.items() for request in provider.seen
    }
    rows = await booked(program, len(asked))
    assert len({row["request_id"] for row in rows}) == calls
    assert Counter((row["request_id"], row["upstream"]) for row in rows) == Counter(asked)
    for row in rows:
        billed = providers[row["upstream"]].billed[row["request_id"]]
        assert row["total_tokens"] == billed or (row["estimated"] and row["total_tokens"] > billed), row
        assert row["attempts"] >= 1
    return rows


# A part that fails.


async def test_a_large_call_is_ten_parts(tmp_path: Path) -> None:
    async with provider() as jina, gateway(tmp_path, {"jina": jina_at(jina.url)}) as program:
        assert wrongs(await crowd(program.port, asks("embeddings", 1, inputs=INPUTS))) == []
        assert len(jina.seen) == PARTS
        answered_once(jina)
        await assert_books(program, 1, {"jina": jina})
        assert calls_in_usage(program) == (1, 3 * INPUTS + PARTS)


@pytest.mark.parametrize("number", [1, 4, PARTS])
@pytest.mark.parametrize("fault", FAILURES)
async def test_a_failed_part_alone_is_asked_again(fault: str, number: int, tmp_path: Path) -> None:
    async with provider() as jina, gateway(tmp_path, {"jina": jina_at(jina.url)}) as program:
        jina.faults = nth(number, FAILURES[fault])
        told = await crowd(program.port, asks("embeddings", 1, inputs=INPUTS))
        assert wrongs(told) == []
        assert len(jina.seen) == PARTS + 1
        answered_once(jina)
        [row] = await assert_books(program, 1, {"jina": jina})
        assert (row["status"], row["error"]) == (200, None)
        assert told[0].headers["x-request-id"] == row["request_id"]
        assert calls_in_usage(program) == (1, row["total_tokens"])


@pytest.mark.parametrize("fault", [*FAILURES, *REFUSALS])
async def test_a_failed_part_alone_is_asked_at_the_other_target(fault: str, tmp_path: Path) -> None:
    """Other parts in flight with the same key get their answers from it."""
    script = {**FAILURES, **REFUSALS}[fault]
    async with provider() as jina, provider() as aihubmix:
        jina.faults = nth(PARTS, script)
        upstreams = {"jina": jina_at(jina.url), "aihubmix": aihubmix_at(aihubmix.url)}
        async with gateway(tmp_path, upstreams) as program:
            assert wrongs(await crowd(program.port, asks("embeddings", 1, inputs=INPUTS))) == []
            assert (len(jina.seen), len(aihubmix.seen)) == (PARTS, 1)
            answered_once(jina, aihubmix)
            rows = await assert_books(program, 1, {"jina": jina, "aihubmix": aihubmix})
            assert {row["upstream"]: row["status"] for row in rows}["aihubmix"] == 200
            assert calls_in_usage(program) == (1, sum(row["total_tokens"] for row in rows))


@pytest.mark.parametrize("fault", REFUSALS)
async def test_a_part_whose_key_is_refused_goes_to_another_key(fault: str, tmp_path: Path) -> None:
    """One of two keys refuses everything: each part that used it is sent once more, and no other part is."""
    bad = secret("jina", "bad")
    async with provider() as jina, gateway(tmp_path, {"jina": jina_at(jina.url, "good", "bad")}) as program:
        jina.faults = lambda request: REFUSALS[fault] if key_of(request) == bad else None
        assert wrongs(await crowd(program.port, asks("embeddings", 1, inputs=INPUTS))) == []
        refused = sum(key_of(request) == bad for request in jina.seen)
        assert refused >= 1
        assert len(jina.seen) == PARTS + refused
        answered_once(jina)
        await assert_books(program, 1, {"jina": jina})


async def test_an_upstream_that_breaks_in_the_middle_of_a_large_call(tmp_path: Path) -> None:
    """The answers of the broken upstream are kept; the remaining parts go to the other upstream."""
    async with provider() as jina, provider() as aihubmix:
        came = [0]

        def faults(request: Seen) -> Script | None:
            came[0] += 1
            return replies(ERROR, 503) if came[0] > 4 else None

        jina.faults = faults
        upstreams = {"jina": jina_at(jina.url), "aihubmix": aihubmix_at(aihubmix.url)}
        async with gateway(tmp_path, upstreams) as program:
            assert wrongs(await crowd(program.port, asks("embeddings", 1, inputs=INPUTS))) == []
            answered_once(jina, aihubmix)
            assert len(aihubmix.seen) == PARTS - 4
            await assert_books(program, 1, {"jina": jina, "aihubmix": aihubmix})


async def test_large_calls_of_many_with_a_key_refused(tmp_path: Path) -> None:
    """Ten callers at once: all get correct answers, and each part is billed once."""
    bad = secret("jina", "bad")
    async with provider() as jina, provider() as aihubmix:
        jina.faults = lambda request: REFUSALS["401"] if key_of(request) == bad else None
        upstreams = {"jina": jina_at(jina.url, "bad", "good"), "aihubmix": aihubmix_at(aihubmix.url)}
        async with gateway(tmp_path, upstreams) as program:
            calls = asks("embeddings", 10, inputs=1100)
            assert wrongs(await crowd(program.port, calls)) == []
            assert sum((jina.billed + aihubmix.billed).values()) == 10 * (3 * 1100 + 3)
            await assert_books(program, 10, {"jina": jina, "aihubmix": aihubmix})


# The ledger rows of a call that failed, or failed over.


async def test_tokens_of_a_large_call_that_fails_are_booked(tmp_path: Path) -> None:
    """Five parts are answered and billed; all later parts fail.

    Parts in flight at that moment are cancelled and estimated, since they may have been billed too.
    """
    async with provider() as jina, gateway(tmp_path, {"jina": jina_at(jina.url)}) as program:
        came = [0]

        def faults(request: Seen) -> Script | None:
            came[0] += 1
            return None if came[0] <= 5 else after(lambda: sum(jina.billed.values()) > 0, replies(ERROR, 500))

        jina.faults = faults
        [told] = await crowd(program.port, asks("embeddings", 1, inputs=INPUTS))
        assert (told.status, told.code) == (502, "upstream_error")
        [row] = await assert_books(program, 1, {"jina": jina})
        assert (row["status"], row["error"]) == (502, "upstream_error")
        assert jina.billed[row["request_id"]] == 5 * cost([""] * 512)
        assert row["total_tokens"] >= 5 * cost([""] * 512)


def billed_for(jina: Provider, script: Script) -> Script:
    """The script, with its answer billed."""

    async def play(request: Seen, writer: Any) -> Any:
        jina.billed[request.headers["x-request-id"]] += cost(texts_of(request))
        return await script(request, writer)

    return play


@pytest.mark.parametrize("kind", ["embeddings", "rerank"])
async def test_tokens_of_an_attempt_that_was_left_are_booked(kind: Any, tmp_path: Path) -> None:
    """Jina bills for an invalid answer: Jina and AIHubMix have a row each, which together are one call."""
    async with provider() as jina, provider() as aihubmix:
        jina.always(billed_for(jina, changed(fewer)))
        upstreams = {"jina": jina_at(jina.url), "aihubmix": aihubmix_at(aihubmix.url)}
        async with gateway(tmp_path, upstreams) as program:
            [told] = await crowd(program.port, asks(kind, 1, inputs=3))
            assert told.wrong == ""
            rows = await assert_books(program, 1, {"jina": jina, "aihubmix": aihubmix})
            assert {row["upstream"]: (row["status"], row["error"], row["total_tokens"]) for row in rows} == {
                "jina": (502, "upstream_error", cost("abc")),
                "aihubmix": (200, None, cost("abc")),
            }
            assert calls_in_usage(program) == (1, 2 * cost("abc"))


@pytest.mark.parametrize(
    ("fault", "status", "error"),
    [("401", 502, "upstream_auth"), ("402", 503, "upstream_quota"), ("429", 429, "upstream_rate_limited")],
)
async def test_an_upstream_that_was_left_has_a_row(fault: str, status: int, error: str, tmp_path: Path) -> None:
    async with provider() as jina, provider() as aihubmix:
        jina.always(REFUSALS[fault])
        upstreams = {"jina": jina_at(jina.url), "aihubmix": aihubmix_at(aihubmix.url)}
        async with gateway(tmp_path, upstreams) as program:
            assert wrongs(await crowd(program.port, asks("embeddings", 3, inputs=2), 1)) == []
            rows = await assert_books(program, 3, {"jina": jina, "aihubmix": aihubmix})
            assert Counter((row["upstream"], row["status"], row["error"]) for row in rows) == Counter(
                {("jina", status, error): 1, ("aihubmix", 200, None): 3}
            )
            assert calls_in_usage(program) == (3, 3 * cost("ab"))


def calls_in_usage(program: Program) -> tuple[int, int]:
    """Calls and tokens, as ``torii usage`` prints them."""
    words = ["usage", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "app", *words],
        cwd=program.folder,
        env=environment({"PYTHONPATH": str(ROOT)}),
        capture_output=True,
        timeout=SECONDS,
        check=True,
    )
    total = msgspec.json.decode(done.stdout)["total"]
    return total["calls"], total["total_tokens"]


# Faults that a retry can only repeat.


def ignores_dimensions(request: Seen) -> Script:
    return wire(whole(json_of(reply(request))), end="open")


@pytest.mark.parametrize("targets", [1, 2])
async def test_an_upstream_that_ignores_dimensions_is_asked_once(targets: int, tmp_path: Path) -> None:
    """The vectors have two dimensions although 256 were requested, and a retry would return the same."""
    async with provider() as jina, provider() as aihubmix:
        upstreams = {"jina": jina_at(jina.url), "aihubmix": aihubmix_at(aihubmix.url)}
        asked = dict(list(upstreams.items())[:targets])
        async with gateway(tmp_path, asked) as program:
            for turn in (1, 2):
                [told] = await crowd(program.port, asks("embeddings", 1, inputs=2, dimensions=256))
                assert (told.status, told.code) == (502, "upstream_error")
                assert told.headers["x-should-retry"] == "false"
                assert (len(jina.seen), len(aihubmix.seen)) == (turn, turn if targets == 2 else 0)
            # Callers who request an unsupported option do not open the upstream's breaker either.
            for _ in range(5):
                await crowd(program.port, asks("embeddings", 1, dimensions=256))
            jina.seen.clear()
            assert wrongs(await crowd(program.port, asks("embeddings", 1))) == []
            assert len(jina.seen) == 1


async def test_where_one_target_ignores_dimensions_the_other_answers(tmp_path: Path) -> None:
    async with provider() as jina, provider() as aihubmix:
        upstreams = {"jina": jina_at(jina.url), "aihubmix": aihubmix_at(aihubmix.url)}
        jina.faults = lambda request: changed(
            lambda right: json_of({**right, "data": [{**item, "embedding": [0.5]} for item in right["data"]]})
        )
        async with gateway(tmp_path, upstreams) as program:
            told = await crowd(program.port, asks("embeddings", 40, dimensions=2))
            assert wrongs(told) == []


async def test_large_calls_leave_connections_for_each_other(tmp_path: Path) -> None:
    """Six calls of ten parts each share twelve connections: each call's first part gets one, later parts share the
    rest."""
    async with (
        provider() as jina,
        gateway(
            tmp_path,
            {"jina": jina_at(jina.url)},
            max_connections=12,
            models={"jina-embeddings-v3": {"max_inputs": 2}},
        ) as program,
    ):
        jina.faults = lambda request: after(lambda: len(jina.seen) >= 12, right)
        assert wrongs(await crowd(program.port, asks("embeddings", 6, inputs=20))) == []
        assert len(jina.seen) == 60
