"""Errors of upstreams, read from all the forms in which upstreams send them.

    {"error": {"message", "type", "code"}}          AIHubMix, OpenAI; AIHubMix sometimes with status 200
    {"error": "text"}                               DeepSearch
    {"detail": "text", "code"}                      api.jina.ai
    {"detail": {"message", "code"}}                 api.jina.ai, errors of the models
    {"detail": "text", "errors": [{"field", "message", "input"}]}, {"detail": [{"loc", "msg"}]}    validation
    {"message", "readableMessage", "code": 402, "status": 40203}                                   Reader, DeepSearch
    text, HTML, nothing                             proxies in front of them; also inside any of the others

The status decides the error, unless a code or a known phrase is more specific: an empty account is reported with 402,
403 or 400. The upstream's message is passed on only if it helps the caller and cannot contain a key: never a message
about keys or accounts, never the input that a validation error echoes, and never an HTML page, into which proxies write
addresses and ray ids.

A text counts as a page if it contains markup, escaped any number of times: ``<!`` or ``<?``, a closing tag, a tag with
an attribute, a self-closing tag, or an opening tag with one of HTML's common names. Any other word in angle brackets is
a placeholder, and is passed on: ``expected <string>``, ``value <model> unknown``.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Any

from ..core.errors import (
    UpstreamError,
    UpstreamFailed,
    UpstreamMisplaced,
    UpstreamQuota,
    UpstreamRateLimited,
    UpstreamRedirected,
    UpstreamRejected,
    UpstreamTimeout,
    account_empty,
    key_refused,
    proxy_refused,
)
from ..core.json import Malformed, decode, decode_lenient
from ..core.types import Reply
from .catalogue import known

TEXT_LIMIT = 500  # characters of an upstream's message that are passed on
READ_LIMIT = 16_384  # characters of a text that are searched for a message
DEPTH = 4  # maximum nesting of errors in errors

RETRY_AFTER = 5.0  # seconds, for a 429 without Retry-After, which DeepSearch sends
RETRY_AFTER_LIMIT = 86_400.0

# Codes that are more specific than the status they come with. Sources: Jina's OpenAPI description for the codes in
# capitals, jina-ai/reader for the one in camel case, OpenAI and one-api (AIHubMix is a fork of it) for the others.
CODES = {
    "AUTHZ_INSUFFICIENT_BALANCE": 402,
    "AUTHZ_RESOURCE_LIMIT_EXCEEDED": 402,
    "InsufficientBalanceError": 402,
    "insufficient_quota": 402,
    "insufficient_user_quota": 402,
    "pre_consume_token_quota_failed": 402,
    "INPUT_MODEL_NOT_FOUND": 404,
    "model_not_found": 404,
    "SERVICE_UNAVAILABLE": 503,
    "SERVICE_TIMEOUT": 504,
}
FAMILIES = {"AUTH_": 401, "RATE_": 429, "INPUT_": 400}
HIDDEN_CODES = {"invalid_request_error": 400, "authentication_error": 401, "rate_limit_error": 429}

BALANCE = re.compile(
    r"balance (?:is )?(?:insufficient|not enough)|insufficient (?:account )?balance|insufficientbalance"
    r"|quota is not enough|额度不足|余额不足",
    re.IGNORECASE,
)
UNKNOWN_MODEL = re.compile(r"incorrect model id|\bmodel \S+ (?:not found|does not exist)", re.IGNORECASE)
NO_KEY = re.compile(r"no key provided|invalid token|(?:invalid|incorrect) api key|unauthorized", re.IGNORECASE)

# Markup as defined at the top of this file. A tag may be cut off by the end of the text.
MARKUP = re.compile(
    r"<(?:[!?](?=[a-z\[-])|/[a-z]|[a-z][^<>]*?=\s*\\*[\"']|[a-z][^<>=]*=[^<>]*>|[a-z][^<>]*/>"
    r"|(?:html|head|body|title|script|style|noscript|center|div|span|small|strong|em|h[1-6]|br|hr|pre|ul|ol|li|dl|dt|dd"
    r"|table|thead|tbody|tr|td|th|blockquote|svg|iframe|frameset)(?:\s[^<>]*)?(?:>|$)|[abipu]>)",
    re.IGNORECASE,
)
# Markup that only a page has; formatting tags may occur in ordinary messages too.
PAGE = re.compile(
    r"<(?:!|\?|/?(?:html|head|body|title|meta|link|script|style|center|iframe|noscript)\b)", re.IGNORECASE
)
HTML_TYPES = ("text/html", "application/xhtml+xml")
HTML_BLOCK = re.compile(r"<(script|style|head)\b.*?(?:</\1\s*>|$)", re.IGNORECASE | re.DOTALL)
HTML_TAG = re.compile(r"</?[a-z!][^<>]*(?:>|$)", re.IGNORECASE)
# The characters & " ' < > as JSON, JavaScript and URLs escape them, possibly several times.
ESCAPED = re.compile(r"(?<!\\)\\+(?:u00|x)(?:26|22|27|3c|3e)|%(?:25)*(?:3c|3e)", re.IGNORECASE)
ESCAPES = 10  # maximum nesting of escapes
MARKDOWN_LINK = re.compile(r"!?\[([^\[\]]*)\]\((?:[^()\s]|\([^()\s]*\))*\)")
LINK = re.compile(  # an upstream's host, or one that the caller named
    r"(?:\b[a-z][a-z0-9+.-]{0,20}:/{1,3}|(?<![\w/:])//|\bwww\.|\b(?:mailto|javascript):|\bdata:\w+/)(?=\w)\S+",
    re.IGNORECASE,
)
STACK = re.compile(r"\n[ \t]+at \S.*", re.DOTALL)  # a JavaScript stack trace, which contains file paths
BLANK = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufffd]+")


@dataclass(frozen=True, slots=True)
class Fault:
    """A parsed error body: its message, all codes in it, and the field that it blames.

    ``page``: the text is that of an HTML page. It is used to classify the error, and never shown.
    """

    text: str = ""
    codes: tuple[str, ...] = ()
    param: str | None = None
    page: bool = False


def failure(reply: Reply, *, upstream: str, deepsearch: bool = False) -> UpstreamError:
    """The error for an answer with a status of 300 or more; returned, not raised."""
    fault = fault_of(reply)
    status = _status(reply.status, fault)
    if deepsearch and reply.status in (409, 422) and fault.param is None:
        return _deepsearch(reply.status, upstream)
    says = message_of(fault, upstream, status, reply.status)
    error = _error(status, says, fault, upstream, retry_after_of(reply.headers))
    if deepsearch and error.accepted:
        error.should_retry = False
    return error


def fault_of(reply: Reply) -> Fault:
    """The parsed body of an answer with a status of 300 or more."""
    try:
        return _fault(decode(reply.body))
    except Malformed:
        return Fault(_plain(_text(reply.body)), page=_is_page(reply))


# The settings whose addresses end with /v1; the hosts of pages and searches have none.
VERSIONED = (".base_url", ".deepsearch_base_url")


def not_there(status: int, words: str, *, upstream: str, model: str, setting: str) -> UpstreamMisplaced:
    """The error for a 404 or 405 for a model that the upstream is known to serve: the setting with its address may be
    wrong, or the model's name, if the upstream's message ``words`` mentions it."""
    if model.lower() in words.removeprefix(f"{upstream}: ").lower():
        return UpstreamMisplaced(
            f"{words.rstrip('.')}. The gateway expects it there: the model's name, or {setting}, may be wrong in "
            "the gateway's configuration"
        )
    example = ", for example without /v1" if setting.endswith(VERSIONED) else ""
    return UpstreamMisplaced(
        f"{upstream} answered {status} for {model}, which it serves; {setting} in the gateway's configuration "
        f"may be wrong{example}"
    )


def hidden_failure(payload: object, *, upstream: str, answered: int = 200) -> UpstreamError | None:
    """The error in a body or a stream event that came with a status of success; None if it contains no error."""
    if not isinstance(payload, dict) or not _is_error(payload):
        return None
    fault = _fault(payload)
    status = _hidden_status(fault)
    return _error(status, message_of(fault, upstream, status, answered), fault, upstream)


def told_as_text(text: str, *, upstream: str, answered: int = 200) -> UpstreamFailed:
    """The error for a failure that is reported as the text of the answer: ``Error: `` and the reason. Tags are removed
    from the reason, unless it is a page, which is not shown at all."""
    text = _unescaped(text.removeprefix("Error: "))
    plain = text if PAGE.search(text) else HTML_TAG.sub(" ", text)
    return UpstreamFailed(message_of(_fault(plain), upstream, 502, answered))


def refuse_page(body: bytes, *, upstream: str, answered: int = 200) -> None:
    """Raises UpstreamFailed if a body that is not JSON, but has a status of success, is an HTML page."""
    if _is_markup(_text(body)):
        raise UpstreamFailed(message_of(Fault(page=True), upstream, 502, answered)) from None


def event_of(data: bytes, *, upstream: str, answered: int = 200) -> Any:
    """The value of a stream's event. Raises Malformed, and UpstreamFailed for an HTML page."""
    try:
        return decode_lenient(data)
    except Malformed:
        refuse_page(data, upstream=upstream, answered=answered)
        raise


