"""The statements of /openapi.json are true: about the routes, their requests and their responses."""

from __future__ import annotations

import struct
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from app import __version__
from app.config.settings import Settings
from app.core import parameters
from app.core.types import EndpointName
from app.endpoints import ENDPOINTS
from app.endpoints.chat import MODES, Chat
from app.endpoints.embeddings import ENCODINGS, SPELLINGS, Embeddings
from app.endpoints.rerank import Rerank
from app.endpoints.token_ids import decoder
from app.server import openapi
from app.server.app import HOT, PATHS, create_app
from app.server.books import NO_LEDGER
from app.upstreams.catalogue import CATALOGUE
from app.upstreams.deepsearch import EFFORTS, IGNORED, PARAMETERS, PLACES, deepsearch_body

from . import examples

FOLDER = Path(openapi.__file__).parent
CONTENTS = openapi.contents(create_app(Settings()).routes)
DOCUMENT = openapi.document(CONTENTS, __version__, "http://localhost:8000")


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def posted(path: str) -> dict[str, Any]:
    operation: dict[str, Any] = DOCUMENT["paths"][path]["post"]
    return operation


def requests(path: str) -> dict[str, Any]:
    examples = posted(path)["requestBody"]["content"]["application/json"]["examples"]
    return {name: example["value"] for name, example in examples.items()}


def answers(path: str, kind: str = "application/json") -> dict[str, Any]:
    examples = posted(path)["responses"]["200"]["content"][kind]["examples"]
    return {name: example["value"] for name, example in examples.items()}


def named(path: str) -> list[Any]:
    return [pytest.param(body, id=name) for name, body in requests(path).items()]


def mistakes(schema: str, value: Any) -> list[str]:
    """The errors that a JSON Schema validator finds in the value."""
    whole = {"$ref": f"#/components/schemas/{schema}", "components": DOCUMENT["components"]}
    return [error.message for error in OAS31Validator(whole).iter_errors(value)]


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (target for name, target in value.items() if name == "$ref")
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from references(inner)


def resolved(reference: str) -> Any:
    found: Any = DOCUMENT
    for step in reference.removeprefix("#/").split("/"):
        found = found[step]
    return found


def response(operation: dict[str, Any], status: str) -> dict[str, Any]:
    said: dict[str, Any] = operation["responses"][status]
    return resolved(said["$ref"]) if "$ref" in said else said


def envelopes(operation: dict[str, Any], status: str) -> dict[str, Any]:
    examples = response(operation, status)["content"]["application/json"]["examples"]
    return {name: example["value"] for name, example in examples.items()}


# The document.


def test_it_is_valid_openapi_3_1() -> None:
    assert DOCUMENT["openapi"] == "3.1.0"
    assert [error.message for error in OpenAPIV31SpecValidator(DOCUMENT).iter_errors()] == []


def test_every_schema_is_valid_json_schema() -> None:
    for schema in DOCUMENT["components"]["schemas"].values():
        OAS31Validator.check_schema(schema)


def test_every_reference_leads_somewhere() -> None:
    found = set(references(DOCUMENT))
    assert len(found) > 20
    assert all(resolved(reference) for reference in found)


def test_no_operation_id_comes_twice() -> None:
    ids = [operation["operationId"] for _, _, operation in operations()]
    assert sorted(ids) == sorted(set(ids))
    assert len(ids) == len(PATHS)


def test_every_operation_says_what_it_is_and_has_a_tag_that_is_explained() -> None:
    tags = {tag["name"] for tag in DOCUMENT["tags"]}
    for _, _, operation in operations():
        assert operation["summary"]
        assert operation["description"]
        assert set(operation["tags"]) <= tags


def test_every_public_path_is_in_it_and_no_other() -> None:
    """The message of a 404 lists the same paths."""
    assert list(PATHS) == [f"{method.upper()} {path}" for path, method, _ in operations()]


def test_the_hot_paths_are_those_of_the_files_and_the_endpoints() -> None:
    hot = (["models"], ["web"])
    posted = [path for path, method, operation in operations() if method == "post" and operation["tags"] in hot]
    assert posted == [path for endpoint in ENDPOINTS.values() for path in endpoint.paths]
    assert set(HOT) == {*posted, *(path.removeprefix("/v1") for path in posted)}


def test_every_path_of_an_endpoint_has_its_fields_in_a_file() -> None:
    described = [
        path for name in openapi.FILES for path in msgspec.yaml.decode((FOLDER / name).read_bytes()).get("paths", ())
    ]
    assert {path for endpoint in ENDPOINTS.values() for path in endpoint.paths} <= set(described)


