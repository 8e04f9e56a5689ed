"""The built-in web as a browser would find it: an address, and the page there in parts.

A host's root lists its pages. An unknown path of a known host is a page too, with a warning: its status is 404.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from html import escape, unescape
from typing import Any
from urllib.parse import unquote, urlsplit

from . import corpus
from .civkit import wrong
from .corpus import Page
from .errors import HostError, civkit

_OWN_HOSTS = re.compile(r"^(https?:/+)?(eu\.)?r\.jina\.ai/", re.IGNORECASE)
_DOUBLED = re.compile(r"^(?:(?:https?:/+)|(?:view-source:))+(https?:/+)", re.IGNORECASE)
_SLASHES = re.compile(r"^(https?):/+", re.IGNORECASE)
_TITLE = re.compile(r"<title>(.*?)</title>", re.IGNORECASE | re.DOTALL)
_HIDDEN = re.compile(r"<(head|title|script|style)\b.*?</\1>", re.IGNORECASE | re.DOTALL)
_BLOCKS = re.compile(r"</?(?:p|h[1-6]|li|div)\b[^>]*>", re.IGNORECASE)
_TAGS = re.compile(r"<[^>]*>")
_WHOLE = ("*", "html", "body", "main", "article")


@dataclass(frozen=True, slots=True)
class Part:
    """``tag``: img, p or a. ``url``: where a link or an image points."""

    tag: str
    words: str
    url: str = ""


@dataclass(frozen=True, slots=True)
class Sight:
    """A page as found at ``url``."""

    url: str
    title: str
    parts: tuple[Part, ...]
    description: str = ""
    date: str = ""
    warning: str = ""
    pages: int | None = None

    @property
    def links(self) -> dict[str, str]:
        return {part.words: part.url for part in self.parts if part.tag == "a"}

    @property
    def images(self) -> dict[str, str]:
        return {f"Image {at + 1}: {part.words}": part.url for at, part in enumerate(self._images)}

    @property
    def _images(self) -> list[Part]:
        return [part for part in self.parts if part.tag == "img"]

    def blocks(self, images: str = "all", links: str = "all") -> list[str]:
        """The blocks of the Markdown. ``images`` and ``links``: what is kept of them."""
        found = []
        for part in self.parts:
            number = self._images.index(part) + 1 if part.tag == "img" else 0
            found.append(_block(part, number, images, links))
        return [block for block in found if block]

    def html(self) -> str:
        head = f'<html lang="en"><head><title>{escape(self.title)}</title></head>'
        body = "".join([f"<h1>{escape(self.title)}</h1>", *(_element(part) for part in self.parts)])
        return f"<!DOCTYPE html>{head}<body>{body}</body></html>"

    def text(self) -> str:
        return "\n\n".join([self.title, *(part.words for part in self.parts if part.tag != "img")])


def _block(part: Part, number: int, images: str, links: str) -> str:
    if part.tag == "img":
        shown = {"none": "", "alt": f"(Image {number}: {part.words})", "alt_p": f"(Image {number}: {part.words})"}
        return shown.get(images, f"![Image {number}: {part.words}]({part.url})")
    if part.tag == "a":
        return {"none": "", "text": part.words, "gpt-oss": part.words}.get(links, f"[{part.words}]({part.url})")
    return part.words


def _element(part: Part) -> str:
    words, url = escape(part.words), escape(part.url)
    if part.tag == "img":
        return f'<img src="{url}" alt="{words}">'
    return f'<a href="{url}">{words}</a>' if part.tag == "a" else f"<p>{words}</p>"


# ------------------------------------------------------------------------- to find


def found(given: str) -> Sight:
    """The page at an address as a caller writes it. Raises HostError for an address that the reader refuses."""
    url = address(given)
    host, path = urlsplit(url).hostname or "", unquote(urlsplit(url).path).rstrip("/")
    _check_public(host)
    there = [page for page in corpus.PAGES if page.host == host.removeprefix("www.")]
    if not there:
        raise wrong("url", f"Domain '{host}' could not be resolved")
    page = next((page for page in there if urlsplit(page.url).path == path), None)
    if page:
        return of_page(page, url)
    if not path:
        return Sight(url, host, tuple(Part("a", page.title, page.url) for page in there), f"The pages of {host}")
    warning = "Target URL returned error 404: Not Found"
    return Sight(url, "Not Found", (Part("p", "There is no such page here."),), warning=warning)


def address(given: str) -> str:
    """The URL that is meant: with a scheme and two slashes, without the reader's own host before it."""
    url = _DOUBLED.sub(r"\1", _OWN_HOSTS.sub("", given.strip()))
    url = _SLASHES.sub(lambda match: f"{match[1].lower()}://", url)
    if not url:
        raise wrong("url", "No URL provided")
    if not url.lower().startswith(("http://", "https://")):
        scheme = re.match(r"([a-z][a-z0-9+.-]*):(?!\d+(?:/|$))", url, re.IGNORECASE)
        if scheme:
            raise wrong("url", f"Invalid protocol {scheme[1].lower()}:")
        url = f"http://{url}"
    try:
        named = urlsplit(url).hostname
    except ValueError:
        named = None
    if not named or " " in named:
        raise wrong("url", "TypeError: Invalid URL")
    return url


