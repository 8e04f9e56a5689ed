"""A plain chat model in OpenAI's own format, which both providers sell beside DeepSearch.

The model answers from the sandbox's pages, calls a tool if the request has tools, and fills the schema if the request
has one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from . import corpus, messages, vectors
from .messages import Question
from .schema import Filler
from .wire import DONE, Answer, Item, Json, Pause, StreamedAnswer, Whole, count, encode, milliseconds

_PIECES = re.compile(r"\s*\S+|\s+$")
_SECONDS_PER_PIECE = 0.03


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn of the model: text, or one tool call."""

    text: str = ""
    tool: str = ""
    arguments: str = ""
    finish: str = "stop"

    @property
    def pieces(self) -> list[str]:
        return _PIECES.findall((self.tool and self.arguments) or self.text)


def answer(body: Json, *, streams: bool) -> Answer:
    """The reply, streamed if ``streams``. Raises ValueError for invalid messages."""
    talk = body.get("messages")
    if not isinstance(talk, list) or not talk or not all(isinstance(message, dict) for message in talk):
        raise ValueError("messages must be a non-empty array of objects")
    turn = _shortened(_turn(body, talk), body)
    frame = _frame(body)
    usage = _usage(talk, turn, _choices(body))
    if streams:
        return StreamedAnswer(list(_stream(frame, body, turn, usage)))
    choices = [_choice(index, turn, body) for index in range(_choices(body))]
    whole = {**frame, "choices": choices, "usage": usage, "system_fingerprint": "fp_sandbox"}
    return Whole(whole, wait=_SECONDS_PER_PIECE * len(turn.pieces))


def _choices(body: Json) -> int:
    return min(count(body.get("n")) or 1, 16)


