"""api.jina.ai: embeddings, rerank, a small chat model, the model list."""

from __future__ import annotations

from typing import Any

from . import chat, embedding, errors, reranking, segment
from .classifiers import Classifiers
from .embedding import Options, Piece
from .errors import HostError, problem
from .models import JINA_CHAT, JINA_EMBEDDERS, JINA_RERANKERS, Embedder, Reranker
from .vectors import dense
from .wire import Answer, Ask, Host, Json, Whole

MAX_INPUTS = 512
_RERANK_VECTOR = 512
_TOKEN_VECTOR = 128
_ENCODINGS = ("float", "base64", "binary", "ubinary")
_CREATED = 1_700_000_000
_CHAT_CONTEXT = 32_768


_KEYLESS = ("/models", "/segment")


def authorise(ask: Ask) -> None:
    """Check the key; the list of models and the segmenter need none. Any key is valid unless it contains
    ``invalid``."""
    if ask.authorization is None and ask.path.rstrip("/") in _KEYLESS:
        return
    if ask.key is None:
        raise HostError(
            errors.jina(401, "Missing API key. Send it as: Authorization: Bearer <key>", "AUTH_MISSING_API_KEY")
        )
    if not ask.key:
        raise HostError(errors.jina(401, "Invalid Authorization header format", "AUTH_INVALID_FORMAT"))
    if "invalid" in ask.key:
        raise HostError(errors.jina(401, "Invalid API key", "AUTH_INVALID_API_KEY"))


def unreadable(body: bytes) -> Whole:
    return errors.jina_validation(
        [problem("body", "JSON decode error", "json_invalid", body.decode("utf-8", "replace"))]
    )


def not_found(ask: Ask) -> Whole:
    return errors.jina(404, "Not Found", "RESOURCE_NOT_FOUND")


def models(body: Json, quirk: str) -> Answer:
    """OpenRouter's shape: prefixed ids, no ``object``, no ``owned_by``."""
    names = {**dict.fromkeys(JINA_EMBEDDERS), **dict.fromkeys(JINA_RERANKERS), **dict.fromkeys(JINA_CHAT)}
    return Whole({"data": [_listed(name) for name in names]})


def _listed(name: str) -> Json:
    embedder, reranker = JINA_EMBEDDERS.get(name), JINA_RERANKERS.get(name)
    sees = name in JINA_CHAT or (reranker is not None and reranker.images)
    inputs = list(embedder.inputs) if embedder else ["text", "image"] if sees else ["text"]
    model = embedder or reranker
    return {
        "id": f"jina-ai/{name}",
        "name": name,
        "created": _CREATED,
        "input_modalities": inputs,
        "context_length": model.context if model else _CHAT_CONTEXT,
        "pricing": {"prompt": "0.00000002", "completion": "0"},
    }


def chat_completions(body: Json, quirk: str) -> Answer:
    name = body.get("model")
    if name not in JINA_CHAT:
        raise HostError(_no_model(name))
    try:
        return chat.answer(body, streams=body.get("stream") is True)
    except ValueError as error:
        raise HostError(errors.jina_validation([problem("messages", str(error), "value_error", None)])) from error


def _no_model(name: Any) -> Whole:
    if not isinstance(name, str):
        return errors.jina_validation([problem("model", "Field required", "missing", name)])
    return errors.jina_nested(400, f"Model '{name}' not found", "INPUT_MODEL_NOT_FOUND")


# ---------------------------------------------------------------------- embeddings


def embeddings(body: Json, quirk: str) -> Answer:
    name = body.get("model")
    model = JINA_EMBEDDERS.get(name) if isinstance(name, str) else None
    if model is None:
        raise HostError(_no_model(name))
    encoding = body.get("embedding_type", body.get("encoding_format", "float"))
    if isinstance(encoding, list):
        # Jina's OpenAPI description allows a list; the server answered it with this 500 when measured.
        raise HostError(errors.jina_nested(500, "Internal server error", "INTERNAL_ERROR"))
    refuse_if([*_wrong_options(model, body, encoding), *_wrong_inputs(model, body)] or _extra(model, body))
    pieces = _pieces(model, body)
    options = Options(
        size=_size(model, body),
        encoding=encoding or "float",
        normalized=body.get("normalized") is not False,
        multivector=model.multivector_option and body.get("return_multivector") is True,
        tokenized=body.get("return_tokenized_input") is True,
    )
    data = embedding.items(model, pieces, options)
    return Whole({"model": model.id, "object": "list", "usage": _usage(model, body, pieces), "data": data})


