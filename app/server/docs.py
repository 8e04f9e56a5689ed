"""GET /docs, the API's page, and GET /openapi.json, the document that the page shows.

All files come from this machine: FastAPI's own page loads its scripts from another host and stays blank offline;
fastapi-offline ships the same files. The document names the address at which it was requested.
"""

from __future__ import annotations

from functools import cache, partial
from importlib.resources import files

from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from .. import __version__
from ..core.origins import Headers, place
from . import openapi
from .http import headers_of

PAGE = "/docs"
DOCUMENT = "/openapi.json"
PATHS = (PAGE, DOCUMENT)
METHODS = ["GET", "HEAD"]
# The document's address if the request names none.
ANYWHERE = "http://localhost:8000"
ASSETS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon.png": "image/png",
}
SWITCHED_OFF = dict.fromkeys(
    PATHS,
    "the API documentation is disabled: docs is off, or is auto and the gateway listens on an address that others "
    "can reach. To enable the documentation for everyone, set docs: on (TORII_DOCS=on) and restart the gateway",
)


def add(app: FastAPI) -> None:
    """Add routes for the document, the page, and the page's three files."""

    contents = cache(partial(openapi.contents, app.routes))

    async def document(request: Request) -> Response:
        # FastAPI's own route would leave out every null, even in the examples.
        return JSONResponse(openapi.document(contents(), __version__, _address(headers_of(request.scope)) or ANYWHERE))

    async def page() -> Response:
        return get_swagger_ui_html(
            openapi_url=DOCUMENT,
            title=app.title,
            swagger_js_url=f"{PAGE}/swagger-ui-bundle.js",
            swagger_css_url=f"{PAGE}/swagger-ui.css",
            swagger_favicon_url=f"{PAGE}/favicon.png",
        )

    async def asset(name: str) -> Response:
        if name not in ASSETS:
            raise HTTPException(404)
        return Response(_bytes(name), media_type=ASSETS[name])

    for path, answer in ((DOCUMENT, document), (PAGE, page), (f"{PAGE}/{{name}}", asset)):
        app.add_api_route(path, answer, methods=METHODS, include_in_schema=False)


def add_icon(app: FastAPI) -> None:
    """Browsers request an icon from every site; a 404 each time would fill the log."""

    async def none() -> Response:
        return Response(status_code=204, headers={"cache-control": "max-age=86400"})

    app.add_api_route("/favicon.ico", none, methods=METHODS, include_in_schema=False)


def _address(headers: Headers) -> str | None:
    """The address of the request, https if a TLS proxy says so; None if the Host header is not a valid address."""
    host = headers.get(b"host", [b""])[0]
    tls = headers.get(b"x-forwarded-proto") == [b"https"]
    return f"http{'s' if tls else ''}://{host.decode()}" if place(host) else None


@cache
def _bytes(name: str) -> bytes:
    return (files("fastapi_offline") / "static" / name).read_bytes()
