"""DeepSearch: requests to the providers, and the meaning of their streams."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import msgspec
import pytest

from app.core.errors import InvalidRequest, TooLarge, UpstreamFailed, UpstreamTruncated
from app.core.types import ChatCall, Citations, Event, Extras, Finish, Head, Reasoning, Step, Text, Usage
from app.endpoints.chat import Chat, collect, pieces
from app.upstreams.citations import cite
from app.upstreams.deepsearch import deepsearch_body, schema_of, wants_citations
from app.upstreams.deepsearch_stream import DeepSearchFold

ASK = {"role": "user", "content": "hi"}


def body(**fields: Any) -> dict[str, Any]:
    """The provider's request for a caller's body."""
    sent = {"model": "jina-deepsearch-v1", "messages": [ASK], **fields}
    return deepsearch_body(Chat().parse(sent, "/v1/chat/completions"))


def refused(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        body(**fields)
    return caught.value


def test_the_simplest_call() -> None:
    assert body() == {"messages": [ASK], "stream": True}


def test_trap_24_max_completion_tokens_is_not_made_the_budget_of_the_run() -> None:
    sent = body(max_completion_tokens=1000, max_tokens=1000, temperature=0.1, top_p=1, seed=1, stop="x", logprobs=True)
    assert sent == {"messages": [ASK], "stream": True}


def test_trap_25_the_json_schema_is_unwrapped() -> None:
    schema = {"type": "object", "properties": {"time": {"type": "string"}}}
    wanted = {"type": "json_schema", "json_schema": schema}
    openai = {"type": "json_schema", "json_schema": {"name": "tide", "strict": True, "schema": schema}}
    assert body(response_format=openai)["response_format"] == wanted
    assert body(response_format=wanted)["response_format"] == wanted
    assert "response_format" not in body(response_format={"type": "text"})
    assert refused(response_format={"type": "xml"}).param == "response_format"
    assert refused(response_format={"type": "json_schema"}).param == "response_format"


@pytest.mark.parametrize("stream", [None, False, True])
def test_trap_26_streaming_is_always_written_out(stream: bool | None) -> None:
    fields = {} if stream is None else {"stream": stream}
    assert body(**fields)["stream"] is True


PARAMETERS = {
    "reasoning_effort": "high",
    "budget_tokens": 500000,
    "max_attempts": 2,
    "team_size": 3,
    "no_direct_answer": True,
    "max_returned_urls": 5,
    "boost_hostnames": ["a.example"],
    "bad_hostnames": ["b.example"],
    "only_hostnames": ["c.example"],
    "search_provider": "arxiv",
    "search_language_code": "en",
    "language_code": "de",
    "with_images": True,
    "max_annotations": 3,
    "min_annotation_relevance": 0.5,
    "a_parameter_of_tomorrow": {"x": [1]},
}


def test_every_parameter_of_jina_passes() -> None:
    assert body(**PARAMETERS) == {"messages": [ASK], "stream": True, **PARAMETERS}


def test_parameters_that_are_null_are_left_out() -> None:
    assert body(reasoning_effort=None, only_hostnames=None) == {"messages": [ASK], "stream": True}


@pytest.mark.parametrize(
    ("effort", "sent"),
    [("none", "low"), ("minimal", "low"), ("low", "low"), ("medium", "medium"), ("high", "high"), ("xhigh", "high")],
)
def test_reasoning_efforts_of_openai(effort: str, sent: str) -> None:
    assert body(reasoning_effort=effort)["reasoning_effort"] == sent


def test_an_integer_as_string_as_in_jinas_own_example() -> None:
    assert body(max_returned_urls="1")["max_returned_urls"] == 1


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        (
            "reasoning_effort",
            "huge",
            "reasoning_effort must be one of none, minimal, low, medium, auto, high, xhigh, max. Nearest: high",
        ),
        ("budget_tokens", 0, "budget_tokens must be an integer of 1 or more"),
        ("budget_tokens", True, "budget_tokens must be an integer of 1 or more"),
        ("team_size", 1.5, "team_size must be an integer of 1 or more"),
        ("max_attempts", "two", "max_attempts must be an integer of 1 or more"),
        ("no_direct_answer", "yes", "no_direct_answer must be true or false"),
        ("only_hostnames", "jina.ai", 'only_hostnames must be a list of host names, such as ["jina.ai"]'),
        ("bad_hostnames", [1], 'bad_hostnames must be a list of host names, such as ["jina.ai"]'),
        ("search_provider", 1, "search_provider must be one of jina, arxiv, duck, brave, serper"),
        (
            "search_provider",
            "google",
            "search_provider must be one of jina, arxiv, duck, brave, serper. Nearest: brave",
        ),
        ("language_code", 1, "language_code must be a string"),
        ("min_annotation_relevance", 2, "min_annotation_relevance must be a number from 0 to 1"),
        ("n", 2, "DeepSearch gives one answer: n must be 1"),
        (
            "tools",
            [{"type": "function"}],
            "DeepSearch takes no tools: it searches and reads by itself. Leave 'tools' out, or ask for JSON with "
            "response_format json_schema instead",
        ),
    ],
)
def test_what_deepsearch_cannot_do_is_said_here(field: str, value: Any, says: str) -> None:
    error = refused(**{field: value})
    assert error.message == says
    assert error.param == field
    assert error.status == 400


def test_n_of_one_and_no_tools_pass() -> None:
    assert body(n=1, tools=[]) == {"messages": [ASK], "stream": True}


def test_messages_are_made_those_of_the_provider() -> None:
    turns = [
        {"role": "user", "name": "ann", "content": [{"type": "text", "text": "hi"}]},
        {"role": "assistant", "content": "Hi", "reasoning_content": "hm", "annotations": [], "refusal": None},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        {"role": "assistant", "content": None, "tool_calls": []},
        ASK,
    ]
    assert body(messages=turns)["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "assistant", "content": "Hi"},
        {"role": "assistant", "content": [{"type": "text", "text": "no"}]},
        {"role": "assistant", "content": None},
        ASK,
    ]


SYSTEM = {"role": "system", "content": "Answer in French."}
DEVELOPER = {"role": "developer", "content": [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief."}]}
ANSWERED = {"role": "assistant", "content": "Hi"}


@pytest.mark.parametrize(
    ("turns", "sent"),
    [
        ([SYSTEM, ASK], [{"role": "user", "content": "Answer in French.\n\nhi"}]),
        (
            [SYSTEM, ASK, ANSWERED, DEVELOPER, ASK],
            [{"role": "user", "content": "Answer in French.\n\nBe brief.\n\nhi"}, ANSWERED, ASK],
        ),
        (
            [ANSWERED, SYSTEM, {"role": "user", "content": [{"type": "text", "text": "hi"}]}],
            [
                ANSWERED,
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "Answer in French."}, {"type": "text", "text": "hi"}],
                },
            ],
        ),
        ([SYSTEM, {"role": "user", "content": ""}, ASK], [{"role": "user", "content": "Answer in French."}, ASK]),
        ([{"role": "system", "content": " "}, {"role": "system", "content": None}, ASK], [ASK]),
    ],
)
def test_system_messages_stand_before_the_first_question(turns: list[Any], sent: list[Any]) -> None:
    assert body(messages=turns)["messages"] == sent


def test_system_messages_may_be_dropped_or_refused() -> None:
    call = Chat().parse({"model": "jina-deepsearch-v1", "messages": [SYSTEM, ASK]}, "/v1/chat/completions")
    assert deepsearch_body(call, "drop")["messages"] == [ASK]
    with pytest.raises(InvalidRequest) as caught:
        deepsearch_body(call, "refuse")
    assert caught.value.param == "messages[0].role"
    assert caught.value.message == (
        "messages[0] is a system message, which DeepSearch does not read; put its text into the user's (this gateway "
        "is set to deepsearch.system_messages: refuse)"
    )
    blank = Chat().parse(
        {"model": "jina-deepsearch-v1", "messages": [{"role": "system", "content": ""}, ASK]}, "/v1/chat/completions"
    )
    assert deepsearch_body(blank, "refuse")["messages"] == [ASK]


@pytest.mark.parametrize("role", ["assistant", "system"])
@pytest.mark.parametrize(
    "media",
    [
        {"type": "image_url", "image_url": {"url": "https://a.example/x.png"}},
        {"type": "image", "image": "https://a.example/x.png"},
        {"type": "file", "file": {"file_data": "data:text/plain;base64,aGk="}},
    ],
)
def test_a_picture_or_file_outside_of_a_users_turn_loses_no_question(role: str, media: dict[str, Any]) -> None:
    error = refused(messages=[ASK, {"role": role, "content": [{"type": "text", "text": "a"}, media]}, ASK])
    assert error.param == "messages[1].content[1]"
    assert error.message == (
        f"messages[1].content[1] is of type {media['type']}, which DeepSearch takes in a user's message only; this "
        f"message has role {role}"
    )


@pytest.mark.parametrize(
    "content",
    [
        "",
        " \n\t",
        "\u3000",
        "\u200b\ufeff \u2060",
        "\0",
        None,
        [],
        [{"type": "text", "text": " "}, {"type": "text", "text": ""}],
    ],
)
def test_a_blank_question_is_refused(content: Any) -> None:
    error = refused(messages=[ASK, ANSWERED, {"role": "user", "content": content}])
    assert error.param == "messages[2].content"
    assert error.message == "messages[2].content is blank: the last message is the question for DeepSearch"


@pytest.mark.parametrize(
    ("media", "place"),
    [
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}, "image_url"),
        ({"type": "file", "file": {"filename": "a.txt", "file_data": "data:text/plain;base64,"}}, "file"),
        ({"type": "file", "data": "data:application/pdf;base64,", "mimeType": "application/pdf"}, "data"),
    ],
)
def test_an_empty_picture_or_file_loses_no_question(media: dict[str, Any], place: str) -> None:
    error = refused(messages=[{"role": "user", "content": [{"type": "text", "text": "a"}, media]}])
    assert (error.param, error.message) == (
        f"messages[0].content[1].{place}",
        f"messages[0].content[1].{place} is empty: it has no data",
    )


@pytest.mark.parametrize("kind", ["json_schema", "json_object"])
@pytest.mark.parametrize("envelope", [{"name": "x"}, {"name": "x", "strict": True, "schema": None}, {"schema": True}])
def test_an_envelope_without_a_schema_is_not_taken_for_one(kind: str, envelope: dict[str, Any]) -> None:
    error = refused(response_format={"type": kind, "json_schema": envelope})
    assert error.message == "response_format.json_schema.schema must be an object"


def test_a_schema_beside_the_type_text_is_none() -> None:
    given = {"response_format": {"type": "text", "json_schema": {"type": "object"}}}
    assert "response_format" not in body(**given)
    assert schema_of(given) is None


def test_a_picture_alone_is_a_question() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://a.example/x.png"}}
    assert body(messages=[{"role": "user", "content": [image]}])["messages"] == [
        {"role": "user", "content": [{"type": "image", "image": "https://a.example/x.png"}]}
    ]


def test_a_schema_is_checked_before_the_run_is_paid_for() -> None:
    def said(schema: Any) -> tuple[str | None, str]:
        error = refused(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
        return error.param, error.message

    field = "response_format.json_schema"
    for remote in ("http://127.0.0.1:9/x.json", "file:///etc/passwd", "other.json#/a"):
        at = f"{field}.properties.a.anyOf[1].$ref"
        assert said({"properties": {"a": {"anyOf": [{}, {"$ref": remote}]}}}) == (
            at,
            f"{at} refers to another document, which is never fetched: put the definition into $defs and refer "
            "to it as #/$defs/<name>",
        )
    assert said({"properties": {"a": {"type": "nonsense"}}}) == (
        f"{field}.properties.a.type",
        f"{field}.properties.a.type is not a valid JSON schema (its anyOf is wrong)",
    )
    assert said({"properties": 5}) == (
        f"{field}.properties",
        f"{field}.properties is not a valid JSON schema (its type is wrong)",
    )
    assert said({"$schema": "https://a.example/own"}) == (
        f"{field}.$schema",
        f"{field}.$schema is not a JSON schema version that this gateway supports",
    )


def test_what_looks_like_a_reference_and_is_a_value_is_taken() -> None:
    schema = {"default": {"$ref": "http://a"}, "examples": [{"$ref": "b"}], "enum": [{"$ref": "c"}]}
    assert body(response_format={"type": "json_schema", "json_schema": schema})


def test_patterns_that_look_around_are_taken() -> None:
    schema = {"type": "string", "pattern": r"^(?!\.)(?!.*\.\.)[a-z.]+@[a-z]+$", "format": "email"}
    assert body(response_format={"type": "json_schema", "json_schema": schema})["response_format"] == {
        "type": "json_schema",
        "json_schema": schema,
    }


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([{"role": "assistant", "content": "Sure,"}], "messages"),
        ([{"role": "tool", "content": "1"}, ASK], "messages[0].role"),
        (["hi", ASK], "messages[0].role"),
        ([{"role": "user", "content": 1}, ASK], "messages[0].content"),
        ([{"role": "user", "content": ""}], "messages[0].content"),
        ([{"role": "user", "content": [{"type": "input_audio"}]}], "messages[0].content[0].type"),
    ],
)
def test_messages_that_cannot_be(messages: list[Any], param: str) -> None:
    assert refused(messages=messages).param == param


def part(content: dict[str, Any]) -> dict[str, Any]:
    sent: dict[str, Any] = body(messages=[{"role": "user", "content": [content]}])["messages"][0]["content"][0]
    return sent


PNG = b64encode(b"\x89PNG\r\n\x1a\n" + b"x" * 20).decode()
PDF = b64encode(b"%PDF-1.7 ...").decode()


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}", "detail": "low"}},
            {"type": "image", "image": f"data:image/png;base64,{PNG}", "mimeType": "image/png"},
        ),
        (
            {"type": "image_url", "image_url": "https://a.example/x.png"},
            {"type": "image", "image": "https://a.example/x.png"},
        ),
        (
            {"type": "image", "image": PNG},
            {"type": "image", "image": f"data:image/png;base64,{PNG}", "mimeType": "image/png"},
        ),
        (
            {"type": "image", "image": f"data:image/webp;base64,{PNG}", "mimeType": "image/webp"},
            {"type": "image", "image": f"data:image/webp;base64,{PNG}", "mimeType": "image/webp"},
        ),
        (
            {"type": "file", "file": {"filename": "a.pdf", "file_data": PDF}},
            {"type": "file", "data": f"data:application/pdf;base64,{PDF}", "mimeType": "application/pdf"},
        ),
        (
            {"type": "file", "file": {"file_data": f"data:text/plain;base64,{PDF}"}},
            {"type": "file", "data": f"data:text/plain;base64,{PDF}", "mimeType": "text/plain"},
        ),
        (
            {"type": "file", "data": f"data:application/pdf;base64,{PDF}", "mimeType": "application/pdf"},
            {"type": "file", "data": f"data:application/pdf;base64,{PDF}", "mimeType": "application/pdf"},
        ),
    ],
)
def test_parts_become_those_of_the_providers(given: dict[str, Any], sent: dict[str, Any]) -> None:
    assert part(given) == sent


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"type": "image_url", "image_url": {}}, "image_url must be a URL or a data URI"),
        ({"type": "image", "image": "data:image/gif;base64,R0lG"}, "is image/gif; DeepSearch takes png, webp and jpeg"),
        ({"type": "image", "image": "R0lG"}, "is of no known type; DeepSearch takes png, webp and jpeg"),
        ({"type": "image", "image": "data:image/png,x"}, "must be a data URI in base64: data:<type>;base64,<data>"),
        ({"type": "image", "image": "data:image/png;base64,*"}, "is not base64"),
        ({"type": "file", "file": {"file_id": "file-1"}}, "needs file_data: the gateway keeps no uploads"),
        ({"type": "file", "file": {"file_data": PDF, "filename": "a.doc"}}, "is application/msword; DeepSearch takes"),
        ({"type": "file", "data": 7}, "must be a data URI"),
        ({"type": "text"}, "type must be text, image_url or file (or the providers' image and file with data)"),
    ],
)
def test_parts_that_cannot_be(given: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        part(given)
    assert says in caught.value.message
    assert caught.value.message.startswith("messages[0].content[0]")


def test_trap_27_the_10_mb_of_a_part_are_checked_here() -> None:
    fits = b64encode(b"%PDF" + bytes(10 * 1024 * 1024 - 4)).decode()
    over = b64encode(b"%PDF" + bytes(10 * 1024 * 1024 - 3)).decode()
    assert part({"type": "file", "data": fits, "mimeType": "application/pdf"})["mimeType"] == "application/pdf"
    with pytest.raises(TooLarge) as caught:
        part({"type": "file", "data": over, "mimeType": "application/pdf"})
    assert (
        caught.value.message == "messages[0].content[0].data is larger than the 10 MB that DeepSearch takes in one part"
    )
    assert caught.value.status == 413


# Streams.


def chunk(delta: dict[str, Any], finish: Any = None, **top: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    head = {"id": "1", "object": "chat.completion.chunk", "created": 5, "model": "m", "system_fingerprint": "fp_1"}
    return msgspec.json.encode({**head, "choices": [choice], **top})


def think(text: str) -> bytes:
    return chunk({"content": text, "type": "think"})


USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 4}


def meaning(*chunks: bytes) -> list[Event]:
    """The events of the chunks; adjacent texts of the same kind are joined."""
    fold = DeepSearchFold("jina")
    events = [event for data in chunks for event in fold.feed(data)]
    joined: list[Event] = []
    for event in events + fold.end():
        last = joined[-1] if joined else None
        if isinstance(event, Reasoning) and isinstance(last, Reasoning):
            joined[-1] = Reasoning(last.text + event.text)
        elif isinstance(event, Text) and isinstance(last, Text):
            joined[-1] = Text(last.text + event.text)
        else:
            joined.append(event)
    return joined


def answer(text: str, **top: Any) -> bytes:
    return chunk({"content": text, "type": "text"}, "stop", usage=USAGE, **top)


HEAD = Head(5, "fp_1")
END = [Finish("stop"), Usage(USAGE)]


def test_trap_11_tags_inside_reasoning_content() -> None:
    stream = [chunk({"reasoning_content": text}) for text in ("<think>", "a ", "b", "</think>\n\n")]
    assert meaning(*stream, answer("c")) == [HEAD, Reasoning("a b"), Text("c"), *END]


def test_trap_12_thinking_end_is_no_end() -> None:
    end = chunk({"content": "</think>\n\n", "type": "think"}, "thinking_end")
    assert meaning(think("<think>"), think("a"), end, answer("c")) == [HEAD, Reasoning("a"), Text("c"), *END]


def test_trap_13_deltas_without_content_are_steps_and_finish_reasons_may_be_missing() -> None:
    bare = msgspec.json.encode({"choices": [{"index": 0, "delta": {}}]})
    stream = [
        chunk({"type": "think", "query": "tides"}),
        chunk({"type": "think", "url": "https://a.example/"}),
        chunk({"type": "think", "url": "javascript:void(0)"}),
        bare,
        msgspec.json.encode({"choices": []}),
    ]
    expected = [HEAD, Step("search", "tides"), Step("visit", "https://a.example/"), Text("c"), *END]
    assert meaning(*stream, answer("c")) == expected


def test_trap_14_a_giant_answer() -> None:
    text = "Wörter 🌊 und Zeilen\n" * 50_000
    assert meaning(answer(text)) == [HEAD, Text(text), *END]
    assert "".join(pieces(text, 200)) == text


def test_trap_15_no_done_is_needed_after_a_finish() -> None:
    fold = DeepSearchFold("jina")
    fold.feed(answer("c"))
    assert fold.done
    assert fold.end() == [Usage(USAGE)]


@pytest.mark.parametrize("end", [[], [b"[DONE]"]])
def test_a_stream_without_a_finish_is_truncated(end: list[bytes]) -> None:
    with pytest.raises(UpstreamTruncated) as caught:
        meaning(think("<think>"), think("a"), chunk({"content": "half", "type": "text"}), *end)
    assert caught.value.message == "jina ended the stream before the answer was complete"
    assert caught.value.code == "upstream_stream_truncated"


def test_trap_17_an_error_told_as_content() -> None:
    fold = DeepSearchFold("jina")
    assert fold.feed(chunk({"content": "</think>", "type": "think"}, "error", usage=USAGE)) == [HEAD]
    with pytest.raises(UpstreamFailed) as caught:
        fold.feed(chunk({"content": "Error: no budget", "type": "error"}, "error", usage=USAGE))
    assert caught.value.message == "jina: no budget"
    assert caught.value.should_retry is False
    assert fold.usage == USAGE


def test_an_error_whose_text_never_comes() -> None:
    fold = DeepSearchFold("jina")
    fold.feed(chunk({"content": "</think>", "type": "think"}, "error", usage=USAGE))
    with pytest.raises(UpstreamFailed, match="jina gave up on the search"):
        fold.end()


def test_trap_17_an_error_in_a_whole_answer() -> None:
    whole = msgspec.json.encode(
        {
            "object": "chat.completion",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "Error: no budget", "type": "error"},
                    "finish_reason": "error",
                }
            ],
            "usage": USAGE,
        }
    )
    with pytest.raises(UpstreamFailed, match="jina: no budget"):
        meaning(whole)


def test_a_whole_answer_in_place_of_a_stream() -> None:
    message = {"role": "assistant", "content": "c", "type": "text"}
    whole = {"created": 5, "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": USAGE}
    assert meaning(msgspec.json.encode(whole)) == [Head(5, None), Text("c"), *END]


def test_trap_20_usage_is_passed_as_it_is_and_once() -> None:
    later = msgspec.json.encode({"choices": [], "usage": {**USAGE, "total_tokens": 9}})
    without = chunk({"content": "c", "type": "text"}, "stop")
    assert meaning(without, later) == [HEAD, Text("c"), Finish("stop"), Usage({**USAGE, "total_tokens": 9})]
    assert meaning(answer("c"), later) == [HEAD, Text("c"), *END]


def test_trap_21_a_thought_that_is_sent_again_whole_is_not_repeated() -> None:
    words = ["I ", "look. ", "Check ", "it "]
    stream = [think("<think>"), *map(think, words), think("Check it again. ")]
    assert meaning(*stream, answer("c"))[1] == Reasoning("I look. Check it again. ")


def test_trap_21_the_same_in_chinese() -> None:
    stream = [think("<think>"), *map(think, "好的。 查一下"), think("查一下潮汐表。 ")]
    assert meaning(*stream, answer("c"))[1] == Reasoning("好的。 查一下潮汐表。 ")


def test_a_word_that_is_said_twice_stays() -> None:
    stream = [think("<think>"), think("that "), think("that "), think("had ")]
    assert meaning(*stream, answer("c"))[1] == Reasoning("that that had ")


def test_trap_35_tags_in_an_answer_are_text() -> None:
    text = "Use <think> and </think>, then data: [DONE]"
    assert meaning(think("<think>"), think("a"), answer(text)) == [HEAD, Reasoning("a"), Text(text), *END]
    assert meaning(answer("<think>" + text)) == [HEAD, Text("<think>" + text), *END]


def test_trap_35_tags_in_the_middle_of_a_thought_are_text() -> None:
    stream = [think("<think>"), think("the <think> tag and "), think("a < b </think> c "), think("</think>\n\n")]
    assert meaning(*stream, answer("x"))[1] == Reasoning("the <think> tag and a < b </think> c ")


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 13])
def test_tags_that_a_relay_cut_in_pieces(size: int) -> None:
    text = "<think>a < b and so on</think>\n\n"
    stream = [chunk({"reasoning_content": text[place : place + size]}) for place in range(0, len(text), size)]
    assert meaning(*stream, answer("c")) == [HEAD, Reasoning("a < b and so on"), Text("c"), *END]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 13, 99])
def test_thinking_inside_untyped_content(size: int) -> None:
    text = "<think>a < b</think>\n\nThe answer </think> is c"
    stream = [chunk({"content": text[place : place + size]}) for place in range(0, len(text), size)]
    end = chunk({}, "stop", usage=USAGE)
    assert meaning(*stream, end) == [HEAD, Reasoning("a < b"), Text("The answer </think> is c"), *END]


@pytest.mark.parametrize("text", ["<", "<thin", "<thing>", " plain"])
def test_untyped_content_that_only_looks_like_a_tag(text: str) -> None:
    stream = [chunk({"content": letter}) for letter in text]
    assert meaning(*stream, chunk({}, "stop", usage=USAGE)) == [HEAD, Text(text), *END]


def test_a_thought_that_ends_like_a_tag() -> None:
    assert meaning(think("a </th"), answer("c")) == [HEAD, Reasoning("a </th"), Text("c"), *END]


def test_a_surrogate_pair_that_was_cut_in_two() -> None:
    stream = [
        think("<think>"),
        b'{"choices":[{"delta":{"type":"think","content":"\\ud83c"}}]}',
        b'{"choices":[{"delta":{"type":"think","content":"\\udf0a!"}}]}',
        b'{"choices":[{"delta":{"type":"think","content":"\\udf0a"}}]}',
    ]
    assert meaning(*stream, answer("c")) == [HEAD, Reasoning("🌊!\ufffd"), Text("c"), *END]


def test_trap_23_links_that_are_no_web_pages_are_left_out() -> None:
    lists = {
        "visitedURLs": ["https://a.example/", "javascript:void(0)", "mailto:a@a.example", "http://localhost:3000/", 3],
        "readURLs": ["HTTPS://b.example/"],
        "numURLs": 4,
    }
    expected = {"visitedURLs": ["https://a.example/", "http://localhost:3000/"], "readURLs": ["HTTPS://b.example/"]}
    assert meaning(answer("c", **lists))[-3] == Extras({**expected, "numURLs": 4})


def test_lists_that_a_team_told_twice_are_told_once_and_the_count_as_it_is() -> None:
    first, second = "https://a.example/", "https://b.example/"
    lists = {"visitedURLs": [second, first, second], "readURLs": [first, first], "numURLs": 0}
    expected = {"visitedURLs": [second, first], "readURLs": [first], "numURLs": 0}
    assert meaning(answer("c", **lists))[-3] == Extras(expected)


def test_trap_36_the_lists_may_be_absent() -> None:
    assert not [event for event in meaning(answer("c")) if isinstance(event, Extras)]


def test_without_citations_their_annotations_are_left_out() -> None:
    data = chunk({"content": "c", "type": "text", "annotations": [citation("https://a.example/")]}, "stop", usage=USAGE)
    for citing in (True, False):
        events = DeepSearchFold("jina", citing=citing).feed(data)
        assert any(isinstance(event, Citations) for event in events) is citing


@pytest.mark.parametrize(
    ("value", "wanted"), [(None, True), (0, False), ("0", False), ("00", False), (10, True), ("1", True)]
)
def test_no_annotations_is_none(value: Any, wanted: bool) -> None:
    assert wants_citations({"max_annotations": value}) is wanted


# Citations.


def citation(url: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "url_citation", "url_citation": {"url": url, **fields}}


ANSWER = (
    "Höhe 🌊 [^2] and [^1] and [^2].\n\n"
    "[^1]: one [A (x)](https://a.example/p_(q)?r)\n\n[^2]: two [B](https://b.example/)\n[^3]: three, no link"
)


def test_trap_22_indexes_are_those_of_the_marker_in_code_points() -> None:
    [b, a] = cite(
        ANSWER, [citation("https://b.example", title="B", start_index=0), citation("https://a.example/p_(q)?r")]
    )
    first, second = b["url_citation"], a["url_citation"]
    assert first == {"start_index": 7, "end_index": 11, "title": "B", "url": "https://b.example"}
    assert ANSWER[7:11] == "[^2]"
    assert ANSWER[second["start_index"] : second["end_index"]] == "[^1]"
    assert second["title"] == "a.example"


def test_trap_22_no_footnote_no_place() -> None:
    [found] = cite("text", [citation("https://a.example/", title="A", start_index=None)])
    assert found["url_citation"] == {"start_index": 0, "end_index": 0, "title": "A", "url": "https://a.example/"}


def test_trap_22_what_else_a_citation_says_is_kept() -> None:
    [found] = cite("t", [citation("https://a.example/", title="A", exactQuote="q", dateTime="2026-09-01 08:00:00")])
    assert found["url_citation"]["exactQuote"] == "q"
    assert found["url_citation"]["dateTime"] == "2026-09-01 08:00:00"


def test_two_footnotes_of_one_page_have_a_citation_each() -> None:
    text = "a [^1] b [^2]\n\n[^1]: x [A](https://a.example/)\n[^2]: y [A](https://a.example/)"
    found = cite(text, [citation("https://a.example/")] * 3)
    assert [text[c["url_citation"]["start_index"] : c["url_citation"]["end_index"]] for c in found] == [
        "[^1]",
        "[^2]",
        "[^2]",
    ]


def cited(text: str, annotations: list[Any]) -> list[tuple[str, int, str]]:
    """Each citation's page, the start of its mark, and the mark."""
    places = [one["url_citation"] for one in cite(text, annotations)]
    return [(one["url"][8], one["start_index"], text[one["start_index"] : one["end_index"]]) for one in places]


