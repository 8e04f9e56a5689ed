"""The next target when one fails: the one retry loop there is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from .errors import UpstreamError, UpstreamRateLimited
from .types import Route, Target

T = TypeVar("T")


async def first(route: Route, attempt: Callable[[Target], Awaitable[T]]) -> T:
    """What the first target that answers gives. Raises the UpstreamError that tells the caller most.

    A request that is wrong is wrong everywhere, so that ends the loop; and a DeepSearch run that an
    upstream may have begun is paid for, so it is not begun again elsewhere.
    """
    failures: list[UpstreamError] = []
    for target in route.targets:
        try:
            return await attempt(target)
        except UpstreamError as failure:
            failure.upstream = target.upstream.name
            if target.model.deepsearch and (failure.accepted or (failure.status < 500 and failure.status != 429)):
                failure.should_retry = False
            failures.append(failure)
            if not failure.elsewhere or (failure.accepted and target.model.deepsearch):
                break
    raise _telling(failures)


def _telling(failures: list[UpstreamError]) -> UpstreamError:
    """The last failure, unless an earlier one says when to come back."""
    last = failures[-1]
    if not last.elsewhere:
        return last
    waits = [failure for failure in failures if isinstance(failure, UpstreamRateLimited)]
    return min(waits, key=lambda failure: failure.retry_after or 60.0) if waits else last
