"""GET and POST /v1/classifiers: a caller's own classifiers. DELETE /v1/classifiers/{id}: one of them.

At the provider both act on the whole account, which all callers of the gateway share; here they act on what the caller,
or the caller's team, has made.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from ..callers.keys import Caller
from ..core.classifiers import ABOUT_CLASSIFIERS, CLASSIFIER, CLASSIFIERS
from ..core.errors import Unavailable
from ..core.types import Json
from ..usage.record import CallRecord
from .http import HTTPExchange
from .openapi import refusals
from .routes import CALLER, CallerRoute, Calling, InForce
from .snapshots import Generation

# Key in a request's scope: the record of the call.
RECORD = "torii.record"


class ClassifiersRoute(CallerRoute):
    """A route about classifiers, for keys that may use them."""

    async def admit(self, generation: Generation, exchange: HTTPExchange) -> None:
        exchange.scope[CALLER] = await generation.handlers.caller(exchange, CLASSIFIERS.name)
        if generation.gateway.draining:
            raise Unavailable("this gateway is shutting down", retry_after=1)

    async def serve(
        self, generation: Generation, exchange: HTTPExchange, respond: Callable[[], Awaitable[Response]]
    ) -> Response:
        """A call like others: it counts against the caller's limits on requests, and has its rows in the ledger."""
        caller: Caller = exchange.scope[CALLER]
        with generation.handlers.admission.admit(caller, exchange.id) as admitted:
            if admitted.account is not None:
                exchange.limits = admitted.account.headers
            tag = b",".join(exchange.headers.get(b"x-torii-tag", ()))
            record = admitted.begin(ABOUT_CLASSIFIERS, tag)
            record.model_id = CLASSIFIER
            exchange.scope[RECORD] = record
            if admitted.uncounted:
                await admitted.count()
            try:
                with admitted.time():
                    response = await respond()
            except TimeoutError:
                raise record.timed_out() from None
            record.end(response.status_code)
            return response


async def _recorded(request: Request) -> CallRecord:
    found: CallRecord = request.scope[RECORD]
    return found


Recorded = Annotated[CallRecord, Depends(_recorded)]


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
# Clients of the provider list by GET or by POST.
LIST: Any = {
    "response_description": "Your classifiers, in a bare list.",
    "response_model": list[ClassifierEntry],
    "response_model_exclude_unset": True,
    "openapi_extra": refusals(429, 502, 503, 504),
}
BY_POST = "The same as GET, for clients of the provider that send a POST. A body is not read."


@router.post(
    "/classifiers",
    operation_id="list_classifiers_by_post",
    summary="Your classifiers, by POST",
    description=BY_POST,
    **LIST,
)
@router.get("/classifiers", operation_id="list_classifiers", summary="Your classifiers", **LIST)
async def list_classifiers(caller: Calling, now: InForce, record: Recorded) -> list[Json]:
    """The classifiers that your key has made; for a key of a team, those of the team."""
    return await now.gateway.client.classifiers.listed(caller, record)


@router.delete(
    "/classifiers/{id}",
    operation_id="delete_classifier",
    summary="Delete a classifier",
    response_description="It was deleted.",
    openapi_extra=refusals(404, 429, 502, 503, 504),
)
async def delete_classifier(
    classifier: ClassifierId, caller: Calling, now: InForce, record: Recorded
) -> DeletedClassifier:
    """Deletes a classifier of yours, or of your team. It cannot be undone."""
    await now.gateway.client.classifiers.delete(classifier, caller, record)
    return DeletedClassifier(classifier_id=classifier)
