"""A 2xx body is an answer to the call, or a failure: a wrong answer is worse than none.

Vectors and scores stay the bytes that the upstream wrote: they are looked at, not parsed and
written anew, so that no digit changes and a large answer costs little.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any, Literal, TypeVar, cast

import msgspec

from ..core.errors import UpstreamFailed
from ..core.json import Malformed, check_text, decode, numbers
from ..core.replies import EmbeddingsReply, RerankReply
from ..core.types import EmbeddingsCall, Encoding, Json, RerankCall
from ..core.usage import counts
from ..core.vectors import Vector, field_of, is_packed, read, read_structured
from .errors import hidden_failure, refuse_page

Fields = dict[str, msgspec.Raw]
T = TypeVar("T")


def embeddings(call: EmbeddingsCall, body: bytes, upstream: str, status: int = 200) -> EmbeddingsReply:
    """The answer with ``data`` in the order of the inputs, each ``index`` its place, each vector as its bytes.

    Raises UpstreamError for an error sent as an answer, for missing, doubled or surplus vectors and for
    vectors that are none or not as large as asked for.
    """
    reply, items = _documented(body, call.encoding) or _otherwise(body, upstream, status)
    inputs = call.body["input"]
    # A PDF is sent alone and is read page by page (Jina's OpenAPI: "rasterized to N per-page image prompts").
    if len(items) != len(inputs) and not (items and _is_pdf(inputs)):
        raise UpstreamFailed(f"{upstream} returned {len(items)} vectors for {len(inputs)} inputs")
    _same_shape([_vector(item, call.encoding, upstream) for item in items], call.body.get("dimensions"), upstream)
    data: list[Any] = sorted(items, key=_place)
    if [item["index"] for item in data] != list(range(len(items))):
        raise UpstreamFailed(f"{upstream} returned vectors whose indexes do not match the inputs")
    return cast("EmbeddingsReply", {**reply, "data": data, "usage": _usage(reply.get("usage"))})


_place = itemgetter("index")


class _Item(msgspec.Struct, forbid_unknown_fields=True):
    embedding: msgspec.Raw
    index: int
    object: Literal["embedding"] = "embedding"


class _Items(msgspec.Struct, forbid_unknown_fields=True):
    """The fields of an answer that both providers' pages show, and no more."""

    data: list[_Item]
    usage: msgspec.Raw
    model: str = ""
    object: Literal["list"] = "list"


_ITEMS = msgspec.json.Decoder(_Items)
_EMBEDDING = b'"embedding":'
_ENDS = {b"[": b"]", b'"': b'"'}


def _documented(body: bytes, encoding: Encoding) -> tuple[Json, list[Json]] | None:
    """The answer and its items; None where anything is otherwise than documented.

    Vectors that will be read number by number are taken out before, since to pass over them takes half as long.
    """
    rest, vectors = (body, []) if encoding == "float" else _apart(body)
    found = _in_one(_ITEMS, rest)
    if found is None:
        return None
    texts = [bytes(item.embedding) for item in found.data]
    if encoding != "float":
        if texts != [b"%d" % place for place in range(len(vectors))]:
            return None
        texts = vectors
    try:
        items = [
            {"object": "embedding", "index": item.index, "embedding": read(text, encoding)}
            for item, text in zip(found.data, texts, strict=True)
        ]
    except Malformed:
        return None
    return {"object": "list", "data": None, "model": found.model, "usage": found.usage}, items


def _apart(body: bytes) -> tuple[bytes, list[bytes]]:
    """The answer with 0, 1, 2 in the place of its vectors, and these, each up to the first sign that ends a plain one.

    All of the answer, and no vectors, where one of them is anything else.
    """
    rest: list[bytes] = []
    vectors: list[bytes] = []
    end = 0
    while (at := body.find(_EMBEDDING, end)) >= 0:
        start = at + len(_EMBEDDING)
        start += body.startswith(b" ", start)
        rest += [body[end:start], b"%d" % len(vectors)]
        sign = _ENDS.get(body[start : start + 1])
        if sign is None or (end := body.find(sign, start + 1) + 1) == 0:
            return body, []
        vectors.append(body[start:end])
    return b"".join([*rest, body[end:]]), vectors


def _in_one(decoder: msgspec.json.Decoder[T], body: bytes) -> T | None:
    """The body as ``decoder`` reads it; None where it is anything else, or not all of it was read."""
    try:
        return decoder.decode(body) if body.isascii() else None
    except (msgspec.MsgspecError, RecursionError):
        return None


def _otherwise(body: bytes, upstream: str, status: int) -> tuple[Json, list[Json]]:
    """The same of any answer, with whatever fields it has."""
    reply = _opened(body, "data", upstream, status)
    items = _items(reply["data"], "data", upstream)
    places = _indexes(items, upstream) if any("index" in item for item in items) else range(len(items))
    _readable(reply, ("data", "usage"), upstream)
    for item in items:
        _readable(item, (field_of(item),), upstream)
    return dict(reply), [{**item, "index": place} for place, item in zip(places, items, strict=True)]


def ranking(call: RerankCall, body: bytes, upstream: str, least: int = 1, status: int = 200) -> RerankReply:
    """The answer with ``results``, the best first, each ``index`` a place in the documents. What the upstream says of
    the documents is left out.

    Raises UpstreamError for an error sent as an answer, for fewer results than ``least``, for an index that is
    not a document's or comes twice, and for a score that is no number. More results than asked for are right.
    """
    reply, results = _documented_ranking(body) or _other_ranking(body, upstream, status)
    places = {result["index"] for result in results}
    if not results or len(places) != len(results) or min(places) < 0 or max(places) >= len(call.documents):
        raise UpstreamFailed(f"{upstream} returned results that do not match the {len(call.documents)} documents")
    if len(results) < least:
        raise UpstreamFailed(f"{upstream} returned {len(results)} results instead of {least}")
    return cast("RerankReply", {**reply, "results": results, "usage": _usage(reply.get("usage"))})


