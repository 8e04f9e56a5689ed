"""The errors of limits and budgets, and the header retry-after of all errors."""

from __future__ import annotations

import pytest

from app.core.errors import (
    BudgetExhausted,
    LimitExceeded,
    ModelNotPriced,
    Overloaded,
    PermissionDenied,
    StorageUnavailable,
    ToriiError,
    rate_limited,
)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.0, "1"), (0.2, "1"), (1.0, "1"), (1.4, "2"), (2.5, "3"), (7.0000000001, "7"), (59.999, "60"), (86400, "86400")],
)
def test_retry_after_is_never_too_early_and_never_0(seconds: float, told: str) -> None:
    assert LimitExceeded("x", retry_after=seconds).headers() == {"retry-after": told}
    assert rate_limited("jina", seconds).message == f"rate limited by jina; retry after {told} s"


@pytest.mark.parametrize(
    ("error", "status", "kind", "code", "headers"),
    [
        (PermissionDenied("x"), 403, "invalid_request_error", "permission_denied", {"x-should-retry": "false"}),
        (ModelNotPriced("x"), 403, "invalid_request_error", "model_not_priced", {"x-should-retry": "false"}),
        (LimitExceeded("x"), 429, "rate_limit_error", "rate_limit_exceeded", {}),
        (BudgetExhausted("x"), 429, "insufficient_quota", "insufficient_quota", {"x-should-retry": "false"}),
        (StorageUnavailable(), 503, "api_error", "storage_unavailable", {"retry-after": "1"}),
        (Overloaded("x"), 503, "api_error", "overloaded", {"x-should-retry": "true"}),
    ],
)
def test_what_a_caller_sees(error: ToriiError, status: int, kind: str, code: str, headers: dict[str, str]) -> None:
    shown = error.envelope()["error"]
    assert (error.status, shown["type"], shown["code"], error.headers()) == (status, kind, code, headers)
