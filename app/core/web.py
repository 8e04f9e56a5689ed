"""Pages and searches: the calls of the endpoints ``reader``, ``search`` and ``svip``, and the body of their errors.

Sources of the wire facts: jina-ai/reader (2026-05), the code behind r.jina.ai and s.jina.ai; for svip.jina.ai,
which has no documentation, its clients: jina-ai/MCP (2026-08), jina-ai/cli, jina-ai/node-DeepResearch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from .errors import UpstreamRejected
from .types import Call, EndpointFacts, Json, Text, Value

READER = EndpointFacts("reader", items="results", writes=True, streamed=True, api="reader", slow=True)
SEARCH = EndpointFacts("search", items="results", writes=True, streamed=True, api="search", slow=True)
SVIP = EndpointFacts("svip", items="results", writes=True, api="svip", slow=True)

READER_MODEL = "jina-reader"
SEARCH_MODEL = "jina-search"
SVIP_MODEL = "jina-svip"

# The form of an answer, and its media type.
Form = Literal["json", "text", "events"]
MEDIA: Mapping[Form, str] = {"json": "application/json", "text": "text/plain", "events": "text/event-stream"}

# ``object`` of a canonical reply whose page is the address of a picture: the upstream's 302.
LOCATION = "location"

PICTURES = re.compile(r"screenshot|pageshot", re.IGNORECASE)  # in X-Respond-With

READ_TOKENS = 20_000  # of one page, for a caller whose tokens are limited: sent as X-Token-Budget
MOST_TOKENS = 2_000_000  # that the provider charges for one page, and for one search
TOKEN_BUDGET = "x-token-budget"  # noqa: S105 - no password
BUDGET_EXCEEDED = "token_budget_exceeded"  # the code of the error


class WebRules(NamedTuple):
    """The settings of reader and search. ``allow``: the secret options, by their fields, that callers may send;
    ``..._cache_seconds``: how long answers are cached, 0 for not at all; ``..._seconds``: how long to wait for one."""

    allow: frozenset[str] = frozenset()
    reader_cache_seconds: float = 0
    search_cache_seconds: float = 0
    reader_seconds: float = 90
    search_seconds: float = 60


class WebRequest(Value, frozen=True):
    """A request for a page or a search. ``target`` is the rest of a drop-in path, decoded once, None without one.
    ``fields`` are those of a body or a query, ``headers`` have lower-case names; ``typed``: the fields come from JSON,
    and so have types. ``host`` is the Host header: the gateway itself is no page. ``path`` and ``method`` are the
    request's own."""

    hidden = ("target", "fields", "headers")

    target: str | None = None
    fields: Json = {}  # noqa: RUF012 - msgspec copies defaults
    headers: Mapping[str, str] = {}
    form: Form = "json"
    typed: bool = True
    host: str = ""
    path: str = ""
    method: str = "POST"


class WebCall(Call, frozen=True, kw_only=True):
    """``body`` is sent as JSON, ``headers`` are the options that are sent as headers.

    ``seconds`` bounds the upstream's answer. ``fresh``: no cached answer will do. ``keeps``: the answer is cached for
    at most this many seconds. ``dropped`` names what was not understood and is not sent. ``secrets`` are texts that
    must not come back in a message. ``path`` is that at the upstream, ``method`` the one that is used there; a GET has
    ``body`` in its query.
    """

    hidden = ("body", "headers", "secrets")

    headers: dict[str, str] = {}  # noqa: RUF012 - as above
    form: Form = "json"
    seconds: float = 90.0
    fresh: bool = False
    keeps: float = 0.0
    dropped: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    path: str = "/"
    method: str = "POST"


def is_answer(call: Call, status: int) -> bool:
    """True if an upstream's answer with this status is one to the call: a success; or 302 to the picture of a page, if
    the call asked for one as text."""
    if status < 300:
        return True
    if status not in (302, 303, 307) or not isinstance(call, WebCall) or call.form != "text":
        return False
    return PICTURES.search(call.headers.get("x-respond-with", "")) is not None


class Snapshot(Text, frozen=True):
    """The ``data`` of one event of a stream, which replaces the one before it. The text of a Text is empty: what a
    snapshot costs is in its usage."""

    hidden = ("data",)

    data: bytes = b""


class TargetRefused(UpstreamRejected):
    """An answer about the page or the search, such as 422 for nothing found: the provider works, so no breaker counts
    it and nobody else is asked. ``inner`` is the provider's own five digits, ``name`` its word for the error."""

    status = 422
    code = "nothing_found"

    def __init__(
        self, message: str, *, status: int | None = None, code: str | None = None, inner: int = 0, name: str = ""
    ) -> None:
        super().__init__(message, code=code)
        self.status = status or type(self).status
        self.own = code == BUDGET_EXCEEDED  # another caller may have more to spend, or no limit at all
        self.inner = inner
        self.name = name


class TargetFailed(TargetRefused):
    """The page, or the search engine, failed or was too slow: the same call may succeed later."""

    status = 502
    type = "api_error"
    code = "target_failed"
    should_retry: bool | None = None


class TargetTimedOut(TargetFailed):
    """The provider says that it took too long, which may be its own fault: unlike others of a page, a breaker counts it
    as a timeout."""

    status = 504
    code = "target_timeout"
    at_fault = True


# The provider's words for a status (civkit 0.10).
NAMES: Mapping[int, str] = {
    400: "ParamValidationError",
    401: "AuthenticationRequiredError",
    402: "InsufficientBalanceError",
    403: "OperationNotAllowedError",
    404: "EntityNotFoundError",
    408: "SubmittedDataMalformedError",
    422: "AssertionFailureError",
    429: "RateLimitTriggeredError",
    503: "ServiceNodeResourceDrainError",
}
INNER: Mapping[int, int] = {401: 40103, 402: 40203, 422: 42206, 429: 42903}


def web_envelope(envelope: Json, status: int, error: Any = None) -> Json:
    """The body of an error for all readers: the provider's fields, and those of OpenAI's and of Jina's API.
    ``envelope`` is redacted; ``error`` may be the TargetRefused that has the provider's own words."""
    message = envelope["detail"]
    name = (error.name if isinstance(error, TargetRefused) else "") or NAMES.get(status, "InternalServerError")
    inner = error.inner if isinstance(error, TargetRefused) else INNER.get(status, status * 100 + 1)
    about = {"code": status, "status": inner, "name": name}
    return {"data": None, **about, "message": message, "readableMessage": f"{name}: {message}", **envelope}
