"""GET /admin/v1/usage and /admin/v1/costs: sums of the ledger by hour or day, in OpenAI's page of buckets or as CSV."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import msgspec
from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field
from starlette.responses import Response

from ...callers.calendar import Calendar
from ...core.errors import InvalidRequest
from ...core.names import shown
from ...core.types import Json
from ...storage.location import Location
from ..books import LedgerReader
from ..forms import Money, milliseconds, moment
from ..operators import Operator
from ..routes import Asked, InForce, TeamRoute
from ..snapshots import Generation
from .store import Books

if TYPE_CHECKING:
    from ...usage.pages import BucketsAsked

T = TypeVar("T")

Group = Literal["key", "team", "model", "endpoint", "upstream", "user"]
GROUPS: tuple[Group, ...] = ("key", "team", "model", "endpoint", "upstream", "user")
NOT_ASKED = dict.fromkeys(GROUPS)
SUMS = ("requests", "prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "cost")
DAYS, HOURS = 7, 24  # of a page, if no start is given
DAY_SECONDS = 86_400
SECONDS_OF = {"1h": 3600, "1d": DAY_SECONDS}
MOST_OF_CSV = 10_000  # buckets, more than a year of hours


class UsageSums(BaseModel):
    """The sums of one group of calls; a field of `group_by` that was not asked for is null, and so is the key of calls
    without a key."""

    key: str | None = None
    team: str | None = None
    model: str | None = None
    endpoint: str | None = None
    upstream: str | None = None
    user: str | None = None
    requests: int = Field(description="Callers' calls, answers from the cache included.")
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int = Field(description="What answers from the cache would have cost.")
    cost: Money


class UsageBucket(BaseModel):
    """An hour or a day in the zone; the first and the last are cut at start and end."""

    object: Literal["bucket"] = "bucket"
    start_time: int = Field(description="Unix time in seconds.")
    end_time: int = Field(description="Unix time in seconds; it does not belong to the bucket.")
    results: list[UsageSums]


class UsagePage(BaseModel):
    """OpenAI's page of buckets, the earliest first. To get the next one, send ``next_page`` as ``page``."""

    object: Literal["page"] = "page"
    data: list[UsageBucket]
    has_more: bool
    next_page: str | None


class UsageQuery:
    """The parameters of a page of buckets."""

    def __init__(
        self,
        start_time: Annotated[
            str | None,
            Query(max_length=40, description="Unix seconds or RFC 3339. By default 7 days, or 24 hours."),
        ] = None,
        end_time: Annotated[
            str | None, Query(max_length=40, description="Unix seconds or RFC 3339, not included. By default now.")
        ] = None,
        bucket_width: Annotated[Literal["1h", "1d"], Query()] = "1d",
        group_by: Annotated[
            list[str] | None, Query(description=f"Of {', '.join(GROUPS)}; repeated, or separated by commas.")
        ] = None,
        time_zone: Annotated[
            str | None, Query(max_length=64, description="Of the IANA list. By default `time_zone` of the gateway.")
        ] = None,
    ) -> None:
        self.end = int(time.time()) + 1 if end_time is None else milliseconds(end_time, "end_time") // 1000
        self.start = None if start_time is None else milliseconds(start_time, "start_time") // 1000
        self.width = bucket_width
        self.by = tuple(name for given in group_by or () for part in given.split(",") if (name := part.strip()))
        self.zone = time_zone

    def asked(self, zone: str, **more: Any) -> BucketsAsked:
        from ...usage.pages import BucketsAsked

        start = _first(self.end, self.width, zone) if self.start is None else self.start
        return BucketsAsked(start, self.end, self.width, self.by, zone, **more)


def _first(end: int, width: str, zone: str) -> int:
    """The beginning of the first of the buckets of one page, the last of which holds the second before ``end``."""
    try:
        calendar = Calendar(zone)
    except ValueError as error:
        right = "an IANA time zone such as Europe/Berlin"
        raise InvalidRequest(f"time_zone must be {right}; it is '{shown(zone)}'", param="time_zone") from error
    if width == "1h":
        midnight = calendar.window("day", end - 1)[0]
        return end - 1 - (end - 1 - midnight) % SECONDS_OF[width] - (HOURS - 1) * SECONDS_OF[width]
    start = calendar.window("day", end - 1)[0]
    for _ in range(DAYS - 1):
        start = calendar.window("day", start - 1)[0]
    return max(0, start)


