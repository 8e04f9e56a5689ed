"""Validation of answers with status 2xx: a body that is not a valid answer to the call is an error.

Vectors and scores stay the bytes that the upstream wrote. They are checked, but not parsed and written again, so that
no digit changes and a large answer costs little.
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
    """The canonical reply, with ``data`` in the order of the inputs, ``index`` the position, and each vector a Vector.

    Raises UpstreamError for an error sent as an answer, for missing, duplicate or surplus vectors, for invalid vectors,
    and for vectors that do not have the requested dimensions.
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
    """An answer with exactly the fields that both providers document."""

    data: list[_Item]
    usage: msgspec.Raw
    model: str = ""
    object: Literal["list"] = "list"


_ITEMS = msgspec.json.Decoder(_Items)
_EMBEDDING = b'"embedding":'
_ENDS = {b"[": b"]", b'"': b'"'}


def _documented(body: bytes, encoding: Encoding) -> tuple[Json, list[Json]] | None:
    """``(answer, items)`` for an answer in exactly the documented form; None for any other.

    Vectors whose numbers will be parsed are cut out of the JSON first: for the JSON decoder, even to skip a vector
    takes half as long as parsing it.
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
    """``(rest, vectors)``: the answer with 0, 1, 2 ... in place of its vectors, and the JSON of the vectors.

    A vector ends at the first closing bracket or quote. If one has no end, or is neither a list nor a string, the whole
    answer and no vectors are returned.
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
    """The decoded body; None if the decoder does not accept it, or it is not ASCII."""
    try:
        return decoder.decode(body) if body.isascii() else None
    except (msgspec.MsgspecError, RecursionError):
        return None


def _otherwise(body: bytes, upstream: str, status: int) -> tuple[Json, list[Json]]:
    """``(answer, items)`` as of ``_documented``, for an answer with any fields. Raises UpstreamError."""
    reply = _opened(body, "data", upstream, status)
    items = _items(reply["data"], "data", upstream)
    places = _indexes(items, upstream) if any("index" in item for item in items) else range(len(items))
    _readable(reply, ("data", "usage"), upstream)
    for item in items:
        _readable(item, (field_of(item),), upstream)
    return dict(reply), [{**item, "index": place} for place, item in zip(places, items, strict=True)]


def ranking(call: RerankCall, body: bytes, upstream: str, least: int = 1, status: int = 200) -> RerankReply:
    """The canonical reply, with ``results`` best first; ``index`` is a position in the documents. The upstream's copies
    of the documents are removed.

    Raises UpstreamError for an error sent as an answer, for fewer results than ``least``, for an index that is out of
    range or duplicate, and for a score that is not a number. More results than requested are valid.
    """
    reply, results = _documented_ranking(body) or _other_ranking(body, upstream, status)
    places = {result["index"] for result in results}
    if not results or len(places) != len(results) or min(places) < 0 or max(places) >= len(call.documents):
        raise UpstreamFailed(f"{upstream} returned results that do not match the {len(call.documents)} documents")
    if len(results) < least:
        raise UpstreamFailed(f"{upstream} returned {len(results)} results instead of {least}")
    return cast("RerankReply", {**reply, "results": results, "usage": _usage(reply.get("usage"))})


class _Result(msgspec.Struct, forbid_unknown_fields=True):
    """A result. ``document`` may be sent although it is not requested; it is ignored, and callers get their own."""

    index: int
    relevance_score: msgspec.Raw
    document: msgspec.Raw = msgspec.Raw(b"null")


class _Ranking(msgspec.Struct, forbid_unknown_fields=True):
    """A ranking with exactly the fields that both providers document."""

    results: list[_Result]
    usage: msgspec.Raw
    model: str = ""
    object: Literal["list"] = "list"


_RANKING = msgspec.json.Decoder(_Ranking)


def _documented_ranking(body: bytes) -> tuple[Json, list[Json]] | None:
    """``(answer, results)`` for a ranking in exactly the documented form; None for any other."""
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
    """``(answer, results)`` for a ranking with any fields. Raises UpstreamError."""
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
    """The results sorted by score. Raises Malformed for a score that is not a number."""
    scores = numbers([result["relevance_score"] for result in results])
    return [results[place] for place in sorted(range(len(scores)), key=scores.__getitem__, reverse=True)]


def classification(body: bytes, inputs: int, upstream: str, status: int = 200) -> Json:
    """An answer whose ``data`` has one item per input, in their order; all other values stay as they were written.

    Raises UpstreamError for an error sent as an answer, and for missing, duplicate or incomplete items.
    """
    reply = _opened(body, "data", upstream, status)
    items = _items(reply["data"], "data", upstream)
    _readable(reply, ("data", "usage"), upstream)
    places = _indexes(items, upstream) if any("index" in item for item in items) else list(range(len(items)))
    if sorted(places) != list(range(inputs)):
        raise UpstreamFailed(f"{upstream} returned {len(items)} classifications for {inputs} inputs")
    for item in items:
        _readable(item, (), upstream)
        if not {"prediction", "score"} <= item.keys():
            raise UpstreamFailed(f"{upstream} sent a classification without a prediction and its score")
    placed = [{**item, "index": place} for place, item in zip(places, items, strict=True)]
    data = sorted(placed, key=itemgetter("index"))
    return {**reply, "data": data, "usage": _usage(reply.get("usage"))}


def whole(body: bytes, holds: str, upstream: str, status: int = 200) -> Json:
    """An answer that is one object: the field ``holds`` decoded, ``usage`` as counts, all others as they were written.

    Raises UpstreamError for an error sent as an answer, and without the field ``holds``.
    """
    reply = _opened(body, holds, upstream, status)
    _readable(reply, ("usage",), upstream)
    return {**reply, holds: decode(bytes(reply[holds])), "usage": _usage(reply.get("usage"))}


def _opened(body: bytes, holds: str, upstream: str, status: int) -> Fields:
    """The fields of the answer's top level. Raises UpstreamFailed without the field ``holds``, and UpstreamError for an
    error with a status of success, which AIHubMix's own client expects."""
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
    """Checks the fields that are passed through as bytes, except those of ``seen``. Raises UpstreamFailed for a number
    such as 1e999, which many JSON readers reject."""
    for name, raw in fields.items():
        if name not in seen and bytes(raw)[:1] not in b'"tfn':
            _read(raw, Any, "a number beyond the range of a float", upstream)


def _is_pdf(inputs: list[Any]) -> bool:
    return len(inputs) == 1 and isinstance(inputs[0], dict) and "pdf" in inputs[0]


def _vector(item: Json, encoding: Encoding, upstream: str) -> Vector:
    """The item's vector, which replaces the bytes in the item. Raises UpstreamFailed for an invalid one."""
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
    """The failure, marked as one that the same request would meet again."""
    failure.repeatable = failure.should_retry = False
    return failure


def _usage(raw: msgspec.Raw | None) -> Json:
    """The counts in an answer's usage; empty if there are none."""
    try:
        return counts(decode(bytes(raw or b"{}")))
    except Malformed:
        return {}