def _is_error(payload: dict[str, object]) -> bool:
    error = payload.get("error")
    if any(error.values()) if isinstance(error, dict) else error:  # relays add an empty error to answers
        return True
    if payload.get("choices") is not None or payload.get("data") is not None or payload.get("results") is not None:
        return False
    return any(payload.get(name) for name in ("detail", "message", "readableMessage", "errors"))


def _fault(payload: object, depth: int = DEPTH) -> Fault:
    if isinstance(payload, str):
        return _words(payload)
    if not depth or not payload:
        return Fault()
    if isinstance(payload, list):
        return _validation(payload)
    if not isinstance(payload, dict):
        return Fault()
    names = ("errors", "error", "detail", "message", "readableMessage", "msg")
    found = [_fault(payload[name], depth - 1) for name in names if payload.get(name)]
    said = [fault for fault in found if fault.text or fault.page]
    inner = next((fault for fault in said if not fault.page), said[0] if said else Fault())
    codes = [
        str(payload[name]) for name in ("code", "status", "type", "name") if isinstance(payload.get(name), str | int)
    ]
    param = payload.get("param")
    return Fault(
        text=inner.text,
        page=inner.page,
        codes=(*codes, *(code for fault in found for code in fault.codes)),
        param=_field(param) if isinstance(param, str) and param else inner.param,
    )


