"""The prices of models: a table in the configuration, by upstream and model. There is no built-in price. No I/O.

Prices are in dollars for a million tokens; costs are whole nano-dollars, rounded up, without floats in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from ..core.money import nanodollars

MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Price:
    """``input`` and ``output`` are in nano-dollars for a million tokens, ``per_call`` in nano-dollars for each call.
    ``source`` and ``date`` say who stated it, and when."""

    input: int = 0
    output: int = 0
    per_call: int = 0
    source: str | None = None
    date: str | None = None

    def cost(self, prompt: int, completion: int, calls: int = 1) -> int:
        """Nano-dollars of these tokens and calls."""
        return self.per_call * calls - (-(prompt * self.input + completion * self.output) // MILLION)

    def most(self, prompt: int, completion: int, either: int = 0) -> int:
        """The most that one call can cost: ``either`` are tokens of which nobody knows yet what they will be."""
        if self.output > self.input:
            return self.cost(prompt, completion + either)
        return self.cost(prompt + either, completion)

    @property
    def flat(self) -> bool:
        """True if each call costs the same, however many tokens it has."""
        return self.input == self.output == 0


Amount = str | int | Decimal | None


def price_of(
    input: Amount = None,  # noqa: A002 - the name in the configuration
    output: Amount = None,
    per_call: Amount = None,
    source: str | None = None,
    date: str | date | None = None,
) -> Price:
    """A price from dollars for a million tokens in and out, and for each call. If only one of ``input`` and ``output``
    is given, it holds for both: providers that sell tokens of one kind state one price.

    Raises ValueError, which names the field, and for a price of nothing.
    """
    given = {"input": input, "output": output, "per_call": per_call}
    found = {}
    for name, amount in given.items():
        if amount is not None:
            try:
                found[name] = nanodollars(amount)
            except ValueError as error:
                raise ValueError(f"{name} {error}") from None
    if not found:
        raise ValueError("must have a price: input, output or per_call")
    into, out = found.get("input", found.get("output", 0)), found.get("output", found.get("input", 0))
    return Price(into, out, found.get("per_call", 0), source, None if date is None else str(date))


class Prices:
    """The table: prices by upstream and model. Letter case of models does not matter."""

    def __init__(self, table: Mapping[str, Mapping[str, Price]] | None = None) -> None:
        self.table = table or {}
        self._found = {
            (upstream, model.lower()): price
            for upstream, prices in self.table.items()
            for model, price in prices.items()
        }

    def of(self, upstream: str, *models: str) -> Price | None:
        """The price of a model at an upstream, by the first of its names that has one; None if there is none."""
        for model in models:
            if (price := self._found.get((upstream, model.lower()))) is not None:
                return price
        return None
