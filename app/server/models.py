"""GET /v1/models and GET /v1/models/{model}, and the refusal of the Responses API."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path
from fastapi.openapi.models import Example
from pydantic import BaseModel, Field

from ..core.errors import NotFound
from ..core.types import EndpointName
from ..endpoints import ENDPOINTS
from .routes import CallerRoute, InForce, OpenRoute, refusals

RESPONSES_HINT = (
    "Torii does not support the Responses API yet. Use chat completions: "
    'in @ai-sdk/openai openai.chat("model"), in openai-agents OpenAIChatCompletionsModel, '
    "in the OpenAI SDKs client.chat.completions.create()"
)


class ModelEntry(BaseModel):
    """A model. What does not apply is null or empty, never absent."""

    id: str = Field(description="The name by which calls ask for it.")
    object: Literal["model"]
    created: int = Field(description="The day it came out, as a Unix time; 0 where that is not known.")
    owned_by: str
    endpoints: list[Annotated[EndpointName, Field(json_schema_extra={"enum": list(ENDPOINTS)})]]
    inputs: list[str] = Field(description="What it reads: text, image, audio, video, pdf, file.")
    dimensions: int | None = Field(description="The size of a full vector.")
    dimensions_allowed: list[int] = Field(
        description="The values of the `dimensions` option, where only certain ones are possible."
    )
    context_length: int | None = Field(description="Tokens of one input.")
    tasks: list[str] = Field(description="The values of the `task` option.")
    max_inputs: int | None = Field(description="Inputs of one call to the provider; more are sent in parts.")
    features: list[str] = Field(
        description="Options that not every model takes, and answers of another form: multivector, sparse, reasoning, "
        "citations."
    )
    upstreams: list[str] = Field(description="Where it is asked for, the first first.")
    alias_of: str | None = Field(description="The name that an alias stands for.")


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[ModelEntry]


NAMES: dict[str, Example] = {
    name: {"value": name} for name in ("jina-clip-v2", "aihubmix/jina-clip-v2", "jina-ai/jina-clip-v2")
}

# Below /v1, and for a base URL without it.
router = APIRouter(route_class=CallerRoute, tags=["models"])


@router.get(
    "/models",
    operation_id="models",
    summary="The models of this gateway",
    response_description="The answer.",
)
async def models(now: InForce) -> ModelList:
    """OpenAI's list with what each model can do as further fields. Aliases are models of their own."""
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
        Path(description="The model's name. It may have slashes, as they are.", openapi_examples=NAMES),
    ],
    now: InForce,
) -> ModelEntry:
    """One entry of the list, by any name that a call may use, also `jina/<model>` and `aihubmix/<model>`."""
    return ModelEntry.model_validate(now.gateway.routes.describe(model))


not_offered = APIRouter(route_class=OpenRoute, include_in_schema=False)


@not_offered.post("/responses")
async def responses() -> None:
    raise NotFound(RESPONSES_HINT)
