"""DeepSearch in the sandbox: byte for byte in the forms that both providers document."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest

from app.sandbox import Sandbox

QUESTION = "What are tides?"
QUOTE = "Tides rise and fall because the Moon, and to a lesser degree the Sun, pulls on the sea."
URL = "https://almanac.example.org/tides"
ANSWER = (
    "This answer comes from the Torii sandbox, which knows 18 built-in pages and no network.\\n\\n"
    "Tides rise and fall because the Moon, and to a lesser degree the Sun, pulls on the sea [^1].\\n\\n"
    "[^1]: Tides rise and fall because the Moon and to a lesser degree the Sun pulls on the sea "
    f"[Tides and the Moon]({URL})"
)
WORDS_BEFORE_THE_VISIT = ["I", " ", "need", " ", "to"]
WORDS_AFTER_THE_VISIT = (
    " find out: What are tides? Let me search for what are tides, tides and the moon to gather more information. "
    f"Let me read {URL} to gather more information. Tides and the Moon says: {QUOTE} "
    "But wait, let me evaluate the answer first. The answer is definitive, so let me finalize it. "
)
USAGE = '"usage":{"prompt_tokens":39515,"completion_tokens":5850,"total_tokens":44915}'
FOUND = f'"visitedURLs":["{URL}","javascript:void(0)","mailto:editor@almanac.example.org","http://localhost:3000/"]'


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(pace=0) as running:
        yield running


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with httpx.Client(headers={"authorization": "Bearer sandbox-key"}, timeout=60) as client:
        yield client


def ask(http: httpx.Client, url: str, question: Any = QUESTION, **options: Any) -> httpx.Response:
    messages = [{"role": "user", "content": question}]
    body = {"model": "jina-deepsearch-v1", "messages": messages, "reasoning_effort": "low", **options}
    return http.post(f"{url}/chat/completions", json=body)


def normalised(text: str) -> str:
    """The clock's part of ids: 1790000000123 and 1790000000."""
    numbers = re.sub(r'"(id|system_fingerprint)":"(fp_)?\d{13}"', r'"\1":"\g<2>1790000000123"', text)
    return re.sub(r'"created":\d{10}\b', '"created":1790000000', numbers)


def chunks(text: str) -> list[dict[str, Any]]:
    data = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
    return [msgspec.json.decode(one) for one in data if one != "[DONE]"]


def pieces(text: str) -> list[str]:
    return re.findall(r"\s+|\w+|[^\w\s]", text)


def test_a_stream_of_jina_is_as_documented_to_the_byte(sandbox: Sandbox, http: httpx.Client) -> None:
    def chunk(delta: str, finish: str = "null", tail: str = "") -> str:
        return (
            'data: {"id":"1790000000123","object":"chat.completion.chunk","created":1790000000,'
            '"model":"jina-deepsearch-v1","system_fingerprint":"fp_1790000000123","choices":[{"index":0,'
            f'"delta":{delta},"logprobs":null,"finish_reason":{finish}}}]{tail}}}\n\n'
        )

    annotation = (
        '{"type":"url_citation","url_citation":{"title":"Tides and the Moon",'
        f'"exactQuote":"{QUOTE}","url":"{URL}","dateTime":"2026-09-01 08:00:00"}}}}'
    )
    expected = [
        chunk('{"role":"assistant","content":"<think>","type":"think"}'),
        chunk('{"type":"think","query":"what are tides"}'),
        chunk('{"type":"think","query":"tides and the moon"}'),
        *(chunk(f'{{"content":"{word}","type":"think"}}') for word in WORDS_BEFORE_THE_VISIT),
        chunk(f'{{"type":"think","url":"{URL}"}}'),
        *(chunk(f'{{"content":"{word}","type":"think"}}') for word in pieces(WORDS_AFTER_THE_VISIT)),
        chunk('{"content":"</think>\\n\\n","type":"think"}', '"thinking_end"'),
        chunk(
            f'{{"content":"{ANSWER}","type":"text","annotations":[{annotation}]}}',
            '"stop"',
            f',{USAGE},{FOUND},"readURLs":["{URL}"],"numURLs":4',
        ),
    ]
    answer = ask(http, sandbox.urls["deepsearch"], stream=True)
    assert normalised(answer.text) == "".join(expected)
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-sandbox"] == "torii"