def test_the_marks_number_and_its_definition_decide() -> None:
    """Definitions are in the order of the annotations, marks in the order of the text. An unused definition keeps
    its line."""
    text = (
        "Six.[^1]\n\nOld.[^3]\n\n\u205c [^2]\n\n[^1]: Old [P](https://p.example/)\n\n"
        "[^2]: Blue [S](https://s.example/)\n\n[^3]: Six [T](https://t.example/)"
    )
    pages = [citation(f"https://{page}.example/", exactQuote="x ") for page in "pst"]
    assert cited(text, pages) == [("p", 4, "[^1]"), ("s", 22, "[^2]"), ("t", 14, "[^3]")]


def test_a_url_with_a_bracket_is_found_by_its_quote_where_its_link_is_lost() -> None:
    wiki = "https://w.example/Tide_(water)"
    text = (
        "High.[^1] Low.[^2] None.[^3]\n\n[^1]: High water is at 6 12 Tide water https w example Tide water\n\n"
        "[^2]: Low [B](https://b.example/)\n\n[^3]: Highest"
    )
    pages = [citation("https://b.example/"), citation(wiki, exactQuote="High water is at 6:12! "), citation(wiki)]
    assert cited(text, pages) == [("b", 14, "[^2]"), ("w", 5, "[^1]"), ("w", 0, "")]
    assert cited(text.replace("[^1]: High water is", "[^1]: High waters are"), pages[1:2]) == [("w", 0, "")]


