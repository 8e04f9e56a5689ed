"""The options of reader and search: what may be sent upstream, as data.

    header X-No-Cache   --+-- the one that wins --> checked, written --> a header upstream
    body field noCache  --+                                          `-> a field, if no header could hold it

Any non-empty value of a flag's header means true upstream, even ``false`` (jina-ai/reader, crawler-options.ts): so a
header that means no is left out. What is not in the table is not sent, and is named in the answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from ..core.errors import InvalidRequest
from ..core.names import not_one_of, shown
from ..core.types import Json
from ..core.web import WebRequest

Kind = Literal["flag", "number", "choice", "text", "list", "secret"]


class Option(NamedTuple):
    """``header`` is in lower case, empty for an option of the body alone. ``values``: those of a choice; of a flag, the
    words that it may have beside true. ``least``: of a number. ``body_wins``: over the header, if both are given."""

    header: str
    field: str
    kind: Kind
    values: tuple[str, ...] = ()
    least: float = 0
    body_wins: bool = False


LEVELS = ("h1", "h2", "h3", "h4", "h5", "structured", "s1", "s2", "s3", "s4", "s5")
TIMINGS = ("html", "visible-content", "mutation-idle", "resource-idle", "media-idle", "network-idle")
LINKS = ("inlined", "referenced", "discarded")
REFERENCES = ("full", "collapsed", "shortcut", "discarded")
TIMEOUT = 180.0  # seconds, the most that the provider waits for a page

OPTIONS: tuple[Option, ...] = (
    Option("x-respond-with", "respondWith", "text"),
    Option("x-engine", "engine", "text"),
    Option("x-timeout", "timeout", "number"),
    Option("x-target-selector", "targetSelector", "list", body_wins=True),
    Option("x-wait-for-selector", "waitForSelector", "list", body_wins=True),
    Option("x-remove-selector", "removeSelector", "list", body_wins=True),
    Option("x-with-links-summary", "withLinksSummary", "flag", ("all",)),
    Option("x-with-images-summary", "withImagesSummary", "flag", ("all",)),
    Option("x-retain-images", "retainImages", "choice", ("all", "none", "alt", "all_p", "alt_p")),
    Option("x-retain-links", "retainLinks", "choice", ("all", "none", "text", "gpt-oss")),
    Option("x-with-generated-alt", "withGeneratedAlt", "flag"),
    Option("x-no-cache", "noCache", "flag"),
    Option("x-cache-tolerance", "cacheTolerance", "number"),
    Option("dnt", "doNotTrack", "flag"),
    Option("x-with-iframe", "withIframe", "flag", ("quoted",)),
    Option("x-with-shadow-dom", "withShadowDom", "flag"),
    Option("x-keep-img-data-url", "keepImgDataUrl", "flag"),
    Option("x-remove-overlay", "removeOverlay", "flag"),
    Option("x-no-gfm", "noGfm", "flag", ("table",)),
    Option("x-base", "base", "choice", ("initial", "final")),
    Option("x-respond-timing", "respondTiming", "choice", TIMINGS, body_wins=True),
    Option("x-token-budget", "tokenBudget", "number", least=1, body_wins=True),
    Option("x-max-tokens", "maxTokens", "number", least=500, body_wins=True),
    Option("x-markdown-chunking", "markdownChunking", "flag", LEVELS, body_wins=True),
    Option("x-md-heading-style", "markdown.headingStyle", "choice", ("setext", "atx")),
    Option("x-md-hr", "markdown.hr", "text"),
    Option("x-md-bullet-list-marker", "markdown.bulletListMarker", "choice", ("-", "+", "*")),
    Option("x-md-em-delimiter", "markdown.emDelimiter", "choice", ("_", "*")),
    Option("x-md-strong-delimiter", "markdown.strongDelimiter", "choice", ("__", "**")),
    Option("x-md-link-style", "markdown.linkStyle", "choice", LINKS),
    Option("x-md-link-reference-style", "markdown.linkReferenceStyle", "choice", REFERENCES),
    Option("x-locale", "locale", "text"),
    Option("x-referer", "referer", "text"),
    Option("x-user-agent", "userAgent", "text", body_wins=True),
    Option("x-robots-txt", "robotsTxt", "text"),
    Option("x-proxy", "proxy", "text", body_wins=True),
    Option("x-proxy-url", "proxyUrl", "secret"),
    Option("x-set-cookie", "setCookies", "secret"),
    Option("", "customHeader", "secret"),
    Option("", "injectPageScript", "secret"),
    Option("", "injectFrameScript", "secret"),
)

# Of a search alone.
SEARCH_OPTIONS: tuple[Option, ...] = (
    Option("x-with-favicons", "withFavicons", "flag"),
    *(Option(f"x-{name}", name, "list", body_wins=True) for name in ("site", "ext", "filetype", "intitle", "loc")),
)

# The caller's own content, which has no header.
CONTENT = ("html", "pdf", "file", "viewport", "instruction", "jsonSchema")

SECRETS = tuple(option.field for option in OPTIONS if option.kind == "secret")
ALIASES: Mapping[str, str] = {"x-return-format": "x-respond-with"}

NO = frozenset(("", "false", "0", "no", "off", "none", "null"))
YES = frozenset(("true", "1", "yes", "on"))
# X- headers that proxies and SDKs add, and the gateway's own: nobody has to hear that they are not passed on.
OTHERS = re.compile(
    r"x-(?:torii|forwarded|stainless|request|correlation|trace|real|requested|api-key|amz|amzn|b3|envoy|client|cloud"
    r"|cluster|original|scheme|csrf|xsrf|usage)\b"
)
_PLAIN = re.compile(r"[\x20-\x7e]+")
_NUMBER = re.compile(r"\d{1,9}(?:\.\d{1,6})?")


class Chosen(NamedTuple):
    """The options of a request. ``headers`` and ``body`` are sent; ``dropped`` names what is not. ``secrets`` are the
    texts in secret options."""

    headers: dict[str, str]
    body: Json
    dropped: tuple[str, ...]
    secrets: tuple[str, ...]


def chosen(request: WebRequest, options: Iterable[Option], allow: frozenset[str]) -> Chosen:
    """The options of a request, whose ``fields`` hold nothing else. Raises InvalidRequest, which names the option as
    the caller wrote it."""
    fields, headers = _flat(request.fields), _named(request.headers)
    found = Chosen({}, {}, (), ())
    secrets: list[str] = []
    known: set[str] = set()
    for option in options:
        known.add(option.header)
        said, param = headers.get(option.header), option.header
        in_body = fields.pop(option.field, None)
        if in_body is not None and (said == "" or (option.kind == "choice" and said not in option.values)):
            said = None  # the provider ignores an empty header, and a word that it does not know
        if in_body is not None and (said is None or option.body_wins):
            value, param = _from_body(option, in_body, typed=request.typed), option.field
        else:
            value, param = (None if said is None else _from_header(option, said)), _title(option.header)
        if value is None:
            continue
        if option.kind == "secret":
            _allow(option, param, allow)
            secrets += _texts(value)
        _put(found, option, value)
    dropped = [name for name in headers if name.startswith("x-") and name not in known and not OTHERS.match(name)]
    return found._replace(dropped=(*dropped, *fields), secrets=tuple(secrets))


def _allow(option: Option, param: str, allow: frozenset[str]) -> None:
    if option.field not in allow:
        raise InvalidRequest(
            f"{param} is not allowed: it can carry secrets, or code, to a page. The gateway's operator can allow it "
            f"(reader.allow: [{option.field}]); without it the page would be another one, so it is not just left out",
            param=param,
            code="option_not_allowed",
        )


def _put(found: Chosen, option: Option, value: Any) -> None:
    """Adds an option as a header, or as a field if a header cannot hold it."""
    if isinstance(value, list) and option.header and all(_fits(item) and ", " not in item for item in value):
        value = ", ".join(value)
    if option.header and isinstance(value, str) and _fits(value):
        found.headers[option.header] = value
    elif option.field.startswith("markdown."):
        found.body.setdefault("markdown", {})[option.field.partition(".")[2]] = value
    else:
        found.body[option.field] = value


def _fits(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 4096 and _PLAIN.fullmatch(value) is not None


def _flat(fields: Json) -> Json:
    """The fields, with those of ``markdown`` as ``markdown.headingStyle``."""
    inner = fields.get("markdown")
    if not isinstance(inner, dict):
        return dict(fields)
    outer = {name: value for name, value in fields.items() if name != "markdown"}
    return {**outer, **{f"markdown.{name}": value for name, value in inner.items()}}


def _named(headers: Mapping[str, str]) -> dict[str, str]:
    return {ALIASES.get(name, name): value.strip() for name, value in headers.items()}


def _title(header: str) -> str:
    return "DNT" if header == "dnt" else "-".join(word.capitalize() for word in header.split("-"))


def _from_header(option: Option, text: str) -> Any:
    """The value that is sent; None if the header asks for nothing. Unknown words are the provider's to judge."""
    if option.kind == "flag":
        return None if text.lower() in NO else text
    if not text:
        return None
    if option.kind == "number":
        if not _NUMBER.fullmatch(text):
            raise InvalidRequest(f"{_title(option.header)} must be a number", param=_title(option.header))
        if option.field == "timeout" and float(text) > TIMEOUT:
            return f"{TIMEOUT:g}"  # as the provider cuts it
        return _number(option, _title(option.header), float(text))
    return text


