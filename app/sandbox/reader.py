"""r.jina.ai: a page of the built-in web as text, as JSON, or as a stream of snapshots.

Source: jina-ai/reader f289e5d. Options that would change how a real browser works (engine, timing, locale, the style of
the Markdown, a cache) are taken and checked, and change nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from . import civkit, pages, vectors
from .civkit import MOST_TOKENS, Form, form, number, wrong
from .errors import HostError
from .errors import civkit as failure
from .pages import Sight
from .wire import Answer, Ask, Handler, Item, Json, Pause, Whole

SCREENSHOT_TOKENS = 765
_LEAST_TOKENS = 4000  # with a language model, with scripts, in Cloudflare's browser
_CHUNK = "\n\n\u001d"
_PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
_ENGINES = ("auto", "browser", "curl", "direct", "cf-browser-rendering", "vlm", "readerlm-v2")
_CHOICES = {
    "retainImages": ("all", "none", "alt", "all_p", "alt_p"),
    "retainLinks": ("all", "none", "text", "gpt-oss"),
    "respondTiming": ("html", "visible-content", "mutation-idle", "resource-idle", "media-idle", "network-idle"),
    "base": ("initial", "final"),
    "engine": _ENGINES,
}
_HUGE_WORDS = 1_000_000


@dataclass(frozen=True, slots=True)
class Wish:
    """The wishes of a request about a page."""

    given: Json
    quirk: str = ""

    @property
    def respond_with(self) -> str:
        return str(self.given.get("respondWith") or "content").lower()

    @property
    def content(self) -> bool:
        """True if the answer has ``content``: not if only html, text or a picture was asked for."""
        asked = self.respond_with
        others = ("html", "text", "screenshot", "pageshot")
        return "lm" in asked or "content" in asked or "markdown" in asked or not any(one in asked for one in others)

    @property
    def compound(self) -> bool:
        return len(self.respond_with.replace(",", " ").split()) > 1

    def has(self, name: str) -> bool:
        """A boolean: any value but false, null and "" is true."""
        return bool(self.given.get(name))

    def asks(self, kind: str) -> bool:
        return kind in self.respond_with

    def choice(self, name: str) -> str:
        """An option with a few values; an unknown one in a header is ignored."""
        value = self.given.get(name)
        return value if value in _CHOICES[name] else "all"

    def listed(self, name: str) -> list[Any]:
        value = self.given.get(name) or []
        return value if isinstance(value, list) else [value]


def wish(ask: Ask, body: Json, quirk: str) -> Wish:
    """Raises HostError for an option that cannot be."""
    given = civkit.options(ask, body)
    _check_body({} if ask.method == "GET" else body)
    asked = Wish(given, quirk)
    if "lm" in asked.respond_with and any(asked.asks(kind) for kind in ("content", "markdown")):
        raise wrong("respondWith", f"Unsupported format combination: {asked.respond_with}")
    number(given, "maxTokens", 500, float("inf"))
    number(given, "tokenBudget", 0, float("inf"))
    for selector in (one.strip() for value in asked.listed("targetSelector") for one in str(value).split(",")):
        if selector.startswith(("*", ":")) or "*:" in selector:
            cannot = "We cannot accept match-all selector for performance reasons. Sorry."
            raise wrong("targetSelector", f"Unacceptable selector: '{selector}'. {cannot}")
    return asked


def _check_body(body: Json) -> None:
    for name, allowed in _CHOICES.items():
        if body.get(name) is not None and body[name] not in allowed:
            raise wrong(name, f"Validation failed for {name}: {body[name]!r} is not one of {', '.join(allowed)}")
    timeout = body.get("timeout")
    if timeout is not None and not (isinstance(timeout, int | float) and 0 < timeout <= 180):
        raise wrong("timeout", f"Validation failed for timeout: {timeout!r}")


# -------------------------------------------------------------------------- the page


def page(sight: Sight, asked: Wish) -> Json:
    """The page in the form of JSON and of snapshots, with the tokens that it costs."""
    asked_of = {"title": sight.title, "description": sight.description, "url": sight.url}
    written = {**asked_of, **_bodies(sight, asked)}
    extras = {
        "publishedTime": sight.date,
        **{name: written.pop(name, None) for name in ("html", "text", "screenshotUrl", "pageshotUrl")},
        "links": _summary(sight.links, asked.given.get("withLinksSummary")),
        "images": _summary(sight.images, asked.given.get("withImagesSummary")),
        "chunks": written["content"].split("\n\n") if asked.has("markdownChunking") and asked.content else None,
        "warning": sight.warning,
        "metadata": {"lang": "en"},
        "external": {},
        "numPages": sight.pages,
    }
    written |= {name: value for name, value in extras.items() if value not in (None, "")}
    return {**written, "usage": {"tokens": _price(written, asked)}}


def _bodies(sight: Sight, asked: Wish) -> Json:
    found: Json = {}
    if asked.content:
        found["content"] = _trimmed(_content(sight, asked), asked)
    if asked.asks("html") or asked.asks("pageshot"):
        found["html"] = _trimmed(sight.html(), asked)
    if asked.asks("text"):
        found["text"] = _trimmed(sight.text(), asked)
    for kind in ("screenshot", "pageshot"):
        if asked.asks(kind):
            found[f"{kind}Url"] = _picture(sight.url, kind)
    return found


def _content(sight: Sight, asked: Wish) -> str:
    if asked.quirk == "huge-page":
        return "\n\n".join(["word " * 1000] * (_HUGE_WORDS // 1000))
    return "\n\n".join(sight.blocks(asked.choice("retainImages"), asked.choice("retainLinks")))


def _trimmed(words: str, asked: Wish) -> str:
    most = number(asked.given, "maxTokens", 500, float("inf"))
    found = vectors.spans(words)
    return words[: found[most - 1]] if most and len(found) > most else words


def _picture(url: str, kind: str) -> str:
    """A signed address, as at Google's storage; valid for four hours."""
    name = hashlib.sha256(f"{kind} {url}".encode("utf-8", "surrogatepass")).hexdigest()
    return f"https://storage.example.org/instant-screenshots/{name[:32]}?X-Goog-Expires=14400&X-Goog-Signature={name}"


