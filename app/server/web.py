"""Reader, search and svip over HTTP: their paths, the forms of a request, the forms of a refusal.

    /v1/reader, /v1/search      GET and POST; also without /v1
    /v1/svip                    the same, if the setting ``svip`` is on
    /r/<url>, /s/<query>        drop-ins for r.jina.ai and s.jina.ai; what follows is taken as it came over the wire
    r.jina.ai, s.jina.ai        with ``hosts``: the same, at the root; svip.jina.ai too

The path behind ``/r/`` is a page's address, with its query: no router may decode it, merge its slashes or look for a
key in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl

import msgspec
from starlette.types import ASGIApp, Scope

from ..core.errors import InvalidRequest, MethodNotAllowed, ToriiError, UnsupportedMedia
from ..core.origins import place
from ..core.types import Json
from ..core.web import WebRequest, web_envelope
from ..endpoints.incoming import RequestContext, json_object
from ..endpoints.pages import JSON, WebEndpoint, accepted, form_of, takes
from ..endpoints.targets import decoded
from .handlers import Handlers, context
from .http import HTTPExchange, headers_of
from .uploads import uploaded

METHODS = ("GET", "POST")
FIELDS = 1000  # of a form or a query
FORM = "application/x-www-form-urlencoded"
UPLOAD = "multipart/form-data"

# The hosts of the provider whose root is a drop-in, by the drop-in's name.
ROOTS: Mapping[bytes, str] = {
    b"r.jina.ai": "r",
    b"eu.r.jina.ai": "r",
    b"s.jina.ai": "s",
    b"eu.s.jina.ai": "s",
}
# Other hosts of the provider, at which the usual paths are served.
PLAIN_HOSTS = frozenset((b"api.jina.ai", b"deepsearch.jina.ai", b"segment.jina.ai", b"svip.jina.ai"))
HOPS = 508


class LoopDetected(InvalidRequest):
    """The request is this gateway's own: the provider's name leads back here."""

    status = HOPS
    code = "loop_detected"


class Dropin(NamedTuple):
    """``named``: the handler below ``/r/`` or ``/s/``; ``root``: the one at the root of the provider's host."""

    named: ASGIApp
    root: ASGIApp


class WebRoutes:
    """The handlers by their paths. ``hosts``: the provider's names in the Host header are routed too."""

    def __init__(self, handlers: Handlers, endpoints: list[WebEndpoint], *, hosts: bool = False) -> None:
        self._hosts = hosts
        self._loop = handlers.error_handler(LoopDetected(_LOOP))
        self.paths: dict[str, ASGIApp] = {}
        self._dropins: dict[str, Dropin] = {}
        self._homes: dict[bytes, str] = {}
        for endpoint in endpoints:
            own = WebHandler(handlers, endpoint, None).app()
            for path in endpoint.paths:
                self.paths |= {path: own, path.removeprefix("/v1"): own}
            if endpoint.home:
                self._homes[endpoint.home] = endpoint.paths[0].removeprefix("/v1")
            if not (name := endpoint.dropin):
                continue
            apps = [WebHandler(handlers, endpoint, prefix).app() for prefix in (f"/{name}/".encode(), b"/")]
            self._dropins[name] = Dropin(*apps)

    def find(self, scope: Scope) -> ASGIApp | None:
        """The handler of a drop-in path, by the path as it came over the wire; None for any other path.

        Sets the scope's ``path`` to the drop-in's own, which guards and logs see: the rest is what somebody reads.
        """
        if self._hosts and (found := self._of_host(scope)) is not None:
            return found
        raw: bytes = scope["raw_path"]
        if raw[:1] != b"/" or raw[2:3] not in (b"", b"/"):  # each drop-in's name is one letter
            return None
        name = raw[1:2].decode("latin-1")
        if name not in self._dropins:
            return None
        scope["path"] = f"/{name}/"
        return self._dropins[name].named

    def _of_host(self, scope: Scope) -> ASGIApp | None:
        """The drop-in of the provider's host that the request names; None for any other host. The gateway's own calls
        to the provider must not arrive here: they would go round until they time out."""
        headers = headers_of(scope)
        found = place(headers.get(b"host", [b""])[0])
        host = found.host if found is not None else b""
        if host not in ROOTS and host not in PLAIN_HOSTS:
            return None
        if any(value.startswith(b"torii/") for value in headers.get(b"user-agent", ())):
            return self._loop
        if host in self._homes:
            path = self._homes[host] + scope["path"].rstrip("/")
            scope["path"] = path if path in self.paths else scope["path"]
            return self.paths.get(path)
        if host not in ROOTS:
            return None
        scope["path"] = f"/{ROOTS[host]}/"
        return self._dropins[ROOTS[host]].root


_LOOP = (
    "this request was sent by a Torii gateway and arrived at one: the provider's name leads back to it. On the "
    "gateway's machine, let the name lead to the provider, or set the upstream's base URLs to names that do"
)