def _size(model: Embedder, body: Json) -> int:
    if body.get("return_multivector") is True and model.multivector_option:
        return _TOKEN_VECTOR
    size = body.get("dimensions") if model.takes_dimensions else None
    return size if isinstance(size, int) else model.size


def _extra(model: Embedder | Reranker, body: Json) -> list[Json]:
    """Problems with fields that the model does not have, even if they are ``false`` or null (public reports show
    both)."""
    return [
        problem(f"body -> {model.id} -> {name}", "Extra inputs are not permitted", "extra_forbidden", body[name])
        for name in body
        if name not in model.fields
    ]


def refuse_if(problems: list[Json]) -> None:
    if problems:
        raise HostError(errors.jina_validation(problems))


def _wrong_options(model: Embedder, body: Json, encoding: Any) -> list[Json]:
    task, size = body.get("task"), body.get("dimensions")
    found = []
    if encoding is not None and encoding not in _ENCODINGS:
        found.append(problem("embedding_type", f"Input should be one of {_list(_ENCODINGS)}", "enum", encoding))
    if task is not None and model.tasks and task not in model.tasks:
        found.append(problem("task", f"Input should be one of {_list(model.tasks)}", "enum", task))
    if model.takes_dimensions and size is not None:
        found += _wrong_size(model, size)
    if model.multivector_option and body.get("return_multivector") is True and size is not None:
        found.append(problem("dimensions", "dimensions cannot be used with return_multivector", "value_error", size))
    return found


def _wrong_size(model: Embedder, size: Any) -> list[Json]:
    if not isinstance(size, int) or isinstance(size, bool):
        return [problem("dimensions", "Input should be a valid integer", "int_type", size)]
    if model.sizes and size not in model.sizes:
        return [problem("dimensions", f"Input should be one of {_list(model.sizes)}", "enum", size)]
    if size < 1:
        return [problem("dimensions", "Input should be greater than 0", "greater_than", size)]
    if size > model.size:
        return [problem("dimensions", f"Input should be less than or equal to {model.size}", "less_than_equal", size)]
    return []


def _list(values: Any) -> str:
    return ", ".join(f"'{value}'" if isinstance(value, str) else str(value) for value in values)


def _wrong_inputs(model: Embedder, body: Json) -> list[Json]:
    if "input" not in body:
        return [problem("input", "Field required", "missing", body)]
    given = body["input"]
    if not isinstance(given, list):
        return _wrong_input(model, "input", given)
    if not given:
        return [problem("input", "List should have at least 1 item after validation", "too_short", given)]
    if len(given) > MAX_INPUTS:
        text = f"Each input list can contain at most {MAX_INPUTS} items"
        return [problem("input", text, "value_error", given)]
    return [wrong for at, value in enumerate(given) for wrong in _wrong_input(model, f"input.{at}", value)]


def _wrong_input(model: Embedder, field: str, value: Any) -> list[Json]:
    if isinstance(value, str):
        return [] if value else [problem(field, "Input text cannot be empty", "string_too_short", value)]
    if not isinstance(value, dict):
        return [problem(field, "Input should be a valid string", "string_type", value)]
    allowed = {*model.inputs, *(("url", "bytes", "content") if "image" in model.inputs else ())}
    if not value or not set(value) & allowed:
        return [problem(field, f"Input should be an object with one of {_list(sorted(allowed))}", "union", value)]
    try:
        embedding.read(value)
    except ValueError as error:
        return [problem(field, str(error), "value_error", value)]
    return []


def _pieces(model: Embedder, body: Json) -> list[Piece]:
    given = body["input"] if isinstance(body["input"], list) else [body["input"]]
    pieces = [embedding.read(value) for value in given]
    if body.get("truncate") is True:
        return [embedding.cut(piece, model.context) for piece in pieces]
    longest = max(piece.tokens for piece in pieces)
    if longest > model.context:
        text = f"Input has {longest} tokens; {model.id} takes {model.context}. Set truncate to cut it."
        raise HostError(errors.jina_nested(400, text, "INPUT_TOKEN_LIMIT_EXCEEDED"))
    return pieces


