"""The common part of r.jina.ai, s.jina.ai and svip.jina.ai, whose framework is CivKit: the form of an answer,
its envelope, options in headers and bodies.

Source: jina-ai/reader f289e5d and civkit 0.10.3. The Accept header decides the form. text/plain goes before all others,
so that ``*/*`` gives text; then text/event-stream, then JSON. In an error JSON goes first.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from email.parser import BytesParser
from typing import Any, Literal
from urllib.parse import parse_qsl

import msgspec

from . import errors
from .errors import HostError, civkit
from .wire import Answer, Ask, Handler, Host, Json, StreamedAnswer, Whole, encode

Form = Literal["text", "json", "stream"]

TEXT = "text/plain; charset=utf-8"
MOST_TOKENS = 2_000_000
_JSON = ("application/json", "text/json")

# Options whose value in the body goes before the one in a header.
_BODY_FIRST = ("proxy", "tokenBudget", "maxTokens", "userAgent", "respondTiming", "markdownChunking")
_SELECTORS = ("targetSelector", "waitForSelector", "removeSelector")
_RENAMED = {"x-return-format": "respondWith", "dnt": "doNotTrack", "x-set-cookie": "setCookies"}


# ------------------------------------------------------------------------ the form


def form(ask: Ask) -> Form:
    if _accepts(ask, "text/plain"):
        return "text"
    if _accepts(ask, "text/event-stream"):
        return "stream"
    return "json" if _accepts_json(ask) else "text"


def _accepts_json(ask: Ask) -> bool:
    return any(_accepts(ask, kind) for kind in _JSON)


def _accepts(ask: Ask, kind: str) -> bool:
    """True if the Accept header allows the kind; without the header, everything is allowed."""
    ranges = dict(_range(part) for part in ask.headers.get("accept", "*/*").split(","))
    for pattern in (kind, f"{kind.partition('/')[0]}/*", "*/*"):
        if pattern in ranges:
            return ranges[pattern]
    return False


def _range(part: str) -> tuple[str, bool]:
    """A media range, and whether its quality is above 0."""
    kind, *parameters = part.lower().split(";")
    return kind.strip(), not any(re.fullmatch(r"\s*q\s*=\s*0(\.0*)?\s*", one) for one in parameters)


def told(ask: Ask, answer: Answer) -> Answer:
    """An error in the form that the request accepts: an object, text, or the data of an event."""
    if not isinstance(answer, Whole) or not isinstance(answer.body, dict) or "readableMessage" not in answer.body:
        return answer
    if _accepts_json(ask):
        return answer
    line = f"{answer.body['name']}: {answer.body['message']}"
    if form(ask) == "stream":
        body = b"data: " + encode(line) + b"\n\n"
        return Whole(body, answer.status, "text/event-stream", answer.headers)
    return Whole(f"{line}\n".encode(), answer.status, TEXT, answer.headers)


def enveloped(data: Any, tokens: int | None = None, **meta: Any) -> Whole:
    usage = {} if tokens is None else {"usage": {"tokens": tokens}}
    return Whole({"code": 200, "status": 20000, "data": data, "meta": {**meta, **usage}})


def text(words: str, tokens: int | None = None) -> Whole:
    return Whole(words.encode(), 200, TEXT, {} if tokens is None else {"x-usage-tokens": str(tokens)})


def index(ask: Ask, **more: str) -> Answer:
    """The page at the root of the host."""
    entries = {
        "usage1": "https://r.jina.ai/YOUR_URL",
        "usage2": "https://s.jina.ai/YOUR_SEARCH_QUERY",
        "homepage": "https://jina.ai/reader",
        **more,
    }
    if form(ask) == "json":
        return enveloped(entries)
    named = {"usage1": "Usage 1", "usage2": "Usage 2", "homepage": "Homepage", "note": "Note"}
    return text("".join(f"[{named[name]}] {value}\n" for name, value in entries.items()))


def snapshots(items: list[Any]) -> StreamedAnswer:
    return StreamedAnswer(items, headers={"cache-control": "no-cache"}, event="data")


# ---------------------------------------------------------------------- the request


def key_of(ask: Ask, body: Json) -> str:
    """The key, with or without ``Bearer``, or as the parameter ``_token``; "" for none."""
    parts = (ask.authorization or "").split(" ")
    return (parts[1] if len(parts) > 1 and parts[1] else parts[0]) or str(body.get("_token") or "")


def check_key(ask: Ask, body: Json, *, required: bool) -> None:
    key = key_of(ask, body)
    if "invalid" in key:
        raise HostError(civkit(40102, "Invalid API key, please get a new one from https://jina.ai"))
    if required and not key:
        needed = "Authentication is required to use this endpoint. Please provide a valid API key via Authorization"
        raise HostError(civkit(40103, f"{needed} header."))


def decode(ask: Ask) -> Json:
    """The parameters of a GET, else the body: JSON, a form, or parts of which some may be files."""
    if ask.method != "POST":
        return dict(parse_qsl(ask.query, keep_blank_values=True))
    kind = ask.headers.get("content-type", "").lower()
    if kind.startswith("application/x-www-form-urlencoded"):
        return dict(parse_qsl(ask.body.decode("utf-8", "replace"), keep_blank_values=True))
    if kind.startswith("multipart/form-data"):
        return _parts(ask)
    if not ask.body:
        return {}
    try:
        body = msgspec.json.decode(ask.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HostError(civkit(40001, "The body is not JSON")) from error
    if not isinstance(body, dict):
        raise HostError(civkit(40001, "The body is not an object"))
    return body


def _parts(ask: Ask) -> Json:
    head = f"content-type: {ask.headers['content-type']}\r\n\r\n".encode()
    message = BytesParser().parsebytes(head + ask.body)
    parts = message.get_payload() if message.is_multipart() else []
    found: Json = {}
    for part in (part for part in parts if not isinstance(part, str)):
        content = part.get_payload(decode=True)
        name = part.get_param("name", header="content-disposition")
        if isinstance(content, bytes) and isinstance(name, str):
            found[name] = content if part.get_filename() else content.decode("utf-8", "replace")
    return found


def options(ask: Ask, body: Json) -> Json:
    """The options by the names that they have in a body. For a GET headers alone count.

    Any value that is not empty makes a boolean header true, even ``false``.
    """
    given: Json = {_named(name): value for name, value in ask.headers.items() if value and name[:2] in ("x-", "dn")}
    given |= {name: [one for one in given[name].split(", ") if one] for name in _SELECTORS if name in given}
    if ask.method == "GET":
        return given
    first = {name: body[name] for name in (*_BODY_FIRST, *_SELECTORS) if body.get(name) is not None}
    return {**{name: value for name, value in body.items() if value is not None}, **given, **first}


def _named(header: str) -> str:
    """The body's field for a header: ``x-with-links-summary`` is ``withLinksSummary``."""
    if header in _RENAMED:
        return _RENAMED[header]
    first, *others = header.removeprefix("x-").split("-")
    return first + "".join(word.capitalize() for word in others)


