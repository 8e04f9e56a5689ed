"""Charges, refusals and headers of limits and budgets: values in, values out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.callers.calendar import Calendar
from app.callers.limits import (
    ALWAYS,
    Budget,
    Demand,
    Limits,
    Scope,
    charges,
    duration,
    filter_of,
    headers,
    refusal,
)
from app.core.errors import BudgetExhausted, InvalidRequest, LimitExceeded, ModelNotPriced, ToriiError
from app.core.money import DOLLAR, dollars, nanodollars
from app.storage.filters import fits, matches, written
from app.storage.holds import FOREVER, MINUTE, Balance, Charge, Decision, Hold
from app.storage.ledger_file import CallRow, LedgerFile
from app.usage.bounds import Bound

from ..ledger import call

NOW = 1_790_000_000  # 2026-09-21T14:13:20Z
DAY = (1_789_948_800, 1_790_035_200)
MONTH = (1_788_220_800, 1_790_812_800)
CALENDAR = Calendar()
WARN_AT = (0.5, 0.8)
BOUND = Bound(1000, 5 * DOLLAR)
EMBEDDINGS = Demand("embeddings", "jina-embeddings-v3", BOUND)

KEY = Scope(
    "key:abc",
    "CI",
    Limits(requests_per_minute=60, tokens_per_minute=100_000, concurrent_calls=4, concurrent_runs=1),
    (Budget("usd", 10 * DOLLAR, "month"),),
)
TEAM = Scope("team:t1", "research", Limits(requests_per_day=1000, tokens_per_day=1_000_000))
ORGANIZATION = Scope("organization", "organization", budgets=(Budget("tokens", 10**9, "total", endpoints=("chat",)),))


def named(found: tuple[Charge, ...]) -> dict[str, int]:
    return {charge.name: charge.amount for charge in found}


def test_each_limit_and_budget_that_counts_a_call_is_charged() -> None:
    assert charges((KEY, TEAM, ORGANIZATION), CALENDAR, NOW, EMBEDDINGS) == (
        Charge("key:abc", "requests", MINUTE, "", 60, 1, "requests_per_minute"),
        Charge("key:abc", "calls", ALWAYS, "", 4, 1, "concurrent_calls"),
        Charge("key:abc", "tokens", MINUTE, "", 100_000, 1000, "tokens_per_minute"),
        Charge("key:abc", "usd", MONTH, "", 10 * DOLLAR, 5 * DOLLAR, "usd/month", WARN_AT),
        Charge("team:t1", "requests", DAY, "", 1000, 1, "requests_per_day"),
        Charge("team:t1", "tokens", DAY, "", 1_000_000, 1000, "tokens_per_day"),
    )


def test_a_run_and_a_filter() -> None:
    found = charges((KEY, ORGANIZATION), CALENDAR, NOW, Demand("chat", "jina-deepsearch-v1", BOUND, run=True))
    assert found[2] == Charge("key:abc", "runs", ALWAYS, "", 1, 1, "concurrent_runs")
    assert found[-1] == Charge(
        "organization", "tokens", (0, FOREVER), '{"endpoints":["chat"]}', 10**9, 1000, "tokens/total", WARN_AT
    )


def test_a_call_before_its_route_and_a_further_request_of_it() -> None:
    """Requests and open calls are charged once for each call, tokens and dollars for each request to an upstream."""
    begun = charges((KEY, TEAM), CALENDAR, NOW, EMBEDDINGS._replace(bound=None))
    assert [*named(begun)] == ["requests_per_minute", "concurrent_calls", "requests_per_day"]
    further = charges((KEY, TEAM), CALENDAR, NOW, EMBEDDINGS._replace(requests=0))
    assert [*named(further)] == ["tokens_per_minute", "usd/month", "tokens_per_day"]
    cached = charges((KEY, TEAM), CALENDAR, NOW, EMBEDDINGS._replace(bound=Bound(0, 0)))
    assert named(cached)["tokens_per_minute"] == named(cached)["usd/month"] == 0


def test_a_limit_and_a_budget_of_one_counter_are_both_charged() -> None:
    """The refusal and the headers name either; the store charges their counter once."""
    day = Scope("key:k", "k", Limits(tokens_per_day=500), (Budget("tokens", 300, "day", warn_at=(0.9,)),))
    limit, budget = charges((day,), CALENDAR, NOW, EMBEDDINGS)
    assert limit == Charge("key:k", "tokens", DAY, "", 500, 1000, "tokens_per_day")
    assert budget == Charge("key:k", "tokens", DAY, "", 300, 1000, "tokens/day", (0.9,))


def test_a_call_that_nobody_can_bound_names_the_field_to_send() -> None:
    unbounded = EMBEDDINGS._replace(bound=Bound(None, None, "max_tokens"))
    budget = Scope("key:k", "k", budgets=(Budget("usd", 5, "day"),))
    for scope, name in ((TEAM, "limit tokens_per_day"), (KEY, "limit tokens_per_minute"), (budget, "budget usd/day")):
        with pytest.raises(InvalidRequest, match=f"has the {name}, .*: send max_tokens$") as refused:
            charges((scope,), CALENDAR, NOW, unbounded)
        assert (refused.value.status, refused.value.param) == (400, "max_tokens")
    requests = Scope("key:k", "k", Limits(requests_per_minute=1), (Budget("requests", 5, "day"),))
    assert len(charges((requests,), CALENDAR, NOW, unbounded)) == 2
    priced = Scope("key:k", "k", budgets=(Budget("usd", 5, "day"),))
    assert charges((priced,), CALENDAR, NOW, EMBEDDINGS._replace(bound=Bound(None, 3)))[0].amount == 3


def test_a_model_without_a_price() -> None:
    unpriced = EMBEDDINGS._replace(bound=Bound(1000))
    with pytest.raises(
        ModelNotPriced, match="the key 'CI' has the budget usd/month, and jina-embeddings-v3 has no price"
    ):
        charges((KEY,), CALENDAR, NOW, unpriced)
    assert named(charges((KEY,), CALENDAR, NOW, unpriced._replace(unpriced=True)))["usd/month"] == 0


def refused(demand: Demand, name: str, balance: Balance, now: float = NOW) -> ToriiError:
    """The refusal of a demand by the limit ``name``, whose counter is as given."""
    scopes = (KEY, TEAM, ORGANIZATION)
    found = charges(scopes, CALENDAR, now, demand)
    place = [charge.name for charge in found].index(name)
    balances = [balance if number == place else Balance(0, 0, None) for number in range(len(found))]
    return refusal(scopes, found, Decision(place, False, tuple(balances)), now)


def test_the_refusal_of_a_limit() -> None:
    error = refused(EMBEDDINGS, "requests_per_minute", Balance(60, 0, NOW + 17), NOW + 0.4)
    assert (error.status, error.code) == (429, "rate_limit_exceeded")
    assert error.headers() == {"retry-after": "17"}
    assert error.message == (
        "the key 'CI' has the limit requests_per_minute: 0 of 60 requests left, and this call may need "
        "1 request. It fits again at 2026-09-21T14:13:37Z"
    )
    day = refused(EMBEDDINGS, "tokens_per_day", Balance(999_500, 200, DAY[1]))
    assert day.headers() == {"retry-after": str(DAY[1] - NOW), "x-should-retry": "false"}
    assert "the team 'research' has the limit tokens_per_day: 300 of 1000000 tokens left" in day.message
    assert "open calls hold 200 tokens" in day.message
    calls = refused(EMBEDDINGS, "concurrent_calls", Balance(0, 4, None))
    assert calls.headers() == {"retry-after": "1"}
    assert "4 of 4 are open" in calls.message


def test_the_refusal_of_a_budget() -> None:
    error = refused(EMBEDDINGS, "usd/month", Balance(7 * DOLLAR + 1, 0, None))
    assert isinstance(error, BudgetExhausted)
    assert (error.status, error.type, error.code) == (429, "insufficient_quota", "insufficient_quota")
    assert error.headers() == {"retry-after": str(MONTH[1] - NOW), "x-should-retry": "false"}
    assert error.message == (
        "the key 'CI' has the budget usd/month: $2.999999999 of $10 left, and this call may need $5. "
        "It fits again at 2026-10-01T00:00:00Z"
    )
    total = refused(EMBEDDINGS._replace(endpoint="chat"), "tokens/total", Balance(10**9, 0, None))
    assert total.headers() == {"x-should-retry": "false"}
    assert total.message.startswith("the organization has the budget tokens/total: 0 of")
    assert total.message.endswith("It does not free by itself")


def test_a_call_above_the_limit_itself() -> None:
    huge = EMBEDDINGS._replace(bound=Bound(200_000, 11 * DOLLAR))
    error = refused(huge, "tokens_per_minute", Balance(0, 0, NOW + 5))
    assert isinstance(error, LimitExceeded)
    assert error.headers() == {"x-should-retry": "false"}
    assert "this call needs 200000 of 100000 tokens" in error.message
    error = refused(huge, "usd/month", Balance(0, 0, MONTH[1]))
    assert isinstance(error, BudgetExhausted)
    assert error.headers() == {"x-should-retry": "false"}
    assert "this call needs $11 of $10" in error.message


def test_headers_are_those_of_the_tightest_limit_of_each_kind() -> None:
    found = charges((KEY, TEAM), CALENDAR, NOW, EMBEDDINGS)
    left = {
        "requests_per_minute": Balance(10, 1, None),
        "requests_per_day": Balance(990, 1, None),
        "tokens_per_minute": Balance(1000, 0, NOW + 61),
        "tokens_per_day": Balance(0, 1000, None),
    }
    decision = Decision(None, False, tuple(left.get(charge.name, Balance(0, 0, None)) for charge in found))
    assert headers(found, decision, NOW + 0.25) == {
        "x-ratelimit-limit-requests": "1000",
        "x-ratelimit-remaining-requests": "9",
        "x-ratelimit-reset-requests": "9h46m40s",
        "x-ratelimit-limit-tokens": "100000",
        "x-ratelimit-remaining-tokens": "99000",
        "x-ratelimit-reset-tokens": "1m1s",
    }


def test_headers_after_an_overrun_and_of_nothing_used() -> None:
    found = charges((Scope("key:k", "k", Limits(tokens_per_minute=10)),), CALENDAR, NOW, EMBEDDINGS)
    assert headers(found, Decision(0, False, (Balance(12, 0, NOW + 3),)), NOW)["x-ratelimit-remaining-tokens"] == "0"
    assert headers(found, Decision(0, False, (Balance(0, 0, None),)), NOW)["x-ratelimit-reset-tokens"] == "0s"
    found = charges((KEY,), CALENDAR, NOW, EMBEDDINGS)
    refused = Decision(0, False, (Balance(60, 0, NOW + 3), *[Balance(5, 0, NOW + 9)] * 3))
    told = headers(found, refused, NOW + 0.5)
    assert (told["x-ratelimit-reset-requests"], told["x-ratelimit-reset-tokens"]) == ("1m1s", "9s")
    budgets = charges((ORGANIZATION,), CALENDAR, NOW, Demand("chat", "m", BOUND))
    assert headers(budgets, Decision(None, False, (Balance(1, 0, None),)), NOW) == {}


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "0s"),
        (0.0586, "59ms"),
        (0.9991, "1s"),
        (1, "1s"),
        (1.001, "2s"),
        (60, "1m0s"),
        (360, "6m0s"),
        (3599.5, "1h0m0s"),
        (86399, "23h59m59s"),
        (90000, "25h0m0s"),
    ],
)
def test_durations_have_openais_form(seconds: float, told: str) -> None:
    assert duration(seconds) == told


@given(st.floats(0, 100_000))
def test_a_duration_is_never_too_short(seconds: float) -> None:
    parts = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?|(\d+)ms", duration(seconds))
    assert parts is not None
    hours, minutes, whole, thousandths = (int(part or 0) for part in parts.groups())
    told = hours * 3600 + minutes * 60 + whole + thousandths / 1000
    assert seconds - 1e-5 <= told <= seconds + 1.001


def test_a_filter_has_one_canonical_text() -> None:
    one = Budget("usd", 1, "day", ("rerank", "chat"), ("Jina-*", "b"))
    same = Budget("usd", 1, "day", ("chat", "rerank", "chat"), ("b", "jina-*"))
    assert filter_of(one) == filter_of(same) == '{"endpoints":["chat","rerank"],"models":["b","jina-*"]}'
    assert filter_of(Budget("usd", 1, "day")) == written(None, None) == ""


@pytest.mark.parametrize(
    ("endpoints", "models", "endpoint", "model", "counts"),
    [
        (None, None, "chat", "any", True),
        (["chat"], None, "chat", "any", True),
        (["chat"], None, "rerank", "any", False),
        ([], None, "chat", "any", False),
        (None, [], "chat", "any", False),
        (None, ["jina-deepsearch-*"], "chat", "jina-deepsearch-v1", True),
        (None, ["JINA-deepsearch-*"], "chat", "Jina-DeepSearch-v1", True),
        (None, ["jina-deepsearch-*"], "chat", "jina-vlm", False),
        (None, ["jina-deepsearch"], "chat", "jina-deepsearch-v1", False),
        (None, ["gpt", "*"], "chat", "any", True),
        (["rerank"], ["*"], "chat", "any", False),
    ],
)
def test_what_a_filter_counts(
    endpoints: list[str] | None, models: list[str] | None, endpoint: str, model: str, counts: bool
) -> None:
    assert fits(written(endpoints, models), endpoint, model) is counts


@given(st.text("ab*", max_size=6), st.text("ab", max_size=8))
def test_a_pattern_means_what_a_regular_expression_says(pattern: str, name: str) -> None:
    expected = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name) is not None
    assert matches(pattern, name) is expected


@pytest.mark.parametrize(
    ("amount", "inside"),
    [("12.50", 12_500_000_000), (3, 3 * DOLLAR), (0.1, 100_000_000), ("0.0000000001", 1), ("0", 0), (1e-7, 100)],
)
def test_money_in(amount: object, inside: int) -> None:
    assert nanodollars(amount) == inside


@pytest.mark.parametrize(
    "amount", ["-1", "1e3", "", "$5", "NaN", float("nan"), float("inf"), True, None, [], "9" * 13, 10**8]
)
def test_money_that_is_none(amount: object) -> None:
    with pytest.raises(ValueError, match="must be"):
        nanodollars(amount)


@given(st.integers(0, 9 * 10**15))
def test_money_comes_back_as_it_went_out(amount: int) -> None:
    assert nanodollars(dollars(amount)) == amount
    assert dollars(-1) == "-0.000000001"


@pytest.fixture
def file(tmp_path: Path) -> Iterator[LedgerFile]:
    opened = LedgerFile(tmp_path / "torii.db", clock=lambda: NOW + 0.25)
    yield opened
    opened.close()


async def held(
    file: LedgerFile, scopes: tuple[Scope, ...], demand: Demand, name: str
) -> tuple[tuple[Charge, ...], Decision]:
    found = charges(scopes, CALENDAR, NOW, demand)
    return found, await file.hold(Hold(name, NOW * 1000, found, row(name)))


def row(name: str, tokens: int = 0) -> CallRow:
    return call(request_id=name, time=NOW * 1000, key_id="k", total_tokens=tokens, prompt_tokens=tokens, cost=0)


async def test_the_stores_decision_becomes_an_exact_refusal(file: LedgerFile) -> None:
    scopes = (Scope("key:k", "k", Limits(requests_per_minute=2)),)
    demand = Demand("embeddings", "m", None)
    found, first = await held(file, scopes, demand, "r1")
    assert headers(found, first, NOW + 0.25) == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "1",
        "x-ratelimit-reset-requests": "1m1s",
    }
    await held(file, scopes, demand, "r2")
    found, third = await held(file, scopes, demand, "r3")
    error = refusal(scopes, found, third, NOW + 0.25)
    assert error.headers() == {"retry-after": "61"}
    assert "0 of 2 requests left" in error.message
    assert "at 2026-09-21T14:14:21Z" in error.message


async def test_an_answer_from_the_cache_passes_with_an_overspent_budget(file: LedgerFile) -> None:
    scopes = (Scope("key:k", "k", Limits(tokens_per_day=500), (Budget("tokens", 100, "day"),)),)
    demand = Demand("embeddings", "m", Bound(90))
    found, decided = await held(file, scopes, demand, "r1")
    assert decided.refused is None
    file.settle("r1", [row("r1", 700)])
    found, decided = await held(file, scopes, demand, "r2")
    assert refusal(scopes, found, decided, NOW).code == "rate_limit_exceeded"  # the first of the two
    found, decided = await held(file, scopes, demand._replace(bound=Bound(0, 0)), "r3")
    assert decided.refused is None
    assert headers(found, decided, NOW)["x-ratelimit-remaining-tokens"] == "0"