def _usage(model: Embedder, body: Json, pieces: list[Piece]) -> Json:
    total = sum(piece.tokens for piece in pieces)
    given = body["input"] if isinstance(body["input"], list) else [body["input"]]
    sometimes = body.get("late_chunking") is True or any(isinstance(value, dict) for value in given)
    told = model.prompt_tokens == "always" or (model.prompt_tokens == "sometimes" and sometimes)
    media = _media_tokens(pieces) if "omni" in model.id else {}
    text = {"prompt_tokens": total - sum(media.values())} if told else {}
    return {"total_tokens": total, **text, **media}


def _media_tokens(pieces: list[Piece]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for piece in pieces:
        if piece.kind in ("image", "audio", "video"):
            counts[f"{piece.kind}_tokens"] = counts.get(f"{piece.kind}_tokens", 0) + piece.tokens
    return counts


# -------------------------------------------------------------------------- rerank


def rerank(body: Json, quirk: str) -> Answer:
    name = body.get("model")
    model = JINA_RERANKERS.get(name) if isinstance(name, str) else None
    if model is None:
        raise HostError(_no_model(name))
    refuse_if(_wrong_rerank(model, body) or _extra(model, body))
    documents = [embedding.read(document) for document in body["documents"]]
    limit = (body.get("max_doc_length") if model.listwise else None) or model.document_tokens
    documents = reranking.shortened(documents, limit)
    query = embedding.read(body["query"])
    ranked = reranking.scores(model, query, documents)[: body.get("top_n") or body.get("top_k")]
    total = sum(document.tokens + query.tokens for document in documents)
    results = [_result(model, body, documents[score.index], score) for score in ranked]
    return Whole({"model": model.id, "object": "list", "usage": {"total_tokens": total}, "results": results})


def _result(model: Reranker, body: Json, document: Piece, score: reranking.Score) -> Json:
    result: Json = {"index": score.index, "relevance_score": round(score.value, 8)}
    if body.get("return_documents") is not False:
        result["document"] = reranking.echo(model, body["documents"][score.index])
    if model.listwise and body.get("return_embeddings") is True:
        result["embedding"] = dense(document.features, _RERANK_VECTOR, _RERANK_VECTOR)
    return result


def _wrong_rerank(model: Reranker, body: Json) -> list[Json]:
    found = [problem(field, "Field required", "missing", body) for field in ("query", "documents") if field not in body]
    if found:
        return found
    for field in ("top_n", "top_k", *(("max_doc_length",) if model.listwise else ())):
        found += _wrong_count(field, body.get(field), 8192 if field == "max_doc_length" else None)
    documents = body["documents"]
    if not isinstance(documents, list):
        return [*found, problem("documents", "Input should be a valid list", "list_type", documents)]
    if not documents:
        return [
            *found,
            problem("documents", "List should have at least 1 item after validation", "too_short", documents),
        ]
    checked = [("query", body["query"]), *((f"documents.{at}", value) for at, value in enumerate(documents))]
    return found + [wrong for field, value in checked for wrong in _wrong_text(model, field, value)]


def _wrong_count(field: str, value: Any, most: int | None) -> list[Json]:
    if value is None:
        return []
    if not isinstance(value, int) or isinstance(value, bool):
        return [problem(field, "Input should be a valid integer", "int_type", value)]
    if value < 1:
        return [problem(field, "Input should be greater than or equal to 1", "greater_than_equal", value)]
    if most is not None and value > most:
        return [problem(field, f"Input should be less than or equal to {most}", "less_than_equal", value)]
    return []


def _wrong_text(model: Reranker, field: str, value: Any) -> list[Json]:
    if isinstance(value, str):
        return []
    allowed = {"text", *(("image",) if model.images else ())}
    objects = model.images or field != "query"
    if not objects or not isinstance(value, dict) or not set(value) & allowed:
        return [problem(field, "Input should be a valid string", "string_type", value)]
    try:
        embedding.read(value)
    except ValueError as error:
        return [problem(field, str(error), "value_error", value)]
    return []


def host() -> Host:
    """The host, with classifiers of its own."""
    classifiers = Classifiers()
    return Host(
        name="jina",
        base="/jina/v1",
        routes={
            ("POST", "/embeddings"): embeddings,
            ("POST", "/rerank"): rerank,
            ("POST", "/chat/completions"): chat_completions,
            ("GET", "/models"): models,
            ("POST", "/segment"): segment.segment,
            ("GET", "/segment"): segment.segment,
        },
        authorise=authorise,
        unreadable=unreadable,
        not_found=not_found,
        bodiless=("/classifiers",),
        find=classifiers.find,
    )
