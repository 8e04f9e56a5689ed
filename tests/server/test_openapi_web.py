"""The statements of /openapi.json on reader, search and svip are true: each example is what the code makes of it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from openapi_schema_validator import OAS31Validator

from app.core.errors import InvalidRequest
from app.core.types import Json, Key, Reply, Target
from app.core.web import MEDIA, TargetRefused, WebRequest, web_envelope
from app.endpoints.pages import WebEndpoint
from app.endpoints.reader import Reader
from app.endpoints.search import MOST, PROVIDERS, TYPES, Search
from app.endpoints.svip import EXTRACTED, FOUND, Svip
from app.upstreams.catalogue import CATALOGUE
from app.upstreams.jina import Jina

from .test_openapi import DOCUMENT, envelopes, operations

ENDPOINTS: dict[str, WebEndpoint] = {
    "/v1/reader": Reader(),
    "/v1/search": Search(),
    "/v1/svip": Svip(),
    "/v1/svip/extract-pdf": Svip(),
}
SCHEMAS = {
    "/v1/reader": ("PageRequest", "PageResponse"),
    "/v1/search": ("SearchRequest", "SearchResponse"),
    "/v1/svip": ("SvipRequest", "SvipResponse"),
    "/v1/svip/extract-pdf": ("SvipExtraction", "SvipResponse"),
}
WEB = [(path, method, operation) for path, method, operation in operations() if operation["tags"] == ["web"]]
REFUSED: dict[str, dict[str, Json]] = {
    "reader": {
        "no_url": {},
        "private": {"url": "http://169.254.169.254/"},
        "secret": {"url": "https://example.com/", "setCookies": [{"name": "session", "value": "1"}]},
        "short": {"url": "https://example.com/", "maxTokens": 100},
    },
    "search": {"no_q": {}, "num": {"q": "example", "num": 21}},
    "svip": {"no_q": {}, "num": {"q": "example", "num": 101}},
    "svip_extract_pdf": {"no_url": {}},
}


def fits(schema: str, value: Any) -> bool:
    whole = {"$ref": f"#/components/schemas/{schema}", "components": DOCUMENT["components"]}
    return not list(OAS31Validator(whole).iter_errors(value))


def served_at(path: str) -> tuple[WebEndpoint, str]:
    """The endpoint of a path, and the path that has its schemas."""
    place = {"/r/{url}": "/v1/reader", "/s/{query}": "/v1/search"}.get(path, path)
    return ENDPOINTS[place], place


def examples(operation: Any, kind: str) -> list[Any]:
    said = operation["responses"]["200"]["content"][kind]["examples"]
    return [example["value"] for example in said.values()]


@pytest.mark.parametrize("path", ENDPOINTS)
def test_the_example_requests_are_accepted_and_fit(path: str) -> None:
    content = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    for example in content["examples"].values():
        assert fits(SCHEMAS[path][0], example["value"])
        call = ENDPOINTS[path].parse(example["value"], path)
        assert call.dropped == ()
    assert not fits(SCHEMAS[path][0], {})


@pytest.mark.parametrize(("path", "method", "operation"), WEB)
def test_the_example_answers_pass_as_they_are(path: str, method: str, operation: Any) -> None:
    endpoint, place = served_at(path)
    model = CATALOGUE[f"jina-{endpoint.facts.name}"].model
    upstream = Jina()
    target = Target(upstream, model, model.id, Key(""))
    fields = {"url": "https://example.com/", "q": "example domain"}
    said = operation["responses"]["200"]["content"]
    for form, kind in ((form, kind) for form, kind in MEDIA.items() if kind in said):
        call = endpoint.read(WebRequest(fields=fields, form=form, path=path))
        for value in examples(operation, kind):
            raw = value.encode() if isinstance(value, str) else msgspec.json.encode(value)
            if form == "events":
                fold = upstream.fold(call, target)
                events = [
                    event for data in raw.split(b"\n\n")[:-1] for event in fold.feed(data.partition(b"\ndata: ")[2])
                ]
                assert endpoint.writer(call).write(events) == raw
                continue
            reply = upstream.reply(call, target, raw, 200, {"content-type": kind})
            assert endpoint.answer(call, reply).body == raw
            if form == "json":
                assert fits(SCHEMAS[place][1], value)
                meta = value["meta"]
                assert reply["usage"]["total_tokens"] == (
                    meta["credits"] if "credits" in meta else meta["usage"]["tokens"]
                )


@pytest.mark.parametrize(("path", "method", "operation"), WEB)
def test_the_example_refusals_are_the_codes_own(path: str, method: str, operation: Any) -> None:
    endpoint, _ = served_at(path)
    expected = {}
    for name, body in REFUSED.get(operation["operationId"], REFUSED[endpoint.facts.name]).items():
        with pytest.raises(InvalidRequest) as refused:
            endpoint.parse(body, path)
        expected[name] = web_envelope(refused.value.envelope(), 400, refused.value)
    assert envelopes(operation, "400") == expected
    assert all(fits("WebError", envelope) for envelope in expected.values())
    said = {"code": 422, "status": 42206, "name": "AssertionFailureError", "message": "No content available"}
    model = CATALOGUE["jina-reader"].model
    call = Reader().parse({"url": "https://example.com/"}, path)
    reply = Reply(422, {}, msgspec.json.encode(said))
    failure = Jina().error(call, Target(Jina(), model, model.id, Key("")), reply)
    assert isinstance(failure, TargetRefused)
    assert envelopes(operation, "422") == {"nothing": web_envelope(failure.envelope(), 422, failure)}


def test_the_values_in_the_file_are_those_of_the_code() -> None:
    properties = DOCUMENT["components"]["schemas"]["SearchRequest"]["properties"]
    assert properties["type"]["enum"] == list(TYPES)
    assert properties["provider"]["enum"] == list(PROVIDERS)
    assert properties["num"]["maximum"] == MOST
    found, extracted = (
        DOCUMENT["components"]["schemas"][name]["properties"] for name in ("SvipRequest", "SvipExtraction")
    )
    assert found["domain"]["enum"] == list(FOUND.choices["domain"])
    assert found.keys() == {"q", "url", *FOUND.whole, *FOUND.choices, *FOUND.texts, *FOUND.flags}
    assert extracted.keys() == {"url", *EXTRACTED.whole, *EXTRACTED.texts}
    for name, (least, most) in {**FOUND.whole, **EXTRACTED.whole}.items():
        said = found.get(name) or extracted[name]
        assert (said["minimum"], said["maximum"]) == (least, most)