@pytest.mark.parametrize("line", ["[^1]: ](", "[^", "[^1]: [a](https://a.example/)\n", "[^1]: a\n"])
def test_an_answer_of_nothing_but_footnotes_is_read_in_linear_time(line: str) -> None:
    text = "x [^1]\n" + line * (1_000_000 // len(line))
    assert len(cite(text, [citation("https://a.example/", exactQuote="b")] * 10_000)) == 10_000


@pytest.mark.parametrize("junk", [None, 3, {}, citation(None), citation("javascript:alert(1)"), {"url_citation": 1}])
def test_citations_without_a_web_page_are_dropped(junk: Any) -> None:
    assert cite("t", [junk]) == []


# The caller's side.


def call(**fields: Any) -> ChatCall:
    return ChatCall(model="m", body={}, stream=True, id="7", created=1, **fields)


STORY: list[Event] = [
    Head(5, "fp_1"),
    Step("search", "tides"),
    Reasoning("hm "),
    Step("visit", "https://a.example/"),
    Reasoning("ok"),
    Text("High [^1]"),
    Citations([citation("https://a.example/", start_index=5, end_index=9, title="A")]),
    Extras({"numURLs": 1}),
    Finish("stop"),
    Usage(USAGE),
]


def test_the_normal_form_to_the_byte() -> None:
    writer = Chat().writer(call(include_usage=True))
    head = '{"id":"chatcmpl-7","object":"chat.completion.chunk","created":5,"model":"m","system_fingerprint":"fp_1"'

    def line(delta: str, finish: str = "null", more: str = "") -> str:
        return (
            f'data: {head},"choices":[{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{finish}}}]'
            f'{more},"usage":null}}\n\n'
        )

    source = '"url_citation":{"url":"https://a.example/","start_index":5,"end_index":9,"title":"A"}'
    assert (writer.write(STORY) + writer.end()).decode() == "".join(
        [
            line('{"role":"assistant","content":""}'),
            line('{"x_steps":[{"index":0,"type":"search","query":"tides"}]}'),
            line('{"reasoning_content":"hm "}'),
            line('{"x_steps":[{"index":1,"type":"visit","url":"https://a.example/"}]}'),
            line('{"reasoning_content":"ok"}'),
            line('{"content":"High [^1]"}'),
            line(f'{{"annotations":[{{"type":"url_citation",{source}}}]}}'),
            line("{}", '"stop"', ',"numURLs":1'),
            f'data: {head},"choices":[],"usage":{{"prompt_tokens":3,"completion_tokens":2,"total_tokens":4}}}}\n\n',
            "data: [DONE]\n\n",
        ]
    )


def test_usage_is_in_no_chunk_where_it_was_not_asked_for() -> None:
    writer = Chat().writer(call())
    out = writer.write(STORY) + writer.end()
    assert b"usage" not in out
    assert out.endswith(b'"finish_reason":"stop"}],"numURLs":1}\n\ndata: [DONE]\n\n')


@pytest.mark.parametrize(
    ("mode", "message", "start"),
    [
        ("reasoning_content", {"content": "High [^1]", "reasoning_content": "hm ok"}, 5),
        ("reasoning", {"content": "High [^1]", "reasoning": "hm ok"}, 5),
        ("drop", {"content": "High [^1]"}, 5),
        ("think_tags", {"content": "<think>hm ok</think>\n\nHigh [^1]"}, 27),
    ],
)
def test_reasoning_modes(mode: Any, message: dict[str, str], start: int) -> None:
    whole = collect(call(reasoning=mode), STORY)
    got = whole["choices"][0]["message"]
    [annotation] = got.pop("annotations")
    steps = [
        {"index": 0, "type": "search", "query": "tides"},
        {"index": 1, "type": "visit", "url": "https://a.example/"},
    ]
    assert got == {"role": "assistant", "x_steps": steps, **message}
    place = annotation["url_citation"]
    assert (place["start_index"], place["end_index"]) == (start, start + 4)
    assert got["content"][start : start + 4] == "[^1]"


def test_a_whole_answer() -> None:
    whole = collect(call(), [Head(5, "fp_1"), Text("c"), Finish("stop"), Usage(USAGE)])
    assert whole == {
        "id": "chatcmpl-7",
        "object": "chat.completion",
        "created": 5,
        "model": "m",
        "system_fingerprint": "fp_1",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "c"}, "logprobs": None, "finish_reason": "stop"}
        ],
        "usage": USAGE,
    }


