"""Pure functions of a batch: one call made of its parts, and each part's share of answer, usage or failure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from itertools import islice
from typing import Any

import msgspec
from msgspec.structs import replace

from ..core.errors import (
    UpstreamAuth,
    UpstreamError,
    UpstreamFailed,
    UpstreamMisplaced,
    UpstreamQuota,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnreachable,
    rate_limited,
)
from ..core.types import Call, Json, Model
from ..core.usage import shares
from ..usage.bounds import bound


def merged(parts: Sequence[Call]) -> Call:
    """One call with the inputs of all parts, in order. The other fields are those of the first part."""
    name = parts[0].endpoint.inputs
    return replace(parts[0], body={**parts[0].body, name: [item for part in parts for item in part.body[name]]})


def weight(part: Call, model: Model) -> int:
    """The part's weight in a batch: the most tokens that it can cost, as held for it, so that no share of a bill within
    the sum of these is more than was held. The length of its inputs if nobody knows that."""
    return bound(part, model).tokens or len(msgspec.json.encode(part.body[part.endpoint.inputs]))


def divided(answer: Json, parts: Sequence[Call], weights: Sequence[int]) -> list[Json]:
    """The answer to each part: its vectors, in order and with its own indexes, and its share of the tokens by weight.
    A part of weight 0 pays nothing."""
    if len(parts) == 1:
        return [answer]
    name = parts[0].endpoint.items
    items = iter(answer[name])
    return [
        {**answer, name: _numbered(islice(items, len(part.body[part.endpoint.inputs]))), "usage": usage}
        for part, usage in zip(parts, billed(answer["usage"], weights), strict=True)
    ]


def _numbered(items: Iterable[Json]) -> list[Json]:
    return [{**item, "index": place} for place, item in enumerate(items)]


def billed(usage: Json | None, weights: Sequence[int]) -> list[Any]:
    """The share of each part in the usage, by weight; None for each if the usage is unknown."""
    if usage is None or len(weights) == 1:
        return [usage] * len(weights)
    return _usages(usage, list(weights) if any(weights) else [1] * len(weights))


def _usages(usage: Json, weights: list[int]) -> list[Json]:
    """For each weight its share of every count: whole numbers whose sum is the count."""
    parts: list[Json] = [{} for _ in weights]
    for name, count in usage.items():
        values: list[Any] = _usages(count, weights) if isinstance(count, dict) else [count] * len(weights)
        if type(count) is int:
            values = list(shares(count, weights))
        for part, value in zip(parts, values, strict=True):
            part[name] = value
    return parts


def of_all(failure: UpstreamError) -> UpstreamError:
    """The failure for every member, without the upstream's own words: they may quote another caller."""
    failure = copy(failure)
    failure.message = _in_our_words(failure, failure.upstream or "the upstream")
    failure.param = None
    return failure


def _in_our_words(failure: UpstreamError, upstream: str) -> str:
    match failure:
        case UpstreamAuth() | UpstreamQuota() | UpstreamMisplaced():
            return failure.message  # in our words already
        case UpstreamRateLimited():
            return rate_limited(upstream, failure.retry_after or 1.0).message
        case UpstreamTimeout():
            return f"{upstream} did not answer in time"
        case UpstreamUnreachable():
            return f"{upstream} cannot be reached"
        case UpstreamFailed(status=503):
            return f"{upstream} is unavailable"
        case UpstreamRejected():
            return f"{upstream} rejected the request"
    return f"{upstream} failed to answer the request"