class WebHandler:
    """Reads the requests of one endpoint. ``prefix`` is the path before the target of a drop-in; None: no drop-in."""

    def __init__(self, handlers: Handlers, endpoint: WebEndpoint, prefix: bytes | None) -> None:
        self._handlers, self._endpoint = handlers, endpoint
        self._prefix = prefix
        # The query of a page's address is the page's.
        targets = prefix is not None and endpoint.dropin == "r"
        self._queried = not targets

    def app(self) -> ASGIApp:
        """The ASGI application. It holds this object, so this object does not hold it."""
        return self._handlers.called(self._endpoint, self._read, begin=self._begin, queried=self._queried)

    def _begin(self, exchange: HTTPExchange) -> None:
        exchange.refusal = WebRefusal(_header(exchange, "accept"), dropin=self._prefix is not None)
        method = exchange.scope["method"]
        if method not in METHODS:
            raise MethodNotAllowed(f"{method} is not allowed here; use GET or POST", allow=", ".join(METHODS))
        if self._queried and "_token" in dict(_pairs(exchange)) and not KEYS & exchange.headers.keys():
            raise InvalidRequest(
                "a key in _token is not read here. Send the header 'Authorization: Bearer <key>'", param="_token"
            )

    async def _read(self, exchange: HTTPExchange) -> RequestContext:
        raw, fields, typed = b"", _fields(_pairs(exchange)) if self._queried else {}, False
        if exchange.scope["method"] == "POST":
            raw = await self._handlers.body(exchange, forms=True)
            given, typed = _posted(exchange, raw)
            fields = {**fields, **given}
        accept, dropin = _header(exchange, "accept"), self._prefix is not None
        web = WebRequest(
            target=self._target(exchange.scope),
            fields=fields,
            headers={name: _header(exchange, name) for name in map(_text, exchange.headers) if _is_option(name)},
            form=form_of(accept, dropin=dropin),
            typed=typed,
            host=_header(exchange, "host"),
            path=exchange.path,
            method=exchange.scope["method"],
        )
        return context(exchange, raw, web)

    def _target(self, scope: Scope) -> str | None:
        """The target behind the prefix, as it came over the wire, decoded once; with the query if it is the page's."""
        if self._prefix is None:
            return None
        target: bytes = scope["raw_path"][len(self._prefix) :]
        query: bytes = scope["query_string"]
        if query and not self._queried:
            target += b"?" + query
        return decoded(target) or None


class WebRefusal:
    """Writes errors for the readers of these paths: text only for a caller who takes nothing else."""

    def __init__(self, accept: str, *, dropin: bool) -> None:
        self._form = form_of(accept, dropin=dropin)
        self._json = takes(accepted(accept), JSON)

    def __call__(self, error: ToriiError, envelope: Json) -> tuple[bytes, str]:
        body = web_envelope(envelope, error.status, error)
        if self._form == "text" and not self._json:
            return f"{body['readableMessage']}\n".encode(), "text/plain; charset=utf-8"
        return msgspec.json.encode(body), JSON


# Headers that hold a key.
KEYS = frozenset((b"authorization", b"api-key", b"x-api-key"))


def _is_option(name: str) -> bool:
    return name.startswith("x-") or name == "dnt"


def _text(name: bytes) -> str:
    return name.decode("latin-1")


def _header(exchange: HTTPExchange, name: str) -> str:
    """The values of a header as one; bytes beyond ASCII are UTF-8, as browsers and curl send them."""
    return b", ".join(exchange.header(name.encode("latin-1"))).decode("utf-8", "replace")


def _pairs(exchange: HTTPExchange) -> list[tuple[str, str]]:
    query: bytes = exchange.scope["query_string"]
    return _parsed(query)


def _parsed(query: bytes) -> list[tuple[str, str]]:
    """The fields of a query or a form. As bytes, parse_qsl would refuse all but ASCII (Python 3.11, 3.12)."""
    try:
        return parse_qsl(
            query.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=FIELDS, errors="replace"
        )
    except ValueError:
        raise InvalidRequest(f"a form or a query may have at most {FIELDS} fields") from None


def _fields(pairs: list[tuple[str, str]]) -> Json:
    """Fields as texts; one that is repeated as a list."""
    found: Json = {}
    for name, text in pairs:
        key = name.removesuffix("[]")
        if key in found:
            found[key] = [*(found[key] if isinstance(found[key], list) else [found[key]]), text]
        else:
            found[key] = text
    return found


def _posted(exchange: HTTPExchange, body: bytes) -> tuple[Json, bool]:
    """The fields of a body, and whether they have types. Raises InvalidRequest and UnsupportedMedia."""
    said = _header(exchange, "content-type")
    kind = said.partition(";")[0].strip().lower()
    if not body:
        return {}, True
    if kind == FORM and not re.match(rb"\s*[{\[]", body):  # `curl -d '{...}'` says that JSON is a form
        return _fields(_parsed(body)), False
    if kind == UPLOAD:
        return uploaded(said, body), False
    if kind in ("", FORM, JSON, "text/json") or kind.endswith("+json"):
        return json_object(body), True
    raise UnsupportedMedia(f"send JSON ({JSON}), a form ({FORM}), or a file in a form ({UPLOAD})")