def _validation(problems: list[object]) -> Fault:
    """The first problem of a validation error. Its ``input`` echoes the caller's text, and is cut out of the
    message."""
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    problem = problems[0]
    if not isinstance(problem, dict):
        return _words(problem, "", more) if isinstance(problem, str) else Fault()
    place = problem.get("field") or problem.get("loc") or ""
    steps = [str(step) for step in place] if isinstance(place, list) else re.split(r"\s*->\s*|\.", str(place))
    param = _field(".".join(step for step in steps if step != "body" and not known(step)))
    text = str(problem.get("message") or problem.get("msg") or "")
    echoed = problem.get("input")
    if isinstance(echoed, str) and len(echoed) > 3:
        text = text.replace(echoed, "(your input)")
    return replace(_words(text, f"{param}: " if param else "", more), param=param)


def _words(text: str, before: str = "", after: str = "") -> Fault:
    text = _unescaped(text)
    return Fault(before + _plain(text) + after, page=_has_markup(text))


def _field(name: str) -> str | None:
    """The name of a field, in a form that can be shown; None if it contains markup."""
    name = _unescaped(name)
    return (None if _has_markup(name) else _plain(name, 100)) or None


def _text(body: bytes) -> str:
    """The start of a body, as text without escapes. NUL bytes are removed, so that markup in UTF-16 is recognised."""
    text = body[: 4 * READ_LIMIT].replace(b"\0", b"").decode("utf-8", "replace")
    return _unescaped(text.lstrip("\ufeff\ufffd \t\r\n\f\v"))


def _unescaped(text: str) -> str:
    """The text with all levels of escapes removed. A text with more than ESCAPES levels counts as a page."""
    text = text[:READ_LIMIT]
    for _ in range(ESCAPES):
        plain = html.unescape(ESCAPED.sub(lambda found: chr(int(found[0][-2:], 16)), text))
        if plain == text:
            return text
        text = plain
    return "<!-- -->"


def _is_page(reply: Reply) -> bool:
    """True if a reply that is not JSON is an HTML page, by its content type or its content."""
    kind = next((value for name, value in reply.headers.items() if name.lower() == "content-type"), "")
    text = _text(reply.body)
    return _is_markup(text) or (bool(text) and kind.partition(";")[0].strip().lower() in HTML_TYPES)


def _is_markup(text: str) -> bool:
    """True if a whole body is markup. A tag at its start is enough, even one that is cut off."""
    return text.startswith("<") or _has_markup(text)


def _has_markup(text: str) -> bool:
    return "<" in text and MARKUP.search(text) is not None


