"""The triggers: texts that make a stand-in fail in a documented way.

    sandbox:429             at every provider that gets this text
    sandbox:500@jina        only at Jina, so that AIHubMix can take over

Documentation, help texts and tests are made from ``CASES``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import unquote

from . import errors, faults
from .errors import DIALECTS
from .faults import Fault
from .wire import Cut, StreamedAnswer, Whole

TRIGGER = re.compile(r"sandbox:([a-z0-9-]+)(?:@(jina|aihubmix))?")
Where = Literal["every call", "embeddings, rerank, classify", "streams", "DeepSearch", "reader, search", "reader"]


@dataclass(frozen=True, slots=True)
class Case:
    """``fault`` None: a quirk, implemented by the DeepSearch run itself (see research.py)."""

    name: str
    where: Where
    says: str
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class Trigger:
    case: Case
    text: str


def find(texts: Iterable[str], provider: str) -> Trigger | None:
    """The first trigger for this provider. An unknown name gives a case too: a 400 that lists the known names."""
    for text in texts:
        for name, only in TRIGGER.findall(unquote(text)):
            if only in ("", provider):
                return Trigger(CASES.get(name) or _unknown(name), text)
    return None


def _unknown(name: str) -> Case:
    says = f"The sandbox knows no case '{name}'. It knows: {', '.join(CASES)}"
    return Case(name, "every call", says, lambda scene: DIALECTS[scene.host](400, says, "INPUT_INVALID"))


def texts(body: Any) -> Iterator[str]:
    """The texts that may contain a trigger: the input, the labels, the query, the address, the text to segment, the
    last user message."""
    talk = body.get("messages")
    spoken = [message for message in talk if isinstance(message, dict)] if isinstance(talk, list) else []
    last = next((message for message in reversed(spoken) if message.get("role") == "user"), {})
    for name in ("input", "labels", "query", "q", "url", "content"):
        yield from _strings(body.get(name))
    yield from _strings(last.get("content"))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


_REFUSALS = (
    Case(
        "400",
        "every call",
        "A bad request.",
        faults.refusal(400, "INPUT_INVALID", {"jina": "Invalid input", "deepsearch": "Invalid request body"}),
    ),
    Case(
        "401",
        "every call",
        "The key is refused.",
        faults.refusal(
            401,
            "AUTH_INVALID_API_KEY",
            {"jina": "Invalid API key", "deepsearch": "Unauthorized: Invalid API key", "aihubmix": "Invalid token"},
        ),
    ),
    Case(
        "balance",
        "every call",
        "The account is empty, in the host's own form: 403; DeepSearch at Jina, reader and search 402.",
        faults.balance(),
    ),
    Case("402", "every call", "The account is empty, status 402.", faults.balance(402)),
    Case("403", "every call", "The account is empty, status 403.", faults.balance(403)),
    Case(
        "balance-400", "every call", "The account is empty, status 400, as AIHubMix also says it.", faults.balance(400)
    ),
    Case(
        "404",
        "every call",
        "No such model.",
        faults.refusal(404, "RESOURCE_NOT_FOUND", {"jina": "Model not found", "aihubmix": "Incorrect model ID"}),
    ),
    Case(
        "409",
        "every call",
        "No quota (DeepSearch at Jina), or a busy resource.",
        faults.refusal(409, "CONFLICT_RESOURCE_BUSY", {"jina": "Resource is busy", "deepsearch": "User quota is 0"}),
    ),
    Case(
        "resource-limit",
        "every call",
        "The account's plan allows no more of this, status 403.",
        faults.refusal(403, "AUTHZ_RESOURCE_LIMIT_EXCEEDED", {"jina": "Resource limit exceeded"}),
    ),
    Case(
        "413-html",
        "every call",
        "The body is too large, as a page of express with a stack trace.",
        faults.fixed(errors.too_large()),
    ),
    Case(
        "422",
        "every call",
        "At api.jina.ai, validation errors that echo the input; at deepsearch.jina.ai, its account service failed; "
        "at the reader and the search, nothing found (42206).",
        faults.validation,
    ),
    *(
        Case(
            name,
            "every call",
            f"Too many requests, {told}.",
            faults.refusal(
                429,
                "RATE_REQUEST_LIMIT_EXCEEDED",
                {
                    "jina": "Request rate limit exceeded",
                    "deepsearch": "Per UID rate limit exceeded (50 requests / minute)",
                    "aihubmix": "Too many requests, please slow down",
                },
                headers,
            ),
        )
        for name, told, headers in (
            ("429", "with Retry-After: 2", {"retry-after": "2"}),
            ("429-bare", "without Retry-After", {}),
        )
    ),
    Case("429-date", "every call", "Too many requests, with a date in Retry-After.", faults.limited_until()),
    Case(
        "500",
        "every call",
        "An internal error.",
        faults.refusal(500, "INTERNAL_ERROR", {"jina": "Internal server error"}),
    ),
    Case("502-html", "every call", "Bad gateway, as a page of nginx.", faults.fixed(errors.nginx(502, "Bad Gateway"))),
    Case(
        "503",
        "every call",
        "The service is down for now.",
        faults.refusal(
            503, "SERVICE_UNAVAILABLE", {"jina": "Service unavailable", "aihubmix": "no_valid_channel_error"}
        ),
    ),
    Case(
        "504",
        "every call",
        "The service took too long.",
        faults.refusal(504, "SERVICE_TIMEOUT", {"jina": "Service timeout"}),
    ),
    Case(
        "524-html",
        "every call",
        "The service took too long, as a page of Cloudflare.",
        faults.fixed(errors.cloudflare(524, "A timeout occurred")),
    ),
    Case(
        "redirect",
        "every call",
        "A redirect to another host.",
        faults.fixed(Whole(b"", 302, "text/plain", {"location": "https://elsewhere.example.org/"})),
    ),
)

_SUCCESSES = (
    Case(
        "200-error",
        "every call",
        "An error with status 200, and as JSON also where a stream was asked for.",
        faults.refusal(200, "AUTHZ_INSUFFICIENT_BALANCE", faults.EMPTY_ACCOUNT),
    ),
    Case("200-html", "every call", "A page of HTML with status 200.", faults.fixed(errors.nginx(200, "Welcome"))),
    Case("200-empty", "every call", "Status 200 and an empty body.", faults.fixed(Whole(b""))),
    Case("half-json", "every call", "Half of the JSON, of a whole answer or of an event.", faults.half_json),
    Case("no-usage", "every call", "The usage is missing.", faults.no_usage),
    Case(
        "missing-item",
        "embeddings, rerank, classify",
        "The first vector or result is missing.",
        faults.rows(lambda rows: rows[1:]),
    ),
    Case(
        "extra-item",
        "embeddings, rerank, classify",
        "The last vector or result comes twice.",
        faults.rows(lambda rows: [*rows, *rows[-1:]]),
    ),
    Case(
        "bad-index", "embeddings, rerank, classify", "The last index is out of range.", faults.rows(faults.misnumbered)
    ),
    Case(
        "shuffled-items",
        "embeddings, rerank, classify",
        "Vectors or results in the wrong order.",
        faults.rows(lambda rows: rows[::-1]),
    ),
)

_CONNECTIONS = (
    Case("hang", "every call", "No answer, not even a status, for ever.", faults.fixed(StreamedAnswer([Cut.HANG]))),
    Case("hang-after-head", "every call", "Status and headers, and then nothing, for ever.", faults.silence),
    Case("hang-mid-stream", "every call", "Half of the answer, and then nothing, for ever.", faults.stops(Cut.HANG)),
    Case(
        "reset",
        "every call",
        "The connection is closed without an answer.",
        faults.fixed(StreamedAnswer([Cut.CLOSE])),
    ),
    Case("reset-mid-stream", "every call", "Half of the answer, then the connection breaks.", faults.stops(Cut.CLOSE)),
    Case(
        "truncate",
        "every call",
        "A stream ends in good order, but in its middle; a whole answer breaks off.",
        faults.truncated,
    ),
)

_STREAMS = (
    Case(
        "error-line",
        "streams",
        "Half of it, then an error object as an event, then the end.",
        faults.stream(faults.error_line),
    ),
    Case(
        "error-event",
        "streams",
        "Half of it, then an event named error, then [DONE]; without [DONE] at the reader and the search.",
        faults.stream(faults.error_event),
    ),
    Case("no-done", "streams", "No [DONE] at the end.", faults.stream(faults.no_done)),
    Case("done", "streams", "[DONE] at the end, also from Jina.", faults.stream(faults.done)),
    Case(
        "no-last-newline", "streams", "The last event has no line end after it.", faults.stream(faults.no_last_newline)
    ),
    Case("usage-apart", "streams", "The usage comes in a chunk of its own.", faults.stream(faults.usage_apart)),
    Case("keepalive", "streams", "A comment before every event.", faults.stream(faults.comments)),
    Case("crlf", "streams", "Lines end with CR LF.", faults.newlines(b"\r\n")),
    Case("cr", "streams", "Lines end with CR.", faults.newlines(b"\r")),
    Case("bom", "streams", "A byte order mark first.", faults.stream(faults.mark_first)),
)

_WEB = (
    *(
        Case(name, "reader, search", f"{says} ({status}).", faults.web(status, message))
        for name, status, says, message in (
            ("nothing-found", 42206, "There is no content, or no result", "No content available for this request"),
            ("token-budget", 40904, "The page costs more than the budget", "Token budget (1000) exceeded"),
            ("blocked", 45102, "The target may not be read", "Suspicious action: the domain is blocked"),
            ("robots", 40902, "The target's robots.txt forbids it", "Access denied by robots.txt"),
            (
                "url-errors",
                40301,
                "The target has failed too often",
                "Too many errors on this URL, retry after an hour",
            ),
            ("tier", 40202, "The account's tier lacks the feature", "This feature needs a higher tier"),
            ("page-timeout", 40801, "The target took too long", "Timed out while loading the page"),
            ("target-failed", 42204, "The target, or the search engine, failed", "The remote service failed"),
            ("capacity", 50303, "No capacity is left", "This node has no resources left"),
            ("bad-attempt", 50304, "The attempt failed; another may do", "The attempt failed, try again"),
        )
    ),
    Case("slow-page", "reader, search", "The page takes 20 seconds.", faults.only(errors.WEB, faults.slow(20.0))),
    Case("huge-page", "reader", "A page of a million words, five megabytes."),
    Case("screenshot-bytes", "reader", "A screenshot as the bytes of a PNG, not as a redirect."),
)

_QUIRKS = (
    Case(
        "deepsearch-error",
        "DeepSearch",
        "The run fails: status 200, and finish_reason error; in a stream twice, with the usage twice.",
    ),
    Case("deepsearch-error-early", "DeepSearch", "The same before any thought: the failure follows the first chunk."),
    Case("repeated-thought", "DeepSearch", "The last thought is broken off and sent again, whole."),
    Case("dropped-thought", "DeepSearch", "The last thought is broken off."),
    Case("json-prose", "DeepSearch", "With a schema: prose, marked as JSON."),
    Case("json-string", "DeepSearch", "With a schema: a string alone."),
    Case("json-object", "DeepSearch", "With a schema: an object of another form."),
    Case("empty-deltas", "DeepSearch", "At AIHubMix, searches and visits arrive as empty deltas."),
)

_ALL = (*_REFUSALS, *_SUCCESSES, *_CONNECTIONS, *_STREAMS, *_WEB, *_QUIRKS)
CASES: dict[str, Case] = {case.name: case for case in _ALL}