def _check_public(host: str) -> None:
    try:
        public = host != "localhost" and ipaddress.ip_address(host).is_global
    except ValueError:
        public = host != "localhost"
    if not public:
        message = f"Suspicious action: Request to localhost or non-public IP: {host}"
        raise HostError(civkit(45102, message, "url"))


def of_page(page: Page, url: str = "") -> Sight:
    host = [other for other in corpus.PAGES if other.host == page.host and other != page]
    parts = (
        Part("img", page.title, f"{page.url}.png"),
        *(Part("p", sentence) for sentence in page.sentences),
        *(Part("a", other.title, other.url) for other in host[:2]),
    )
    return Sight(url or page.url, page.title, parts, page.sentences[0], page.date)


def of_html(html: str, url: str = "") -> Sight:
    """A page that the caller sends: its title, and the words between its tags."""
    title = _TITLE.search(html)
    blocks = (unescape(_TAGS.sub("", block)).strip() for block in _BLOCKS.split(_HIDDEN.sub("", html)))
    parts = tuple(Part("p", block) for block in blocks if block)
    name = unescape(title[1]).strip() if title else ""
    return Sight(url or _blob(html.encode("utf-8", "surrogatepass")), name, parts)


def of_file(data: bytes, kind: str, url: str = "") -> Sight:
    """A file that the caller sends. The sandbox reads none: it says what it has got."""
    parts = (Part("p", f"The sandbox got a file of {len(data)} bytes ({kind})."),)
    return Sight(url or _blob(data), "", parts, pages=1)


def _blob(data: bytes) -> str:
    return f"blob:{hashlib.sha256(data).hexdigest()}"


# ----------------------------------------------------------------------- to select


def selected(sight: Sight, target: Iterable[Any], removed: Iterable[Any]) -> Sight:
    """The parts that the selectors leave: of a selector only its last tag counts. Raises HostError if none is left."""
    wanted, gone = _tags(target), _tags(removed)
    kept = [part for part in sight.parts if not wanted or part.tag in wanted or wanted & set(_WHOLE)]
    if "h1" in wanted:
        kept = [Part("p", sight.title), *kept]
    if wanted and not kept:
        shown = ", ".join(str(one) for one in target)
        raise HostError(civkit(42206, f"No content available for URL {sight.url} with target selector {shown}"))
    return replace(sight, parts=tuple(part for part in kept if part.tag not in gone))


def _tags(selectors: Iterable[Any]) -> set[str]:
    each = [one.strip() for selector in selectors for one in str(selector).split(",")]
    return {re.split(r"[\s>+~]+", one)[-1].partition("[")[0].partition(".")[0] or one for one in each if one}