def _plain(text: str, limit: int = TEXT_LIMIT) -> str:
    """The text as one line, without markup, links, stack traces and control characters, cut at ``limit`` characters."""
    text = HTML_TAG.sub(" ", HTML_BLOCK.sub(" ", text)) if _has_markup(text) else text
    text = LINK.sub("(link)", MARKDOWN_LINK.sub(r"\1", STACK.sub("", text)))
    text = BLANK.sub(" ", text).strip()
    return text if len(text) <= limit else text[:limit] + " ..."


def _status(status: int, fault: Fault) -> int:
    """The status that the upstream should have sent."""
    meant = _coded(fault.codes)
    if meant is None and status in (400, 403) and fault.param is None:
        meant = _worded(fault.text)
    # one-api reports a model without a channel as unknown, with a status of 5xx.
    if meant is None or (status >= 500 and meant in (400, 401, 404)):
        return status
    return meant


def _hidden_status(fault: Fault) -> int:
    """The status that an error inside a successful answer should have had; 502 if its codes and text do not say."""
    meant = _coded(fault.codes) or _worded(fault.text)
    if meant is None and NO_KEY.search(fault.text):
        meant = 401
    for code in fault.codes:
        if meant is None and re.fullmatch(r"[45]\d\d", code):
            meant = int(code)
        meant = meant or HIDDEN_CODES.get(code)
    return meant or 502


def _coded(codes: tuple[str, ...]) -> int | None:
    for code in codes:
        if code in CODES:
            return CODES[code]
        if re.fullmatch(r"[45]\d{4}", code):  # 40203: the status is in the first three digits (civkit)
            return int(code[:3])
        for family, status in FAMILIES.items():
            if code.startswith(family):
                return status
    return None


def _worded(text: str) -> int | None:
    if BALANCE.search(text):
        return 402
    return 404 if UNKNOWN_MODEL.search(text) else None


def message_of(fault: Fault, upstream: str, status: int, answered: int) -> str:
    """The message for a failure. ``status``: the status that the upstream should have sent; ``answered``: the one that
    it sent."""
    if fault.page:
        return f"{upstream} answered {answered} with an HTML page"
    return f"{upstream}: {fault.text}" if fault.text else f"{upstream} answered {status} without a reason"


def _error(status: int, says: str, fault: Fault, upstream: str, retry_after: float | None = None) -> UpstreamError:
    match status:
        case 401 | 403:
            return key_refused(upstream)
        case 402:
            return account_empty(upstream)
        case 429:
            return UpstreamRateLimited(says, retry_after=RETRY_AFTER if retry_after is None else retry_after)
        case 404:
            return UpstreamRejected(says, status=404, code="model_not_found", param="model")
        case 400 | 413 | 415 | 422:
            return UpstreamRejected(says, status=status, param=fault.param)
        case 407:  # not sent by an upstream, but by the proxy in front of a plain HTTP one
            return proxy_refused()
        case 408 | 504 | 524:
            return UpstreamTimeout(says)
        case 508:  # from this gateway itself: the provider's name leads back to it
            return UpstreamMisplaced(says)
    if 300 <= status < 400:
        return UpstreamRedirected(
            f"{upstream} answered with a redirect, which is not followed; base_url in the configuration may be wrong"
        )
    return UpstreamFailed(says, status=status, retry_after=retry_after)


def _deepsearch(status: int, upstream: str) -> UpstreamError:
    """The error for 409 and 422, by which DeepSearch reports a problem of the account before any work has begun."""
    if status == 409:
        return UpstreamQuota(
            f"the quota of the gateway's account at {upstream} is used up; the gateway's operator must raise it"
        )
    error = UpstreamFailed(f"{upstream} could not look up the gateway's account: its account service failed")
    error.accepted = False
    return error


def retry_after_of(headers: Mapping[str, str]) -> float | None:
    """The Retry-After header in seconds, at most RETRY_AFTER_LIMIT; None if it is missing or malformed. A date is
    relative to the answer's own Date header, so that the two clocks need not agree."""
    given = {name.lower(): value.strip() for name, value in headers.items() if name.lower() in ("retry-after", "date")}
    wait = given.get("retry-after", "")
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", wait):
        seconds = float(wait)
    else:
        try:
            later, now = parsedate_to_datetime(wait), parsedate_to_datetime(given.get("date", ""))
            seconds = (later - now).total_seconds()
        except (ValueError, TypeError, OverflowError):
            return None
    return min(max(seconds, 0.0), RETRY_AFTER_LIMIT)
