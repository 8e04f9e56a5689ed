"""The options of `torii keys` and `torii teams` as fields of the operator's API."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .options import Wrong, meant

if TYPE_CHECKING:
    from pydantic import BaseModel

    from ..core.types import Json

F = TypeVar("F", bound=Callable[..., Any])

# As in callers/limits.py, whose import would take longer than most commands; a test compares them.
LIMITS = (
    "requests_per_minute",
    "tokens_per_minute",
    "concurrent_calls",
    "concurrent_runs",
    "requests_per_day",
    "tokens_per_day",
)
UNITS = ("usd", "tokens", "requests")
WINDOWS = ("day", "week", "month", "total")
NONE, ANY = "none", "any"
FILTERS = {"model": "models", "endpoint": "endpoints"}
# The options of fields that have another name.
OPTIONS = {
    "name": "NAME",
    "limits": "--limit",
    "budgets": "--budget",
    "expires_at": "--expires",
    "allowed_models": "--models",
    "allowed_endpoints": "--endpoints",
    "allowed_ips": "--ips",
    "grace_seconds": "--grace",
}
SECONDS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
LISTS = ("models", "endpoints", "ips")  # options; the fields are allowed_models and so on


def key_options(command: F) -> F:
    """The permissions of a key, its end, and its owner."""
    for option in (
        click.option("--cache", metavar="WORD", help="shared or private: whether others get answers that it paid for."),
        click.option("--on-disconnect", metavar="WORD", help="cancel, drain or detach calls whose caller has left."),
        click.option("--ips", multiple=True, metavar="NETWORKS", help="Addresses it may call from: 10.0.0.0/8,::1"),
        click.option("--endpoints", multiple=True, metavar="NAMES", help="Endpoints it may use: embeddings,rerank"),
        click.option("--models", multiple=True, metavar="NAMES", help="Models it may use: jina-*,gpt-4o-mini"),
        click.option("--expires", metavar="TIME", help="End: 30d or 12h from now, 2027-01-31T12:00 (UTC), or never."),
        click.option("--owner", metavar="TEXT", help="Who uses it, for people."),
        click.option("--team", metavar="TEAM", help="Id or name of its team; none for no team."),
    ):
        command = option(command)
    return command


def limit_options(command: F) -> F:
    """The options that a key and a team have in common."""
    for option in (
        click.option("--metadata", multiple=True, metavar="NAME=TEXT", help="A note for programs, at most 16."),
        click.option(
            "--budget",
            multiple=True,
            metavar="UNIT/WINDOW=AMOUNT",
            help="tokens/day=100000, usd/month=25 or requests/total=500. Restricted by ,model=jina-* or "
            ",endpoint=embeddings at its end; warns at ,warn_at=0.9. Repeat it for several; none lifts all.",
        ),
        click.option(
            "--limit",
            multiple=True,
            metavar="NAME=NUMBER",
            help=f"One of {', '.join(LIMITS)}; none lifts it. Repeat it for several.",
        ),
    ):
        command = option(command)
    return command


def body(asked: Json, before: Json | None = None) -> Json:
    """The fields of a new key or team, or the changes to ``before``. Limits and metadata are added to those that are
    there, budgets replace them. Raises Wrong."""
    present = before or {}
    found: Json = {name: asked[name] for name in ("name", "owner", "on_disconnect", "cache") if asked.get(name)}
    if team := asked.get("team"):
        found["team"] = None if team == NONE else team
    if expires := asked.get("expires"):
        found["expires_at"] = _end(expires)
    found |= {f"allowed_{name}": _names(asked[name]) for name in LISTS if asked.get(name)}
    if asked.get("limit"):
        found["limits"] = _limits(asked["limit"], present.get("limits") or {}, new=before is None)
    if asked.get("budget"):
        found["budgets"] = [] if asked["budget"] == (NONE,) else [_budget(text) for text in asked["budget"]]
    if asked.get("metadata"):
        found["metadata"] = _notes(asked["metadata"], present.get("metadata"))
    if before is not None and not found:
        raise Wrong("nothing to change: give at least one option, such as --name or --limit.")
    return found


def seconds(option: str, text: str) -> int:
    """``24h``, ``7d``, ``30m``, ``45s``, or a number of seconds. Raises Wrong."""
    if found := re.fullmatch(r"(\d{1,9})([dhms]?)", text):
        return int(found[1]) * SECONDS[found[2] or "s"]
    raise Wrong(f"{option} must be a time such as 24h, 7d, 30m or 0; not {text!r}.")


def _end(text: str) -> str | None:
    """RFC 3339, or None for never."""
    if text == "never":
        return None
    try:
        if re.fullmatch(r"\d{1,9}[dhms]", text):
            return _in_utc(datetime.now(UTC) + timedelta(seconds=seconds("--expires", text)))
        found = datetime.fromisoformat(text)
        return _in_utc(found if found.tzinfo else found.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        right = "30d or 12h from now, 2027-01-31 or 2027-01-31T12:00 in UTC, or never"
        raise Wrong(f"--expires must be a time: {right}; not {text!r}.") from None


def _in_utc(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _names(given: Iterable[str]) -> list[str] | None:
    """None for ``any``, no names for ``none``; else the names, separated by commas."""
    names = [name for text in given for part in text.split(",") if (name := part.strip())]
    if names == [ANY]:
        return None
    return [] if names == [NONE] else names


def _limits(given: Iterable[str], present: Json, *, new: bool) -> Json:
    """All limits that hold afterwards; those that are lifted are None."""
    found = dict(present)
    for text in given:
        name, sign, amount = (part.strip() for part in text.partition("="))
        if text == NONE:
            found = dict.fromkeys(found)
        elif name not in LIMITS or not sign:
            raise Wrong(
                f"--limit must be NAME=NUMBER, with one of {', '.join(LIMITS)}; not {text!r}{meant(name, LIMITS)}"
            )
        else:
            found[name] = None if amount == NONE else _whole("--limit", text, amount)
    return {name: amount for name, amount in found.items() if amount is not None or not new}


def _budget(text: str) -> Json:
    """``UNIT/WINDOW=AMOUNT``, then ``,model=NAME``, ``,endpoint=NAME`` and ``,warn_at=SHARE``, each any number of
    times."""
    first, *more = text.split(",")
    form = re.fullmatch(r"(\w+)/(\w+)=(\S+)", first.strip())
    if not form or form[1] not in UNITS or form[2] not in WINDOWS:
        right = f"UNIT/WINDOW=AMOUNT, with {', '.join(UNITS)} as unit and {', '.join(WINDOWS)} as window"
        raise Wrong(f"--budget must be {right}, such as tokens/day=100000; not {text!r}.")
    amount: Any = _dollars(text, form[3]) if form[1] == "usd" else _whole("--budget", text, form[3])
    found: Json = {"unit": form[1], "amount": amount, "window": form[2]}
    for part in more:
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name == "warn_at":
            found.setdefault("warn_at", []).append(_share(text, value))
        elif name in FILTERS and value:
            found.setdefault(FILTERS[name], []).append(value)
        else:
            right = "model=NAME, endpoint=NAME or warn_at=SHARE after the amount"
            raise Wrong(f"--budget takes {right}; not {part!r} in {text!r}.")
    return found


def _whole(option: str, text: str, amount: str) -> int:
    digits = amount.replace("_", "")
    if not re.fullmatch(r"\d{1,15}", digits):
        raise Wrong(f"{option} needs a whole number such as 100000, not {amount!r} in {text!r}.")
    return int(digits)


def _dollars(text: str, amount: str) -> str:
    try:
        if Decimal(amount).is_finite():
            return amount
    except InvalidOperation:
        pass
    raise Wrong(f"--budget needs an amount of dollars such as 25 or 0.50, not {amount!r} in {text!r}.")


def _share(text: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise Wrong(f"--budget needs a share such as warn_at=0.8, not {value!r} in {text!r}.") from None


def _notes(given: Iterable[str], before: Any) -> Json:
    found: Json = dict(before or {})
    for text in given:
        name, sign, value = text.partition("=")
        if text == NONE:
            found = {}
        elif not sign or not name:
            raise Wrong(f"--metadata must be NAME=TEXT, or NAME= to remove it; not {text!r}.")
        elif value:
            found[name] = value
        else:
            found.pop(name, None)
    return found


def checked(form: type[BaseModel], body: Json) -> Json:
    """The body, if it is right. Raises Wrong, which names the option, what came and what is right of every mistake."""
    from pydantic import ValidationError

    from ..config.sources import explain

    try:
        form.model_validate(body)
    except ValidationError as error:
        found = zip(explain(error, form), error.errors(include_url=False), strict=True)
        raise Wrong("\n".join(_mistake(keys, what, each["input"]) for (keys, what), each in found)) from None
    return body


def option(field: str) -> str:
    """The option that gives a field of a body."""
    return OPTIONS.get(field, f"--{field.replace('_', '-')}")


def _mistake(keys: tuple[int | str, ...], what: str, given: Any) -> str:
    """``--limit tokens_per_day must be ...``: the option of a field, and the name within it."""
    first, *within = keys or ("",)
    place = " ".join([option(str(first)), *(str(name) for name in within if isinstance(name, str))])
    came = f"; not {given!r}" if isinstance(given, str | int | float) else ""
    return f"{place} {what.rstrip('.')}{came}."
