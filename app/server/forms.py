"""Forms that the operator's resources share: lists by pages, times, amounts of money."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Generic, Literal, TypeVar

from fastapi import Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from ..config.accounts import LAST_YEAR
from ..core.errors import InvalidRequest
from ..core.names import shown
from ..core.types import Json

T = TypeVar("T")
Entry = TypeVar("Entry", bound=BaseModel)

Moment = Annotated[str, Field(description="RFC 3339, in UTC.", examples=["2026-11-30T12:00:00Z"])]
Money = Annotated[str, Field(description="Dollars, as a decimal number in text.", examples=["12.5"])]


class Form(BaseModel):
    """A body that is no section of the configuration. A field that it does not have is refused."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class ListOf(BaseModel, Generic[Entry]):
    """OpenAI's list envelope. To get the next page, send ``last_id`` as ``after``."""

    object: Literal["list"] = "list"
    data: list[Entry]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Paging:
    """The parameters of a list."""

    def __init__(
        self,
        after: Annotated[str | None, Query(max_length=200, description="The id of the last entry before.")] = None,
        limit: Annotated[int, Query(ge=1, le=100, description="The most entries of a page.")] = 20,
    ) -> None:
        self.after = after
        self.limit = limit

    def cut(self, entries: Sequence[T], id_of: Callable[[T], str]) -> tuple[Sequence[T], bool]:
        """The page of all ``entries``, and True if there are more. Raises InvalidRequest if ``after`` is the id of none
        of them."""
        first = 0
        if self.after is not None:
            found = (place for place, entry in enumerate(entries) if id_of(entry) == self.after)
            first = next(found, -1) + 1
            if not first:
                raise unknown_after(self.after)
        return entries[first : first + self.limit], first + self.limit < len(entries)

    def page(self, entries: Sequence[T], id_of: Callable[[T], str], written: Callable[[T], Json]) -> Json:
        """The list envelope around the page of all ``entries``. Raises as ``cut``."""
        chosen, has_more = self.cut(entries, id_of)
        return listed([written(entry) for entry in chosen], [id_of(entry) for entry in chosen], has_more)


def listed(data: Sequence[Json], ids: Sequence[str], has_more: bool) -> Json:
    """The envelope around the entries of one page."""
    ends = (ids[0], ids[-1]) if ids else (None, None)
    return {"object": "list", "data": data, "first_id": ends[0], "last_id": ends[1], "has_more": has_more}


Pages = Annotated[Paging, Depends()]


def unknown_after(after: str) -> InvalidRequest:
    wrong = f"after must be the id of an entry of this list, such as last_id of a page, not {shown(after)!r}"
    return InvalidRequest(wrong, param="after")


def moment(milliseconds: int) -> str:
    """A Unix time in milliseconds as RFC 3339 in UTC, with milliseconds only if there are any."""
    exact = "milliseconds" if milliseconds % 1000 else "seconds"
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec=exact).replace("+00:00", "Z")


def moment_or_none(milliseconds: int | None) -> str | None:
    return None if milliseconds is None else moment(milliseconds)


def milliseconds(text: str, field: str) -> int:
    """The Unix time in milliseconds of a time in RFC 3339 or of Unix seconds. Raises InvalidRequest."""
    try:
        if text.isdecimal():
            found = datetime.fromtimestamp(int(text), UTC)
        else:
            found = datetime.fromisoformat(text)
            found = found if found.tzinfo else found.replace(tzinfo=UTC)
        if found.year > LAST_YEAR:  # the day after has no date
            raise OverflowError
        return round(found.timestamp() * 1000)
    except (ValueError, OverflowError, OSError):
        right = "must be a time in RFC 3339, such as 2026-11-30T12:00:00Z, or in Unix seconds"
        raise InvalidRequest(f"{field} {right}, not {shown(text)!r}", param=field) from None
