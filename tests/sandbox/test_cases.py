"""Every trigger of the sandbox, seen by a client; and the sandbox never fails without a trigger."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from app.sandbox import CASES, Sandbox
from app.sandbox.server import hosts, respond
from app.sandbox.wire import Ask, Whole, encode

HOST_NAMES = ("jina", "deepsearch", "aihubmix")
MODELS = {"jina": "jina-vlm", "deepsearch": "jina-deepsearch-v1", "aihubmix": "jina-deepsearch-v1"}
Call = Callable[..., httpx.Response]


@pytest.fixture
def embed(sandbox: Sandbox, http: httpx.Client) -> Call:
    def call(case: str, host: str = "jina", **options: Any) -> httpx.Response:
        body = {"model": "jina-embeddings-v3", "input": ["the sea", case, "green tea"]}
        return http.post(f"{sandbox.urls[host]}/embeddings", json=body, **options)

    return call


@pytest.fixture
def chat(sandbox: Sandbox, http: httpx.Client) -> Call:
    def call(case: str, host: str, *, stream: bool = True, **options: Any) -> httpx.Response:
        messages = [{"role": "user", "content": f"What are tides? {case}"}]
        body = {"model": MODELS[host], "messages": messages, "stream": stream}
        return http.post(f"{sandbox.urls[host]}/chat/completions", json=body, **options)

    return call


def finishes(answer: httpx.Response) -> list[Any]:
    data = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")]
    found = [msgspec.json.decode(one)["choices"][0].get("finish_reason") for one in data]
    return [finish for finish in found if finish]


STATUSES = {
    "400": (400, 400, 400),
    "401": (401, 401, 401),
    "402": (402, 402, 402),
    "403": (403, 403, 403),
    "balance": (403, 402, 403),
    "balance-400": (400, 400, 400),
    "404": (404, 404, 404),
    "409": (409, 409, 409),
    "413-html": (413, 413, 413),
    "422": (422, 422, 422),
    "429": (429, 429, 429),
    "429-bare": (429, 429, 429),
    "500": (500, 500, 500),
    "502-html": (502, 502, 502),
    "503": (503, 503, 503),
    "504": (504, 504, 504),
    "524-html": (524, 524, 524),
    "redirect": (302, 302, 302),
    "200-error": (200, 200, 200),
    "200-html": (200, 200, 200),
    "200-empty": (200, 200, 200),
}
KEYS = {"jina": ["detail", "code", "request_id"], "deepsearch": ["error"], "aihubmix": ["error"]}


@pytest.mark.parametrize("case", STATUSES)
def test_a_case_that_takes_the_place_of_the_answer(chat: Call, case: str) -> None:
    answers = {host: chat(f"sandbox:{case}", host) for host in HOST_NAMES}
    assert tuple(answer.status_code for answer in answers.values()) == STATUSES[case]
    assert {answer.headers["x-sandbox"] for answer in answers.values()} == {"torii"}
    for host, answer in answers.items():
        if case.endswith("-html"):
            assert answer.headers["content-type"].startswith("text/html")
            assert answer.text.lstrip().startswith("<")
        elif case in ("redirect", "200-empty"):
            assert answer.content == b""
        elif (host, case) == ("jina", "422"):
            assert list(answer.json()) == ["detail", "request_id", "errors"]
        else:
            assert answer.headers["content-type"] == "application/json"
            assert list(answer.json()) == KEYS[host]


def test_trap_28_an_empty_account_has_four_forms(chat: Call) -> None:
    jina = chat("sandbox:balance", "jina")
    assert (jina.status_code, jina.json()["code"]) == (403, "AUTHZ_INSUFFICIENT_BALANCE")
    text = "Account balance not enough to run this query, please recharge."
    assert chat("sandbox:balance", "deepsearch").json() == {"error": text}
    for case, status in (("balance", 403), ("balance-400", 400)):
        aihubmix = chat(f"sandbox:{case}", "aihubmix")
        assert aihubmix.status_code == status
        assert aihubmix.json()["error"]["message"].startswith("Your account balance is insufficient.")


def test_retry_after_is_there_or_not(embed: Call) -> None:
    assert embed("sandbox:429").headers["retry-after"] == "2"
    assert "retry-after" not in embed("sandbox:429-bare").headers


def test_trap_30_the_422_of_jina_echoes_the_text(embed: Call) -> None:
    echoed = [wrong["input"] for wrong in embed("my secret sandbox:422").json()["errors"]]
    assert echoed == ["my secret sandbox:422"] * 2


def test_a_redirect_names_another_host(embed: Call) -> None:
    assert embed("sandbox:redirect").headers["location"] == "https://elsewhere.example.org/"


def test_a_case_can_be_meant_for_one_provider(embed: Call, chat: Call) -> None:
    assert [embed("sandbox:500@jina", host).status_code for host in ("jina", "aihubmix")] == [500, 200]
    assert [embed("sandbox:500@aihubmix", host).status_code for host in ("jina", "aihubmix")] == [200, 500]
    assert [chat("sandbox:503@jina", host).status_code for host in HOST_NAMES] == [503, 503, 200]


def test_a_case_may_stand_in_a_query_an_object_or_the_key(sandbox: Sandbox, http: httpx.Client) -> None:
    rerank = {"model": "jina-reranker-v3", "query": "sandbox:503", "documents": ["a"]}
    assert http.post(f"{sandbox.urls['jina']}/rerank", json=rerank).status_code == 503
    body: dict[str, Any] = {"model": "jina-clip-v2", "input": [{"text": "sandbox:504"}]}
    assert http.post(f"{sandbox.urls['jina']}/embeddings", json=body).status_code == 504
    body = {"model": "jina-embeddings-v3", "input": ["a"]}
    key = {"authorization": "Bearer sandbox:429"}
    assert http.post(f"{sandbox.urls['jina']}/embeddings", json=body, headers=key).status_code == 429


def test_only_the_last_user_message_counts(sandbox: Sandbox, http: httpx.Client) -> None:
    talk = [{"role": "user", "content": "sandbox:500"}, {"role": "user", "content": "What are tides?"}]
    answer = http.post(f"{sandbox.urls['deepsearch']}/chat/completions", json={"messages": talk})
    assert answer.status_code == 200


def test_a_case_goes_before_other_mistakes(sandbox: Sandbox, http: httpx.Client) -> None:
    body = {"model": "no-such-model", "input": ["sandbox:503"]}
    assert http.post(f"{sandbox.urls['jina']}/embeddings", json=body).status_code == 503


def test_an_unknown_case_is_told_with_the_known_ones(embed: Call) -> None:
    answer = embed("sandbox:nonsense")
    assert answer.status_code == 400
    assert answer.json()["detail"] == f"The sandbox knows no case 'nonsense'. It knows: {', '.join(CASES)}"


# ------------------------------------------------------------- embeddings and rerank


@pytest.mark.parametrize(
    ("case", "indexes"),
    [("missing-item", [1, 2]), ("extra-item", [0, 1, 2, 2]), ("bad-index", [0, 1, 10]), ("shuffled-items", [2, 1, 0])],
)
def test_a_case_that_spoils_the_vectors(embed: Call, case: str, indexes: list[int]) -> None:
    for host in ("jina", "aihubmix"):
        assert [item["index"] for item in embed(f"sandbox:{case}", host).json()["data"]] == indexes


def test_results_are_spoilt_too(sandbox: Sandbox, http: httpx.Client) -> None:
    body = {"model": "jina-reranker-m0", "query": "sea sandbox:shuffled-items", "documents": ["the sea", "tea"]}
    results = http.post(f"{sandbox.urls['aihubmix']}/rerank", json=body).json()["results"]
    assert [one["index"] for one in results] == [1, 0]


def test_half_of_the_json_comes_in_good_order(embed: Call) -> None:
    half = embed("sandbox:half-json")
    assert half.headers["content-length"] == str(len(half.content))
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(half.content)


def test_usage_can_be_missing(embed: Call, chat: Call) -> None:
    assert list(embed("sandbox:no-usage").json()) == ["model", "object", "data"]
    assert '"usage"' not in chat("sandbox:no-usage", "deepsearch").text
    assert '"usage"' in chat("", "deepsearch").text


# ----------------------------------------------------------------------- connections


SILENT = httpx.Timeout(10, read=0.5)


@pytest.mark.parametrize("case", ["hang", "hang-after-head", "hang-mid-stream"])
def test_a_case_that_hangs(embed: Call, chat: Call, case: str) -> None:
    with pytest.raises(httpx.ReadTimeout):
        embed(f"sandbox:{case}", timeout=SILENT)
    with pytest.raises(httpx.ReadTimeout):
        chat(f"sandbox:{case}", "deepsearch", timeout=SILENT)


def test_what_comes_before_a_hang(sandbox: Sandbox, http: httpx.Client) -> None:
    def begun(case: str) -> tuple[int, bytes]:
        body = {"messages": [{"role": "user", "content": f"What are tides? sandbox:{case}"}], "stream": True}
        url = f"{sandbox.urls['deepsearch']}/chat/completions"
        parts: list[bytes] = []
        with http.stream("POST", url, json=body, timeout=SILENT) as answer, pytest.raises(httpx.ReadTimeout):
            parts.extend(answer.iter_raw())
        return answer.status_code, b"".join(parts)

    assert begun("hang-after-head") == (200, b"")
    status, received = begun("hang-mid-stream")
    assert (status, received.count(b"data: ") > 20, received.endswith(b"\n\n")) == (200, True, True)


def test_a_connection_closed_without_an_answer(embed: Call, chat: Call) -> None:
    with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
        embed("sandbox:reset")
    with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
        chat("sandbox:reset", "aihubmix")


@pytest.mark.parametrize(("case", "host"), [("reset-mid-stream", "deepsearch"), ("reset-mid-stream", "aihubmix")])
def test_a_stream_that_breaks(chat: Call, case: str, host: str) -> None:
    with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
        chat(f"sandbox:{case}", host)


@pytest.mark.parametrize("case", ["reset-mid-stream", "truncate"])
def test_a_whole_answer_that_breaks(embed: Call, case: str) -> None:
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
        embed(f"sandbox:{case}")


def test_a_stream_cut_in_good_order_has_no_finish(chat: Call) -> None:
    for host in ("deepsearch", "aihubmix"):
        cut = chat("sandbox:truncate", host)
        assert (finishes(cut), cut.text.endswith("\n\n"), "[DONE]" in cut.text) == ([], True, False)


# --------------------------------------------------------------------------- streams


def test_an_error_as_a_line_of_the_stream(chat: Call) -> None:
    assert chat("sandbox:error-line", "deepsearch").text.endswith('}\n\ndata: {"error":"upstream error"}\n\n')
    last = chat("sandbox:error-line", "aihubmix").text.rstrip().rpartition("\n\n")[2]
    error = msgspec.json.decode(last.removeprefix("data: "))["error"]
    assert error["message"].startswith("upstream error (tid: ")
    assert error["type"] == "Aihubmix_api_error"


def test_an_error_as_an_event(chat: Call) -> None:
    text = chat("sandbox:error-event", "deepsearch").text
    assert text.endswith('\n\nevent: error\ndata: {"error":"upstream error","type":"error"}\n\ndata: [DONE]\n\n')


def test_done_can_be_there_or_not(chat: Call) -> None:
    def done(case: str, host: str) -> bool:
        return chat(case, host).text.endswith("data: [DONE]\n\n")

    assert [done(case, "deepsearch") for case in ("", "sandbox:done", "sandbox:no-done")] == [False, True, False]
    assert [done(case, "aihubmix") for case in ("", "sandbox:done", "sandbox:no-done")] == [True, True, False]


def test_trap_16_the_last_line_end_can_be_missing(chat: Call) -> None:
    assert chat("sandbox:no-last-newline", "deepsearch").text.endswith('"numURLs":3}')


@pytest.mark.parametrize(("case", "end"), [("crlf", "\r\n"), ("cr", "\r")])
def test_lines_can_end_otherwise(chat: Call, case: str, end: str) -> None:
    text = chat(f"sandbox:{case}", "aihubmix").text
    assert text.endswith(f"data: [DONE]{end}{end}")
    assert "\n" not in text.replace(end, "")


def test_a_byte_order_mark_and_comments(chat: Call) -> None:
    assert chat("sandbox:bom", "deepsearch").content.startswith(b"\xef\xbb\xbfdata: {")
    text = chat("sandbox:keepalive", "deepsearch").text
    assert text.startswith(": keep-alive\ndata: {")
    assert text.count(": keep-alive\n") == text.count("data: {")


def test_usage_can_come_apart(chat: Call) -> None:
    *_, answer, usage = [one for one in chat("sandbox:usage-apart", "aihubmix").text.split("\n\n") if "data: {" in one]
    assert ('"usage"' in answer, '"choices":[]' in usage, '"usage":{' in usage) == (False, True, True)


def test_half_of_an_event(chat: Call) -> None:
    last = chat("sandbox:half-json", "deepsearch").text.removesuffix("\n\n").rpartition("data: ")[2]
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(last)


# ------------------------------------------------------------------------ DeepSearch


def test_trap_17_a_failed_run_has_status_200(chat: Call) -> None:
    whole = chat("sandbox:deepsearch-error", "deepsearch", stream=False)
    assert whole.status_code == 200
    assert whole.json()["choices"][0] == {
        "index": 0,
        "message": {
            "role": "assistant",
            "content": "Error: Token budget exceeded while calling model",
            "type": "error",
        },
        "logprobs": None,
        "finish_reason": "error",
    }


def test_trap_20_a_failed_stream_tells_its_usage_twice(chat: Call) -> None:
    for host, deltas in (
        ("deepsearch", ['"delta":{"content":"</think>","type":"think"}']),
        ("aihubmix", ['"delta":{"reasoning_content":"</think>"}']),
    ):
        failed = chat("sandbox:deepsearch-error", host)
        deltas.append('"delta":{"content":"Token budget exceeded while calling model","type":"error"}')
        assert (failed.status_code, finishes(failed)) == (200, ["error", "error"])
        assert failed.text.count('"usage":{"prompt_tokens":') == 2
        assert all(delta in failed.text for delta in deltas)


def test_trap_21_a_thought_can_come_twice_or_half(chat: Call) -> None:
    thought = "But wait, let me evaluate the answer first. The answer is definitive, so let me finalize it. "

    def reasoning(case: str) -> str:
        lines = chat(case, "aihubmix").text.split("\n\n")
        chunks = [msgspec.json.decode(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
        return "".join(chunk["choices"][0]["delta"].get("reasoning_content", "") for chunk in chunks)

    usual = reasoning("").removesuffix("</think>\n\n")
    dropped = reasoning("sandbox:dropped-thought").removesuffix("</think>\n\n")
    repeated = reasoning("sandbox:repeated-thought").removesuffix("</think>\n\n")
    before, wait, broken = dropped.rpartition("But wait,")
    assert thought.startswith(wait + broken)
    assert repeated == dropped + thought
    assert usual == f"{before}But wait, let me evaluate the answer first. The{thought}"


def test_an_early_failure_comes_before_any_thought(chat: Call) -> None:
    assert chat("sandbox:deepsearch-error-early", "deepsearch").text.count("data: ") == 3
    whole = chat("sandbox:deepsearch-error-early", "deepsearch", stream=False).json()
    assert whole["choices"][0]["finish_reason"] == "error"


@pytest.mark.parametrize("host", ["deepsearch", "aihubmix"])
def test_json_that_does_not_fit_its_schema(sandbox: Sandbox, http: httpx.Client, host: str) -> None:
    form = {"type": "json_schema", "json_schema": {"type": "object", "properties": {"when": {"const": "now"}}}}

    def content(case: str) -> str:
        messages = [{"role": "user", "content": f"What are tides? {case}"}]
        body = {"model": MODELS[host], "messages": messages, "stream": False, "response_format": form}
        answer = http.post(f"{sandbox.urls[host]}/chat/completions", json=body).json()["choices"][0]
        assert answer["finish_reason"] == "stop"
        return str(answer["message"]["content"])

    assert content("") == '{\n  "when": "now"\n}'
    assert content("sandbox:json-prose").startswith("This answer comes from the Torii sandbox")
    assert content("sandbox:json-string").startswith('"Tides rise')
    assert content("sandbox:json-object") == '{\n  "unasked": {\n    "when": "now"\n  }\n}'


def test_trap_13_searches_can_arrive_as_empty_deltas(chat: Call) -> None:
    assert '"delta":{}' not in chat("", "aihubmix").text
    assert chat("sandbox:empty-deltas", "aihubmix").text.count('"delta":{}') == 9


# ----------------------------------------------------------------------- all of them


def test_every_case_is_in_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "sandbox.md").read_text("utf-8")
    told = [line.split("|")[1:4] for line in text.splitlines() if line.startswith("| `sandbox:")]
    expected = [[f"`sandbox:{case.name}`", case.where, case.says] for case in CASES.values()]
    assert [[cell.strip() for cell in cells] for cells in told] == expected


anything = some.recursive(
    some.none()
    | some.booleans()
    | some.integers(-3, 3000)
    | some.floats(allow_nan=False, allow_infinity=False)
    | some.text(),
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(some.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
OPTIONS = some.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("input", "query", "documents", "messages", "task", "response_format", "stop"), anything),
        **dict.fromkeys(("tools", "tool_choice", "stream_options", "only_hostnames", "boost_hostnames"), anything),
        **dict.fromkeys(("dimensions", "top_n", "max_doc_length", "n", "max_tokens", "top_logprobs"), anything),
        **dict.fromkeys(("budget_tokens", "team_size", "reasoning_effort", "max_returned_urls"), anything),
        **dict.fromkeys(("max_annotations", "embedding_type", "encoding_format", "embedding_format"), anything),
        **dict.fromkeys(("stream", "logprobs", "late_chunking", "truncate", "return_multivector"), some.booleans()),
    },
)
MODELS_OF_ALL_KINDS = (
    "jina-embeddings-v3",
    "jina-embeddings-v4",
    "jina-clip-v2",
    "jina-colbert-v2",
    "jina-reranker-m0",
    "jina-reranker-v3",
    "jina-vlm",
    "jina-deepsearch-v1",
    "gpt-4o-mini",
    "text-embedding-3-small",
)
TALK = some.lists(
    some.fixed_dictionaries({"role": some.sampled_from(["user", "tool"]), "content": anything}), max_size=2
)


@settings(deadline=None)
@given(
    host=some.sampled_from(HOST_NAMES),
    path=some.sampled_from(["/embeddings", "/rerank", "/chat/completions"]),
    model=some.sampled_from(MODELS_OF_ALL_KINDS),
    options=OPTIONS,
    talk=TALK,
)
def test_no_body_breaks_the_sandbox(host: str, path: str, model: str, options: dict[str, Any], talk: list[Any]) -> None:
    body = {"messages": talk, **options, "model": model}
    ask = Ask("POST", f"/{host}/v1{path}", msgspec.json.encode(body), headers={"authorization": "Bearer k"})
    answer = respond(ask, hosts())
    items = [answer.body] if isinstance(answer, Whole) else answer.items
    assert all(encode(item) for item in items if isinstance(item, dict))
    assert 200 <= answer.status <= 524


def test_only_known_hosts_are_there() -> None:
    assert list(hosts()) == ["jina", "deepsearch", "aihubmix", "reader", "search", "svip"]
    assert respond(Ask("GET", "/elsewhere/v1/models"), hosts()).status == 404
