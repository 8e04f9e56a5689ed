"""GET /admin/v1/calls: the ledger, row by row."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from ...core.types import Json
from ...storage.location import Location
from ..forms import ListOf, Moment, Money, Pages, milliseconds
from ..routes import Asked, TeamRoute
from .store import Books
from .usage import paged


class CallLine(BaseModel):
    """A request to an upstream, an answer from the cache, or refusals of a minute for the same reason. A refusal has no
    more than time, key, team, status, count and reason."""

    object: Literal["call"] = "call"
    id: str
    kind: Literal["call", "cached", "refusal"]
    time: Moment
    request_id: str | None = None
    caller: str | None = None
    key: str | None = Field(default=None, description="The key's public id.")
    team: str | None = Field(default=None, description="The team's id.")
    endpoint: str | None = None
    model: str | None = Field(default=None, description="As the caller wrote it.")
    model_id: str | None = None
    upstream: str | None = None
    upstream_model: str | None = None
    upstream_key: str | None = Field(default=None, description="The name of the gateway's key there.")
    status: int | None = None
    error: str | None = None
    count: int = Field(default=1, description="The number of refusals; 1 for a call.")
    reason: str | None = Field(default=None, description="Of a refusal: the limit or budget.")
    requests: int | None = Field(default=None, description="1 in one row of each caller's call, 0 in its others.")
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int | None = None
    estimated: bool | None = None
    cost: Money | None = Field(default=None, description="Null without a price.")
    price_date: str | None = None
    seconds: float | None = None
    first_event_seconds: float | None = None
    attempts: int | None = None
    stream: bool | None = None
    user: str | None = None
    tag: str | None = None
    run_id: str | None = None


class CallList(ListOf[CallLine]):
    """A page of the ledger, the latest first."""


class CallsFilter:
    """A choice of the ledger's rows."""

    def __init__(
        self,
        key: Annotated[str | None, Query(max_length=100, description="Only of the key with this id.")] = None,
        team: Annotated[str | None, Query(max_length=100, description="Only of this team.")] = None,
        model: Annotated[str | None, Query(max_length=256, description="Only of this model.")] = None,
        status: Annotated[int | None, Query(ge=100, le=599, description="Only with this HTTP status.")] = None,
        request_id: Annotated[str | None, Query(max_length=100, description="Only of this call.")] = None,
    ) -> None:
        self.key, self.team, self.model, self.status, self.request_id = key, team, model, status, request_id


class CallsSpan:
    """The kind of rows, and their period."""

    def __init__(
        self,
        kind: Annotated[Literal["call", "cached", "refusal"] | None, Query(description="Only of this kind.")] = None,
        start_time: Annotated[str | None, Query(max_length=40, description="Unix seconds or RFC 3339.")] = None,
        end_time: Annotated[
            str | None, Query(max_length=40, description="Unix seconds or RFC 3339, not included.")
        ] = None,
    ) -> None:
        self.kind = kind
        self.start = None if start_time is None else milliseconds(start_time, "start_time") // 1000
        self.end = None if end_time is None else milliseconds(end_time, "end_time") // 1000


router = APIRouter(route_class=TeamRoute, tags=["usage"])


@router.get("/calls", operation_id="calls", summary="The ledger, row by row", response_description="A page of rows.")
async def calls(
    which: Annotated[CallsFilter, Depends()],
    span: Annotated[CallsSpan, Depends()],
    pages: Pages,
    asked: Asked,
    books: Books,
) -> CallList:
    """The latest first. A call has one row for each upstream that it asked, all with its request id."""
    team = asked.only(which.team)

    def read(location: Location) -> Json:
        from ...usage.pages import CallsAsked, calls_page

        ask = CallsAsked(
            key=which.key,
            team=team,
            model=which.model,
            status=which.status,
            request_id=which.request_id,
            kind=span.kind,
            start=span.start,
            end=span.end,
            limit=pages.limit,
            after=pages.after,
        )
        return calls_page(location, ask)

    return CallList.model_validate(await paged(books, read))
