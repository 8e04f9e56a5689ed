"""GET /v1/models and GET /v1/models/{model}, and the refusal of the Responses API."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path
from fastapi.openapi.models import Example
from pydantic import BaseModel, Field

from ..callers.keys import Caller
from ..core.errors import ModelNotFound, NotFound
from ..core.names import shown
from ..core.types import EndpointName, Json
from ..endpoints import ENDPOINTS
from ..routing.table import RouteTable
from .openapi import refusals
from .routes import CallerRoute, Calling, InForce, OpenRoute

RESPONSES_HINT = (
    "Torii does not support the Responses API yet. Use chat completions: "
    'in @ai-sdk/openai openai.chat("model"), in openai-agents OpenAIChatCompletionsModel, '
    "in the OpenAI SDKs client.chat.completions.create()"
)


class ModelEntry(BaseModel):
    """A model. Fields that do not apply are null or empty, never absent."""

    id: str = Field(description="The model's name in calls.")
    object: Literal["model"]
    created: int = Field(description="The release date as a Unix time; 0 if unknown.")
    owned_by: str
    endpoints: list[Annotated[EndpointName, Field(json_schema_extra={"enum": list(ENDPOINTS)})]]
    inputs: list[str] = Field(description="The kinds of input: text, image, audio, video, pdf, file.")
    dimensions: int | None = Field(description="The size of a full vector.")
    dimensions_allowed: list[int] = Field(
        description="The values of the `dimensions` option, if only certain values are possible."
    )
    context_length: int | None = Field(description="The maximum number of tokens in one input.")
    tasks: list[str] = Field(description="The values of the `task` option.")
    max_inputs: int | None = Field(
        description="The maximum number of inputs in one call to the provider; longer calls are split."
    )
    features: list[str] = Field(
        description="Options that only some models take, and responses of another form: multivector, sparse, "
        "reasoning, citations. listwise: a reranker that reads all documents together; its calls are never split."
    )
    parameters: dict[str, Json] = Field(
        description="The options of the model, each as a JSON Schema. `trained_from`: the smallest size for which the "
        "model was trained; smaller ones are passed on."
    )
    upstreams: list[str] = Field(description="The model's upstreams, in the order in which they are tried.")
    alias_of: str | None = Field(description="The model for which an alias stands.")


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[ModelEntry]


NAMES: dict[str, Example] = {
    name: {"value": name} for name in ("jina-clip-v2", "aihubmix/jina-clip-v2", "jina-ai/jina-clip-v2")
}

# Included below /v1, and without it for a base URL that lacks it.
router = APIRouter(route_class=CallerRoute, tags=["models"])


@router.get(
    "/models",
    operation_id="models",
    summary="The models of this gateway",
    response_description="The answer.",
)
async def models(now: InForce, caller: Calling) -> ModelList:
    """OpenAI's list, with further fields for each model's capabilities. Aliases are listed as models. A key sees the
    models that it may use."""
    routes = now.gateway.routes
    listed = [entry for entry in routes.models() if _may_use(caller, routes, entry)]
    return ModelList.model_validate({"object": "list", "data": listed})


@router.get(
    "/models/{model:path}",
    operation_id="model",
    summary="One model",
    response_description="The answer.",
    openapi_extra=refusals(404),
)
async def model(
    model: Annotated[
        str,
        Path(description="The model's name. Slashes in it are not encoded.", openapi_examples=NAMES),
    ],
    now: InForce,
    caller: Calling,
) -> ModelEntry:
    """One entry of the list, by any name that a call accepts, including `jina/<model>` and `aihubmix/<model>`."""
    routes = now.gateway.routes
    entry = routes.describe(model)
    if not _may_use(caller, routes, entry):
        raise ModelNotFound(f"The model '{shown(model)}' is not among those of this key. GET /v1/models lists them.")
    return ModelEntry.model_validate(entry)


def _may_use(caller: Caller, routes: RouteTable, entry: Json) -> bool:
    return caller.permissions is None or caller.may_use(routes.find(entry["id"]).model.id, entry["endpoints"])


not_offered = APIRouter(route_class=OpenRoute, include_in_schema=False)


@not_offered.post("/responses")
async def responses() -> None:
    raise NotFound(RESPONSES_HINT)