def test_a_stream_of_aihubmix_is_as_documented_to_the_byte(sandbox: Sandbox, http: httpx.Client) -> None:
    def chunk(delta: str, finish: str = "", tail: str = "") -> str:
        return (
            'data: {"id":"1790000000123","object":"chat.completion.chunk","created":1790000000,'
            f'"model":"jina-deepsearch-v1","choices":[{{"index":0,"delta":{delta}{finish}}}],'
            f'"system_fingerprint":"fp_1790000000123"{tail}}}\n\n'
        )

    annotation = (
        '{"type":"url_citation","url_citation":{'
        f'"url":"{URL}","title":"Tides and the Moon","start_index":0,"end_index":0}}}}'
    )
    expected = [
        chunk('{"role":"assistant","reasoning_content":"<think>"}'),
        *(chunk(f'{{"reasoning_content":"{word}"}}') for word in WORDS_BEFORE_THE_VISIT),
        *(chunk(f'{{"reasoning_content":"{word}"}}') for word in pieces(WORDS_AFTER_THE_VISIT)),
        chunk('{"reasoning_content":"</think>\\n\\n"}', ',"finish_reason":"thinking_end"'),
        chunk(
            f'{{"content":"{ANSWER}","type":"text","annotations":[{annotation}]}}',
            ',"finish_reason":"stop"',
            f",{USAGE}",
        ),
        "data: [DONE]\n\n",
    ]
    assert normalised(ask(http, sandbox.urls["aihubmix"], stream=True).text) == "".join(expected)


def test_without_stream_jina_answers_whole_without_its_thinking(sandbox: Sandbox, http: httpx.Client) -> None:
    annotation = (
        '{"type":"url_citation","url_citation":{"title":"Tides and the Moon",'
        f'"exactQuote":"{QUOTE}","url":"{URL}","dateTime":"2026-09-01 08:00:00"}}}}'
    )
    expected = (
        '{"id":"1790000000123","object":"chat.completion","created":1790000000,"model":"jina-deepsearch-v1",'
        '"system_fingerprint":"fp_1790000000123","choices":[{"index":0,"message":{"role":"assistant",'
        f'"content":"{ANSWER}","type":"text","annotations":[{annotation}]}},"logprobs":null,"finish_reason":"stop"}}],'
        f'{USAGE},{FOUND},"readURLs":["{URL}"],"numURLs":4}}'
    )
    assert normalised(ask(http, sandbox.urls["deepsearch"]).text) == expected
    assert normalised(ask(http, sandbox.urls["deepsearch"], stream=False).text) == expected


def test_trap_26_aihubmix_streams_when_stream_is_absent(sandbox: Sandbox, http: httpx.Client) -> None:
    absent, off = ask(http, sandbox.urls["aihubmix"]), ask(http, sandbox.urls["aihubmix"], stream=False)
    assert absent.headers["content-type"] == "text/event-stream"
    assert absent.text.endswith("data: [DONE]\n\n")
    assert off.headers["content-type"] == "application/json"
    assert list(off.json()) == ["id", "object", "created", "model", "choices", "system_fingerprint", "usage"]
    assert off.json()["choices"][0]["message"]["content"] == ANSWER.replace("\\n", "\n")


def test_the_same_question_is_answered_the_same(sandbox: Sandbox, http: httpx.Client) -> None:
    first, second = (ask(http, sandbox.urls["deepsearch"], stream=True).text for _ in range(2))
    assert normalised(first) == normalised(second)


def test_a_greeting_is_answered_directly_unless_that_is_forbidden(sandbox: Sandbox, http: httpx.Client) -> None:
    direct = chunks(ask(http, sandbox.urls["deepsearch"], "Hi!", stream=True).text)
    assert [chunk["choices"][0]["delta"].get("content") for chunk in direct[:2]] == ["<think>", "</think>\n\n"]
    assert len(direct) == 3
    assert "annotations" not in direct[2]["choices"][0]["delta"]
    assert (direct[2]["visitedURLs"], direct[2]["readURLs"], direct[2]["numURLs"]) == ([], [], 0)
    searched = chunks(ask(http, sandbox.urls["deepsearch"], "Hi!", stream=True, no_direct_answer=True).text)
    assert searched[1]["choices"][0]["delta"] == {"type": "think", "query": "hi"}


def test_the_last_user_message_is_the_question(sandbox: Sandbox, http: httpx.Client) -> None:
    talk = [
        {"role": "user", "content": "What are tides?"},
        {"role": "assistant", "content": "They come and go."},
        {"role": "user", "content": "And how is green tea brewed?"},
        {"role": "assistant", "content": ""},
    ]
    answer = ask(http, sandbox.urls["deepsearch"], messages=talk).json()
    assert answer["readURLs"] == ["https://kitchen.example.net/green-tea"]


