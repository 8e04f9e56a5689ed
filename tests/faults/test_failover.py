"""One healthy target of two, and many callers at once: no caller notices the other target's fault."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ..conftest import Script, Seen, replies
from ..program import Program
from .bench import listening
from .crowd import KINDS, MODELS, Kind, Provider, aihubmix_at, asks, crowd, gateway, jina_at, provider, reply, wrongs
from .scripts import hang, head, json_of, reset, whole, wire

AT_ONCE = (40, 200)
BURSTS = 3
CALLS = 1000  # for each fault and concurrency, in `make faults`; one burst of each in `make test`
HEAD_SECONDS = 3.0  # within which a healthy upstream answers on any machine

PAGE = b"<html><head><title>busy</title></head><body><h1>Try later</h1></body></html>"
ERROR = {"error": {"message": "the model is overloaded", "type": "server_error", "code": None}}


def changed(change: Any) -> Script:
    """The correct answer, with its body changed."""

    async def play(request: Seen, writer: asyncio.StreamWriter) -> Any:
        return await wire(whole(change(reply(request))), end="open")(request, writer)

    return play


def fewer(right: dict[str, Any]) -> bytes:
    """One item too few. A ranking may have fewer results than documents, so its results are duplicated instead."""
    if "data" in right:
        return json_of({**right, "data": right["data"][:-1]})
    return json_of({**right, "results": right["results"] * 2})


# Jina's replies before it has started any work.
REFUSALS: dict[str, Script] = {
    "401": replies({"detail": "Invalid API key"}, 401),
    "402": replies({"detail": "Insufficient balance"}, 402),
    "403": replies({"detail": "Forbidden"}, 403),
    "429": replies({"detail": "slow down"}, 429),
    "429 Retry-After": replies({"detail": "slow down"}, 429, retry_after="30"),
    "503": replies(ERROR, 503),
    "503 Retry-After": replies(ERROR, 503, retry_after="30"),
}
# Other faults; after them, a pure call is retried elsewhere.
FAULTS: dict[str, Script] = {
    **{str(status): replies(ERROR, status) for status in (408, 500, 502, 504, 520, 524, 529)},
    "502 HTML": replies(PAGE, 502, content_type="text/html"),
    "reset after the request": wire(end="reset"),
    "closed after the request": wire(),
    "half a head": wire(head("content-length: 2")[:30]),
    "no HTTP": wire(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "half a body": wire(head("content-length: 200") + b'{"model": "m", '),
    "half JSON": changed(lambda right: json_of(right)[:-9]),
    "NaN": changed(lambda right: json_of(right).replace(b"0.5]", b"NaN]").replace(b'"usage":', b'"x":NaN,"usage":')),
    "wrong count": changed(fewer),
    "HTML 200": replies(PAGE, content_type="text/html"),
    "error 200": replies(ERROR),
    "empty 200": replies(b""),
}


@dataclass(frozen=True, slots=True)
class Pair:
    """A Jina with the fault and a healthy AIHubMix, and the model that both serve."""

    model: str
    jina: str
    aihubmix: Provider


@asynccontextmanager
async def failing(
    faults: dict[str, Script], kind: Kind, folder: Path, **values: Any
) -> AsyncIterator[tuple[Program, dict[str, Pair]]]:
    """A gateway in front of one pair per fault, so that keys and breakers are not affected by other faults."""
    async with AsyncExitStack() as stack:
        pairs = {}
        for place, (name, script) in enumerate(faults.items()):
            jina, aihubmix = [await stack.enter_async_context(provider()) for _ in range(2)]
            jina.always(script)
            pairs[name] = Pair(f"model-{place}", jina.url, aihubmix)
        settings = {**configured(pairs.values(), kind), **values}
        yield await stack.enter_async_context(gateway(folder, **settings)), pairs


@asynccontextmanager
async def refusing() -> AsyncIterator[str]:
    """An address that refuses every connection."""
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@asynccontextmanager
async def resetting() -> AsyncIterator[str]:
    """An address that resets every connection."""

    async def act(listener: Any, reader: Any, writer: asyncio.StreamWriter) -> None:
        reset(writer)

    async with listening(act) as listener:
        yield listener.url


def configured(pairs: Iterable[Pair], kind: Kind) -> dict[str, Any]:
    upstreams: dict[str, Any] = {}
    models = {}
    for pair in pairs:
        names = [f"jina-{pair.model}", f"aihubmix-{pair.model}"]
        upstreams[names[0]] = jina_at(pair.jina)
        upstreams[names[1]] = aihubmix_at(pair.aihubmix.url)
        models[pair.model] = {
            "targets": [{"upstream": name, "model": MODELS[kind]} for name in names],
            "deepsearch": kind.startswith("deepsearch"),
        }
    return {"upstreams": upstreams, "models": models}


def calls_of(request: pytest.FixtureRequest, engine: str, at_once: int) -> int:
    """The number of calls per burst. The other engine is slow, and the loop under test is the same."""
    whole = request.config.getoption("--every-engine", False) and engine == "httptools"
    return max(at_once, CALLS // BURSTS if whole else 0)


@pytest.mark.above_the_wire
@pytest.mark.parametrize("at_once", AT_ONCE)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_fault_of_one_target_is_seen_by_nobody(
    kind: Kind,
    at_once: int,
    engine: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    subtests: pytest.Subtests,
) -> None:
    """For DeepSearch only faults before a run has started; a call that may have started a run is not retried."""
    faults = REFUSALS if kind.startswith("deepsearch") else REFUSALS | FAULTS
    async with failing(faults, kind, tmp_path, http_client=engine) as (program, pairs):
        for name, pair in pairs.items():
            with subtests.test(name):
                await assert_seen_by_nobody(program, pair, kind, at_once, calls_of(request, engine, at_once))


@pytest.mark.above_the_wire
@pytest.mark.parametrize("kind", ["embeddings", "rerank"])
async def test_a_silent_target_is_seen_by_nobody(kind: Kind, engine: str, tmp_path: Path) -> None:
    """The first burst waits for the deadline; the others go straight to the healthy target."""
    timeouts = {"headers_seconds": HEAD_SECONDS}
    async with failing({"silent": hang}, kind, tmp_path, http_client=engine, timeouts=timeouts) as (program, pairs):
        await assert_seen_by_nobody(program, pairs["silent"], kind, AT_ONCE[0], AT_ONCE[0])


@pytest.mark.above_the_wire
@pytest.mark.parametrize("at_once", AT_ONCE)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_connection_that_cannot_be_made_is_seen_by_nobody(
    kind: Kind, at_once: int, engine: str, tmp_path: Path, request: pytest.FixtureRequest, subtests: pytest.Subtests
) -> None:
    """Not for DeepSearch if the reset follows the connection: a run may have started."""
    places = {"refused": refusing, **({} if kind.startswith("deepsearch") else {"reset at accept": resetting})}
    for name, place in places.items():
        with subtests.test(name):
            folder = tmp_path / name.replace(" ", "-")
            folder.mkdir()
            async with place() as url, provider() as aihubmix:
                pair = Pair("model-0", url, aihubmix)
                async with gateway(folder, **configured([pair], kind), http_client=engine) as program:
                    await assert_seen_by_nobody(program, pair, kind, at_once, calls_of(request, engine, at_once))


async def assert_seen_by_nobody(program: Program, pair: Pair, kind: Kind, at_once: int, calls: int) -> None:
    """Three bursts of ``calls`` calls."""
    failed = [wrongs(await crowd(program.port, asks(kind, calls, pair.model), at_once)) for _ in range(BURSTS)]
    assert [len(burst) for burst in failed] == [0] * BURSTS, [burst[:2] for burst in failed]