def test_the_path_of_a_model_has_its_parameter() -> None:
    (parameter,) = DOCUMENT["paths"]["/v1/models/{model}"]["get"]["parameters"]
    assert (parameter["name"], parameter["in"], parameter["required"]) == ("model", "path", True)
    for example in parameter["examples"].values():
        assert examples.routes().describe(example["value"])["id"] == example["value"]


def test_a_key_may_be_given_except_where_none_is_looked_at() -> None:
    bearer, *plain = DOCUMENT["components"]["securitySchemes"].items()
    assert (bearer[0], bearer[1]["type"], bearer[1]["scheme"]) == ("bearer", "http", "bearer")
    assert plain == [(name, {"type": "apiKey", "in": "header", "name": name}) for name in ("api-key", "x-api-key")]
    wanted: Any = [{"bearer": []}, {"api-key": []}, {"x-api-key": []}, {}]
    for path, _, operation in operations():
        assert operation["security"] == ([{}] if path in ("/healthz", "/readyz") else wanted)


def test_a_gateway_that_is_not_asked_for_it_has_not_read_it() -> None:
    code = """if True:
        import sys
        from app.config.settings import Settings
        from app.server import openapi
        from app.server.app import create_app

        read = []
        sys.addaudithook(lambda event, given: read.append(str(given[0])) if event == "open" else None)
        app = create_app(Settings())
        print(sum(name.endswith(".yaml") for name in read))
        openapi.contents(app.routes)
        print(sum(name.endswith(".yaml") for name in read))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", str(len(openapi.FILES))]


# Requests.


@pytest.mark.parametrize("path", examples.CLASSIFIER)
def test_every_example_of_a_classifiers_request_is_accepted_and_fits_its_schema(path: str) -> None:
    schema = posted(path)["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    for body in requests(path).values():
        examples.CLASSIFIER_ENDPOINTS[path].parse(body, path)
        assert mistakes(schema, body) == []


def test_a_busy_classifier_is_shown() -> None:
    (envelope,) = envelopes(posted("/v1/train"), "409").values()
    assert envelope["error"]["code"] == "classifier_busy"


@pytest.mark.parametrize("body", named("/v1/embeddings"))
def test_an_example_of_an_embeddings_request_is_accepted(body: dict[str, Any]) -> None:
    assert mistakes("EmbeddingsRequest", body) == []
    assert Embeddings(decoder()).parse(body, "/v1/embeddings").model == body["model"]


def test_the_example_of_token_ids_is_a_text() -> None:
    body = requests("/v1/embeddings")["token_ids"]
    assert Embeddings(decoder()).parse(body, "/v1/embeddings").body["input"] == ["Hello, world"]


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
def test_every_example_of_a_rerank_request_is_accepted(path: str) -> None:
    schema = {"/v1/rerank": "RerankRequest", "/v2/rerank": "RerankV2Request"}[path]
    for body in requests(path).values():
        assert mistakes(schema, body) == []
        assert Rerank().parse(body, path).documents == body["documents"]


@pytest.mark.parametrize("body", named("/v1/chat/completions"))
def test_an_example_of_a_chat_request_is_accepted_and_deepsearch_takes_those_for_it(body: dict[str, Any]) -> None:
    assert mistakes("ChatRequest", body) == []
    call = Chat().parse(body, "/v1/chat/completions")
    assert call.model == body["model"]
    if call.model.startswith("jina-deepsearch"):
        sent = deepsearch_body(call)
        assert {name: sent[name] for name in body if name in PARAMETERS} == {
            name: value for name, value in body.items() if name in PARAMETERS
        }


# Fields of the table that no provider is sent, but that are described, so that callers know about them.
ALSO = {"EmbeddingsRequest": {"user"}, "RerankRequest": {"user", "max_chunks_per_doc"}, "ChatRequest": set[str]()}
# Fields that the provider accepts without documenting them, or that the gateway always refuses.
UNEXPLAINED = {"RerankRequest": {"truncation", "relevant_spans"}}


@pytest.mark.parametrize(
    ("schema", "endpoint"), [("EmbeddingsRequest", "embeddings"), ("RerankRequest", "rerank"), ("ChatRequest", "chat")]
)
def test_the_fields_of_a_request_are_those_of_the_table(schema: str, endpoint: EndpointName) -> None:
    described = DOCUMENT["components"]["schemas"][schema]["properties"].keys()
    table = parameters.TABLE[endpoint]
    passed_on = {name for name, field in table.items() if field.jina != "dropped"}
    assert described == (passed_on | ALSO[schema]) - UNEXPLAINED.get(schema, set())
    assert ALSO[schema] <= table.keys()


def test_the_fields_of_coheres_second_version_are_some_of_the_table() -> None:
    assert DOCUMENT["components"]["schemas"]["RerankV2Request"]["properties"].keys() == {
        "model",
        "query",
        "documents",
        "top_n",
        "max_tokens_per_doc",
        "return_documents",
    }


def test_the_values_in_the_files_are_those_of_the_code() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    chat = schemas["ChatRequest"]["properties"]
    encoding = schemas["Encoding"]
    assert encoding["anyOf"][0]["enum"] == encoding["anyOf"][1]["items"]["enum"] == list(ENCODINGS)
    assert encoding["description"].endswith(f"in the order {', '.join(f'`{name}`' for name in SPELLINGS)}.")
    assert chat["x_reasoning"]["enum"] == [*MODES, None]
    assert chat["reasoning_effort"]["anyOf"][0]["enum"] == list(EFFORTS)
    assert chat["search_provider"]["description"].startswith(f"The search engine: {', '.join(PLACES)}.")
    ignored = sorted(IGNORED - parameters.with_fate("chat", "refused"))
    assert schemas["ChatRequest"]["description"].endswith(f"sent to it: {', '.join(f'`{name}`' for name in ignored)}.")


def test_the_tasks_in_the_files_are_those_of_the_catalogue() -> None:
    models: dict[tuple[str, ...], list[str]] = {}
    for entry in CATALOGUE.values():
        if entry.model.tasks:
            models.setdefault(entry.model.tasks, []).append(f"`{entry.model.id}`")
    lines = [f"- {', '.join(names)}: {', '.join(tasks)}" for tasks, names in models.items()]
    task = DOCUMENT["components"]["schemas"]["EmbeddingsRequest"]["properties"]["task"]
    assert task["description"].splitlines()[1:] == lines


INPUTS: list[Any] = [
    "a text",
    ["a text", {"text": "another"}],
    {"image": "https://example.org/a.png"},
    [{"url": "https://example.org/a.png"}, {"bytes": "iVBORw0KGgo="}],
    {"content": [{"text": "a"}, {"image": "https://example.org/a.png"}]},
    [9906, 11, 1917],
    [[9906], [11, 1917], "a text"],
]


@pytest.mark.parametrize("form", INPUTS)
def test_every_form_of_input_fits_the_schema(form: Any) -> None:
    body = {"model": "jina-clip-v2", "input": form, "field_of_tomorrow": 1}
    assert Embeddings(decoder()).parse(body, "/v1/embeddings")
    assert mistakes("EmbeddingsRequest", body) == []


@pytest.mark.parametrize("form", [[], "", {}, [""], 7, None])
def test_no_input_that_is_refused_fits_the_schema(form: Any) -> None:
    assert mistakes("EmbeddingsRequest", {"model": "jina-clip-v2", "input": form})


def test_trap_02_all_spellings_of_the_encoding_are_described_with_all_their_values() -> None:
    properties = DOCUMENT["components"]["schemas"]["EmbeddingsRequest"]["properties"]
    for spelling in SPELLINGS:
        assert properties[spelling]["$ref"] == "#/components/schemas/Encoding"
        for value in (
            "float",
            "base64",
            "binary",
            "ubinary",
            "binary_int8",
            "binary_uint8",
            "int8",
            "uint8",
            ["base64"],
        ):
            body = {"model": "m", "input": "a", spelling: value}
            assert mistakes("EmbeddingsRequest", body) == []
            assert Embeddings().parse(body, "/v1/embeddings")
        assert mistakes("EmbeddingsRequest", {"model": "m", "input": "a", spelling: "hex"})


def test_every_parameter_of_deepsearch_is_described() -> None:
    properties = DOCUMENT["components"]["schemas"]["ChatRequest"]["properties"]
    for name in (*PARAMETERS, "x_reasoning", "tools", "n"):
        assert properties[name]["description"].strip()


# Responses.


@pytest.mark.parametrize(
    ("path", "schema"),
    [
        ("/v1/embeddings", "EmbeddingsResponse"),
        ("/v1/rerank", "RerankResponse"),
        ("/v2/rerank", "RerankV2Response"),
        ("/v1/chat/completions", "ChatCompletion"),
        ("/v1/classify", "ClassifyResponse"),
        ("/v1/train", "TrainResponse"),
        ("/v1/segment", "SegmentResponse"),
    ],
)
def test_every_example_of_an_answer_fits_its_schema(path: str, schema: str) -> None:
    assert answers(path)
    for answer in answers(path).values():
        assert mistakes(schema, answer) == []


def test_the_example_of_an_embeddings_answer_is_whole() -> None:
    vector = answers("/v1/embeddings")["texts"]["data"][0]["embedding"]
    assert len(vector) == requests("/v1/embeddings")["texts"]["dimensions"]
    packed = b64encode(struct.pack("<8f", *vector)).decode()
    assert answers("/v1/embeddings")["base64"] == {
        "model": "jina-embeddings-v3",
        "object": "list",
        "usage": {"total_tokens": 8, "prompt_tokens": 8},
        "data": [{"object": "embedding", "index": 0, "embedding": packed}],
    }


def test_the_example_of_a_cohere_answer_is_whole() -> None:
    assert answers("/v2/rerank") == {
        "texts": {
            "id": "rerank-7f3c1be0a4d24c6f9c5e1b7a2d8e4f60",
            "object": "list",
            "model": "jina-reranker-v2-base-multilingual",
            "usage": {"total_tokens": 96, "prompt_tokens": 96},
            "results": [{"index": 0, "relevance_score": 0.87415754}, {"index": 2, "relevance_score": 0.76483965}],
            "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}},
        }
    }


def test_every_example_of_an_answer_is_the_gateways_own() -> None:
    """The gateway's code makes it from a provider's answer to the example request of the same name."""
    asked = requests("/v1/embeddings")
    assert answers("/v1/embeddings") == {
        name: examples.embedded(asked[name], reply) for name, reply in examples.EMBEDDINGS.items()
    }
    for path, replies in (("/v1/rerank", examples.RERANK), ("/v2/rerank", examples.RERANK_V2)):
        asked = requests(path)
        assert answers(path) == {name: examples.ranked(asked[name], reply, path) for name, reply in replies.items()}
    for path, replies in examples.CLASSIFIER.items():
        asked = requests(path)
        assert answers(path) == {name: examples.answered(path, asked[name], reply) for name, reply in replies.items()}
    whole = {name: examples.collected(body) for name, body in examples.WHOLE.items()}
    assert answers("/v1/chat/completions") == whole
    streamed = {name: examples.streamed(body) for name, body in examples.STREAMED.items()}
    cut = examples.broken(examples.STREAMED["streamed"], examples.TRUNCATED)
    assert answers("/v1/chat/completions", "text/event-stream") == {**streamed, "cut_short": cut}
    asked = requests("/v1/chat/completions")
    assert asked["streamed"] == examples.STREAMED["streamed"]
    assert asked["deepsearch"] == examples.WHOLE["deepsearch"]


def events(stream: str) -> list[Any]:
    assert stream.endswith("\n\n")
    return [line.removeprefix("data: ") for line in stream.split("\n\n")[:-1]]


@pytest.mark.parametrize("name", ["streamed", "think_tags"])
def test_the_example_of_a_stream_holds_chunks_that_fit_their_schema_and_ends_with_done(name: str) -> None:
    *chunks, done = events(answers("/v1/chat/completions", "text/event-stream")[name])
    assert done == "[DONE]"
    for chunk in chunks:
        assert mistakes("ChatCompletionChunk", msgspec.json.decode(chunk)) == []


def test_the_example_of_a_stream_shows_every_field_beyond_openais() -> None:
    *chunks, _ = events(answers("/v1/chat/completions", "text/event-stream")["streamed"])
    *said, finish, usage = [msgspec.json.decode(chunk) for chunk in chunks]
    deltas = [chunk["choices"][0]["delta"] for chunk in said]
    assert deltas[:5] == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "I need to find the latest blog post from Jina AI. "},
        {"x_steps": [{"index": 0, "type": "search", "query": "jina ai latest blog post"}]},
        {"x_steps": [{"index": 1, "type": "visit", "url": deltas[-1]["annotations"][0]["url_citation"]["url"]}]},
        {"reasoning_content": "Let me read it."},
    ]
    answer = "".join(delta["content"] for delta in deltas if "content" in delta)
    citation = deltas[-1]["annotations"][0]["url_citation"]
    assert answer[citation["start_index"] : citation["end_index"]] == "[^1]"
    assert finish["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}]
    assert finish["numURLs"] == 98
    assert {"visitedURLs", "readURLs"} <= finish.keys()
    assert finish["usage"] is None
    assert (usage["choices"], usage["usage"]["total_tokens"]) == ([], 196526)


def test_the_example_of_a_stream_that_fails_ends_with_the_envelope_and_without_done() -> None:
    *chunks, last = events(answers("/v1/chat/completions", "text/event-stream")["cut_short"])
    assert [msgspec.json.decode(chunk)["object"] for chunk in chunks] == ["chat.completion.chunk"] * 2
    assert msgspec.json.decode(last) == examples.TRUNCATED.envelope()


def test_every_model_of_the_catalogue_fits_the_schema_whose_fields_are_all_there_are() -> None:
    listed = examples.routes().models()
    assert mistakes("ModelList", {"object": "list", "data": listed}) == []
    schema = DOCUMENT["components"]["schemas"]["ModelEntry"]
    for model in listed:
        assert model.keys() == schema["properties"].keys() == set(schema["required"])


# Failures.


def test_every_call_of_a_model_shows_every_status_that_it_may_have() -> None:
    expected = ["200", "400", "401", "403", "404", "405", "408", "413", "415", "429", "500", "502", "503", "504"]
    for path, method, operation in operations():
        if method == "post" and operation["tags"] != ["classifiers"]:
            also = {"422"} if operation["tags"] == ["web"] else {"409"} if path == "/v1/train" else set()
            assert list(operation["responses"]) == sorted({*expected, *also})


def test_every_example_of_a_failure_is_an_envelope() -> None:
    for _, _, operation in operations():
        for status in operation["responses"]:
            if status != "200":
                assert envelopes(operation, status)
                for envelope in envelopes(operation, status).values():
                    assert mistakes("Error", envelope) == []


def test_every_example_of_a_failure_is_under_its_own_status_and_is_what_the_error_gives() -> None:
    shared = DOCUMENT["components"]["responses"]
    assert sorted(shared) == sorted(str(status) for status in examples.failures())
    for status, cases in examples.failures().items():
        assert {error.status for _, error in cases.values()} == {status}
        written = {name: example["value"] for name, example in _examples(shared[str(status)]).items()}
        assert written == {name: error.envelope() for name, (_, error) in cases.items()}
        assert {name for _, error in cases.values() for name in error.headers()} <= shared[str(status)][
            "headers"
        ].keys()


def _examples(said: dict[str, Any]) -> dict[str, Any]:
    examples: dict[str, Any] = said["content"]["application/json"]["examples"]
    return examples


def test_every_example_of_a_refused_body_is_what_the_gateway_says_of_it() -> None:
    for path in examples.REFUSED:
        assert envelopes(posted(path), "400") == examples.refusals(path)


def test_a_gateway_that_shuts_down_is_shown() -> None:
    operation = DOCUMENT["paths"]["/readyz"]["get"]
    assert envelopes(operation, "503") == {"draining": examples.NOT_READY.envelope()}


def test_a_gateway_without_a_ledger_is_shown() -> None:
    (envelope,) = envelopes(DOCUMENT["paths"]["/v1/usage"]["get"], "503").values()
    assert envelope["detail"] == NO_LEDGER


def test_the_example_of_a_callers_usage_fits_its_schema() -> None:
    content = DOCUMENT["paths"]["/v1/usage"]["get"]["responses"]["200"]["content"]["application/json"]
    assert mistakes(content["schema"]["$ref"].rpartition("/")[2], content["example"]) == []


def test_every_status_400_is_an_invalid_request() -> None:
    for path in ("/v1/embeddings", "/v1/rerank", "/v2/rerank", "/v1/chat/completions"):
        for envelope in envelopes(posted(path), "400").values():
            assert envelope["error"]["type"] == "invalid_request_error"


def test_trap_01_the_mistake_of_aihubmixs_page_is_shown_with_the_way_out() -> None:
    message = "documents is missing. This looks like a request for POST /v1/embeddings"
    error = {"message": message, "type": "invalid_request_error", "param": "documents", "code": "invalid_request"}
    assert envelopes(posted("/v1/rerank"), "400")["embeddings_body"] == {"error": error, "detail": message}


def test_the_limits_in_the_examples_are_the_defaults() -> None:
    settings = Settings()
    slow, large = (envelopes(posted("/v1/embeddings"), status) for status in ("408", "413"))
    assert f"within {settings.timeouts.request_body_seconds:g} seconds" in slow["slow"]["detail"]
    assert f"larger than {settings.max_body_megabytes} MB" in large["body"]["detail"]