def test_trap_22_a_page_without_a_date_has_a_footnote_but_no_annotation(sandbox: Sandbox, http: httpx.Client) -> None:
    question = "How do lighthouses work, and what are tides?"
    message = ask(http, sandbox.urls["deepsearch"], question, reasoning_effort="medium").json()["choices"][0]["message"]
    assert re.findall(r"^\[\^(\d)\]:.*\((.*)\)$", message["content"], re.MULTILINE) == [
        ("1", "https://atlas.example.com/lighthouses"),
        ("2", URL),
    ]
    assert [one["url_citation"]["url"] for one in message["annotations"]] == [URL]
    alone = ask(http, sandbox.urls["deepsearch"], "How does a lighthouse work?").json()["choices"][0]["message"]
    assert alone["annotations"] == []


def test_trap_37_line_separators_are_raw_in_the_answer(sandbox: Sandbox, http: httpx.Client) -> None:
    answer = ask(http, sandbox.urls["deepsearch"], "line separators of Unicode", stream=True).text
    assert all(character in answer for character in "\u2028\u2029\u0085")


def test_trap_35_an_answer_may_speak_of_think_tags_and_done(sandbox: Sandbox, http: httpx.Client) -> None:
    answer = ask(http, sandbox.urls["deepsearch"], "normal form of DeepSearch streams with think and DONE").json()
    content = answer["choices"][0]["message"]["content"]
    assert "<think> and </think> or of data: [DONE]" in content


def test_hosts_can_be_chosen(sandbox: Sandbox, http: httpx.Client) -> None:
    question = "What are tides, and how is green tea brewed?"

    def read(**options: Any) -> list[str]:
        answer = ask(http, sandbox.urls["deepsearch"], question, reasoning_effort="high", **options).json()
        return [url.split("/")[2] for url in answer["readURLs"]]

    everything = read()
    assert {"almanac.example.org", "kitchen.example.net"} <= set(everything)
    assert "kitchen.example.net" not in read(bad_hostnames=["kitchen.example.net"])
    assert set(read(only_hostnames=["almanac.example.org"])) == {"almanac.example.org"}
    assert read(only_hostnames=["nowhere.example.org"]) == []
    assert read(boost_hostnames=["kitchen.example.net"])[0] == "kitchen.example.net"


def test_a_host_list_that_is_none_is_an_error_with_status_200(sandbox: Sandbox, http: httpx.Client) -> None:
    answer = ask(http, sandbox.urls["deepsearch"], only_hostnames="almanac.example.org")
    choice = {
        "index": 0,
        "message": {
            "role": "assistant",
            "content": "Error: body.only_hostnames?.map is not a function",
            "type": "error",
        },
        "logprobs": None,
        "finish_reason": "error",
    }
    assert (answer.status_code, answer.json()["choices"]) == (200, [choice])


def test_budgets_and_lengths_are_seen(sandbox: Sandbox, http: httpx.Client) -> None:
    question = "What are tides, and how is green tea brewed?"
    wide = ask(http, sandbox.urls["deepsearch"], question, reasoning_effort="high").json()
    tight = ask(http, sandbox.urls["deepsearch"], question, budget_tokens=20_000).json()
    assert len(wide["readURLs"]) > len(tight["readURLs"]) == 1
    assert tight["usage"]["total_tokens"] == 20_000
    one = ask(http, sandbox.urls["deepsearch"], question, max_returned_urls="1").json()
    assert len(one["visitedURLs"]) == 1 < one["numURLs"]


def test_trap_24_max_completion_tokens_is_a_budget(sandbox: Sandbox, http: httpx.Client) -> None:
    assert ask(http, sandbox.urls["deepsearch"], max_completion_tokens=1000).json()["usage"]["total_tokens"] == 1000


def test_attachments_are_seen(sandbox: Sandbox, http: httpx.Client) -> None:
    picture = base64.b64encode(b"\x89PNG 1234567").decode()
    parts = [
        {"type": "text", "text": QUESTION},
        {"type": "image", "image": f"data:image/png;base64,{picture}", "mimeType": "image/png"},
        {"type": "file", "data": f"data:application/pdf;base64,{picture}", "mimeType": "application/pdf"},
    ]
    content = ask(http, sandbox.urls["deepsearch"], parts).json()["choices"][0]["message"]["content"]
    assert "With your message came: image (image/png, 12 bytes), file (application/pdf, 12 bytes)." in content


