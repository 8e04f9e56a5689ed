"""DeepSearch in the sandbox: byte for byte in the formats that both providers document."""

from __future__ import annotations

import base64
import re
import time
from typing import Any

import httpx
import msgspec
import pytest

from app.sandbox import Sandbox
from app.sandbox.steps import typed

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
    "But wait, let me evaluate the answer first. The"
)
LAST = "But wait, let me evaluate the answer first. The answer is definitive, so let me finalize it. "
USAGE = '"usage":{"prompt_tokens":39515,"completion_tokens":5850,"total_tokens":44915}'
FOUND = '"visitedURLs":["javascript:void(0)","mailto:editor@almanac.example.org","http://localhost:3000/"]'


def ask(http: httpx.Client, url: str, question: Any = QUESTION, **options: Any) -> httpx.Response:
    messages = [{"role": "user", "content": question}]
    body = {"model": "jina-deepsearch-v1", "messages": messages, "reasoning_effort": "low", **options}
    return http.post(f"{url}/chat/completions", json=body)


def normalised(text: str) -> str:
    """The text with all ids made from the clock replaced by 1790000000123 and 1790000000."""
    numbers = re.sub(r'"(id|system_fingerprint)":"(fp_)?\d{13}"', r'"\1":"\g<2>1790000000123"', text)
    return re.sub(r'"created":\d{10}\b', '"created":1790000000', numbers)


def chunks(text: str) -> list[dict[str, Any]]:
    data = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
    return [msgspec.json.decode(one) for one in data if one != "[DONE]"]


def pieces(text: str) -> list[str]:
    """A URL is one piece."""
    return re.findall(r"https?://\S+|\s|\w+|[^\w\s]", text)


