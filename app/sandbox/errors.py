"""Errors of each host: four JSON dialects, and the HTML pages of the proxies in front of them.

jina         api.jina.ai         {"detail": ..., "code": ..., "request_id": ...}, some of them nested
deepsearch   deepsearch.jina.ai  {"error": "<text>"}
aihubmix     aihubmix.com        {"error": {"message": "<text> (tid: ...)", "type": "Aihubmix_api_error"}}
civkit       r.jina.ai, s.jina.ai, svip.jina.ai
                                 {"data": null, "code": 422, "status": 42206, "name": "AssertionFailureError", ...}
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from html import escape
from typing import Any

from .wire import Answer, Json, Whole

# The hosts that are built on CivKit.
WEB = ("reader", "search", "svip")

# The names of errors by number: jina-ai/reader's and CivKit's own; those of 404, 408, 42204, 500 and 504 are assumed.
_NAMES = {
    40001: "ParamValidationError",
    40102: "AuthenticationFailedError",
    40103: "AuthenticationRequiredError",
    40202: "TierFeatureConstraintError",
    40203: "InsufficientBalanceError",
    40301: "OperationNotAllowedError",
    40401: "ResourceNotFoundError",
    40801: "RequestTimedOutError",
    40902: "ResourcePolicyDenyError",
    40903: "LockConflictError",
    40904: "BudgetExceededError",
    42204: "ExternalServiceFailureError",
    42206: "AssertionFailureError",
    42903: "RateLimitTriggeredError",
    45102: "SecurityCompromiseError",
    50001: "InternalServerError",
    50303: "ServiceNodeResourceDrainError",
    50304: "ServiceBadAttemptError",
    50401: "ServiceTimeoutError",
}
# The number of an error that is given by its HTTP status alone.
_USUAL = {200: 40203, 400: 40001, 401: 40102, 402: 40203, 403: 40301, 409: 40903, 429: 42903, 503: 50303}

HTML = "text/html; charset=utf-8"
Dialect = Callable[[int, str, str], Whole]


class HostError(Exception):
    """An exception with the host's reply to a request that it refuses; raising it ends the call."""

    def __init__(self, answer: Answer) -> None:
        super().__init__("refused")
        self.answer = answer


def jina(status: int, message: str, code: str = "") -> Whole:
    """The flat form, from the front end of api.jina.ai: keys, limits, balance."""
    return Whole({"detail": message, "code": code or "INTERNAL_ERROR", "request_id": uuid.uuid4().hex}, status)


def jina_nested(status: int, message: str, code: str) -> Whole:
    """The nested form, from the models behind api.jina.ai."""
    return Whole({"detail": {"message": message, "request_id": uuid.uuid4().hex, "code": code}}, status)


def jina_validation(problems: list[Json]) -> Whole:
    """Status 422; every problem echoes the caller's value as ``input``."""
    first = "; ".join(f"{problem['field']}: {problem['message']}" for problem in problems[:3])
    detail = f"Validation errors in {len(problems)} fields. {first}"
    return Whole({"detail": detail, "request_id": uuid.uuid4().hex, "errors": problems}, 422)


def problem(field: str, message: str, kind: str, echo: Any) -> Json:
    return {"field": field, "message": message, "type": kind, "input": echo}


def deepsearch(status: int, message: str, code: str = "") -> Whole:
    """The error is a string; DeepSearch has no error codes."""
    return Whole({"error": message}, status)


def aihubmix(status: int, message: str, code: str = "") -> Whole:
    """No code, no param; the trace id is inside the message."""
    return Whole({"error": {"message": f"{message} (tid: {tid()})", "type": "Aihubmix_api_error"}}, status)


def civkit(status: int, message: str, /, path: str = "") -> Whole:
    """An error by its number of five digits, whose first three are the HTTP status. ``path``: the parameter that is
    wrong, an error's own field."""
    name = _NAMES[status]
    readable = f"{name}({path}): {message}" if path else f"{name}: {message}"
    body = {"data": None, "code": status // 100, "status": status, "name": name, "message": message}
    return Whole({**body, "readableMessage": readable, **({"path": path} if path else {})}, status // 100)


def _web(status: int, message: str, code: str = "") -> Whole:
    number = _USUAL.get(status) or (50401 if status == 504 else 42206 if status == 422 else status * 100 + 1)
    return replace(civkit(number, message), status=status)


def tid() -> str:
    return f"{datetime.now(UTC):%Y%m%d%H%M%S%f}{uuid.uuid4().int % 10**11:011d}"


DIALECTS: dict[str, Dialect] = {
    "jina": jina,
    "deepsearch": deepsearch,
    "aihubmix": aihubmix,
    **dict.fromkeys(WEB, _web),
}


def express(status: int, text: str) -> Whole:
    """The default error page of Express, the framework of deepsearch.jina.ai."""
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>Error</title>\n</head>\n'
        f"<body>\n<pre>{escape(text)}</pre>\n</body>\n</html>\n"
    )
    return Whole(page.encode(), status, HTML)


def too_large() -> Whole:
    """An Express page with a stack trace and file paths, as sent if NODE_ENV is not set."""
    return express(
        413,
        "PayloadTooLargeError: request entity too large\n"
        "    at readStream (/app/node_modules/raw-body/index.js:163:17)\n"
        "    at jsonParser (/app/node_modules/body-parser/lib/types/json.js:140:5)",
    )


def nginx(status: int, title: str) -> Whole:
    head = f"<html>\r\n<head><title>{status} {title}</title></head>\r\n"
    body = (
        f"<body>\r\n<center><h1>{status} {title}</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    )
    return Whole((head + body).encode(), status, "text/html")


def cloudflare(status: int, title: str) -> Whole:
    page = (
        '<!DOCTYPE html>\n<html lang="en-US">\n<head>\n'
        f"<title>upstream.example.org | {status}: {title}</title>\n</head>\n<body>\n"
        f'<h1><span class="inline-block">{title}</span> <span class="code-label">Error code {status}</span></h1>\n'
        "</body>\n</html>\n"
    )
    return Whole(page.encode(), status, "text/html; charset=UTF-8")
