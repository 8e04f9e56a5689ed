"""Keys, teams, management keys and the audit as tables. They contain no secrets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from ..core.types import Json
from ..server.logs import escape
from .columns import indented, table

NO_KEYS = "No keys yet; `torii keys create NAME` makes one."
NO_TEAMS = "No teams yet; `torii teams create NAME` makes one."
NO_MANAGEMENT_KEYS = "No management keys yet; `torii management-keys create NAME --scope read_only` makes one."


def keys(found: Iterable[Json], teams: Mapping[str, str]) -> str:
    """Two lines for each key: the second has what it may do and spend."""
    rows: list[list[str]] = []
    more = []
    for key in found:
        team = teams.get(key["team"], key["team"] or "")
        cells = [key["name"], key["id"], team, state(key), _minute(key.get("last_used_at"))]
        rows.append([escape(str(cell)) for cell in cells])
        more.append(indented(escape(bounds)) if (bounds := "; ".join(_bounds(key))) else "")
    return table(("NAME", "ID", "TEAM", "STATE", "LAST USED"), rows, below=more) if rows else NO_KEYS


def teams(found: Iterable[Json]) -> str:
    rows, more = [], []
    for team in found:
        rows.append([escape(str(cell)) for cell in (team["name"], team["id"], state(team))])
        more.append(indented(escape(bounds)) if (bounds := "; ".join(_bounds(team))) else "")
    return table(("NAME", "ID", "STATE"), rows, below=more) if rows else NO_TEAMS


def management_keys(found: Iterable[Json]) -> str:
    rows = [[escape(str(key[name])) for name in ("name", "id", "scope", "redacted_value")] for key in found]
    return table(("NAME", "ID", "SCOPE", "SECRET"), rows) if rows else NO_MANAGEMENT_KEYS


def facts(entry: Json) -> str:
    """One line for each field that is set."""
    names = ("name", "id", "team", "owner", "state", "created_at", "expires_at", "last_used_at", "revoked_at")
    more = ("limits", "budgets", "allowed_models", "allowed_endpoints", "allowed_ips", "on_disconnect", "cache")
    values = {**entry, "state": state(entry), "limits": _limits(entry), "budgets": _budgets(entry)}
    old = entry.get("old_secrets") or []
    values["old_secrets"] = [f"{each['redacted_value']} until {_minute(each['valid_until'])}Z" for each in old]
    lines = []
    for name in (*names, *more, "metadata", "old_secrets"):
        value = values.get(name)
        if name.startswith("allowed_"):
            text = "" if value is None else ", ".join(value) or "none"
        elif isinstance(value, dict):
            text = ", ".join(f"{key}={each}" for key, each in value.items())
        elif isinstance(value, list):
            text = "; ".join(value)
        else:
            text = f"{_minute(value)}Z" if value and name.endswith("_at") else str(value or "")
        if text:
            lines.append(f"{name.replace('_', ' '):18}{escape(text)}")
    return "\n".join(lines)


def left(scopes: Iterable[Json]) -> str:
    """The rest of each limit and budget, and when it is free again; empty without limits."""
    rows: list[tuple[str, ...]] = []
    for scope in scopes:
        whose = scope["scope"] if scope["scope"] == "organization" else f"{scope['scope']} {escape(scope['name'])}"
        for limit in scope["limits"]:
            rows.append((whose, limit["limit"], _number(limit["amount"]), _number(limit["used"]), "", *_rest(limit)))
        for budget in scope["budgets"]:
            amounts = (_money(budget, name) for name in ("amount", "spent", "held"))
            rows.append((whose, _budget_name(budget), *amounts, _money(budget, "remaining"), *_rest(budget)[1:]))
    heads = ("OF", "LIMIT", "AMOUNT", "USED", "HELD", "LEFT", "FREE AGAIN (UTC)")
    return table(heads, rows, right=heads[2:6]) if rows else ""


def audit(found: Iterable[Json]) -> str:
    """Two lines for each entry: the second has the new values."""
    rows, more = [], []
    for entry in found:
        cells = (_minute(entry["time"]), entry["actor"], entry["address"] or "", entry["action"], entry["object_id"])
        rows.append([escape(cell) for cell in cells])
        changes = "  ".join(f"{name}={_written(value)}" for name, value in entry["changes"].items())
        more.append(indented(escape(changes)) if changes else "")
    heads = ("TIME (UTC)", "WHO", "FROM", "WHAT", "OF")
    return table(heads, rows, below=more) if rows else "Nothing was changed yet."


def classifiers(found: Json) -> str:
    """A line for each classifier, and one for accounts that could not be asked."""
    rows = []
    for entry in found["data"]:
        owner = f"team {entry['team']}" if entry["team"] else entry["key"] or ""
        made = _minute(entry["created_at"])
        cells = (entry["classifier_id"] or "", owner, entry["account"], entry["model"] or "", made)
        rows.append([escape(cell) for cell in (*cells, entry["orphan"] or entry["state"])])
    heads = ("ID", "OWNER", "ACCOUNT", "MODEL", "TRAINED (UTC)", "STATE")
    text = table(heads, rows) if rows else "No such classifiers."
    return f"{text}\n\nNo answer from: {', '.join(found['unasked'])}" if found["unasked"] else text


def calls(found: Iterable[Json]) -> str:
    """Two lines for each row: the second has the caller, the request id, the error or the reason."""
    rows, more = [], []
    for row in found:
        cost = "" if row.get("cost") is None else f"${row['cost']}"
        what = row["kind"] if row["kind"] != "refusal" else f"{row['count']:,} refused"
        model = row.get("model_id") or row.get("model") or ""
        tokens = "" if row["kind"] == "refusal" else ("~" if row["estimated"] else "") + f"{row['total_tokens']:,}"
        cells = [row["time"].replace("T", " ")[:19], what, model, str(row.get("status") or ""), tokens, cost]
        rows.append([escape(cell) for cell in cells])
        about = (row.get("caller") or row["key"], row["team"], row.get("upstream"), row.get("request_id"))
        why = (row.get("error"), row["reason"])
        more.append(indented("  ".join(escape(text) for text in (*about, *why) if text)))
    heads = ("TIME (UTC)", "WHAT", "MODEL", "STATUS", "TOKENS", "COST")
    return table(heads, rows, right=heads[3:], below=more) if rows else "No such calls in the ledger."


def state(entry: Json) -> str:
    word = entry.get("status") or ("disabled" if entry["disabled"] else "active")
    return f"{word}, of the configuration" if entry.get("declared") else str(word)


def _bounds(entry: Json) -> list[str]:
    found = [*_limits(entry), *_budgets(entry)]
    for name in ("models", "endpoints", "ips"):
        allowed = entry.get(f"allowed_{name}")
        if allowed is not None:
            found.append(f"{name} {', '.join(allowed) or 'none'}")
    if entry.get("expires_at"):
        found.append(f"until {_minute(entry['expires_at'])}Z")
    return found


def _limits(entry: Json) -> list[str]:
    limits = entry.get("limits") or {}
    return [f"{name} {_number(amount)}" for name, amount in limits.items() if amount is not None]


def _budgets(entry: Json) -> list[str]:
    found = []
    for budget in entry.get("budgets") or []:
        only = [each for name in ("models", "endpoints") for each in budget.get(name) or []]
        found.append(f"{_budget_name(budget)} {_money(budget, 'amount')}" + (f" of {', '.join(only)}" if only else ""))
    return found


def _budget_name(budget: Json) -> str:
    return f"{budget['unit']}/{budget['window']}"


def _money(budget: Json, name: str) -> str:
    return f"${budget[name]}" if budget["unit"] == "usd" else _number(budget[name])


def _written(value: Any) -> str:
    """A new value in JSON, or the text itself."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _number(amount: Any) -> str:
    return f"{amount:,}" if isinstance(amount, int) else str(amount)


def _rest(entry: Json) -> tuple[str, str]:
    return _number(entry["remaining"]), _minute(entry["resets_at"])


def _minute(time: str | None) -> str:
    """A time in RFC 3339 to the minute."""
    return time[:16].replace("T", " ") if time else ""


def prices(rows: Iterable[Json], without: Iterable[tuple[str, str]]) -> str:
    """The prices in dollars, and below them the models without one, by upstream."""
    columns = ("upstream", "model", "input", "output", "per_call", "source", "date")
    heads = ("UPSTREAM", "MODEL", "INPUT", "OUTPUT", "PER CALL", "SOURCE", "DATE")
    cells = [[escape(str(row[name] or "")) for name in columns] for row in rows]
    parts = [table(heads, cells, right=heads[2:5])] if cells else ["No prices are configured."]
    models: dict[str, list[str]] = {}
    for upstream, model in without:
        models.setdefault(upstream, []).append(escape(model))
    if models:
        listed = [(upstream, ", ".join(names)) for upstream, names in models.items()]
        parts.append(table(("WITHOUT A PRICE AT", "MODELS"), listed))
    return "\n\n".join(parts)
