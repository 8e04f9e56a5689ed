"""deepsearch.jina.ai: the run of DeepSearch in Jina's own wire format.

Every chunk has ``logprobs`` and ``finish_reason``, even if they are null. Thinking is in ``content``, marked by
``type``. The answer is one chunk that contains everything. There is no [DONE].
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from . import errors, research
from .errors import HostError
from .models import DEEPSEARCH
from .research import Citation, Run
from .steps import Search, Step, Visit, Word
from .wire import Answer, Ask, Host, Item, Json, Pause, StreamedAnswer, Whole, milliseconds

MAX_BODY = 10 * 1024 * 1024
_HEADERS = {"cache-control": "no-cache"}


def authorise(ask: Ask) -> None:
    """Check the key and the size; GET requests (the model list) need no key. A body over 10 MB is refused unparsed."""
    if ask.method == "GET":
        return
    if not ask.key:
        raise HostError(errors.deepsearch(401, "Unauthorized: API key required"))
    if "invalid" in ask.key:
        raise HostError(errors.deepsearch(401, "Unauthorized: Invalid API key"))
    if len(ask.body) > MAX_BODY:
        raise HostError(errors.too_large())


def unreadable(body: bytes) -> Whole:
    return errors.express(400, "SyntaxError: Unexpected token in JSON at position 0\n    at JSON.parse (<anonymous>)")


def not_found(ask: Ask) -> Whole:
    name = unquote(ask.path).removeprefix("/models/")
    if ask.method == "GET" and ask.path.startswith("/models/"):
        return _model(name)
    return errors.express(404, f"Cannot {ask.method} /v1{ask.path}")


def models(body: Json, quirk: str) -> Answer:
    return Whole({"object": "list", "data": [_listed(name) for name in DEEPSEARCH]})


def _listed(name: str) -> Json:
    return {"id": name, "object": "model", "created": 1686935002, "owned_by": "jina-ai"}


def _model(name: str) -> Whole:
    if name in DEEPSEARCH:
        return Whole(_listed(name))
    kind = {"type": "invalid_request_error", "param": None, "code": "model_not_found"}
    return Whole({"error": {"message": f"Model '{name}' not found", **kind}}, 404)


def chat_completions(body: Json, quirk: str) -> Answer:
    """The model's name is not checked, only echoed."""
    _check(body)
    plan = research.plan(body, quirk, _schema(body))
    if plan is None:
        raise HostError(errors.deepsearch(400, "Last message must be from user"))
    return _answer(body, research.run(plan))


def _answer(body: Json, run: Run) -> Answer:
    frame = _frame(body)
    if body.get("stream") is True:
        return StreamedAnswer(_stream(frame, run), headers=_HEADERS)
    return Whole(_whole(frame, run), wait=run.seconds)


def _check(body: Json) -> None:
    """Raises HostError for an empty list and for a value that is no list; the second error echoes the value."""
    talk = body.get("messages")
    if talk == []:
        raise HostError(errors.deepsearch(400, "Messages array is required and must not be empty"))
    if not isinstance(talk, list):
        problem = {"type": "field", "msg": "Invalid value", "path": "messages", "location": "body", "value": talk}
        raise HostError(Whole({"error": "Invalid request body", "details": [problem]}, 400))


def _schema(body: Json) -> Any:
    """The raw schema's place, whatever ``type`` beside it says; the value is not checked."""
    form = body.get("response_format")
    return form.get("json_schema") if isinstance(form, dict) else None


def _frame(body: Json) -> Json:
    now = milliseconds()
    return {
        "id": str(now),
        "object": "chat.completion.chunk",
        "created": now // 1000,
        "model": body.get("model", "jina-deepsearch-v1"),
        "system_fingerprint": f"fp_{now}",
    }


# -------------------------------------------------------------------------- stream


def _stream(frame: Json, run: Run) -> list[Item]:
    first = _chunk(frame, {"role": "assistant", "content": "<think>", "type": "think"})
    items: list[Item] = [first, *(_step(frame, step) for step in run.steps)]
    if run.failure is not None:
        return [*items, *_error(frame, run)]
    items.append(_chunk(frame, {"content": "</think>\n\n", "type": "think"}, "thinking_end"))
    delta = {"content": run.content, "type": run.kind, **_annotations(run)}
    return [*items, {**_chunk(frame, delta, "stop"), "usage": run.usage, **run.extras}]


def _step(frame: Json, step: Step) -> Item:
    match step:
        case Pause():
            return step
        case Search():
            return _chunk(frame, {"type": "think", "query": step.query})
        case Visit():
            return _chunk(frame, {"type": "think", "url": step.url})
        case Word():
            return _chunk(frame, {"content": step.text, "type": "think"})


def _chunk(frame: Json, delta: Json, finish: str | None = None) -> Json:
    return {**frame, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]}


def _error(frame: Json, run: Run) -> list[Item]:
    """Two chunks, both with the usage, in a response with status 200."""
    closed = _chunk(frame, {"content": "</think>", "type": "think"}, "error")
    told = _chunk(frame, {"content": run.failure, "type": "error"}, "error")
    return [{**closed, "usage": run.usage}, {**told, "usage": run.usage}]


def _annotations(run: Run) -> Json:
    return {} if run.citations is None else {"annotations": [_annotation(citation) for citation in run.citations]}


def _annotation(citation: Citation) -> Json:
    """An annotation without indexes; its quote ends with a space."""
    return {
        "type": "url_citation",
        "url_citation": {
            "title": citation.title,
            "exactQuote": f"{citation.quote} ",
            "url": citation.url,
            "dateTime": citation.date,
        },
    }


# --------------------------------------------------------------------------- whole


def _whole(frame: Json, run: Run) -> Json:
    """The answer without the thinking. A failed run has status 200 too."""
    if run.failure is None:
        message = {"role": "assistant", "content": run.content, "type": run.kind, **_annotations(run)}
    else:
        message = {"role": "assistant", "content": f"Error: {run.failure}", "type": "error"}
    finish = "stop" if run.failure is None else "error"
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
    return {**frame, "object": "chat.completion", "choices": [choice], "usage": run.usage, **run.extras}


HOST = Host(
    name="deepsearch",
    base="/deepsearch/v1",
    routes={
        ("POST", "/chat/completions"): chat_completions,
        ("GET", "/models"): models,
    },
    authorise=authorise,
    unreadable=unreadable,
    not_found=not_found,
    headers={"access-control-allow-origin": "*"},
)