def test_no_answer_is_no_empty_answer() -> None:
    with pytest.raises(UpstreamFailed):
        collect(call(), [Head(5, "fp_1")])


@pytest.mark.parametrize(
    "text", ["e\u0301" * 30, "👩‍👩‍👧‍👦" * 9, "🇩🇪a" * 20, "👍🏽" * 20, "a\r\n" * 30, "word " * 30, "潮" * 50, "❤️" * 30]
)
def test_pieces_cut_nothing_that_a_reader_sees_as_one(text: str) -> None:
    parts = list(pieces(text, 7))
    assert "".join(parts) == text
    assert len(parts) > 1
    for part in parts:
        assert part[0] not in "\u0301\u200d\ufe0f\U0001f3fd\n"
        assert not part.endswith("\u200d")
        assert sum("\U0001f1e6" <= letter <= "\U0001f1ff" for letter in part) % 2 == 0


def test_an_answer_may_be_passed_on_whole() -> None:
    assert list(pieces("word " * 100, 0)) == ["word " * 100]
    assert list(pieces("", 10)) == []


@pytest.mark.parametrize("schema", [{}, {"json_schema": None}, {"json_schema": "a"}])
def test_a_json_object_without_a_schema_is_refused(schema: dict[str, Any]) -> None:
    error = refused(response_format={"type": "json_object", **schema})
    assert error.param == "response_format"
    assert "json_schema" in error.message


