"""The statuses other than 200, each with envelopes that come with it, from the code that makes them in a call."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus

import msgspec

from ...callers.keys import Callers, digest
from ...core.errors import (
    BodyTooSlow,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    TooLarge,
    ToriiError,
    Unavailable,
    UnsupportedMedia,
    UpstreamError,
    UpstreamTimeout,
    UpstreamTruncated,
    UpstreamUnreachable,
)
from ...core.origins import Guard, Hosts
from ...core.types import Json, Reply
from ...upstreams.errors import failure
from . import models
from .documents import PATHS
from .exchanges import Refusal, refused

Example = tuple[str, ToriiError]

ENVELOPE: Json = {
    "type": "object",
    "description": "Every failure: for OpenAI's SDKs in `error`, for LangChain's Jina classes and others in `detail`.",
    "required": ["error", "detail"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string", "description": "What was wrong, and what would be right."},
                "type": {"enum": ["invalid_request_error", "rate_limit_error", "insufficient_quota", "api_error"]},
                "param": {"type": ["string", "null"], "description": "The field of the request, where it is one."},
                "code": {"type": ["string", "null"], "description": "The kind of failure, for programs."},
            },
        },
        "detail": {"type": "string", "description": "The same message."},
    },
}

SCHEMAS: Json = {"Error": ENVELOPE}

WORDS = {
    400: "The request is wrong; the message says which field, and what would be right.",
    401: "The caller's key is missing or not known. Never the provider's key.",
    403: "A web page, or a name, that a gateway without callers' keys does not answer to.",
    404: "There is no such model, or nothing at this path.",
    405: "The path is for another method, which the header `allow` names.",
    408: "The body did not come in time.",
    413: "The body, or one part of a message, is too large.",
    415: "The body is compressed, or no JSON.",
    429: "The provider wants fewer calls; the header `retry-after` says when to try again.",
    500: "A bug of the gateway; its log says more.",
    502: "The provider failed, could not be reached, or refused the gateway's own key.",
    503: "The gateway shuts down or has too many calls, or the provider or the account there is not available.",
    504: "The provider did not answer in time.",
}

# The headers of every answer; the second only from the sandbox.
ALWAYS = ("x-request-id", "x-torii-sandbox")

NO_PATH = NotFound(f"there is nothing at '/v1/embedding'. This gateway serves {', '.join(PATHS)}")
NO_JSON = InvalidRequest("the body is not JSON: unexpected '\"' (byte 31)")
DRAINING = Unavailable("this gateway is shutting down", retry_after=1)
TRUNCATED = UpstreamTruncated("jina ended the stream before the answer was complete")
OVERLOADED = Overloaded("1000 calls are open, the limit of this gateway (max_concurrent_calls)", retry_after=1)
NOT_READY = Unavailable("shutting down", retry_after=1)


_GUARD = Guard(Hosts(()), (), ())
_OF_A_PAGE = {b"host": [b"localhost:8000"], b"origin": [b"https://page.example"]}


def _upstream(status: int, body: Json, headers: dict[str, str] | None = None, deepsearch: bool = False) -> ToriiError:
    """The gateway's error for a provider's."""
    return failure(Reply(status, headers or {}, msgspec.json.encode(body)), upstream="jina", deepsearch=deepsearch)


def examples() -> dict[int, dict[str, Example]]:
    """For each status its examples by name, each with its summary."""
    callers = Callers([("team", digest("a key of this gateway"))])
    return {
        401: {
            "missing": ("No key", refused(lambda: callers.check({}))),
            "unknown": (
                "A key of somewhere else",
                refused(lambda: callers.check({b"authorization": [b"Bearer sk-0"]})),
            ),
        },
        403: {"page": ("A web page", refused(lambda: _GUARD.check("POST", "/v1/embeddings", _OF_A_PAGE)))},
        404: {
            "model": ("A model that is not known", models.unknown()),
            "path": ("A path that there is not", NO_PATH),
        },
        405: {"method": ("A GET", MethodNotAllowed("GET is not allowed for /v1/embeddings; use POST", allow="POST"))},
        408: {"slow": ("A body that stalls", BodyTooSlow("the body did not arrive within 60 seconds"))},
        413: {
            "body": ("The whole body", TooLarge("the body is larger than 32 MB (max_body_megabytes)")),
            "part": (
                "One part",
                TooLarge(
                    "messages[0].content[1].file is larger than the 10 MB that DeepSearch takes in one part",
                    param="messages[0].content[1].file",
                ),
            ),
        },
        415: {
            "form": (
                "A form",
                UnsupportedMedia("send JSON, not a multipart form: content-type application/json"),
            )
        },
        429: {
            "rate": (
                "The provider's limit",
                _upstream(
                    429,
                    {"detail": "Rate limit exceeded", "code": "RATE_REQUEST_LIMIT_EXCEEDED"},
                    {"retry-after": "7"},
                ),
            )
        },
        500: {"bug": ("A bug", ToriiError("internal error; the gateway's log has the cause"))},
        502: {
            "failed": ("The provider failed", _upstream(500, {"detail": "Internal error", "code": "INTERNAL_ERROR"})),
            "key": ("The gateway's key is refused", _upstream(401, {"detail": "Unauthorized"})),
            "unreachable": ("Nobody there", UpstreamUnreachable("the upstream cannot be reached")),
            "truncated": ("Cut short", TRUNCATED),
        },
        503: {
            "draining": ("Shutting down", DRAINING),
            "overloaded": ("Too many calls at once", OVERLOADED),
            "quota": ("An empty account", _upstream(403, {"detail": "-", "code": "AUTHZ_INSUFFICIENT_BALANCE"})),
        },
        504: {
            "deepsearch": (
                "DeepSearch, whose run may go on and is paid for",
                _upstream(524, {"detail": "A timeout occurred"}, deepsearch=True),
            ),
            "provider": ("The provider says so", _upstream(504, {"detail": "Timed out", "code": "SERVICE_TIMEOUT"})),
            "total": ("The gateway's limit", UpstreamTimeout("the call exceeded timeouts.total_seconds")),
        },
    }


def refusals(of_endpoint: Sequence[Refusal]) -> dict[str, Example]:
    """The examples of status 400 of one endpoint."""
    own = {refusal.name: (refusal.summary, refusal.error()) for refusal in of_endpoint}
    return {**own, "json": ("No JSON", NO_JSON)}


def response(status: int, cases: dict[str, Example]) -> Json:
    """The answer with ``status``; its headers are those that its examples come with."""
    sent = {name for _, error in cases.values() for name in error.headers()}
    if any(isinstance(error, UpstreamError) for _, error in cases.values()):
        sent.add("x-torii-upstream")  # set where the failure is met, not where it is read
    return {
        "description": f"{HTTPStatus(status).phrase}. {WORDS[status]}",
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in sorted({*ALWAYS, *sent})},
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/Error"},
                "examples": {
                    name: {"summary": summary, "value": error.envelope()} for name, (summary, error) in cases.items()
                },
            }
        },
    }
