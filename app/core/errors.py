"""Every error that a call can end with, as the caller sees it.

    ToriiError
    |- InvalidRequest            400  the caller's mistake; the message names the field and what would be right
    |  |- Unauthorized           401  the caller's key, not the upstream's
    |  |- Forbidden              403  a web page's origin, or a host name, that this gateway does not answer
    |  |- PermissionDenied       403  an address, an endpoint or a model that the caller's key may not use
    |  |  |- Barred              403  an address or an endpoint, found before the body is read
    |  |  `- ModelNotPriced      403  a model without a price, for a caller with a budget in dollars
    |  |- NotFound               404  no such path
    |  |- ModelNotFound          404
    |  |- MethodNotAllowed       405
    |  |- BodyTooSlow            408
    |  |- HeadTooSlow            408
    |  |- ChangeRefused          409  an operator's change that does not fit what is there
    |  |- TooLarge               413
    |  |- TargetTooLong          414  the path with its query
    |  |- UnsupportedMedia       415
    |  `- HeadTooLarge           431
    |- LimitExceeded             429  a limit of the caller's key, its team or the organization
    |- BudgetExhausted           429  a budget of these
    |- Unavailable               503  this gateway cannot take the call now
    |  |- Overloaded             503  the gateway is at its limit of calls, connections or files
    |  `- StorageUnavailable     503  the store of budgets cannot be written
    `- UpstreamError
       |- UpstreamRejected       400  the upstream found the caller's mistake (400, 404, 413, 415, 422)
       |- UpstreamAuth           502  the upstream refused our key; the caller's own key is fine
       |- UpstreamQuota          503  the upstream account is empty
       |- UpstreamRateLimited    429
       |- UpstreamTimeout        504
       |- UpstreamUnreachable    502  nothing was sent
       |- UpstreamFailed         502  anything else that is not an answer (503 if the upstream sent 503)
       |  |- UpstreamBroken      502  the answer broke off, or is malformed
       |  |- UpstreamRedirected  502  a redirect, which is never followed; no other target is tried
       |  |- UpstreamMisplaced   502  404 or 405 for a model that the upstream serves: its address may be wrong
       |  |- UpstreamTooLarge    502  an answer over the size limit; a repeated one would be as large
       |  `- UpstreamMismatch    502  an answer that is not JSON of the schema that the call asked for
       `- UpstreamTruncated      502  a stream that stopped before its end

One envelope serves the OpenAI SDKs, which read ``error``, and the Jina classes of
LangChain, LlamaIndex, Haystack and Chroma, which read ``detail``.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

from .json import fitted

MESSAGE_LIMIT = 2000
TEXT_LIMIT = 58_000  # bytes of an upstream's answer in an error, so that the envelope stays below 64 kB


class ToriiError(Exception):
    """The base class of all errors that callers see.

    ``elsewhere``: another target may be tried. ``accepted``: the upstream may have begun the work. ``should_retry``
    becomes the header x-should-retry, which the OpenAI SDKs obey; None leaves the decision to the SDK. ``retry_after``
    is in seconds. ``logged``: the log already has a line for this error. ``own``: it concerns this caller alone, not
    those who wait for the same answer.
    """

    status: int = 500
    type: ClassVar[str] = "api_error"
    code: str | None = "internal_error"
    elsewhere: ClassVar[bool] = False
    accepted: bool = False
    should_retry: bool | None = None
    logged: bool = False
    own: bool = False

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message if len(message) <= MESSAGE_LIMIT else message[:MESSAGE_LIMIT] + " ..."
        self.param = param
        self.retry_after = retry_after
        if code is not None:
            self.code = code

    def envelope(self) -> dict[str, Any]:
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error, "detail": self.message}

    def headers(self) -> dict[str, str]:
        headers = {}
        if self.retry_after is not None:
            headers["retry-after"] = str(whole_seconds(self.retry_after))
        if self.should_retry is not None:
            headers["x-should-retry"] = "true" if self.should_retry else "false"
        return headers


class InvalidRequest(ToriiError):
    status = 400
    type = "invalid_request_error"
    code = "invalid_request"
    should_retry = False


class Unauthorized(InvalidRequest):
    status = 401
    code = "invalid_api_key"


class Forbidden(InvalidRequest):
    status = 403
    code = "forbidden"


class PermissionDenied(InvalidRequest):
    status = 403
    code = "permission_denied"


class Barred(PermissionDenied):
    """Raised before the body is read."""


class ModelNotPriced(PermissionDenied):
    code = "model_not_priced"


class NotFound(InvalidRequest):
    status = 404
    code = "not_found"


class ModelNotFound(InvalidRequest):
    status = 404
    code = "model_not_found"


class MethodNotAllowed(InvalidRequest):
    status = 405
    code = "method_not_allowed"

    def __init__(self, message: str, *, allow: str) -> None:
        super().__init__(message)
        self.allow = allow

    def headers(self) -> dict[str, str]:
        return {**super().headers(), "allow": self.allow}


class ChangeRefused(InvalidRequest):
    """The operator's change does not fit what is there."""

    status = 409
    code = "conflict"


