"""GET /v1/models and GET /v1/models/{model}, and the refusal of the Responses API."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path
from fastapi.openapi.models import Example
from pydantic import BaseModel, Field

from ..core.errors import NotFound
from ..core.types import EndpointName
from ..endpoints import ENDPOINTS
from .openapi import refusals
from .routes import CallerRoute, InForce, OpenRoute

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
        "reasoning, citations."
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
async def models(now: InForce) -> ModelList:
    """OpenAI's list, with further fields for each model's capabilities. Aliases are listed as models."""
    return ModelList.model_validate({"object": "list", "data": now.gateway.routes.models()})


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
) -> ModelEntry:
    """One entry of the list, by any name that a call accepts, including `jina/<model>` and `aihubmix/<model>`."""
    return ModelEntry.model_validate(now.gateway.routes.describe(model))


not_offered = APIRouter(route_class=OpenRoute, include_in_schema=False)


@not_offered.post("/responses")
async def responses() -> None:
    raise NotFound(RESPONSES_HINT)
