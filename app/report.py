"""What the command line prints: the gateway that has started, its upstreams, its routes, its models. No secret."""

from __future__ import annotations

import ipaddress
import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from . import __version__
from .config import CONFIG_VARIABLE, CREDENTIALS, PREFIX
from .logs import escape
from .routing import RouteTable
from .settings import DEFAULT_FILE, Settings
from .types import Json, Key


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as what is in them. A column with nothing in it is left out."""
    body = [list(row) for row in rows]
    used = [index for index in range(len(head)) if not body or any(row[index] for row in body)]
    lines = [[row[index] for index in used] for row in [list(head), *body]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def indented(text: str, by: str = "  ") -> str:
    return "\n".join(f"{by}{line}".rstrip() for line in text.split("\n"))


# ---------------------------------------------------------------- the gateway that has started


def address(host: str, port: int) -> str:
    """The URL at which this machine reaches a gateway that listens on ``host``."""
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - what is read, not what is bound
    return f"http://[{local}]:{port}" if ":" in local else f"http://{local}:{port}"


def started(settings: Settings, port: int, key: str | None, ledger: str = "") -> str:
    """What a person wants to know of a gateway that takes calls on ``port``; ``key`` was made for this run,
    ``ledger`` says where the books are."""
    url = address(settings.host, port)
    facts = [("Base URL", f"{url}/v1" + _elsewhere(settings)), ("Callers", callers(settings, key))]
    if ledger:
        facts.append(("Ledger", ledger))
    if settings.docs_open:
        facts.append(("Docs", f"{url}/docs"))
    if settings.workers > 1:
        facts.append(("Workers", f"{settings.workers} processes, which share the limits of the upstreams' keys"))
    if settings.sandboxed:
        facts.append(("Sandbox", "built-in stand-ins answer, from made-up data: no network, no cost, no real results"))
    parts = [
        f"Torii {__version__}",
        indented("\n".join(f"{name:10}{fact}" for name, fact in facts)),
        indented(upstreams(settings)),
        "Try it:",
        indented(trial_lines(settings, url, key)),
        "Ctrl+C ends it.",
    ]
    return "\n\n".join(parts)


def trial_lines(settings: Settings, url: str, key: str | None) -> str:
    """A call that works as it stands; where there are callers, with one's key in the shell's variable KEY."""
    authorization = "" if settings.open else '-H "Authorization: Bearer $KEY" '
    body = '\'{"model": "jina-embeddings-v3", "input": "Hello, gate"}\''
    curl = f"curl {shlex.quote(f'{url}/v1/embeddings')} -H 'Content-Type: application/json' {authorization}-d {body}"
    if settings.open:
        return curl
    return f"KEY={key or 'THE-KEY-OF-A-CALLER'}\n{curl}"


def callers(settings: Settings, key: str | None = None) -> str:
    if settings.open:
        return "anyone on this machine, with any key or none; no caller keys are set"
    names = [caller.name for caller in settings.callers]
    if settings.caller_key:
        names.append("default (a key made for this run)" if key else "default")
    return ", ".join(names)


def _elsewhere(settings: Settings) -> str:
    try:
        unspecified = ipaddress.ip_address(settings.host).is_unspecified
    except ValueError:
        unspecified = False
    return "  (and at every other address of this machine)" if unspecified else ""


# ---------------------------------------------------------------- upstreams, routes, models


def upstreams(settings: Settings) -> str:
    """Every upstream, the best first, with its addresses and the end of its key."""
    rows = []
    for name, upstream in settings.upstreams.items():
        urls = [upstream.base_url, upstream.deepsearch_base_url]
        rows.append((name, " and ".join(url for url in urls if url), _key(settings, name)))
    return table(("UPSTREAM", "BASE URL", "KEY"), rows)


def _key(settings: Settings, name: str) -> str:
    if name not in settings.active:
        return "none, so it is not used"
    if settings.sandboxed:
        return "none needed in the sandbox"
    tails = [Key(key.key.get_secret_value()).tail for key in settings.upstreams[name].keys if key.key]
    return ", ".join(f"...{tail}" if tail else "set" for tail in tails)


def routes(found: RouteTable) -> str:
    """Each model with its targets in the order in which they are tried."""
    models = found.models()
    listed = {model["id"] for model in models}
    rows = []
    for model in models:
        if model["alias_of"] not in listed:
            aliases = [other["id"] for other in models if other["alias_of"] == model["id"]]
            rows.append((model["id"], _words(model["endpoints"]), _targets(found, model["id"]), _words(aliases)))
    return table(("MODEL", "ENDPOINTS", "TARGETS, IN ORDER", "ALIASES"), rows)


def _targets(found: RouteTable, name: str) -> str:
    return ", ".join(f"{target.upstream.name}/{target.name}" for target in found.find(name).targets)


def models(listed: Iterable[Json]) -> str:
    """What each model can do."""
    head = ("MODEL", "ENDPOINTS", "INPUTS", "DIMENSIONS", "UPSTREAMS", "ALIAS OF")
    return table(
        head,
        (
            (
                model["id"],
                _words(model["endpoints"]),
                _words(model["inputs"]),
                str(model["dimensions"] or ""),
                _words(model["upstreams"]),
                model["alias_of"] or "",
            )
            for model in listed
        ),
    )


def keys(states: Iterable[Json]) -> str:
    """How each key of a running gateway is; what none of them has is left out."""
    head = ("UPSTREAM", "KEY", "STATE", "AT WORK", "REQUESTS", "TOKENS", "DEEPSEARCH", "CALLS", "FAILED")
    rows = []
    for state in states:
        limits = [state["minute"].get(name) for name in ("requests", "tokens", "deepsearch")]
        rows.append(
            (
                state["upstream"] + (" (keeps failing, asked last)" if state["broken"] else ""),
                " ".join(part for part in (state["key"], state["tail"] and f"...{state['tail']}") if part),
                _state(state),
                _share(state["at_work"], state["concurrency"]),
                *(_share(limit["used"], limit["limit"]) if limit else "" for limit in limits),
                str(state["calls"]),
                str(state["failures"]),
            )
        )
    return table(head, rows)


def _state(key: Json) -> str:
    if key["state"] == "resting":
        return f"{key['cause']}, rests until {key['until']}"
    return f"{key['cause']}, tried with the next call" if key["state"] == "trial" else key["state"]


def _share(used: int, limit: int | None) -> str:
    return str(used) if limit is None else f"{used} of {limit}"


def _words(words: Iterable[str]) -> str:
    return ", ".join(words)


def unknown_models(settings: Settings) -> str:
    upstream = settings.unknown_upstream
    return f"Any other model is asked for at {upstream}." if upstream else "Any other model is answered with a 404."


def origin(config: Path | None) -> str:
    """Where the settings come from: the file, and the names of the variables that are set."""
    named = config or os.environ.get(CONFIG_VARIABLE) or (DEFAULT_FILE if DEFAULT_FILE.exists() else None)
    variables = _words(sorted(name for name in os.environ if _is_setting(name)))
    return f"Configuration: {named or 'no file'}; environment: {variables or 'nothing'}"


def _is_setting(variable: str) -> bool:
    section = variable.removeprefix(PREFIX).partition("__")[0].lower()
    named = variable.startswith(PREFIX) and section in Settings.model_fields
    return bool(os.environ[variable]) and (named or variable.removesuffix("_FILE") in CREDENTIALS)


# ---------------------------------------------------------------- the ledger


def usage(groups: Sequence[Json], total: Json, by: Sequence[str]) -> str:
    """What the calls of each group come to, and all of them; empty where there are none."""
    if not groups:
        return ""
    names = ("calls", "failed", "prompt_tokens", "completion_tokens", "total_tokens", "seconds")
    heads = ("CALLS", "FAILED", "PROMPT", "COMPLETION", "TOKENS", "SECONDS")
    sums = [*groups, total]
    columns = [_right([head, *(_amount(row, name) for row in sums)]) for head, name in zip(heads, names, strict=True)]
    keys = [[escape(str(row[name])) for name in by] for row in groups]
    keys.append(["all", *[""] * (len(by) - 1)])
    rows = [(*key, *line) for key, line in zip(keys, [*zip(*columns, strict=True)][1:], strict=True)]
    head = (*(name.upper() for name in by), *(column[0] for column in columns))
    return "\n\n".join([table(head, rows), *_estimated(total)])


def calls(listed: Iterable[Json]) -> str:
    """One line for each call; empty where there are none."""
    head = ("TIME (UTC)", "CALLER", "MODEL", "UPSTREAM", "KEY", "STATUS", "TOKENS", "SECONDS", "ERROR", "REQUEST")
    rows = [
        (
            call["time"].replace("T", " ").removesuffix("Z"),
            call["caller"],
            call["model"],
            call["upstream"],
            call["key"],
            str(call["status"]),
            ("~" if call["estimated"] else "") + f"{call['total_tokens']:,}",
            f"{call['seconds']:.3f}",
            call["error"] or "",
            call["request_id"],
        )
        for call in listed
    ]
    return table(head, [[escape(cell) for cell in row] for row in rows]) if rows else ""


def no_calls(first: str | None) -> str:
    """``first`` is when the first call of the ledger came, if there is any."""
    return (
        f"No calls in this time; the first in the ledger came at {first}." if first else "No calls in the ledger yet."
    )


def _amount(row: Json, name: str) -> str:
    if name == "seconds":
        return f"{row[name]:.2f}"
    return ("~" if row["estimated_calls"] and "tokens" in name else "") + f"{row[name]:,}"


def _estimated(total: Json) -> Iterable[str]:
    if total["estimated_calls"]:
        share = 100 * total["estimated_tokens"] / max(total["total_tokens"], 1)
        yield f"~ with estimates in it: {total['estimated_calls']:,} of the calls, {share:.1f} % of the tokens."


def _right(column: Sequence[str]) -> list[str]:
    width = max(map(len, column))
    return [cell.rjust(width) for cell in column]