class BodyTooSlow(InvalidRequest):
    status = 408
    code = "body_too_slow"


class HeadTooSlow(InvalidRequest):
    status = 408
    code = "head_too_slow"


class TooLarge(InvalidRequest):
    status = 413
    code = "too_large"


class TargetTooLong(InvalidRequest):
    status = 414
    code = "target_too_long"


class UnsupportedMedia(InvalidRequest):
    status = 415
    code = "unsupported_media_type"


class HeadTooLarge(InvalidRequest):
    status = 431
    code = "head_too_large"


class LimitExceeded(ToriiError):
    """A limit of the caller's key, its team or the organization. With ``retry_after`` the same call fits then."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class BudgetExhausted(ToriiError):
    """A budget of the caller's key, its team or the organization."""

    status = 429
    type = "insufficient_quota"
    code = "insufficient_quota"
    should_retry = False


class Unavailable(ToriiError):
    status = 503
    code = "unavailable"


class Overloaded(Unavailable):
    """``reason`` is shown in the log only."""

    code = "overloaded"
    should_retry = True
    reason: str | None = None


class StorageUnavailable(Unavailable):
    """The call was not sent to any upstream, because what it may cost could not be written down before."""

    code = "storage_unavailable"

    def __init__(self, message: str = "the store of budgets cannot be written now", *, retry_after: float = 1) -> None:
        super().__init__(message, retry_after=retry_after)


class UpstreamError(ToriiError):
    """The failure of a request to an upstream.

    ``upstream`` is the name of the upstream and ``target`` its target, if known; ``reason`` is shown in the log only.
    ``asked``: a request was sent; False if the gateway knew the result without one. ``repeatable``: the same request
    may succeed if it is sent again. ``repeated``: the request was sent again and failed again. ``usage`` is what the
    upstream billed for the failed request, if it says so. ``at_fault``: a breaker counts it even if no other target is
    tried.
    """

    status = 502
    code = "upstream_error"
    elsewhere = True
    asked: bool = True
    repeatable: bool = True
    repeated: bool = False
    at_fault: ClassVar[bool] = False
    upstream: str | None = None
    target: Any = None
    reason: str | None = None
    usage: dict[str, Any] | None = None

    def headers(self) -> dict[str, str]:
        return {**super().headers(), **({"x-torii-upstream": self.upstream} if self.upstream else {})}


class UpstreamRejected(UpstreamError):
    """The provider rejected the request as wrong. Its status is kept if it is 404, 413 or 415, and is 400 otherwise."""

    status = 400
    type = "invalid_request_error"
    code = "upstream_rejected"
    elsewhere = False
    should_retry: bool | None = False

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message, param=param, code=code)
        self.status = status if status in (404, 413, 415) else 400


