"""The ledger in pages, as the operator's API answers them: sums by hour or day, and calls one by one.

Importing this costs 37 MB and 0.3 s, since the queries are SQLAlchemy's: import it when the first page is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from ..core.types import Json
from ..storage.buckets import WIDTHS, bounds_of, zone_of
from ..storage.listed import Which, place, rows
from ..storage.location import Location
from ..storage.queries import bucket_sums, is_folded
from .reports import dollars, moment

BY = {
    "key": "key_id",
    "team": "team",
    "model": "model",
    "endpoint": "endpoint",
    "upstream": "upstream",
    "user": "user",
}
KINDS = ("call", "cached", "refusal")
USUAL = {"1h": 24, "1d": 7}  # buckets of a page
MOST = {"1h": 744, "1d": 366}
MOST_OF_USERS = {"1h": 48, "1d": 31}  # there may be many, and few of them are rolled up
MOST_CALLS = 100


class Pace(NamedTuple):
    """The pace at which a page with many results is made: ``first`` buckets at once, then ``growth`` times as many as
    before, until there are about ``most`` results. So a page takes some hundredths of a second however many keys and
    users there are."""

    first: int
    growth: int
    most: int


FOLDED = Pace(31, 12, 6000)
ROLLED = Pace(14, 8, 3000)
HOURS = Pace(24, 6, 5000)
USER_ROWS = Pace(2, 4, 3000)


class WrongPage(ValueError):
    """A value that cannot be: ``field`` is its name, ``expected`` says in words what is right."""

    def __init__(self, field: str, got: object, expected: str) -> None:
        super().__init__(f"{field} is {got!r}; it must be {expected}")
        self.field, self.got, self.expected = field, got, expected


@dataclass(frozen=True, slots=True)
class BucketsAsked:
    """Calls that came from ``start`` on and before ``end``, Unix seconds, in buckets of ``width``, ``1h`` or ``1d``:
    hours and days as they are in ``zone`` (IANA). The first and the last bucket are cut at ``start`` and ``end``.

    ``by``: names of ``BY``. ``key`` and ``team``: only this key's public id and this team's id. ``limit``: buckets of a
    page, by default ``USUAL``, at most ``MOST``, or
    ``MOST_OF_USERS`` by user. ``page``: the ``next_page`` of the page before.
    """

    start: int
    end: int
    width: str = "1d"
    by: tuple[str, ...] = ()
    zone: str = "UTC"
    key: str | None = None
    team: str | None = None
    limit: int | None = None
    page: str | None = None


@dataclass(frozen=True, slots=True)
class CallsAsked:
    """A choice of rows: those of a ``key``'s public id, a ``team``'s id, a ``model``'s id, a ``status``, a
    ``request_id``, a ``kind`` (call, cached, refusal), and of calls from ``start`` on and before ``end``, Unix seconds.

    ``limit``: at most 100. ``after``: the ``id`` of the last row of the page before.
    """

    key: str | None = None
    team: str | None = None
    model: str | None = None
    status: int | None = None
    request_id: str | None = None
    kind: str | None = None
    start: int | None = None
    end: int | None = None
    limit: int = 20
    after: str | None = None


def usage_buckets(location: Location, asked: BucketsAsked) -> Json:
    """OpenAI's page of buckets:

    ``{"object": "page", "data": [{"object": "bucket", "start_time": s, "end_time": s, "results": [...]}],
    "has_more": false, "next_page": null}``

    Each bucket of the period is there, and on a page fewer than ``limit`` if they have thousands of results, with one
    result for each group that has calls: the fields of ``by`` (null for
    calls without a key, a team or a user), requests, prompt_tokens, completion_tokens, total_tokens, cached_tokens, and
    cost, dollars as a decimal string. ``user`` is known while rows are kept; before that its buckets are empty.

    Raises WrongPage, and StoreError if the ledger cannot be read.
    """
    _check(asked)
    limit = asked.limit or USUAL[asked.width]
    start = asked.start if asked.page is None else _start(asked)
    bounds, more = bounds_of((start * 1000, asked.end * 1000), asked.width, zone_of(asked.zone), limit)
    results = _results(location, asked, bounds)
    if len(results) < len(bounds) - 1:
        bounds, more = bounds[: len(results) + 1], True
    data = [
        {"object": "bucket", "start_time": since // 1000, "end_time": until // 1000, "results": found}
        for since, until, found in zip(bounds, bounds[1:], results, strict=False)
    ]
    return {
        "object": "page",
        "data": data,
        "has_more": more,
        "next_page": f"page_{bounds[-1] // 1000}" if more else None,
    }


def _results(location: Location, asked: BucketsAsked, bounds: list[int]) -> list[list[Json]]:
    """The results of each bucket. If they are many, there are some for the first buckets only.

    The first buckets tell how many results the next ones are likely to have.
    """
    where = {name: value for name, value in (("key_id", asked.key), ("team", asked.team)) if value is not None}
    groups = [BY[name] for name in asked.by]
    hours = asked.width == "1h"
    pace = HOURS if hours else FOLDED if is_folded(groups, where) else USER_ROWS if "user" in groups else ROLLED
    results: list[list[Json]] = []
    count, step = 0, pace.first
    while step and len(results) < len(bounds) - 1:
        part = bounds[len(results) : len(results) + step + 1]
        found: list[list[Json]] = [[] for _ in part[1:]]
        for row in bucket_sums(location, part, groups, where, hours=hours):
            found[row[0]].append(_result(asked.by, row))
        results += found
        count += sum(map(len, found))
        step = min(pace.growth * len(results), max(0, pace.most - count) * len(results) // max(count, 1))
    return results


def _result(by: tuple[str, ...], row: tuple[Any, ...]) -> Json:
    """A page has thousands of these, hence the plain form."""
    last = 1 + len(by)
    values = row[1:last]
    result: Json = dict(zip(by, values, strict=True))
    if not all(values):
        result.update((name, None) for name, value in zip(by, values, strict=True) if not value)
    requests, prompt, completion, total, cached, cost = row[last : last + 6]
    result["requests"] = int(requests)
    result["prompt_tokens"] = int(prompt)
    result["completion_tokens"] = int(completion)
    result["total_tokens"] = int(total)
    result["cached_tokens"] = int(cached)
    result["cost"] = dollars(int(cost))
    return result


def _check(asked: BucketsAsked) -> None:
    if asked.width not in WIDTHS:
        raise WrongPage("bucket_width", asked.width, "1h or 1d")
    if wrong := [name for name in asked.by if name not in BY]:
        raise WrongPage("group_by", wrong[0], f"one of {', '.join(BY)}")
    if len(set(asked.by)) < len(asked.by):
        raise WrongPage("group_by", ",".join(asked.by), "a list without repetitions")
    if not 0 <= asked.start < asked.end < 2**40:
        raise WrongPage("end_time", asked.end, "Unix seconds after start_time")
    most = (MOST_OF_USERS if "user" in asked.by else MOST)[asked.width]
    if asked.limit is not None and not 1 <= asked.limit <= most:
        raise WrongPage("limit", asked.limit, f"from 1 to {most} for buckets of {asked.width}")
    try:
        zone_of(asked.zone)
    except ValueError:
        raise WrongPage("time_zone", asked.zone, "an IANA time zone such as Europe/Berlin") from None


def _start(asked: BucketsAsked) -> int:
    text = (asked.page or "").removeprefix("page_")
    if text.isascii() and text.isdecimal() and len(text) < 13 and asked.start <= int(text) < asked.end:
        return int(text)
    raise WrongPage("page", asked.page, "the next_page of an earlier answer to the same question")


def calls_page(location: Location, asked: CallsAsked) -> Json:
    """A page of the ledger's rows and of refusals, the latest first, as OpenAI's list:

    ``{"object": "list", "data": [...], "first_id": id, "last_id": id, "has_more": false}``

    Each row has ``id``, which is opaque; ``object``: ``call``; ``kind``; ``time``, RFC 3339 in UTC; ``key``, ``team``;
    ``count`` and ``reason``. Rows of kind call and cached, with count 1 and reason null, also have ``caller``,
    ``endpoint``, ``model`` as the caller gave it, ``model_id``, ``upstream``, ``upstream_model``, ``upstream_key``,
    ``status``, ``error``, the tokens, ``estimated``, ``cost`` (a decimal string, null without a price), ``price_date``,
    ``seconds``, ``first_event_seconds``, ``attempts``, ``stream``, ``user``, ``tag``, ``run_id``, ``request_id`` and
    ``requests``. A refusal stands for ``count`` calls of one minute, and has status 429.

    Raises WrongPage, and StoreError if the ledger cannot be read.
    """
    if asked.kind is not None and asked.kind not in KINDS:
        raise WrongPage("kind", asked.kind, f"one of {', '.join(KINDS)}")
    if not 1 <= asked.limit <= MOST_CALLS:
        raise WrongPage("limit", asked.limit, f"from 1 to {MOST_CALLS}")
    try:
        after = None if asked.after is None else place(asked.after)
    except ValueError:
        raise WrongPage("after", asked.after, "the id of a row of an earlier answer") from None
    span = tuple(None if time is None else time * 1000 for time in (asked.start, asked.end))
    which = Which(
        asked.key, asked.team, asked.model, asked.status, asked.request_id, asked.kind, since=span[0], until=span[1]
    )
    found = rows(location, which, asked.limit + 1, after)
    data = [_row(row) for row in found[: asked.limit]]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(found) > asked.limit,
    }


def _row(row: Json) -> Json:
    made = {"object": "call", **row, "time": moment(row["time"])}
    if row["kind"] != "refusal":
        made |= {"estimated": bool(row["estimated"]), "stream": bool(row["stream"])}
        made["cost"] = None if row["cost"] is None else dollars(row["cost"])
    return made
