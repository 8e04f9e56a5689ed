"""Money: integers of nano-dollars inside, decimal strings outside. No floats, so that sums are exact."""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal
from typing import Any

DOLLAR = 1_000_000_000  # nano-dollars
MOST = 9_000_000  # dollars, in nano-dollars within the 53 bits that a JSON number keeps

_PLAIN = re.compile(r"\d{1,12}(\.\d{1,18})?", re.ASCII)


def nanodollars(amount: Any) -> int:
    """The nano-dollars of ``"12.50"``, a whole number of dollars, or a Decimal; parts of a nano-dollar are rounded
    up.

    Raises ValueError for anything else, for a negative amount, and for more than 9 million dollars. A float is taken as
    it is written, as 0.1 in YAML.
    """
    if isinstance(amount, bool) or not isinstance(amount, str | int | float | Decimal):
        raise ValueError(_WRONG)
    written = (
        f"{Decimal(repr(amount)):f}"
        if isinstance(amount, float)
        else f"{amount:f}"
        if isinstance(amount, Decimal)
        else str(amount)
    )
    if not _PLAIN.fullmatch(written):
        raise ValueError(_WRONG)
    dollars = Decimal(written)
    if dollars > MOST:
        raise ValueError(f"must be at most {MOST} dollars")
    return int((dollars * DOLLAR).to_integral_value(ROUND_CEILING))


_WRONG = 'must be an amount in dollars, as "12.50"'


def amount_of(unit: str, number: int) -> str | int:
    """An amount in its JSON form: dollars are decimal strings, all others are numbers."""
    return dollars(number) if unit == "usd" else number


def dollars(nanodollars: int) -> str:
    """The amount as a decimal string: ``"12.5"``, ``"0"``, ``"-0.000000001"``."""
    whole, part = divmod(abs(nanodollars), DOLLAR)
    sign = "-" if nanodollars < 0 else ""
    return f"{sign}{whole}.{part:09d}".rstrip("0").removesuffix(".") if part else f"{sign}{whole}"