def test_a_stream_of_jina_is_as_documented_to_the_byte(sandbox: Sandbox, http: httpx.Client) -> None:
    def chunk(delta: str, finish: str = "null", tail: str = "") -> str:
        return (
            'data: {"id":"1790000000123","object":"chat.completion.chunk","created":1790000000,'
            '"model":"jina-deepsearch-v1","system_fingerprint":"fp_1790000000123","choices":[{"index":0,'
            f'"delta":{delta},"logprobs":null,"finish_reason":{finish}}}]{tail}}}\n\n'
        )

    annotation = (
        '{"type":"url_citation","url_citation":{"title":"Tides and the Moon",'
        f'"exactQuote":"{QUOTE} ","url":"{URL}","dateTime":"2026-09-01 08:00:00"}}}}'
    )
    expected = [
        chunk('{"role":"assistant","content":"<think>","type":"think"}'),
        *(chunk(f'{{"type":"think","query":"{query}"}}') for query in ("what are tides", "tides and the moon") * 3),
        *(chunk(f'{{"content":"{word}","type":"think"}}') for word in WORDS_BEFORE_THE_VISIT),
        *(chunk(f'{{"type":"think","url":{url}}}') for url in ("0", f'"{URL}"', f'"{URL}"')),
        *(chunk(f'{{"content":"{word}","type":"think"}}') for word in [*pieces(WORDS_AFTER_THE_VISIT), LAST]),
        chunk('{"content":"</think>\\n\\n","type":"think"}', '"thinking_end"'),
        chunk(
            f'{{"content":"{ANSWER}","type":"text","annotations":[{annotation}]}}',
            '"stop"',
            f',{USAGE},{FOUND},"readURLs":["{URL}"],"numURLs":3',
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
        *(chunk(f'{{"reasoning_content":"{word}"}}') for word in [*pieces(WORDS_AFTER_THE_VISIT), LAST]),
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
        f'"exactQuote":"{QUOTE} ","url":"{URL}","dateTime":"2026-09-01 08:00:00"}}}}'
    )
    expected = (
        '{"id":"1790000000123","object":"chat.completion","created":1790000000,"model":"jina-deepsearch-v1",'
        '"system_fingerprint":"fp_1790000000123","choices":[{"index":0,"message":{"role":"assistant",'
        f'"content":"{ANSWER}","type":"text","annotations":[{annotation}]}},"logprobs":null,"finish_reason":"stop"}}],'
        f'{USAGE},{FOUND},"readURLs":["{URL}"],"numURLs":3}}'
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
    assert tight["usage"]["total_tokens"] > 20_000  # the server checks the budget between the steps
    one = ask(http, sandbox.urls["deepsearch"], question, max_returned_urls="1").json()
    assert len(one["visitedURLs"]) == 1 < one["numURLs"]


def test_trap_24_max_completion_tokens_is_a_budget(sandbox: Sandbox, http: httpx.Client) -> None:
    question = "What are tides, and how is green tea brewed?"
    wide = ask(http, sandbox.urls["deepsearch"], question, reasoning_effort="high").json()
    tight = ask(http, sandbox.urls["deepsearch"], question, reasoning_effort="high", max_completion_tokens=1000).json()
    assert len(wide["readURLs"]) > len(tight["readURLs"]) == 1


def test_attachments_are_seen(sandbox: Sandbox, http: httpx.Client) -> None:
    picture = base64.b64encode(b"\x89PNG 1234567").decode()
    parts = [
        {"type": "text", "text": QUESTION},
        {"type": "image", "image": f"data:image/png;base64,{picture}", "mimeType": "image/png"},
        {"type": "file", "data": f"data:application/pdf;base64,{picture}", "mimeType": "application/pdf"},
    ]
    content = ask(http, sandbox.urls["deepsearch"], parts).json()["choices"][0]["message"]["content"]
    assert "With your message came: image (image/png, 12 bytes), file (application/pdf, 12 bytes)." in content


def test_parts_that_the_server_does_not_know_are_overlooked(sandbox: Sandbox, http: httpx.Client) -> None:
    openais = {"type": "file", "file": {"file_data": "data:text/plain;base64,aGk=", "filename": "a.txt"}}
    answer = ask(http, sandbox.urls["deepsearch"], [{"type": "text", "text": QUESTION}, openais, {"type": "x"}])
    assert answer.json()["choices"][0]["message"]["content"] == ANSWER.replace("\\n", "\n")


def test_a_picture_of_the_assistants_makes_the_question_vanish(sandbox: Sandbox, http: httpx.Client) -> None:
    picture = {"type": "image", "image": "data:image/png;base64,aGk=", "mimeType": "image/png"}
    talk = [{"role": "assistant", "content": [picture]}, {"role": "user", "content": QUESTION}]
    answer = ask(http, sandbox.urls["deepsearch"], messages=talk)
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"].startswith("Hello!")


def test_system_messages_have_no_effect_and_roles_are_not_looked_at(sandbox: Sandbox, http: httpx.Client) -> None:
    talk = [
        {"role": "system", "content": "Speak of green tea only."},
        {"role": "oracle", "content": "Green tea!"},
        {"role": "user", "content": QUESTION},
    ]
    assert ask(http, sandbox.urls["deepsearch"], messages=talk).json()["readURLs"] == [URL]


def test_a_search_provider_that_is_not_known_searches_nothing(sandbox: Sandbox, http: httpx.Client) -> None:
    answer = ask(http, sandbox.urls["deepsearch"], search_provider="altavista", stream=True)
    assert not [one for one in chunks(answer.text) if "query" in one["choices"][0]["delta"]]
    last = chunks(answer.text)[-1]
    assert (last["choices"][0]["finish_reason"], last["choices"][0]["delta"]["annotations"]) == ("stop", [])
    assert (last["visitedURLs"], last["readURLs"], last["numURLs"]) == ([], [], 0)


def test_a_team_asks_more_and_tells_of_its_pages_twice(sandbox: Sandbox, http: httpx.Client) -> None:
    question = "What are tides, and how is green tea brewed, and sourdough?"
    answers = [
        chunks(
            ask(http, sandbox.urls["deepsearch"], question, reasoning_effort="high", team_size=size, stream=True).text
        )
        for size in (1, 2, 7)
    ]
    queries = [{one["choices"][0]["delta"].get("query") for one in answer} - {None} for answer in answers]
    assert [len(asked) for asked in queries] == [2, 4, 4]
    for answer, times in zip(answers, (1, 2, 2), strict=True):
        read = answer[-1]["readURLs"]
        assert [read.count(url) for url in read] == [times] * len(read)
        assert len(answer[-1]["visitedURLs"]) == answer[-1]["numURLs"]


def test_no_annotations_gives_one(sandbox: Sandbox, http: httpx.Client) -> None:
    question = "What are tides, and how is green tea brewed?"
    for most, count in ((0, 1), (1, 1), (2, 2), (None, 2)):
        body = ask(http, sandbox.urls["deepsearch"], question, reasoning_effort="high", max_annotations=most).json()
        assert len(body["choices"][0]["message"]["annotations"]) == count


def test_pieces_are_those_of_the_server() -> None:
    text = "我见 https://a.example/潮,b, (see 3.14, x) yes?! xhttp://b.example) é🌊. "
    assert list(typed(text)) == [
        *(
            "我",
            "见",
            " ",
            "https://a.example/潮,b,",
            " ",
            "(see",
            " ",
            "3",
            ".14",
            ",",
            " ",
            "x)",
            " ",
            "yes",
            "?",
            "!",
            " ",
        ),
        *("x", "http://b.example", ")", " ", "é🌊", ".", " "),
    ]


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
    delta = last["choices"][0]["delta"]
    assert (delta["content"], delta["type"]) == (STRUCTURED, "json")
    assert [one["url_citation"]["url"] for one in delta["annotations"]] == [URL]


def test_trap_25_no_schema_is_looked_at(sandbox: Sandbox, http: httpx.Client) -> None:
    """OpenAI's wrapper has no schema keywords, so a string comes back. A schema that cannot be filled gives prose."""
    wrapper = {"name": "tides", "strict": True, "schema": SCHEMA}

    def said(**form: Any) -> tuple[str, str]:
        answer = ask(http, sandbox.urls["deepsearch"], response_format=form)
        message = answer.json()["choices"][0]["message"]
        return message["type"], message["content"]

    assert said(type="json_schema", json_schema=wrapper) == ("json", f'"{QUOTE}"')
    assert said(type="json_schema", json_schema={"$ref": "#"}) == ("json", ANSWER.replace("\\n", "\n"))
    assert said(type="json_object", json_schema=SCHEMA) == ("json", STRUCTURED)
    assert said(type="json_object")[0] == "text"


def test_errors_of_deepsearch_are_strings_or_pages(sandbox: Sandbox, http: httpx.Client) -> None:
    url = f"{sandbox.urls['deepsearch']}/chat/completions"
    with httpx.Client() as keyless:
        missing = keyless.post(url, json={})
        refused = keyless.post(url, json={}, headers={"authorization": "Bearer an-invalid-key"})
    assert (missing.status_code, missing.content) == (401, b'{"error":"Unauthorized: API key required"}')
    assert (refused.status_code, refused.content) == (401, b'{"error":"Unauthorized: Invalid API key"}')
    empty = http.post(url, json={"messages": []})
    assert (empty.status_code, empty.json()) == (400, {"error": "Messages array is required and must not be empty"})
    wrong = http.post(url, json={"messages": "my text"})
    details = [{"type": "field", "msg": "Invalid value", "path": "messages", "location": "body", "value": "my text"}]
    assert (wrong.status_code, wrong.json()) == (400, {"error": "Invalid request body", "details": details})
    assistant = http.post(url, json={"messages": [{"role": "assistant", "content": "so"}]})
    assert (assistant.status_code, assistant.json()) == (400, {"error": "Last message must be from user"})
    for status, page in (
        (400, http.post(url, content=b"{")),
        (413, http.post(url, content=b" " * (10 * 1024 * 1024 + 1))),
        (404, http.post(f"{sandbox.urls['deepsearch']}/embeddings", json={})),
    ):
        assert (page.status_code, page.headers["content-type"]) == (status, "text/html; charset=utf-8")
        assert page.text.startswith("<!DOCTYPE html>")
        assert ("node_modules" in page.text) is (status == 413)
    assert "Cannot POST /v1/v1/chat/completions" in http.post(url.replace("/v1", "/v1/v1"), json={}).text


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
    one = httpx.get(f"{sandbox.urls['deepsearch']}/models/jina-deepsearch-v1")
    assert (one.status_code, one.json()) == (200, listed["data"][0])
    none = httpx.get(f"{sandbox.urls['deepsearch']}/models/x")
    told = {"message": "Model 'x' not found", "type": "invalid_request_error", "param": None, "code": "model_not_found"}
    assert (none.status_code, none.json()) == (404, {"error": told})


def test_browsers_may_ask_deepsearch(sandbox: Sandbox, http: httpx.Client) -> None:
    url = f"{sandbox.urls['deepsearch']}/chat/completions"
    before = http.options(url)
    assert (before.status_code, before.headers["access-control-allow-origin"]) == (204, "*")
    for answer in (ask(http, sandbox.urls["deepsearch"]), http.post(url, json={}), http.get(f"{url}/x")):
        assert answer.headers["access-control-allow-origin"] == "*"
    assert http.options(f"{sandbox.urls['jina']}/embeddings").status_code == 404


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