class _Result(msgspec.Struct, forbid_unknown_fields=True):
    """A document, which may come though none was asked for, is not looked at: the caller's own is given back."""

    index: int
    relevance_score: msgspec.Raw
    document: msgspec.Raw = msgspec.Raw(b"null")


class _Ranking(msgspec.Struct, forbid_unknown_fields=True):
    """The fields of a ranking that both providers' pages show, and no more."""

    results: list[_Result]
    usage: msgspec.Raw
    model: str = ""
    object: Literal["list"] = "list"


_RANKING = msgspec.json.Decoder(_Ranking)


def _documented_ranking(body: bytes) -> tuple[Json, list[Json]] | None:
    """As ``_documented``. The scores are read all at once."""
    found = _in_one(_RANKING, body)
    if found is None:
        return None
    results = [{"index": result.index, "relevance_score": result.relevance_score} for result in found.results]
    try:
        best = _best_first(results)
    except Malformed:
        return None
    return {"object": "list", "results": None, "model": found.model, "usage": found.usage}, best


def _other_ranking(body: bytes, upstream: str, status: int) -> tuple[Json, list[Json]]:
    """The same of any answer, with whatever fields it has."""
    reply = _opened(body, "results", upstream, status)
    items = _items(reply["results"], "results", upstream)
    places = _indexes(items, upstream)
    _readable(reply, ("results", "usage"), upstream)
    for item in items:
        _read(item.get("relevance_score"), float, "a score that is not a number", upstream)
        _readable(item, ("relevance_score",), upstream)
        item.pop("document", None)
    return dict(reply), _best_first([{**item, "index": place} for place, item in zip(places, items, strict=True)])


def _best_first(results: list[Json]) -> list[Json]:
    """Raises Malformed for a score that is no number."""
    scores = numbers([result["relevance_score"] for result in results])
    return [results[place] for place in sorted(range(len(scores)), key=scores.__getitem__, reverse=True)]


def _opened(body: bytes, holds: str, upstream: str, status: int) -> Fields:
    """The top level of the answer. AIHubMix's own client expects errors with status 200, so they are looked for."""
    try:
        reply: Fields = decode(body, dict[str, msgspec.Raw])
        if not body.isascii():
            check_text(body)
        answered = bytes(reply.get(holds, b"null")) != b"null"
        failure = None
        if not answered or "error" in reply:
            failure = hidden_failure(decode(body), upstream=upstream, answered=status)
    except Malformed as error:
        refuse_page(body, upstream=upstream, answered=status)
        raise UpstreamFailed(f"{upstream} sent an answer that cannot be read: {error}") from None
    if failure is not None:
        raise failure
    if not answered:
        raise UpstreamFailed(f"{upstream} sent an answer without {holds}")
    return reply


def _items(raw: msgspec.Raw, name: str, upstream: str) -> list[Fields]:
    items: list[Fields] = _read(raw, list[Fields], f"{name} that is not a list of objects", upstream)
    return items


def _indexes(items: list[Fields], upstream: str) -> list[int]:
    return [_read(item.get("index"), int, "an item without an index", upstream) for item in items]


def _read(raw: msgspec.Raw | None, type: Any, wrong: str, upstream: str) -> Any:  # noqa: A002 - as in msgspec
    try:
        return decode(b"null" if raw is None else bytes(raw), type)
    except Malformed:
        raise UpstreamFailed(f"{upstream} sent {wrong}") from None


def _readable(fields: Fields, seen: tuple[str, ...], upstream: str) -> None:
    """Bytes that go back as they are have to be JSON to the last digit: 1e999 is none to many who read it."""
    for name, raw in fields.items():
        if name not in seen and bytes(raw)[:1] not in b'"tfn':
            _read(raw, Any, "a number beyond the range of a float", upstream)


def _is_pdf(inputs: list[Any]) -> bool:
    return len(inputs) == 1 and isinstance(inputs[0], dict) and "pdf" in inputs[0]


def _vector(item: Json, encoding: Encoding, upstream: str) -> Vector:
    """The item's vector; from now on the item has it as this."""
    found = item.get("embedding")
    if type(found) is not Vector:
        name = field_of(item)
        form = read if name == "embedding" else read_structured
        try:
            found = item[name] = form(bytes(item.get(name, b"")), encoding)
        except Malformed as wrong:
            raise UpstreamFailed(f"{upstream} sent {wrong}") from None
    if not found.writable:
        raise UpstreamFailed(f"{upstream} sent a vector that cannot be written as {encoding}")
    return found


def _same_shape(vectors: Sequence[Vector], asked: object, upstream: str) -> None:
    shapes = {vector.shape for vector in vectors}
    if len(shapes) > 1:
        raise UpstreamFailed(f"{upstream} sent vectors of different sizes: {sorted(shapes, key=str)}")
    [shape] = shapes
    if shape == asked or not isinstance(asked, int) or not isinstance(shape, int):
        return
    if shape != asked // 8 or not all(is_packed(vector.text) for vector in vectors):
        raise lasting(UpstreamFailed(f"{upstream} returned vectors of {shape} dimensions instead of {asked}"))


def lasting(failure: UpstreamFailed) -> UpstreamFailed:
    """A failure that the same request would only meet again."""
    failure.repeatable = failure.should_retry = False
    return failure


def _usage(raw: msgspec.Raw | None) -> Json:
    """The counts of it; empty where there are none."""
    try:
        return counts(decode(bytes(raw or b"{}")))
    except Malformed:
        return {}
