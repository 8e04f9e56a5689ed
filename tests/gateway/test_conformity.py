"""DeepSearch answers that must fit a JSON schema, over real sockets, with every kind of violation."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

import msgspec
import openai
import pytest
from pydantic import BaseModel

from app.gateway import conformity

from ..conftest import RunningGateway, ScriptedUpstream, running_gateway, settings_for, streams, until
from ..faults.bench import read_events
from ..faults.scripts import answer as last
from ..faults.scripts import sse, thought

CHATS = "/v1/chat/completions"
SCHEMA = {
    "type": "object",
    "properties": {"tide": {"type": "string"}, "at": {"type": "array", "items": {"type": "integer"}}},
    "required": ["tide"],
    "additionalProperties": False,
}
FITS = '{\n  "tide": "high",\n  "at": [\n    1\n  ]\n}'
USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}


def ask(schema: Any = SCHEMA, **fields: Any) -> dict[str, Any]:
    return {
        "model": "jina-deepsearch-v1",
        "messages": [{"role": "user", "content": "when is high tide"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "tide", "strict": True, "schema": schema}},
        **fields,
    }


THOUGHT = sse(thought("<think>"), thought("Tides. "), thought("</think>\n\n"))


def answer(text: str) -> bytes:
    end = last(text, usage=USAGE)
    end["choices"][0]["delta"] |= {"type": "json", "annotations": []}
    return sse(end)


MISFITS = {
    "prose": ("High tide is at one.", "is not JSON"),
    "prose around JSON": (f"Here you are: {FITS}", "is not JSON"),
    "nothing": ("", "is not JSON"),
    "a bare string": ('"high"', "does not fit the schema: answer fails 'type'"),
    "null": ("null", "does not fit the schema: answer fails 'type'"),
    "another object": ('{"ebb": 1}', "does not fit the schema: answer fails 'additionalProperties'"),
    "an item of another kind": ('{"tide":"high","at":[1,"2"]}', "does not fit the schema: answer.at[1] fails 'type'"),
    "NaN": ('{"tide": NaN}', "is not JSON"),
}


def error_of(why: str, text: str) -> dict[str, Any]:
    return {
        "message": f"the answer {why}",
        "type": "api_error",
        "param": None,
        "code": "upstream_schema_mismatch",
        "upstream_text": text,
    }


async def test_an_answer_of_the_schema_comes_as_it_is(gateway: RunningGateway, upstream: ScriptedUpstream) -> None:
    upstream.plays(streams(answer(FITS)))
    response = await gateway.post(CHATS, ask())
    assert response.status_code == 200
    assert response.json()["choices"][0]["message"]["content"] == FITS
    assert upstream.seen[0].body["response_format"] == {"type": "json_schema", "json_schema": SCHEMA}


@pytest.mark.parametrize("kind", MISFITS)
async def test_an_answer_that_is_none_is_an_error(
    kind: str, gateway: RunningGateway, upstream: ScriptedUpstream
) -> None:
    text, why = MISFITS[kind]
    upstream.plays(streams(answer(text)))
    response = await gateway.post(CHATS, ask())
    assert response.status_code == 502
    assert response.headers["x-should-retry"] == "false"
    assert response.json() == {"error": error_of(why, text), "detail": f"the answer {why}"}
    [record] = await gateway.ended(1)
    assert record.status == 502
    assert [(use.attempts, use.counted) for use in record.uses.values()] == [(1, USAGE)]
    assert len(upstream.seen) == 1


@pytest.mark.parametrize("kind", MISFITS)
async def test_in_a_stream_the_error_comes_in_place_of_the_answer(
    kind: str, gateway: RunningGateway, upstream: ScriptedUpstream
) -> None:
    text, why = MISFITS[kind]
    seen = asyncio.Event()
    upstream.plays(streams(THOUGHT, seen, answer(text)))
    body = msgspec.json.encode(ask(stream=True))
    async with gateway.client.stream("POST", CHATS, content=body) as response:
        assert response.status_code == 200
        seen.set()
        *chunks, end = read_events(await response.aread())
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == ""
    assert "".join(chunk["choices"][0]["delta"].get("reasoning_content", "") for chunk in chunks) == "Tides. "
    assert {chunk["choices"][0]["finish_reason"] for chunk in chunks} == {None}
    assert end == {"error": error_of(why, text), "detail": f"the answer {why}"}
    [record] = await gateway.ended(1)
    assert [use.counted for use in record.uses.values()] == [USAGE]


async def test_before_anything_was_sent_the_error_has_its_status(
    gateway: RunningGateway, upstream: ScriptedUpstream
) -> None:
    upstream.plays(streams(answer("no")))
    response = await gateway.post(CHATS, ask(stream=True))
    assert response.status_code == 502
    assert response.json()["error"] == error_of("is not JSON", "no")


async def test_a_mismatch_blames_neither_key_nor_upstream(gateway: RunningGateway, upstream: ScriptedUpstream) -> None:
    upstream.plays(*[streams(answer("no"))] * 12, streams(answer(FITS)))
    for _ in range(12):
        assert (await gateway.post(CHATS, ask())).status_code == 502
    assert (await gateway.post(CHATS, ask())).status_code == 200


async def test_the_envelope_stays_within_64_kb(gateway: RunningGateway, upstream: ScriptedUpstream) -> None:
    for text in ("x" * 300_000, '"\\\n' * 100_000, "潮\U0001f30a" * 60_000):
        upstream.plays(streams(answer(text)))
        response = await gateway.post(CHATS, ask())
        assert len(response.content) <= 64_000
        told = response.json()["error"]["upstream_text"]
        assert told.endswith(" ...")
        assert text.startswith(told.removesuffix(" ..."))
        assert len(response.content) > 40_000


async def test_it_passes_where_the_operator_says_so(upstream: ScriptedUpstream) -> None:
    async with running_gateway(settings_for(upstream.url, deepsearch={"schema_mismatch": "pass"})) as gateway:
        upstream.plays(streams(answer("prose")))
        response = await gateway.post(CHATS, ask())
    assert response.status_code == 200
    assert response.json()["choices"][0]["message"]["content"] == "prose"


async def test_a_schema_that_takes_for_ever_holds_nothing(
    gateway: RunningGateway, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Patterns that backtrack, and definitions that multiply: other calls are served meanwhile."""
    monkeypatch.setattr(conformity, "SECONDS", 1.0)
    multiplying: dict[str, Any] = {"d0": {"type": "string"}}
    for number in range(1, 60):
        multiplying[f"d{number}"] = {"allOf": [{"$ref": f"#/$defs/d{number - 1}"}] * 2}
    slow = [
        {"type": "string", "pattern": "(?=(a+)+$)b"},
        {"$defs": multiplying, "$ref": "#/$defs/d59"},
    ]
    text = msgspec.json.encode("a" * 60_000 + "!").decode()
    upstream.plays(streams(answer(text)))
    calls = [asyncio.create_task(gateway.post(CHATS, ask(schema))) for schema in slow]
    longest = 0.0
    while not all(call.done() for call in calls):
        before = time.monotonic()
        assert (await gateway.client.get("/healthz")).status_code == 200
        longest = max(longest, time.monotonic() - before)
        await asyncio.sleep(0.01)
    answers = [await call for call in calls]
    assert [response.status_code for response in answers] == [502, 502]
    assert {response.json()["detail"] for response in answers} <= {
        "the answer could not be checked against the schema within 1 s",
        "the answer does not fit the schema: answer fails 'pattern'",
    }
    assert longest < 0.9