def _from_body(option: Option, value: Any, *, typed: bool) -> Any:
    if option.kind == "flag":
        return _flag(option, value)
    if option.kind == "number":
        if not typed and isinstance(value, str) and _NUMBER.fullmatch(value):
            value = float(value)
        return _number(option, option.field, value)
    if option.kind == "choice":
        if value not in option.values:
            raise not_one_of(option.field, value, option.values)
        return value
    if option.kind == "secret":
        return value or None
    if option.kind == "list" and isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return value
    if option.field == "respondWith" and isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = ",".join(value)
    if not isinstance(value, str):
        kinds = "a text or a list of texts" if option.kind == "list" else "a text"
        raise InvalidRequest(f"{option.field} must be {kinds}", param=option.field)
    return value or None


def _flag(option: Option, value: Any) -> str | None:
    word = value.lower() if isinstance(value, str) else {"True": "true", "False": "false"}.get(repr(value), "")
    if word in NO and (isinstance(value, str) or value is False):
        return None
    if word in YES:
        return "true"
    if word not in option.values:
        words = ", ".join(("true", "false", *option.values))
        raise InvalidRequest(f"{option.field} must be one of {words}", param=option.field)
    return word


def _number(option: Option, param: str, value: Any) -> str:
    if type(value) not in (int, float) or value < option.least:
        raise InvalidRequest(f"{param} must be a number of at least {option.least:g}", param=param)
    if option.field == "timeout" and not 0 < value <= TIMEOUT:
        raise InvalidRequest(f"{param} must be seconds: more than 0, at most {TIMEOUT:g}", param=param)
    if option.field != "timeout" and value != int(value):
        raise InvalidRequest(f"{param} must be a whole number", param=param)
    return f"{value:.6f}".rstrip("0").rstrip(".")


def _texts(value: Any) -> list[str]:
    """All texts in a value, and the parts of them that could come back alone."""
    if isinstance(value, str):
        return [value, *re.split(r"[;=,@:/\s]+", value)]
    if isinstance(value, dict):
        return [text for inner in value.values() for text in _texts(inner)]
    return [text for inner in value for text in _texts(inner)] if isinstance(value, list) else []


def named(dropped: Iterable[str]) -> str:
    """Names for the header x-torii-dropped."""
    return ", ".join(shown(name) for name in [*dropped][:20])
