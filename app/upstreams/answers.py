"""Whether a 2xx body is an answer to the call: a wrong answer is worse than none.

Vectors and scores stay the bytes that the upstream wrote: they are looked at, not parsed and
written anew, so that no digit changes and a large answer costs little.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Iterable
from operator import itemgetter
from typing import Any, Literal, TypeVar

import msgspec

from ..errors import UpstreamFailed
from ..jsontext import Malformed, decode, numbers
from ..types import EmbeddingsCall, Json, RerankCall
from ..usage import counts
from .failures import hidden_failure

Fields = dict[str, msgspec.Raw]
T = TypeVar("T")

WIDEST = 32  # characters that a number of a vector takes on average, at most; beyond it they are read one by one
EXPONENTS = 100  # of a vector; one with more of them is read number by number as well
NO_VECTOR = "a vector that is not one of finite numbers"


def embeddings(call: EmbeddingsCall, body: bytes, upstream: str) -> Json:
    """The answer with ``data`` in the order of the inputs, each ``index`` its place, each vector as its bytes.

    Raises UpstreamError for an error sent as an answer, for missing, doubled or surplus vectors and for
    vectors that are none or not as large as asked for.
    """
    reply, items = _documented(body) or _otherwise(body, upstream)
    inputs = call.body["input"]
    # A PDF is sent alone and is read page by page (Jina's OpenAPI: "rasterized to N per-page image prompts").
    if len(items) != len(inputs) and not (items and _is_pdf(inputs)):
        raise UpstreamFailed(f"{upstream} answered {len(inputs)} inputs with {len(items)} vectors")
    _same_size([_size(item, upstream) for item in items], call.body.get("dimensions"), upstream)
    data: list[Any] = sorted(items, key=_place)
    if [item["index"] for item in data] != list(range(len(items))):
        raise UpstreamFailed(f"{upstream} answered with vectors whose indexes are not those of the inputs")
    return {**reply, "data": data, "usage": _usage(reply.get("usage"))}


_place = itemgetter("index")


class _Vector(msgspec.Struct, forbid_unknown_fields=True):
    embedding: msgspec.Raw
    index: int
    object: Literal["embedding"] = "embedding"


class _Vectors(msgspec.Struct, forbid_unknown_fields=True):
    """What both providers' pages show of an answer, and no more."""

    data: list[_Vector]
    usage: msgspec.Raw
    model: str = ""
    object: Literal["list"] = "list"


_VECTORS = msgspec.json.Decoder(_Vectors)


def _documented(body: bytes) -> tuple[Json, list[Json]] | None:
    """The answer and its items, read in one go; None where anything is otherwise than documented."""
    found = _in_one(_VECTORS, body)
    if found is None:
        return None
    items = [{"object": "embedding", "index": item.index, "embedding": item.embedding} for item in found.data]
    return {"object": "list", "data": None, "model": found.model, "usage": found.usage}, items


def _in_one(decoder: msgspec.json.Decoder[T], body: bytes) -> T | None:
    """The body as ``decoder`` reads it; None where it is anything else, or not all of it was read."""
    try:
        return decoder.decode(body) if body.isascii() else None
    except (msgspec.MsgspecError, RecursionError):
        return None


def _otherwise(body: bytes, upstream: str) -> tuple[Json, list[Json]]:
    """The same of any answer, with whatever fields it has."""
    reply = _opened(body, "data", upstream)
    items = _items(reply["data"], "data", upstream)
    places = _indexes(items, upstream) if any("index" in item for item in items) else range(len(items))
    _readable(reply, ("data", "usage"), upstream)
    for item in items:
        _readable(item, ("embedding",) if "embedding" in item else ("embeddings",), upstream)
    return dict(reply), [{**item, "index": place} for place, item in zip(places, items, strict=True)]


def ranking(call: RerankCall, body: bytes, upstream: str, least: int = 1) -> Json:
    """The answer with ``results`` as the upstream ordered them, each ``index`` a place in the documents.

    Raises UpstreamError for an error sent as an answer, for fewer results than ``least``, for an index that is
    not a document's or comes twice, and for a score that is no number. More results than asked for are right.
    """
    reply, results = _documented_ranking(body) or _other_ranking(body, upstream)
    places = {result["index"] for result in results}
    if not results or len(places) != len(results) or min(places) < 0 or max(places) >= len(call.documents):
        raise UpstreamFailed(f"{upstream} ranked {len(call.documents)} documents with results that are not theirs")
    if len(results) < least:
        raise UpstreamFailed(f"{upstream} sent {len(results)} results where {least} were asked for")
    return {**reply, "results": results, "usage": _usage(reply.get("usage"))}


