"""The token budgets of DeepSearch runs, which the provider looks at between two steps of a run only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from ..core.types import Call
from ..storage.holds import OPEN, Charge, Decision
from ..usage.bounds import LEAST_BUDGET, budget_of, deepsearch_budget

METERED = ("tokens", "usd")  # the units that a run's budget bounds


@dataclass(frozen=True, slots=True)
class RunBudgets:
    """``most``: the largest budget of a run, None for no bound. ``factor``: a run may use this many times its
    budget."""

    most: int | None = None
    factor: float = 2

    def of(self, call: Call) -> Call:
        """The call with its budget in ``budget_tokens``: what it states, or that of its effort, and at most ``most``.

        Raises InvalidRequest if it states too little for a run, or no number.
        """
        return with_budget(call, deepsearch_budget(call, self.most, None, self.factor))

    def capped(self, call: Call) -> Call:
        """The same call, unless it may use more than ``most``. Raises InvalidRequest if its budget is no number."""
        return call if self.most is None or budget_of(call) <= self.most else with_budget(call, self.most)

    def smaller(self, call: Call, charged: Sequence[Charge], decision: Decision) -> Call | None:
        """The call with a budget that fits into what is left; None if that is too little for a run, or if something
        else was refused that no wait gives back."""
        assert decision.refused is not None
        fits = budget = budget_of(call)
        for charge, balance in zip(charged, decision.balances, strict=True):
            left = max(charge.limit - balance.spent - balance.held, 0)
            if charge.amount > left and charge.unit not in OPEN:
                fits = min(fits, budget * left // charge.amount) if charge.unit in METERED else 0
        return with_budget(call, fits) if LEAST_BUDGET <= fits < budget else None


def with_budget(call: Call, tokens: int) -> Call:
    return replace(call, body={**call.body, "budget_tokens": tokens})
