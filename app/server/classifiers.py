"""GET and POST /v1/classifiers: a caller's own classifiers. DELETE /v1/classifiers/{id}: one of them.

At the provider both act on the whole account, which all callers of the gateway share; here they act on what the caller,
or the caller's team, has made.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, Field

from ..core.errors import Unavailable
from ..core.types import Json
from .http import HTTPExchange, new_id
from .openapi import refusals
from .routes import CALLER, CallerRoute, Calling, InForce
from .snapshots import Generation

ENDPOINT = "classifiers"  # its name in a key's permissions


class ClassifiersRoute(CallerRoute):
    """A route about classifiers, for keys that may use them."""

    async def admit(self, generation: Generation, exchange: HTTPExchange) -> None:
        exchange.scope[CALLER] = await generation.handlers.caller(exchange, ENDPOINT)
        if generation.gateway.draining:
            raise Unavailable("this gateway is shutting down", retry_after=1)


class ClassifierEntry(BaseModel):
    """A classifier, as the provider describes it, without the provider's user. Other fields are passed on."""

    model_config = ConfigDict(extra="allow")

    classifier_id: str = Field(description="The id to send to `/v1/classify`, `/v1/train` and here.")
    labels: list[Any] = Field(default=[], description="What it chooses from.")


class DeletedClassifier(BaseModel):
    """The provider's own answer has no documented form."""

    classifier_id: str
    deleted: Literal[True] = True


router = APIRouter(route_class=ClassifiersRoute, tags=["classifiers"])

ClassifierId = Annotated[str, Path(alias="id", max_length=256, description="The classifier's id.")]
LISTED = "Your classifiers, in a bare list."


async def _listed(caller: Calling, now: InForce) -> list[Json]:
    return await now.gateway.client.classifiers.listed(caller, new_id())


@router.get(
    "/classifiers",
    operation_id="list_classifiers",
    summary="Your classifiers",
    response_description=LISTED,
    response_model=list[ClassifierEntry],
    response_model_exclude_unset=True,
    openapi_extra=refusals(429, 502, 503, 504),
)
async def list_classifiers(caller: Calling, now: InForce) -> list[Json]:
    """The classifiers that your key has made; for a key of a team, those of the team."""
    return await _listed(caller, now)


@router.post(
    "/classifiers",
    operation_id="list_classifiers_by_post",
    summary="Your classifiers, by POST",
    response_description=LISTED,
    response_model=list[ClassifierEntry],
    response_model_exclude_unset=True,
    openapi_extra=refusals(429, 502, 503, 504),
)
async def list_classifiers_by_post(caller: Calling, now: InForce) -> list[Json]:
    """The same as GET, for clients of the provider that send a POST. A body is not read."""
    return await _listed(caller, now)


@router.delete(
    "/classifiers/{id}",
    operation_id="delete_classifier",
    summary="Delete a classifier",
    response_description="It was deleted.",
    openapi_extra=refusals(404, 429, 502, 503, 504),
)
async def delete_classifier(classifier: ClassifierId, caller: Calling, now: InForce) -> DeletedClassifier:
    """Deletes a classifier of yours, or of your team. It cannot be undone."""
    await now.gateway.client.classifiers.delete(classifier, caller, new_id())
    return DeletedClassifier(classifier_id=classifier)