class UsageFilter:
    """Whose calls, and which page of the answer."""

    def __init__(
        self,
        key: Annotated[str | None, Query(max_length=100, description="Only calls of the key with this id.")] = None,
        team: Annotated[str | None, Query(max_length=100, description="Only calls of this team.")] = None,
        limit: Annotated[int | None, Query(ge=1, description="Buckets of a page: 7 days, or 24 hours.")] = None,
        page: Annotated[str | None, Query(max_length=100, description="`next_page` of the page before.")] = None,
        # The query's own name.
        format: Annotated[Literal["json", "csv"], Query(description="`csv` has all buckets.")] = "json",  # noqa: A002
    ) -> None:
        self.key, self.team, self.limit, self.page, self.format = key, team, limit, page, format


Asking = Annotated[UsageQuery, Depends()]
Filter = Annotated[UsageFilter, Depends()]
CSV: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/csv": {"schema": {"type": "string"}}}},
}

router = APIRouter(route_class=TeamRoute, tags=["usage"])


@router.get(
    "/usage",
    operation_id="usage",
    summary="Calls and tokens by time",
    response_description="A page of buckets.",
    response_model=UsagePage,
    responses=CSV,
)
async def usage(query: Asking, which: Filter, asked: Asked, books: Books, now: InForce) -> Any:
    """Calls belong to the bucket of their start. Each bucket of the period is there, also without calls."""
    return await _answered(query, which, asked, books, now)


@router.get(
    "/costs",
    operation_id="costs",
    summary="Costs by time",
    response_description="A page of buckets.",
    response_model=UsagePage,
    responses=CSV,
)
async def costs(query: Asking, which: Filter, asked: Asked, books: Books, now: InForce) -> Any:
    """The same sums as `usage`. Calls of models without a price cost nothing."""
    return await _answered(query, which, asked, books, now)


async def _answered(
    query: UsageQuery, which: UsageFilter, asked: Operator, books: LedgerReader, now: Generation
) -> Any:
    team = asked.only(which.team)
    zone = query.zone or now.settings.time_zone

    def read(location: Location) -> str | bytes:
        """The body is made in the thread too, as it may have thousands of results."""
        from ...usage.pages import usage_buckets

        ask = query.asked(zone, key=which.key, team=team, limit=which.limit, page=which.page)
        if which.format == "csv":
            return as_csv(_all(location, ask)["data"], query.by)
        return as_json(usage_buckets(location, ask))

    kind = "text/csv" if which.format == "csv" else "application/json"
    return Response(await paged(books, read), media_type=kind)


def _all(location: Location, ask: BucketsAsked) -> Json:
    """All pages as one. Raises as ``usage_buckets``."""
    from ...usage.pages import MOST, MOST_OF_USERS, usage_buckets

    if (ask.end - ask.start) / SECONDS_OF[ask.width] > MOST_OF_CSV:
        wrong = f"start_time must be later: a table has at most {MOST_OF_CSV} buckets"
        raise InvalidRequest(wrong, param="start_time")
    ask = replace(ask, limit=(MOST_OF_USERS if "user" in ask.by else MOST)[ask.width], page=None)
    pages = [usage_buckets(location, ask)]
    while page := pages[-1]["next_page"]:
        pages.append(usage_buckets(location, replace(ask, page=page)))
    return {"data": [bucket for each in pages for bucket in each["data"]]}


async def paged(books: LedgerReader, read: Callable[[Location], T]) -> T:
    """The answer of a report. Raises StorageUnavailable, and InvalidRequest for what cannot be asked."""

    def work(location: Location) -> T:
        from ...usage.pages import WrongPage

        try:
            return read(location)
        except WrongPage as error:
            got = shown(str(error.got))
            raise InvalidRequest(f"{error.field} must be {error.expected}; it is '{got}'", param=error.field) from None

    return await books.run(work)


def as_json(page: Json) -> bytes:
    """The page as ``UsagePage`` writes it, which takes twenty times as long."""
    for bucket in page["data"]:
        bucket["results"] = [NOT_ASKED | result for result in bucket["results"]]
    return msgspec.json.encode(page)


def as_csv(buckets: Sequence[Json], by: Sequence[str]) -> str:
    """A line for each result, with the beginning and end of its bucket in RFC 3339. Text that a spreadsheet would take
    for a formula begins with an apostrophe."""
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\r\n")
    lines.writerow(["start_time", "end_time", *by, *SUMS])
    for bucket in buckets:
        ends = [moment(bucket[name] * 1000) for name in ("start_time", "end_time")]
        for result in bucket["results"]:
            lines.writerow([*ends, *(_plain(result[name]) for name in by), *(result[name] for name in SUMS)])
    return out.getvalue()


def _plain(text: str | None) -> str:
    return f"'{text}" if text and text[0] in "=+-@\t\r" else text or ""
