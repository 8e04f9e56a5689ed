"""Jina's classifier and segmenter on the wire: classify, train, classifiers, segment.

    POST   /v1/classify           {model, input, labels} or {classifier_id, input}
    POST   /v1/train              {model, input, access, num_iters} or {classifier_id, input, num_iters}
    GET    /v1/classifiers        the classifiers of the account, whoever made them
    DELETE /v1/classifiers/{id}
    POST   /v1/segment            {content, tokenizer, return_tokens, return_chunks, max_chunk_length, head | tail}

Sources: Jina's OpenAPI description (2026-07); for the segmenter, which it does not have, jina-ai/meta-prompt.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import msgspec

from ..core.classifiers import (
    ClassifierBusy,
    ClassifyCall,
    ResourceLimit,
    SegmentCall,
    TrainCall,
    UpstreamClassifierMissing,
)
from ..core.errors import UpstreamError, UpstreamFailed
from ..core.json import Malformed, decode
from ..core.types import Json, Key, Reply, Request, Target
from . import validation
from .errors import failure, hidden_failure, refuse_page

LIST = "/classifiers"

BUSY = "CONFLICT_RESOURCE_BUSY"
LIMIT = "AUTHZ_RESOURCE_LIMIT_EXCEEDED"
MISSING = "RESOURCE_NOT_FOUND"


def read_classify(upstream: Any, call: ClassifyCall, body: bytes, status: int) -> Json:
    """``data`` has one classification per input, in their order. Labels and scores stay as the provider wrote them."""
    return validation.classification(body, len(call.body["input"]), upstream.name, status)


def read_train(upstream: Any, call: TrainCall, body: bytes, status: int) -> Json:
    """``classifier_id`` is a text; ``usage`` is empty if the provider gave none."""
    reply = validation.whole(body, "classifier_id", upstream.name, status)
    given = reply["classifier_id"]
    if not isinstance(given, str) or not given:
        raise UpstreamFailed(f"{upstream.name} sent a classifier_id that is not a text")
    return reply


def write_segment(upstream: object, call: SegmentCall, target: Target) -> Json:
    return call.body


def read_segment(upstream: Any, call: SegmentCall, body: bytes, status: int) -> Json:
    """All fields as the provider wrote them. ``chunk_positions`` count UTF-16 units, which is the provider's way."""
    reply = validation.whole(body, "num_tokens", upstream.name, status)
    if type(reply["num_tokens"]) is not int or reply["num_tokens"] < 0:
        raise UpstreamFailed(f"{upstream.name} sent num_tokens that is not a count")
    usage = reply["usage"]
    reply["usage"] = {"total_tokens": usage.get("tokens", usage.get("total_tokens", 0))}
    return reply


def refused(reply: Reply, upstream: str, *, of_one: bool) -> UpstreamError | None:
    """The error for an answer that only these endpoints have; None for any other. ``of_one``: the request named a
    classifier."""
    codes = _codes(reply.body)
    if LIMIT in codes:
        return ResourceLimit(
            f"{upstream}: the plan of the gateway's account allows no more classifiers, or no more labels in one; "
            "delete classifiers that are not needed: DELETE /v1/classifiers/{id}"
        )
    if BUSY in codes:
        return ClassifierBusy(failure(reply, upstream=upstream).message)
    if MISSING in codes and of_one:
        return UpstreamClassifierMissing(f"{upstream} does not have this classifier", status=404, param="classifier_id")
    return None


def list_request(base_url: str, key: Key, request_id: str) -> Request:
    """The request for the classifiers of an account."""
    return Request(f"{base_url.rstrip('/')}{LIST}", _headers(key, request_id), b"", method="GET")


def delete_request(base_url: str, classifier: str, key: Key, request_id: str) -> Request:
    """The request that deletes a classifier of an account."""
    url = f"{base_url.rstrip('/')}{LIST}/{quote(classifier, safe='')}"
    return Request(url, _headers(key, request_id), b"", method="DELETE")


def _headers(key: Key, request_id: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key.secret}", "accept": "application/json", "x-request-id": request_id}


def listed(reply: Reply, upstream: str) -> list[Json]:
    """The classifiers in the answer to a list. Raises UpstreamError."""
    try:
        found = decode(reply.body)
    except Malformed as error:
        raise UpstreamFailed(f"{upstream} sent an answer that cannot be read: {error}") from None
    if not isinstance(found, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("classifier_id"), str) for entry in found
    ):
        raise UpstreamFailed(f"{upstream} sent a list of classifiers that is none")
    return found


def check_deleted(reply: Reply, upstream: str) -> None:
    """Raises UpstreamError if the answer to a deletion, of a status of success, holds an error. Its content is not
    documented otherwise."""
    try:
        found = decode(reply.body)
    except Malformed:
        refuse_page(reply.body, upstream=upstream, answered=reply.status)
        return
    if isinstance(found, dict) and found.get("error"):
        raise hidden_failure(found, upstream=upstream, answered=reply.status) or UpstreamFailed(
            f"{upstream} did not delete it"
        )


def _codes(body: bytes) -> frozenset[str]:
    """The codes in an error, at its top or in ``detail`` or ``error``."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return frozenset()
    if not isinstance(found, dict):
        return frozenset()
    inner = [found, *(value for name in ("detail", "error") if isinstance(value := found.get(name), dict))]
    return frozenset(code for each in inner if isinstance(code := each.get("code"), str))