def test_openais_file_part_is_not_converted(sandbox: Sandbox, http: httpx.Client) -> None:
    parts = [{"type": "file", "file": {"file_data": "data:text/plain;base64,aGk=", "filename": "a.txt"}}]
    answer = ask(http, sandbox.urls["deepsearch"], parts)
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == "Error: The file part has no data"


SCHEMA = {
    "type": "object",
    "properties": {
        "answer": {"type": "string"},
        "confidence": {"type": "number", "minimum": 0, "maximum": 1},
        "sources": {"type": "array", "items": {"type": "object", "properties": {"url": {"type": "string"}}}},
    },
    "required": ["answer", "confidence", "sources"],
}
STRUCTURED = (
    f'{{\n  "answer": "{QUOTE}",\n  "confidence": 1,\n  "sources": [\n    {{\n      "url": "{URL}"\n    }}\n  ]\n}}'
)


@pytest.mark.parametrize("host", ["deepsearch", "aihubmix"])
def test_a_schema_is_filled_in_pretty_json(sandbox: Sandbox, http: httpx.Client, host: str) -> None:
    form = {"type": "json_schema", "json_schema": SCHEMA}
    last = chunks(ask(http, sandbox.urls[host], stream=True, response_format=form).text)[-1]
    assert last["choices"][0]["delta"] == {"content": STRUCTURED, "type": "json"}


def test_trap_25_openais_wrapper_is_no_schema_at_jina(sandbox: Sandbox, http: httpx.Client) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "tides", "strict": True, "schema": SCHEMA}}
    answer = ask(http, sandbox.urls["deepsearch"], response_format=form)
    assert (answer.status_code, answer.json()) == (400, {"error": "Invalid JSON schema: Unsupported schema type"})


def test_errors_of_deepsearch_are_strings_or_pages(sandbox: Sandbox, http: httpx.Client) -> None:
    url = f"{sandbox.urls['deepsearch']}/chat/completions"
    with httpx.Client() as keyless:
        missing = keyless.post(url, json={})
        refused = keyless.post(url, json={}, headers={"authorization": "Bearer an-invalid-key"})
    assert (missing.status_code, missing.content) == (401, b'{"error":"Unauthorized: API key required"}')
    assert (refused.status_code, refused.content) == (401, b'{"error":"Unauthorized: Invalid API key"}')
    empty = http.post(url, json={"messages": []})
    assert (empty.status_code, list(empty.json())) == (400, ["error", "details"])
    assert empty.json()["error"] == "Invalid request body"
    assistant = http.post(url, json={"messages": [{"role": "assistant", "content": "so"}]})
    assert (assistant.status_code, assistant.json()) == (400, {"error": "Last message must be from user"})
    for status, page in (
        (400, http.post(url, content=b"{")),
        (413, http.post(url, content=b" " * (10 * 1024 * 1024 + 1))),
        (404, http.post(f"{sandbox.urls['deepsearch']}/embeddings", json={})),
    ):
        assert (page.status_code, page.headers["content-type"]) == (status, "text/html; charset=utf-8")
        assert page.text.startswith("<!DOCTYPE html>")


def test_deepsearch_gives_back_any_model_name_and_lists_two(sandbox: Sandbox, http: httpx.Client) -> None:
    assert ask(http, sandbox.urls["deepsearch"], model="anything").json()["model"] == "anything"
    listed = httpx.get(f"{sandbox.urls['deepsearch']}/models").json()
    assert [model["id"] for model in listed["data"]] == ["jina-deepsearch-v1", "jina-deepsearch-v2"]
    assert listed["data"][0] == {
        "id": "jina-deepsearch-v1",
        "object": "model",
        "created": 1686935002,
        "owned_by": "jina-ai",
    }


def test_aihubmix_knows_one_deepsearch_model(sandbox: Sandbox, http: httpx.Client) -> None:
    answer = ask(http, sandbox.urls["aihubmix"], model="jina-deepsearch-v9")
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]
    assert answer.json()["error"]["message"].startswith("Incorrect model ID")
    assert answer.json()["error"]["type"] == "Aihubmix_api_error"


def test_pace_scales_the_delays() -> None:
    with Sandbox(pace=0.05) as sandbox, httpx.Client(headers={"authorization": "Bearer k"}) as http:
        begun = time.monotonic()
        with http.stream(
            "POST",
            f"{sandbox.urls['deepsearch']}/chat/completions",
            json={"messages": [{"role": "user", "content": QUESTION}], "stream": True},
        ) as answer:
            arrived = [time.monotonic() - begun for _ in answer.iter_raw()]
    assert len(arrived) > 20
    assert arrived[-1] - arrived[0] > 0.2
