"""aihubmix.com: the same models behind a relay with its own wire format.

DeepSearch chunks lack every field that the relay's Go structs do not declare: no query, no url, no dates, no null
``finish_reason``. Thinking is in ``reasoning_content``, with literal ``<think>`` tags.
"""

from __future__ import annotations

from typing import Any

from . import chat, embedding, errors, models, reranking, research
from .embedding import Options, Piece
from .errors import HostError
from .models import Embedder
from .research import Citation, Run
from .steps import Search, Step, Visit, Word
from .vectors import Encoding
from .wire import DONE, Answer, Ask, Host, Item, Json, Pause, StreamedAnswer, Whole, count, milliseconds

MAX_INPUTS = 2048
_CREATED = 1_626_777_600
_ENCODINGS: dict[str, Encoding] = {
    "float": "float",
    "base64": "base64",
    "binary_int8": "binary",
    "binary_uint8": "ubinary",
}


def _refused(message: str, status: int = 400) -> HostError:
    return HostError(errors.aihubmix(status, message))


def authorise(ask: Ask) -> None:
    """Check the key; GET requests (the model list) need none."""
    if ask.method == "GET":
        return
    if not ask.key:
        raise _refused("no key provided", 401)
    if "invalid" in ask.key:
        raise _refused("Invalid token", 401)


def unreadable(body: bytes) -> Whole:
    what = f"invalid character {chr(body[0])!r} looking for beginning of value" if body else "EOF"
    return errors.aihubmix(400, what)


def not_found(ask: Ask) -> Whole:
    return errors.aihubmix(404, f"Invalid URL ({ask.method} /v1{ask.path})")


def list_models(body: Json, quirk: str) -> Answer:
    names = dict.fromkeys(
        (*models.AIHUBMIX_EMBEDDERS, *models.AIHUBMIX_RERANKERS, *models.AIHUBMIX_DEEPSEARCH, *models.AIHUBMIX_CHAT)
    )
    data = [{"id": name, "object": "model", "created": _CREATED, "owned_by": _owner(name)} for name in names]
    return Whole({"object": "list", "data": data})


def _owner(name: str) -> str:
    return "jina" if name.startswith("jina-") else "openai"


def _unknown(body: Json) -> HostError:
    return _refused(f"Incorrect model ID {body.get('model')!r}. Please request to view our model list")


# ------------------------------------------------------------------ embeddings, rerank


def embeddings(body: Json, quirk: str) -> Answer:
    model = models.AIHUBMIX_EMBEDDERS.get(str(body.get("model")))
    if model is None:
        raise _unknown(body)
    openai = model is models.OPENAI_EMBEDDER
    given = _inputs(body, openai)
    named = body.get("encoding_format") if openai else body.get("embedding_format")
    encoding = _ENCODINGS.get(str(named or "float"))
    if encoding is None:
        raise _refused("embedding_format must be one of float, binary_int8, binary_uint8, base64")
    pieces = [_read(value) for value in given]
    options = Options(size=_size(model, body.get("dimensions")), encoding=encoding)
    total = sum(piece.tokens for piece in pieces)
    usage = {"prompt_tokens": total, "total_tokens": total}
    data = embedding.items(model, pieces, options)
    return Whole({"object": "list", "data": data, "model": model.id, "usage": usage})


def _inputs(body: Json, openai: bool) -> list[Any]:
    """The input as an array. Only OpenAI's own model also accepts a single string or token ids."""
    given = body.get("input")
    if openai and (isinstance(given, str) or (isinstance(given, list) and given and isinstance(given[0], int))):
        given = [given]
    if not isinstance(given, list):
        raise _refused("input must be an array")
    if not given or "" in given:
        raise _refused("input must not be empty")
    if len(given) > MAX_INPUTS:
        raise _refused(f"input must have at most {MAX_INPUTS} items")
    if not openai and any(not isinstance(value, str | dict) for value in given):
        raise _refused("input must be an array of strings or objects")
    return given


def _size(model: Embedder, size: Any) -> int:
    if size is None or not model.takes_dimensions:
        return model.size
    if not isinstance(size, int) or not 1 <= size <= model.size or (model.sizes and size not in model.sizes):
        raise _refused(f"dimensions must be an integer of at most {model.size}")
    return size


def _read(value: Any) -> Piece:
    try:
        return embedding.read(value)
    except ValueError as error:
        raise _refused(str(error)) from error