class _Result(msgspec.Struct, forbid_unknown_fields=True):
    """A document, which may come though none was asked for, is not looked at: the caller's own is given back."""

    index: int
    relevance_score: msgspec.Raw
    document: msgspec.Raw = msgspec.Raw(b"null")


class _Ranking(msgspec.Struct, forbid_unknown_fields=True):
    """What both providers' pages show of a ranking, and no more."""

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
    try:
        numbers(result.relevance_score for result in found.results)
    except Malformed:
        return None
    results = [{"index": result.index, "relevance_score": result.relevance_score} for result in found.results]
    return {"object": "list", "results": None, "model": found.model, "usage": found.usage}, results


def _other_ranking(body: bytes, upstream: str) -> tuple[Json, list[Json]]:
    """The same of any answer, with whatever fields it has."""
    reply = _opened(body, "results", upstream)
    items = _items(reply["results"], "results", upstream)
    places = _indexes(items, upstream)
    _readable(reply, ("results", "usage"), upstream)
    for item in items:
        _read(item.get("relevance_score"), float, "a score that is not a number", upstream)
        _readable(item, ("relevance_score",), upstream)
    return dict(reply), [{**item, "index": place} for place, item in zip(places, items, strict=True)]


def _opened(body: bytes, holds: str, upstream: str) -> Fields:
    """The top level of the answer. AIHubMix's own client expects errors with status 200, so they are looked for."""
    try:
        reply: Fields = decode(body, dict[str, msgspec.Raw])
        if not body.isascii():
            body.decode()  # what is kept as bytes was not read, and may be in another encoding
        answered = bytes(reply.get(holds, b"null")) != b"null"
        failure = None if answered and "error" not in reply else hidden_failure(decode(body), upstream=upstream)
    except (Malformed, UnicodeDecodeError) as error:
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
    """What goes back as its bytes has to be JSON to its last digit: 1e999 is none to many who read it."""
    for name, raw in fields.items():
        if name not in seen and bytes(raw)[:1] not in b'"tfn':
            _read(raw, Any, "a number that no float holds", upstream)


def _is_pdf(inputs: list[Any]) -> bool:
    return len(inputs) == 1 and isinstance(inputs[0], dict) and "pdf" in inputs[0]


def _size(item: Fields, upstream: str) -> int | None:
    """The dimensions of a plain vector; None for multivectors, sparse ones and strings, which have no one size."""
    vector = bytes(item.get("embedding", b""))
    if vector.startswith(b'"') and _is_base64(vector):
        return None
    if vector.startswith(b"[") and vector.find(b"[", 1) < 0:
        numbers = vector.count(b",") + 1
        if not _finite(vector, numbers):
            numbers = len(_read(item["embedding"], list[float], NO_VECTOR, upstream))
        if numbers:
            return numbers
    structured = vector.startswith((b"[", b"{")) or (not vector and "embeddings" in item)
    whole = item.get("embedding", item.get("embeddings"))
    if structured and _read(whole, list[Any] | dict[str, float], NO_VECTOR, upstream):
        return None
    raise UpstreamFailed(f"{upstream} sent an item without a vector")


def _finite(vector: bytes, numbers: int) -> bool:
    """True where a look shows that it is all numbers that a float holds. That it is JSON was checked before."""
    if not 2 * numbers < len(vector) < WIDEST * numbers or b"E" in vector or b'"' in vector or b"n" in vector:
        return False
    place = -1
    for _ in range(EXPONENTS):
        place = vector.find(b"e", place + 1)
        if place < 0 or vector[place + 1 : place + 2] != b"-":
            return place < 0
    return False


def _is_base64(vector: bytes) -> bool:
    try:
        return len(b64decode(vector[1:-1], validate=True)) > 0
    except binascii.Error:
        return False


def _same_size(sizes: Iterable[int | None], asked: object, upstream: str) -> None:
    plain = {size for size in sizes if size is not None}
    if len(plain) > 1:
        raise UpstreamFailed(f"{upstream} sent vectors of different sizes: {sorted(plain)}")
    if plain and isinstance(asked, int) and not plain & {asked, asked // 8}:  # an eighth: packed into bytes
        raise UpstreamFailed(f"{upstream} sent vectors of {plain.pop()} dimensions where {asked} were asked for")


def _usage(raw: msgspec.Raw | None) -> Json:
    """The counts of it; empty where there are none."""
    try:
        return counts(decode(bytes(raw or b"{}")))
    except Malformed:
        return {}
