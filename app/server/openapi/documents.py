"""The routes by name, and what each is for."""

from __future__ import annotations

from dataclasses import dataclass

from ...endpoints import ENDPOINTS as REGISTRY

# ``address`` is where the gateway is: scheme, host and port.
DESCRIPTION = """\
A local, OpenAI-compatible gateway for Jina AI and AIHubMix: embeddings, rerank and DeepSearch.

Point an OpenAI SDK at `{address}/v1`. Every path under `/v1` answers without it too. The model
decides which provider serves a call; `jina/<model>` and `aihubmix/<model>` force one. `GET /v1/models` lists the
models and what each can do.

Fields that no schema names go through to the provider, except those that would send the call or a key elsewhere
(`api_base`, `base_url`, `api_key`, `extra_headers` and the like), which are left out, and `user` of embeddings, rerank
and DeepSearch. There is no Responses API: `POST /v1/responses` answers 404 and says what to use.

A gateway with callers' keys wants one of them as `Authorization: Bearer <key>`, `api-key: <key>` or `x-api-key: <key>`;
one without takes any key and none.
The provider's key never comes from a caller.
"""

TAGS = {
    "models": "What the models do, and which there are.",
    "process": "For whatever watches over the process. No key is asked for.",
}


@dataclass(frozen=True, slots=True)
class Document:
    """A route: ``path`` as OpenAPI writes it, ``operation`` its operationId."""

    operation: str
    method: str
    path: str
    summary: str
    tag: str
    description: str = ""


EMBEDDINGS = Document(
    "embeddings",
    "POST",
    "/v1/embeddings",
    "Embed texts and images",
    "models",
    "One vector for each input, in the order of the inputs and in the encoding that was asked for, whatever the "
    "provider sent. More inputs than a model takes at once (`max_inputs` of `GET /v1/models`) are sent in parts, and "
    "the answers put together; not with `late_chunking`, where all inputs are one text.",
)
RERANK = Document(
    "rerank",
    "POST",
    "/v1/rerank",
    "Rank documents for a query",
    "models",
    "The documents by their relevance to the query, the best first. Takes Jina's request and that of Cohere's first "
    "version. `index` is the place in the request's `documents`. Scores are the model's own, and may be negative.",
)
RERANK_V2 = Document(
    "rerank_v2",
    "POST",
    "/v2/rerank",
    "Rank documents, in the form of Cohere's second version",
    "models",
    "As `POST /v1/rerank`, but documents come back only where `return_documents` is true, and the answer has `meta`.",
)
CHAT = Document(
    "chat",
    "POST",
    "/v1/chat/completions",
    "Chat and DeepSearch",
    "models",
    "`jina-deepsearch-v1` searches the web, reads and thinks until it has an answer. Both providers' streams come out "
    "in one form: the thinking in `reasoning_content` (or where `x_reasoning` says), searches and visits in `x_steps`, "
    "the answer in `content`, its sources in `annotations` with places in the answer, one `finish_reason`, one usage. "
    "All other models of a provider go through unchanged, with tools, images, `n`, `logprobs` and unknown fields.\n\n"
    "A DeepSearch run takes minutes and is paid for once the provider has taken it, so the gateway never repeats it, "
    "and `x-should-retry: false` tells the SDKs not to. Closing the connection ends the call to the provider.",
)
MODELS = Document(
    "models",
    "GET",
    "/v1/models",
    "The models of this gateway",
    "models",
    "OpenAI's list with what each model can do as further fields. Aliases are models of their own.",
)
MODEL = Document(
    "model",
    "GET",
    "/v1/models/{model}",
    "One model",
    "models",
    "One entry of the list, by any name that a call may use, also `jina/<model>` and `aihubmix/<model>`.",
)
HEALTHZ = Document(
    "healthz",
    "GET",
    "/healthz",
    "Whether the process is alive",
    "process",
    "Says nothing of the providers. `degraded` is alive too: what is to be written to the ledger waits.",
)
READYZ = Document(
    "readyz", "GET", "/readyz", "Whether calls are taken", "process", "503 from the moment the gateway shuts down."
)
RESPONSES = Document("responses", "POST", "/v1/responses", "Not offered", "models")

WRITTEN = {document.path: document for document in (EMBEDDINGS, RERANK, RERANK_V2, CHAT)}

# The paths of the registry. One without words here has those of its endpoint.
ENDPOINTS = {
    path: WRITTEN.get(path)
    or Document(path[1:].replace("/", "_"), endpoint.method, path, endpoint.summary, "models", endpoint.description)
    for endpoint in REGISTRY.values()
    for path in endpoint.paths
}

DOCUMENTS = (*ENDPOINTS.values(), MODELS, MODEL, HEALTHZ, READYZ)

PATHS = tuple(f"{document.method} {document.path}" for document in DOCUMENTS)