def rerank(body: Json, quirk: str) -> Answer:
    """Rerank reply: no ``object``, no documents, scores unrounded."""
    model = models.AIHUBMIX_RERANKERS.get(str(body.get("model")))
    if model is None:
        raise _unknown(body)
    given = body.get("documents")
    if not body.get("query") or not isinstance(given, list) or not given:
        raise _refused("query and documents are required")
    top_n = body.get("top_n")
    if top_n is not None and count(top_n) is None:
        raise _refused("top_n must be an integer of at least 1")
    query, documents = _read(body["query"]), [_read(document) for document in given]
    ranked = reranking.scores(model, query, documents)[:top_n]
    total = sum(document.tokens + query.tokens for document in documents)
    results = [{"index": score.index, "relevance_score": score.value} for score in ranked]
    return Whole({"model": model.id, "results": results, "usage": {"total_tokens": total}})


# ------------------------------------------------------------------------------ chat


def chat_completions(body: Json, quirk: str) -> Answer:
    """DeepSearch streams unless ``stream`` is false; OpenAI's models stream only if it is true."""
    name = body.get("model")
    if name in models.AIHUBMIX_CHAT:
        return _plain(body)
    if name not in models.AIHUBMIX_DEEPSEARCH:
        raise _unknown(body)
    if not isinstance(body.get("messages"), list) or not body["messages"]:
        raise _refused("field messages is required")
    plan = research.plan(body, quirk, _schema(body))
    if plan is None:
        raise _refused("Last message must be from user")
    run, frame = research.run(plan), _frame(str(name))
    if body.get("stream") is False:
        return Whole(_whole(frame, run), wait=run.seconds)
    return StreamedAnswer(_stream(frame, run, empty=quirk == "empty-deltas"))


def _plain(body: Json) -> Answer:
    try:
        return chat.answer(body, streams=body.get("stream") is True)
    except ValueError as error:
        raise _refused(str(error)) from error


def _schema(body: Json) -> Any:
    """The raw schema, or the schema in OpenAI's wrapper. AIHubMix does not document which of them it expects."""
    form = body.get("response_format")
    wrapped = form.get("json_schema") if isinstance(form, dict) else None
    return wrapped.get("schema", wrapped) if isinstance(wrapped, dict) else wrapped


def _frame(name: str) -> Json:
    now = milliseconds()
    return {"id": str(now), "object": "chat.completion.chunk", "created": now // 1000, "model": name}


def _stream(frame: Json, run: Run, *, empty: bool) -> list[Item]:
    items: list[Item] = [_chunk(frame, {"role": "assistant", "reasoning_content": "<think>"})]
    items += [item for step in run.steps for item in _step(frame, step, empty)]
    if run.failure is not None:
        closed = {**_chunk(frame, {"reasoning_content": "</think>"}, "error"), "usage": run.usage}
        told = {**_chunk(frame, {"content": run.failure, "type": "error"}, "error"), "usage": run.usage}
        return [*items, closed, told, DONE]
    items.append(_chunk(frame, {"reasoning_content": "</think>\n\n"}, "thinking_end"))
    delta = {"content": run.content, "type": run.kind, **_annotations(run)}
    return [*items, {**_chunk(frame, delta, "stop"), "usage": run.usage}, DONE]


def _step(frame: Json, step: Step, empty: bool) -> list[Item]:
    """Searches and visits are dropped, or sent as empty deltas if ``empty``."""
    match step:
        case Pause():
            return [step]
        case Search() | Visit():
            return [_chunk(frame, {})] if empty else []
        case Word():
            return [_chunk(frame, {"reasoning_content": step.text})]


def _chunk(frame: Json, delta: Json, finish: str | None = None) -> Json:
    choice: Json = {"index": 0, "delta": delta, **({"finish_reason": finish} if finish else {})}
    return {**frame, "choices": [choice], "system_fingerprint": f"fp_{frame['id']}"}


def _annotations(run: Run) -> Json:
    return {"annotations": [_annotation(citation) for citation in run.citations]} if run.citations else {}


def _annotation(citation: Citation) -> Json:
    """The indexes are always 0."""
    return {
        "type": "url_citation",
        "url_citation": {"url": citation.url, "title": citation.title, "start_index": 0, "end_index": 0},
    }


def _whole(frame: Json, run: Run) -> Json:
    text = run.content if run.failure is None else f"Error: {run.failure}"
    message = {"role": "assistant", "content": text, **_annotations(run)}
    finish = "stop" if run.failure is None else "error"
    return {
        **frame,
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "system_fingerprint": f"fp_{frame['id']}",
        "usage": run.usage,
    }


HOST = Host(
    name="aihubmix",
    base="/aihubmix/v1",
    routes={
        ("POST", "/embeddings"): embeddings,
        ("POST", "/rerank"): rerank,
        ("POST", "/chat/completions"): chat_completions,
        ("GET", "/models"): list_models,
    },
    authorise=authorise,
    unreadable=unreadable,
    not_found=not_found,
)