async def test_a_pattern_that_backtracks_is_answered_at_once(
    gateway: RunningGateway, upstream: ScriptedUpstream
) -> None:
    text = msgspec.json.encode("a" * 50_000 + "!").decode()
    upstream.plays(streams(answer(text)))
    response = await gateway.post(CHATS, ask({"type": "string", "pattern": "(a+)+$"}))
    assert response.json()["detail"] == "the answer does not fit the schema: answer fails 'pattern'"


async def test_no_process_is_left_of_a_caller_who_leaves(
    gateway: RunningGateway, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Noted(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    call = asyncio.create_task(gateway.post(CHATS, ask(MULTIPLYING)))
    await until(lambda: bool(started))
    call.cancel()
    await asyncio.wait([call])
    await until(lambda: started[0].returncode is not None)
    assert upstream.seen == []


# Three kilobytes that no validator could ever finish.
MULTIPLYING = {
    "$defs": {
        "d0": {"properties": {"a": {}}},
        **{
            f"d{number}": {"allOf": [{"$ref": f"#/$defs/d{number - 1}"}] * 2, "unevaluatedProperties": False}
            for number in range(1, 40)
        },
    },
    "$ref": "#/$defs/d39",
}

UNREADABLE = {
    "a pattern that is none": (
        {"pattern": "["},
        "response_format.json_schema.pattern is not a regular expression that this gateway can check",
    ),
    "a reference to nothing": (
        {"$ref": "#/$defs/none"},
        "response_format.json_schema has a $ref that cannot be resolved; refer to definitions as #/$defs/<name>",
    ),
    "definitions that multiply": (
        MULTIPLYING,
        "response_format.json_schema takes longer than 1 s to compile; use a smaller schema",
    ),
}


@pytest.mark.parametrize("kind", UNREADABLE)
async def test_a_schema_that_cannot_be_read_is_refused_and_holds_nothing(
    kind: str, gateway: RunningGateway, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conformity, "SECONDS", 1.0)
    schema, why = UNREADABLE[kind]
    call = asyncio.create_task(gateway.post(CHATS, ask(schema)))
    while not call.done():
        assert (await gateway.client.get("/healthz")).status_code == 200
        await asyncio.sleep(0.01)
    response = await call
    assert response.status_code == 400
    assert response.json()["error"]["message"] == why
    assert response.json()["error"]["param"] == "response_format.json_schema"
    assert upstream.seen == []


async def test_patterns_that_fill_the_memory_are_refused(gateway: RunningGateway, upstream: ScriptedUpstream) -> None:
    """By time or by memory, whichever limit is reached first."""
    response = await gateway.post(CHATS, ask({"allOf": [{"pattern": rf"[\p{{L}}]{{20}}{n}"} for n in range(3000)]}))
    assert response.status_code == 400
    assert response.json()["error"]["message"] in {
        "response_format.json_schema takes longer than 5 s to compile; use a smaller schema",
        "response_format.json_schema takes too much memory to compile; use a smaller schema",
    }
    assert upstream.seen == []


async def test_names_out_of_an_answer_are_told_short_and_on_one_line(
    gateway: RunningGateway, upstream: ScriptedUpstream
) -> None:
    text = msgspec.json.encode({"a\n\u202e" + "x" * 200_000: 1}).decode()
    upstream.plays(streams(answer(text)))
    response = await gateway.post(CHATS, ask({"additionalProperties": {"type": "string"}}))
    assert response.json()["detail"] == f"the answer does not fit the schema: answer.a??{'x' * 196} ... fails 'type'"
    assert len(response.content) <= 64_000


async def test_a_mark_of_the_byte_order_before_it_makes_it_none(
    gateway: RunningGateway, upstream: ScriptedUpstream
) -> None:
    upstream.plays(streams(answer("\ufeff" + FITS)))
    assert (await gateway.post(CHATS, ask())).json()["detail"] == "the answer is not JSON"


WITHOUT_FILES = """
import asyncio, os, resource, sys
from app.gateway.conformity import misfit

def opened():
    return len(os.listdir("/proc/self/fd"))

async def main():
    assert await misfit({}, "1") is None
    before, limits = opened(), resource.getrlimit(resource.RLIMIT_NOFILE)
    for _ in range(5):
        resource.setrlimit(resource.RLIMIT_NOFILE, (before + 1, limits[1]))
        assert await misfit({}, "1") == "could not be checked against the schema"
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert await misfit({}, "1") is None
    print(opened() - before)

import uvloop
uvloop.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts its open files in /proc")
def test_a_process_that_cannot_be_started_keeps_no_files() -> None:
    """uvloop's own subprocesses keep two for ever."""
    done = subprocess.run([sys.executable, "-c", WITHOUT_FILES], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "0\n"


def test_the_process_finds_the_validator_where_the_gateway_has_it() -> None:
    """For example in the user's own folder or in PYTHONPATH. In this test the packages belong to no interpreter."""
    program = (
        f"import asyncio, sys; sys.path[:0] = {[path for path in sys.path if path]}; "
        "from app.gateway.conformity import misfit; print(asyncio.run(misfit({'type': 'string'}, '1')))"
    )
    base: str = sys._base_executable  # type: ignore[attr-defined] # undocumented: the one that a venv was made from
    done = subprocess.run([base, "-I", "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "does not fit the schema: answer fails 'type'\n"


@pytest.fixture
async def sdk(gateway: RunningGateway) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="a-key", max_retries=2) as client:
        yield client


class Tide(BaseModel):
    tide: str
    at: list[int]


MESSAGES: Any = [{"role": "user", "content": "when is high tide"}]


async def test_parse_of_the_openai_sdk_gets_an_object_or_an_error(
    sdk: openai.AsyncOpenAI, upstream: ScriptedUpstream
) -> None:
    parse = sdk.chat.completions.parse
    upstream.plays(streams(answer(FITS)))
    said = await parse(model="jina-deepsearch-v1", messages=MESSAGES, response_format=Tide)
    assert said.choices[0].message.parsed == Tide(tide="high", at=[1])
    for text in ("prose", '"high"', '{"tide": "high"}', '{"tide":1,"at":[]}'):
        upstream.plays(streams(answer(text)))
        with pytest.raises(openai.InternalServerError) as caught:
            await parse(model="jina-deepsearch-v1", messages=MESSAGES, response_format=Tide)
        assert caught.value.code == "upstream_schema_mismatch"
        assert caught.value.body["upstream_text"] == text  # type: ignore[index] # it is the error object
    assert len(upstream.seen) == 5


async def read(events: AsyncIterable[Any], begun: asyncio.Event) -> None:
    async for _ in events:
        begun.set()


async def test_the_streaming_parser_of_the_openai_sdk_gets_an_error(
    sdk: openai.AsyncOpenAI, upstream: ScriptedUpstream
) -> None:
    seen = asyncio.Event()
    upstream.plays(streams(THOUGHT, seen, answer("prose")))
    begun = sdk.chat.completions.stream(model="jina-deepsearch-v1", messages=MESSAGES, response_format=Tide)
    async with begun as stream:
        with pytest.raises(openai.APIError, match="the answer is not JSON"):
            await read(stream, seen)


async def test_the_streaming_parser_of_the_openai_sdk_gets_an_object(
    sdk: openai.AsyncOpenAI, upstream: ScriptedUpstream
) -> None:
    upstream.plays(streams(THOUGHT, answer(FITS)))
    begun = sdk.chat.completions.stream(model="jina-deepsearch-v1", messages=MESSAGES, response_format=Tide)
    async with begun as stream:
        said = await stream.get_final_completion()
    assert said.choices[0].message.parsed == Tide(tide="high", at=[1])