def _summary(found: dict[str, str], asked: Any) -> Any:
    if not asked:
        return None
    return [list(pair) for pair in found.items()] if asked == "all" else found


def _price(written: Json, asked: Wish) -> int:
    """In tokens: of the content, else of the description, and of text and HTML; more for pictures and models."""
    main = written.get("content") or written["description"]
    amount = sum(len(vectors.tokens(str(written.get(name) or ""))) for name in ("text", "html"))
    amount += len(vectors.tokens(main))
    if "screenshotUrl" in written or "pageshotUrl" in written:
        amount += SCREENSHOT_TOKENS
    if asked.has("withGeneratedAlt"):
        amount = max(amount, SCREENSHOT_TOKENS)
    dear = "lm" in asked.respond_with or asked.given.get("engine") in ("vlm", "readerlm-v2")
    amount *= 3 if dear else 1
    amount *= 5 if asked.given.get("proxy") not in (None, "", "none") else 1
    scripts = asked.listed("injectPageScript") or asked.listed("injectFrameScript")
    if dear or scripts or asked.given.get("engine") == "cf-browser-rendering":
        amount = max(amount, _LEAST_TOKENS)
    return min(amount, MOST_TOKENS)


def text_of(written: Json) -> str:
    """The page as text: the bare picture's address, HTML or text; else a head, the Markdown, and lists."""
    if not written.get("content"):
        address = written.get("pageshotUrl") or written.get("screenshotUrl")
        if bare := f"{address}\n" if address else written.get("html") or written.get("text"):
            return str(bare)
    if written.get("chunks"):
        return _CHUNK.join(written["chunks"])
    more = {"Published Time": "publishedTime", "Warning": "warning", "Number of Pages": "numPages"}
    lines = "\n\n".join(f"{label}: {written[name]}" for label, name in more.items() if name in written)
    lists = "\n\n".join(listing(written))
    return (
        f"Title: {written['title']}\n\nURL Source: {written['url']}\n"
        + (f"\n{lines}\n" if lines else "")
        + f"\nMarkdown Content:\n{written.get('content', '')}\n"
        + (f"\n{lists}\n" if lists else "")
    )


