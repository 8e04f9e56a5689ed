"""docs/reliability.md and docs/errors.md against the code: their statements about errors are true."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from app.config.settings import Settings
from app.core import errors
from app.core.errors import (
    ToriiError,
    UpstreamAuth,
    UpstreamBroken,
    UpstreamError,
    UpstreamFailed,
    UpstreamMismatch,
    UpstreamMisplaced,
    UpstreamQuota,
    UpstreamRateLimited,
    UpstreamTimeout,
    UpstreamTooLarge,
    UpstreamTruncated,
    UpstreamUnreachable,
)
from app.core.types import Reply
from app.upstreams.errors import failure
from app.upstreams.validation import lasting

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "reliability.md").read_text(encoding="utf-8")
RETRY: dict[bool | None, str] = {False: "`false`", True: "`true`", None: ""}

# The rows without a status, by their first words.
SAID: dict[str, UpstreamError] = {
    "no answer in time": UpstreamTimeout("x"),
    "no connection": UpstreamUnreachable("x"),
    "broken off": UpstreamBroken("x"),
    "a stream that stops": UpstreamTruncated("x"),
    "more than": UpstreamTooLarge("x"),
    "nothing there": UpstreamMisplaced("x"),
    "a DeepSearch answer": UpstreamMismatch("x"),
}
# The row of failures that a retry would only repeat.
LASTING = "vectors of another size"


def table(page: str, first: str) -> list[list[str]]:
    """The rows of the table whose header starts with ``first``."""
    lines = page[page.index(f"| {first} |") :].splitlines()
    rows = [line for line in lines[: lines.index("") if "" in lines else None] if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


ROWS = table(PAGE, "the upstream")


def meant(row: list[str]) -> Iterator[UpstreamError]:
    if row[0].startswith(LASTING):
        yield lasting(UpstreamFailed("x"))
        return
    for words, error in SAID.items():
        if row[0].startswith(words):
            yield error
            return
    for status in re.findall(r"\b[345]\d\d\b", row[0]):
        yield failure(Reply(int(status), {"retry-after": "7"}, b'{"detail":"x"}'), upstream="jina")


def again(error: UpstreamError) -> str:
    if isinstance(error, UpstreamRateLimited):
        return "another key, another upstream, once more where that is soon"
    if isinstance(error, UpstreamAuth | UpstreamQuota):
        return "another key, another upstream"
    if not error.elsewhere:
        return "nowhere"
    return "another upstream, once more" if error.repeatable else "another upstream"


def rests(error: UpstreamError) -> str:
    if isinstance(error, UpstreamRateLimited):
        return "until its time"
    return "until a probe succeeds" if isinstance(error, UpstreamAuth | UpstreamQuota) else "no"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_each_row_says_what_the_code_makes_of_it(row: list[str]) -> None:
    found = list(meant(row))
    assert found
    for error in found:
        told = f"{error.status} `{error.code}`"
        assert (row[1].partition(",")[0], row[2:]) == (told, [again(error), rests(error), RETRY[error.should_retry]])
        assert ("Retry-After" in row[1]) == (error.retry_after is not None)


def test_every_class_of_an_upstreams_errors_has_a_row() -> None:
    codes = {kind.code for kind in classes(UpstreamError)}
    assert codes <= set(re.findall(r"`(upstream_\w+)`", PAGE))


def test_deepsearch_is_repeated_only_where_the_page_says_so() -> None:
    """A DeepSearch call is retried elsewhere only if no run was started: after every other failure the run counts as
    accepted."""
    for status in (401, 403, 402, 429, 503):
        assert not failure(Reply(status, {}, b""), upstream="jina", deepsearch=True).accepted
    for status in (408, 500, 502, 504, 520, 524, 529):
        error = failure(Reply(status, {}, b""), upstream="jina", deepsearch=True)
        assert (error.accepted, error.should_retry) == (True, False)
    assert not UpstreamUnreachable("x").accepted
    assert all(kind("x").accepted for kind in (UpstreamTimeout, UpstreamBroken, UpstreamTruncated))


def classes(kind: type[ToriiError]) -> Iterator[type[ToriiError]]:
    yield kind
    for below in kind.__subclasses__():
        if below.__module__ == errors.__name__:
            yield from classes(below)


@pytest.mark.parametrize("kind", [*classes(ToriiError)], ids=lambda kind: kind.__name__)
def test_every_class_of_error_is_in_the_table_of_errors(kind: type[ToriiError]) -> None:
    rows = table((DOCS / "errors.md").read_text(encoding="utf-8"), "status")
    said = [row for row in rows if row[2] == f"`{kind.code}`"]
    assert said, kind.code
    row = said[0]
    assert row[1] == f"`{kind.type}`"
    assert row[0] == str(kind.status)
    assert row[4] == {False: "no", True: "yes", None: "its choice"}[kind.should_retry]
    if issubclass(kind, UpstreamError):
        assert row[5] == ("yes" if kind.elsewhere else "no")


def names(section: type[BaseModel], above: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        kind: Any = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from names(kind, f"{above}{name}.")
        else:
            yield above + name


def test_every_setting_that_bounds_something_is_named_and_no_other() -> None:
    every = set(names(Settings))
    named = set(re.findall(r"`((?:timeouts|disconnect|ledger)\.\w+|(?:max|drain|queue|ping)_\w+)`", PAGE))
    assert named <= every
    bounds = {name for name in every if re.match(r"(timeouts|disconnect|ledger)\.|(max|drain|queue|ping)_", name)}
    assert bounds - named == set()
    assert {"workers", "http_client", "ca_file"} <= every


def test_every_deadline_is_drawn() -> None:
    drawn = set(re.findall(r"\|-- (\w+)", PAGE))
    callers = {"request_head_seconds", "request_body_seconds", "write_seconds"}
    assert drawn == {name.partition(".")[2] for name in names(Settings) if name.startswith("timeouts.")} - callers


@pytest.mark.parametrize("page", [DOCS / "reliability.md", DOCS.parent / "SECURITY.md"], ids=lambda page: page.name)
def test_the_tests_that_hold_the_promises_are_there(page: Path) -> None:
    held = re.findall(r"`(tests/[\w/]*test_\w+\.py)(?:::(\w+))?`", page.read_text(encoding="utf-8"))
    assert len(held) > 10
    for path, function in held:
        source = (DOCS.parent / path).read_text(encoding="utf-8")
        assert re.search(rf"^(async )?def {function or 'test_'}", source, re.M), (path, function)
