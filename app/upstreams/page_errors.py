"""Errors of reader and search, by the provider's five digits: what is the page's fault, what is the account's, and what
is the provider's own. Only the last counts for a breaker: one bad site must not close the reader.

    {"code": 422, "status": 42206, "name", "message", "readableMessage"}     JSON
    Name: message                                                            text
    data: "Name: message"                                                    before a stream

Source: jina-ai/reader (2026-05), civkit 0.10.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from ..core.errors import (
    UpstreamError,
    UpstreamFailed,
    UpstreamMisplaced,
    UpstreamRateLimited,
    UpstreamRedirected,
    UpstreamRejected,
    account_empty,
    key_refused,
)
from ..core.json import Malformed, decode
from ..core.types import Reply
from ..core.web import BUDGET_EXCEEDED, TargetFailed, TargetRefused, TargetTimedOut, WebCall
from .errors import RETRY_AFTER, Fault, fault_of, message_of, retry_after_of

_NAMED = re.compile(r"([A-Z][A-Za-z]{2,40}): ")


@dataclass(frozen=True, slots=True)
class PageRule:
    """``inner``: the beginning of the five digits. The error is ``kind`` with this ``status`` and ``code``."""

    inner: str
    status: int
    code: str
    kind: type[TargetRefused] = TargetRefused


SUSPENDED = 40304  # the account, not the page
# The first that fits is the rule. Errors that are not of the page are in ``_others``.
RULES = (
    PageRule("40001", 400, "invalid_request"),
    PageRule("40202", 400, "tier_feature"),
    PageRule("403", 403, "target_blocked"),
    PageRule("451", 403, "target_blocked"),
    PageRule("408", 504, "target_timeout", TargetTimedOut),
    PageRule("40902", 403, "robots_denied"),
    PageRule("40904", 400, BUDGET_EXCEEDED),
    PageRule("413", 413, "too_large"),
    PageRule("42204", 502, "target_failed", TargetFailed),
    PageRule("42205", 502, "target_failed", TargetFailed),
    PageRule("422", 422, "nothing_found"),
)


def page_failure(reply: Reply, call: WebCall, upstream: str) -> UpstreamError:
    """The error for an answer with a status of 300 or more; returned, not raised. Texts of the call's secret options
    do not come back in it."""
    reply = replace(reply, body=reply.body.removeprefix(b"data: ").strip())
    fault = fault_of(reply)
    inner, name = _inner(reply, fault)
    text = message_of(_clean(fault, name, call), upstream, reply.status, reply.status)
    if 300 <= reply.status < 400:
        return UpstreamRedirected(f"{upstream} answered with a redirect, which is not followed")
    for rule in RULES:
        if str(inner).startswith(rule.inner) and inner != SUSPENDED:
            return rule.kind(text, status=rule.status, code=rule.code, inner=inner, name=name)
    return _others(reply, inner, text, upstream)


def _others(reply: Reply, inner: int, text: str, upstream: str) -> UpstreamError:
    retry_after = retry_after_of(reply.headers)
    status = inner // 100
    by_status: dict[int, Callable[[], UpstreamError]] = {
        401: lambda: key_refused(upstream),
        402: lambda: account_empty(upstream),
        403: lambda: key_refused(upstream),
        429: lambda: UpstreamRateLimited(text, retry_after=RETRY_AFTER if retry_after is None else retry_after),
        508: lambda: UpstreamMisplaced(text),
    }
    if status in by_status:
        return by_status[status]()
    if status in (404, 405):
        return UpstreamRejected(text, status=404)
    if 400 <= status < 500:
        return UpstreamRejected(text)
    return UpstreamFailed(text, status=503 if status == 503 else 502, retry_after=retry_after)


def _inner(reply: Reply, fault: Fault) -> tuple[int, str]:
    """The five digits of the error and its name; made of the HTTP status if the body does not say."""
    try:
        said: Any = decode(reply.body)
    except Malformed:
        said = reply.body.decode("utf-8", "replace")
    status = said.get("status") if isinstance(said, dict) else None
    name = said.get("name") if isinstance(said, dict) else None
    if not isinstance(name, str) and (found := _NAMED.match(said if isinstance(said, str) else "")):
        name = found[1]
    name = name if isinstance(name, str) and re.fullmatch(r"[A-Za-z]{1,60}", name) else ""
    if type(status) is int and 40000 <= status < 60000:
        return status, name
    return reply.status * 100 + (6 if reply.status == 422 else 1), name


def _clean(fault: Fault, name: str, call: WebCall) -> Fault:
    """The fault without the error's name, which the answer has in a field of its own, and without secrets."""
    text = fault.text.removeprefix(f"{name}: ")
    for secret in sorted(call.secrets, key=len, reverse=True):
        text = text.replace(secret, "[redacted]")
    return Fault(text, fault.codes, fault.param, fault.page)
