"""The token budgets of DeepSearch runs, which the provider looks at between two steps of a run only; and those of
pages, which it keeps to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from ..core.types import Call
from ..core.web import READ_TOKENS, READER, TOKEN_BUDGET, WebCall
from ..storage.holds import OPEN, Charge, Decision
from ..usage.bounds import LEAST_BUDGET, budget_of, deepsearch_budget, page_budget

METERED = ("tokens", "usd")  # the units that a run's budget bounds


@dataclass(frozen=True, slots=True)
class RunBudgets:
    """``most``: the largest budget of a run, None for no bound. ``factor``: a run may use this many times its
    budget."""

    most: int | None = None
    factor: float = 2

    def of(self, call: Call) -> Call:
        """The call with its budget in ``budget_tokens``: what it states, or that of its effort, and at most ``most``.

        A page gets one too, of at most READ_TOKENS. Raises InvalidRequest if a run's is too little, or no number.
        """
        if isinstance(call, WebCall):
            return with_budget(call, min(page_budget(call), READ_TOKENS))
        return with_budget(call, deepsearch_budget(call, self.most, None, self.factor))

    def capped(self, call: Call) -> Call:
        """The same call, unless it may use more than ``most``. Raises InvalidRequest if its budget is no number."""
        return call if self.most is None or budget_of(call) <= self.most else with_budget(call, self.most)

    def smaller(self, call: Call, charged: Sequence[Charge], decision: Decision) -> Call | None:
        """The call with a budget that fits into what is left; None if that is too little for a run, or if something
        else was refused that no wait gives back."""
        assert decision.refused is not None
        least, budget = (1, page_budget(call)) if isinstance(call, WebCall) else (LEAST_BUDGET, budget_of(call))
        fits = budget
        for charge, balance in zip(charged, decision.balances, strict=True):
            left = max(charge.limit - balance.spent - balance.held, 0)
            if charge.amount > left and charge.unit not in OPEN:
                fits = min(fits, budget * left // charge.amount) if charge.unit in METERED else 0
        return with_budget(call, fits) if least <= fits < budget else None


def is_budgeted(call: Call) -> bool:
    """True for a call whose budget the provider keeps to: a page. It ignores that of a search."""
    return isinstance(call, WebCall) and call.endpoint.name == READER.name


def with_budget(call: Call, tokens: int) -> Call:
    if isinstance(call, WebCall):
        return replace(call, headers={**call.headers, TOKEN_BUDGET: str(tokens)})
    return replace(call, body={**call.body, "budget_tokens": tokens})