class UpstreamAuth(UpstreamError):
    code = "upstream_auth"
    should_retry = False


class UpstreamQuota(UpstreamError):
    status = 503
    type = "insufficient_quota"
    code = "upstream_quota"
    should_retry = False


class UpstreamRateLimited(UpstreamError):
    status = 429
    type = "rate_limit_error"
    code = "upstream_rate_limited"


class UpstreamTimeout(UpstreamError):
    status = 504
    code = "upstream_timeout"
    accepted = True


class UpstreamUnreachable(UpstreamError):
    code = "upstream_unreachable"


class UpstreamFailed(UpstreamError):
    accepted = True

    def __init__(self, message: str, *, status: int = 502, retry_after: float | None = None) -> None:
        super().__init__(message, retry_after=retry_after)
        if status == 503:
            self.status = 503
            self.accepted = False


class UpstreamBroken(UpstreamFailed):
    pass


class UpstreamRedirected(UpstreamFailed):
    code = "upstream_redirect"
    elsewhere = False
    accepted = False
    should_retry = False


class UpstreamMisplaced(UpstreamFailed):
    code = "upstream_misplaced"
    accepted = False
    repeatable = False
    should_retry = False


class UpstreamTooLarge(UpstreamFailed):
    code = "upstream_too_large"
    elsewhere = False
    should_retry = False


class UpstreamMismatch(UpstreamFailed):
    """``text`` is the answer, which has been paid for: the envelope shows at most TEXT_LIMIT bytes of it."""

    code = "upstream_schema_mismatch"
    elsewhere = False
    repeatable = False
    should_retry = False

    def __init__(self, message: str, text: str = "") -> None:
        super().__init__(message)
        self.text = fitted(text, TEXT_LIMIT)

    def envelope(self) -> dict[str, Any]:
        envelope = super().envelope()
        return {**envelope, "error": {**envelope["error"], "upstream_text": self.text}}


class UpstreamTruncated(UpstreamError):
    code = "upstream_stream_truncated"
    accepted = True


PROXY_REFUSED = "the proxy requires a user and a password, or different ones (407); set them in proxy_url"


def proxy_refused() -> UpstreamUnreachable:
    """The error if the proxy in front of an upstream asks for credentials. The reason is shown in the log only."""
    error = UpstreamUnreachable("the upstream cannot be reached")
    error.reason = PROXY_REFUSED
    return error


def key_refused(upstream: str) -> UpstreamAuth:
    return UpstreamAuth(
        f"{upstream} rejected the gateway's key. Your own key is fine; "
        "the gateway's operator must check the upstream's key"
    )


def account_empty(upstream: str) -> UpstreamQuota:
    return UpstreamQuota(
        f"the gateway's account at {upstream} has no balance left; the gateway's operator must top it up or add a key"
    )


def whole_seconds(seconds: float) -> int:
    """``seconds`` as the header retry-after has them: never too few, and at least 1, because some clients retry at once
    after a 0. Less than a millisecond more than a whole number is an error of a floating-point sum."""
    return max(1, math.ceil(round(seconds, 3)))


def shutting_down() -> Unavailable:
    return Unavailable("this gateway is shutting down and could not finish the call", retry_after=1)


def rate_limited(upstream: str, seconds: float) -> UpstreamRateLimited:
    return UpstreamRateLimited(
        f"rate limited by {upstream}; retry after {whole_seconds(seconds)} s", retry_after=seconds
    )


def public_error(error: BaseException) -> ToriiError:
    """The error to show to the caller. Any exception but a ToriiError becomes an internal error without details."""
    return error if isinstance(error, ToriiError) else ToriiError("internal error; the gateway's log has the cause")


def drop_traceback(error: Exception) -> None:
    """Drops the error's traceback and causes. The traceback holds the call, and the call's record holds the error: a
    cycle that only the garbage collector would free."""
    error.__traceback__ = error.__context__ = error.__cause__ = None