def wrong(path: str, message: str) -> HostError:
    """A parameter that is wrong: 400, 40001."""
    return HostError(civkit(40001, message, path))


def number(given: Json, name: str, low: int, high: float) -> int | None:
    """A whole number of an option, as text or as a number. Raises HostError if it is out of range."""
    value = given.get(name)
    if value is None or value == "":
        return None
    found = int(value) if isinstance(value, str) and re.fullmatch(r"-?\d+", value.strip()) else value
    if not isinstance(found, int) or isinstance(found, bool) or not low <= found <= high:
        raise wrong(name, f"Validation failed for {name}: {value!r}")
    return found


def not_found(ask: Ask) -> Whole:
    return errors.civkit(40401, f"Cannot {ask.method} {ask.path}")


def unreadable(body: bytes) -> Whole:
    return errors.civkit(40001, "The body is not JSON")


def admitted(ask: Ask) -> None:
    """The key is checked with the body, because it may be there."""


def host(name: str, find: Callable[[Ask], Handler | None]) -> Host:
    """A server of this framework, at the path ``/name``."""
    return Host(
        name=name,
        base=f"/{name}",
        routes={},
        authorise=admitted,
        unreadable=unreadable,
        not_found=not_found,
        find=find,
        decode=decode,
        finish=told,
    )