def test_a_json_object_with_a_schema_is_that_schema() -> None:
    given = {"type": "json_object", "json_schema": {"type": "object"}}
    assert body(response_format=given)["response_format"] == {**given, "type": "json_schema"}


def test_a_part_too_large_to_be_decoded_is_refused_by_its_length() -> None:
    with pytest.raises(TooLarge):
        part({"type": "file", "data": "A" * (15 * 1024 * 1024), "mimeType": "application/pdf"})


def test_thinking_without_an_answer_is_closed_in_the_content_too() -> None:
    events: list[Event] = [Head(5, "fp_1"), Reasoning("hm"), Finish("stop")]
    writer = Chat().writer(call(reasoning="think_tags"))
    deltas = [msgspec.json.decode(line[6:])["choices"][0]["delta"] for line in writer.write(events).split(b"\n\n")[:-1]]
    assert "".join(delta.get("content", "") for delta in deltas) == "<think>hm</think>\n\n"
    assert collect(call(reasoning="think_tags"), events)["choices"][0]["message"]["content"] == "<think>hm</think>\n\n"


@pytest.mark.parametrize("delta", [1, "a", [1], True])
def test_a_delta_that_is_none_does_no_harm(delta: Any) -> None:
    fold = DeepSearchFold("jina")
    assert fold.feed(msgspec.json.encode({"choices": [{"delta": delta}]})) == [Head()]