def listing(written: Json) -> list[str]:
    """The lists of images and links, if they were asked for."""
    found = []
    for name, label, mark in (("images", "Images", "!"), ("links", "Links/Buttons", "")):
        if name in written:
            pairs = written[name].items() if isinstance(written[name], dict) else written[name]
            none = f"This page does not seem to contain any {'images' if mark else 'buttons/links'}."
            found.append("\n".join([f"{label}:", *([f"- {mark}[{key}]({url})" for key, url in pairs] or [none])]))
    return found


# ------------------------------------------------------------------------ the answer


def find(ask: Ask) -> Handler | None:
    """``/`` and ``/<url>``, by GET and POST."""
    if ask.method not in ("GET", "POST"):
        return None
    return lambda body, quirk: read(ask, body, quirk)


def read(ask: Ask, body: Json, quirk: str) -> Answer:
    civkit.check_key(ask, {} if _target(ask) else body, required=False)
    if not _target(ask) and ask.method == "GET" and not body.get("url"):
        return civkit.index(ask)
    asked = wish(ask, body, quirk)
    sight = pages.selected(_sight(ask, body), asked.listed("targetSelector"), asked.listed("removeSelector"))
    written = page(sight, asked)
    budget = number(asked.given, "tokenBudget", 0, float("inf"))
    if budget is not None and written["usage"]["tokens"] > budget:
        told = f"Token budget ({budget}) exceeded, intended charge amount {written['usage']['tokens']}"
        raise HostError(failure(40904, told))
    return _written(form(ask), sight, asked, written)


def _target(ask: Ask) -> str:
    """The address in the path and the query, decoded once."""
    path = ask.path.removeprefix("/")
    return unquote(f"{path}?{ask.query}" if path and ask.query else path)


def _sight(ask: Ask, body: Json) -> Sight:
    given = str(body.get("url") or "")
    sent = body.get("pdf") or body.get("file")
    if sent:
        return pages.of_file(_data(sent), "pdf" if body.get("pdf") else "file", given)
    if body.get("html") and not _target(ask):
        return pages.of_html(str(body["html"]), pages.address(given) if given else "")
    return pages.found(_target(ask) or given)


def _data(sent: Any) -> bytes:
    if isinstance(sent, bytes):
        return sent
    try:
        return base64.b64decode(str(sent), validate=True)
    except binascii.Error as error:
        raise wrong("file", "The file is not base64") from error


def _written(kind: Form, sight: Sight, asked: Wish, written: Json) -> Answer:
    tokens = written["usage"]["tokens"]
    if kind == "stream":
        return civkit.snapshots(_growing(sight, asked, written))
    if kind == "json":
        return civkit.enveloped(written, tokens)
    if asked.compound:
        how = "please explicitly accept 'text/event-stream' or 'application/json' in header, or check your request."
        raise wrong("respondWith", f"Looks like you might be requesting compound content format, {how}")
    picture = written.get("pageshotUrl") or written.get("screenshotUrl")
    if picture and asked.quirk == "screenshot-bytes":
        return Whole(_PIXEL, 200, "image/png", {"x-usage-tokens": str(tokens)})
    if picture:
        headers = {"location": picture, "x-usage-tokens": str(tokens)}
        return Whole(f"{picture}\n".encode(), 302, civkit.TEXT, headers)
    return civkit.text(text_of(written), tokens)


def _growing(sight: Sight, asked: Wish, last: Json) -> list[Item]:
    """Three snapshots; each replaces the one before."""
    parts = sight.parts
    early = [page(_cut(sight, count), asked) for count in (max(1, len(parts) // 3), max(1, len(parts) * 2 // 3))]
    return [Pause(0.4), early[0], Pause(0.4), early[1], Pause(0.4), last]


def _cut(sight: Sight, count: int) -> Sight:
    return Sight(sight.url, sight.title, sight.parts[:count], sight.description, sight.date, sight.warning, sight.pages)


HOST = civkit.host("reader", find)