def _frame(body: Json) -> Json:
    kind = "chat.completion"
    return {"id": f"chatcmpl-{uuid4().hex}", "object": kind, "created": milliseconds() // 1000, "model": body["model"]}


# -------------------------------------------------------------------- the answer


def _turn(body: Json, talk: list[Json]) -> Turn:
    asked = next((message for message in reversed(talk) if message.get("role") == "user"), talk[-1])
    question = messages.question(asked, openai_files=True)
    if talk[-1].get("role") == "tool":
        return Turn(f"The sandbox has the tool's result: {messages.text_of(talk[-1].get('content'))}")
    function = _function(body, question)
    if function is not None:
        arguments = Filler(function.get("parameters") or {"type": "object"}, question.topic).value()
        return Turn(tool=function["name"], arguments=encode(arguments).decode(), finish="tool_calls")
    return Turn(_said(body, question))


def _function(body: Json, question: Question) -> Json | None:
    """The function named in ``tool_choice``, else the function whose description is most similar to the question."""
    functions, choice = _functions(body), body.get("tool_choice")
    if not functions or choice == "none":
        return None
    if isinstance(choice, dict):
        named = choice.get("function")
        return next(
            (one for one in functions if isinstance(named, dict) and one["name"] == named.get("name")), functions[0]
        )
    asked = vectors.features(question.topic)
    return max(functions, key=lambda function: vectors.cosine(asked, vectors.features(_described(function))))


def _functions(body: Json) -> list[Json]:
    """The functions among the tools. Raises ValueError for invalid tools."""
    tools = body["tools"] if isinstance(body.get("tools"), list) else []
    functions: list[Any] = [tool.get("function") for tool in tools if isinstance(tool, dict)]
    if not all(isinstance(function, dict) and isinstance(function.get("name"), str) for function in functions):
        raise ValueError("tools must be an array of functions with a name")
    return functions


def _described(function: Json) -> str:
    return f"{function['name']} {function.get('description') or ''}"


def _said(body: Json, question: Question) -> str:
    best = corpus.search(question.topic)[0]
    sentence = best.sentence if best.relevant else "I have no page about that."
    form = body.get("response_format")
    if isinstance(form, dict) and form.get("type") == "json_schema":
        wrapped = form.get("json_schema")
        schema = wrapped.get("schema") if isinstance(wrapped, dict) else None
        return encode(Filler(schema, sentence, {"title": best.page.title}).value()).decode()
    if isinstance(form, dict) and form.get("type") == "json_object":
        return encode({"answer": sentence, "from": "sandbox"}).decode()
    came = ", ".join(str(attachment) for attachment in question.attachments)
    return (
        f"The Torii sandbox answers in place of {body['model']}: {sentence}{f' I was shown: {came}.' if came else ''}"
    )


def _shortened(turn: Turn, body: Json) -> Turn:
    """Cut the text at ``stop`` and at the limit of output tokens, one token a piece."""
    given = body.get("stop")
    stops = [stop for stop in (given if isinstance(given, list) else [given]) if isinstance(stop, str) and stop]
    text = min((turn.text.split(stop, 1)[0] for stop in stops), key=len, default=turn.text)
    cap = count(body.get("max_completion_tokens")) or count(body.get("max_tokens"))
    pieces = _PIECES.findall(text)
    if cap and not turn.tool and len(pieces) > cap:
        return Turn("".join(pieces[:cap]), finish="length")
    return Turn(text, turn.tool, turn.arguments, turn.finish)


# ----------------------------------------------------------------------- wire format


def _choice(index: int, turn: Turn, body: Json) -> Json:
    message: Json = {"role": "assistant", "content": None if turn.tool else turn.text, "refusal": None}
    if turn.tool:
        message["tool_calls"] = [_tool_call(turn)]
    logprobs = _logprobs(body, turn.pieces) if not turn.tool else None
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": turn.finish}


def _tool_call(turn: Turn) -> Json:
    return {
        "id": f"call_{uuid4().hex[:24]}",
        "type": "function",
        "function": {"name": turn.tool, "arguments": turn.arguments},
    }


def _stream(frame: Json, body: Json, turn: Turn, usage: Json) -> Iterator[Item]:
    options = body.get("stream_options")
    counted = isinstance(options, dict) and options.get("include_usage") is True
    base = {**frame, "object": "chat.completion.chunk", "system_fingerprint": "fp_sandbox"}
    tail: Json = {"usage": None} if counted else {}
    indexes = range(_choices(body))
    for index in indexes:
        yield {**base, "choices": [_part(index, {"role": "assistant", **_opening(turn)})], **tail}
    for piece in turn.pieces:
        yield Pause(_SECONDS_PER_PIECE)
        for index in indexes:
            yield {**base, "choices": [_spoken(index, turn, body, piece)], **tail}
    for index in indexes:
        yield {**base, "choices": [_part(index, {}, finish=turn.finish)], **tail}
    if counted:
        yield {**base, "choices": [], "usage": usage}
    yield DONE


def _opening(turn: Turn) -> Json:
    if not turn.tool:
        return {"content": "", "refusal": None}
    call = _tool_call(turn)
    return {
        "content": None,
        "tool_calls": [{"index": 0, **call, "function": {"name": turn.tool, "arguments": ""}}],
        "refusal": None,
    }


def _spoken(index: int, turn: Turn, body: Json, piece: str) -> Json:
    if turn.tool:
        return _part(index, {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})
    return _part(index, {"content": piece}, logprobs=_logprobs(body, [piece]))


def _part(index: int, delta: Json, *, logprobs: Json | None = None, finish: str | None = None) -> Json:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}


def _logprobs(body: Json, pieces: list[str]) -> Json | None:
    if body.get("logprobs") is not True:
        return None
    alternatives = count(body.get("top_logprobs")) or 0
    return {"content": [_logprob(piece, alternatives) for piece in pieces], "refusal": None}


def _logprob(piece: str, alternatives: int) -> Json:
    """A longer piece gets a higher probability. The alternatives are the same piece in other letter cases."""
    others = [piece, piece.upper(), piece.title(), piece.swapcase(), piece.lower()][:alternatives]
    return {**_scored(piece, 0), "top_logprobs": [_scored(other, rank) for rank, other in enumerate(others)]}


def _scored(piece: str, rank: int) -> Json:
    value = round(math.log(1 - 0.5 / (1 + len(piece))) - rank, 6)
    return {"token": piece, "logprob": value, "bytes": list(piece.encode("utf-8", "surrogatepass"))}


def _usage(talk: list[Json], turn: Turn, choices: int) -> Json:
    prompt = sum(len(vectors.tokens(messages.text_of(message.get("content")))) + 4 for message in talk)
    completion = len(turn.pieces) * choices
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
