"""Output of the commands: the banner, upstreams, routes, models, keys and usage. It contains no secrets."""

from __future__ import annotations

import ipaddress
import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import fill

from .. import __version__
from ..config.fields import AUTO
from ..config.sections import BASE_URLS, UpstreamSettings
from ..config.settings import DEFAULT_FILE, Settings
from ..config.sources import CONFIG_VARIABLE, CREDENTIALS, PREFIX
from ..core.types import Json, Key
from ..gateway.build import build_proxies
from ..routing.table import RouteTable
from ..server.logs import escape
from ..storage.key_records import created
from ..upstreams.client.proxies import loopback, place, variable
from .columns import INDENT, WIDTH, address, indented, table

# ---------------------------------------------------------------- the gateway that has started


def started(settings: Settings, port: int, key: str | None, ledger: str = "") -> str:
    """The banner of a gateway that listens on ``port``. ``key``: the caller key generated for this run, if any.
    ``ledger``: the place of the ledger; empty if there is none."""
    url = address(settings.host, port)
    facts = [("Base URL", f"{url}/v1" + _elsewhere(settings)), ("Callers", callers(settings, key))]
    if ledger:
        facts.append(("Ledger", ledger))
    if settings.docs_open:
        facts.append(("Docs", f"{url}/docs"))
    if ledger and settings.operator_key:
        api = address(settings.host, settings.operator_port or port)
        facts.append(("Operator", f"{api}/admin/v1, torii keys, torii teams"))
    elif settings.sandboxed:
        facts.append(("Operator", "none; with TORII_OPERATOR_KEY set, keys, limits and a ledger can be tried"))
    if settings.workers > 1:
        facts.append(("Workers", f"{settings.workers} processes; each has a share of the upstream keys' limits"))
    if settings.sandboxed:
        facts.append(("Sandbox", "built-in stand-ins answer, from made-up data: no network, no cost, no real results"))
    parts = [
        f"Torii {__version__}",
        indented("\n".join(f"{name:10}{fact}" for name, fact in facts)),
        indented(upstreams(settings, WIDTH - len(INDENT))),
        "Try it:",
        indented(trial_lines(settings, url, key)),
        "Press Ctrl+C to stop.",
    ]
    return "\n\n".join(parts)


def trial_lines(settings: Settings, url: str, key: str | None) -> str:
    """A curl command that works as printed; if callers have keys, the shell variable KEY holds the key."""
    authorization = "" if not _named(settings, key) and not settings.waiting else '-H "Authorization: Bearer $KEY" '
    body = '\'{"model": "jina-embeddings-v3", "input": "Hello, gate"}\''
    curl = f"curl {shlex.quote(f'{url}/v1/embeddings')} -H 'Content-Type: application/json' {authorization}-d {body}"
    if not _named(settings, key) and not settings.waiting:
        return curl
    return f"KEY={key or 'THE-KEY-OF-A-CALLER'}\n{curl}"


def callers(settings: Settings, key: str | None = None) -> str:
    if names := _named(settings, key):
        return ", ".join(names)
    if settings.waiting:
        return "nobody yet; `torii keys create NAME` makes the first key"
    return "anyone on this machine, with any key or none; no caller keys are set"


def _named(settings: Settings, key: str | None) -> list[str]:
    """The holders of keys. Of the keys in the ledger's file there may be many: one entry stands for all."""
    names = [caller.name for caller in settings.callers]
    if settings.caller_key:
        names.append("default (a key generated for this run)" if key else "default")
    names += [entry.name for entry in settings.keys]
    kept = settings.ledger_location if settings.ledger.path != AUTO or not settings.sandboxed else None
    if kept and created(kept):
        names.append("the keys of the ledger (torii keys list)")
    return names


def _elsewhere(settings: Settings) -> str:
    try:
        unspecified = ipaddress.ip_address(settings.host).is_unspecified
    except ValueError:
        unspecified = False
    return "  (and on all other addresses of this machine)" if unspecified else ""


# ---------------------------------------------------------------- upstreams, routes, models


def upstreams(settings: Settings, width: int = WIDTH) -> str:
    """Each upstream, in order of preference, with its addresses, the last characters of its keys, and its proxy."""
    rows = []
    proxies = build_proxies(settings)
    for name, upstream in settings.upstreams.items():
        ways = dict.fromkeys(proxies[there].name for url in upstream.urls if (there := place(url)) in proxies)
        rows.append((name, " and ".join(_addresses(upstream, settings)), _key(settings, name), _words(ways)))
    return table(("UPSTREAM", "BASE URL", "KEY", "PROXY"), rows, width=width)


def _addresses(upstream: UpstreamSettings, settings: Settings) -> list[str]:
    """The addresses of an upstream. Those of reader and search only if they are set: most lines would be twice as
    long."""
    usual = {"base_url": None, "deepsearch_base_url": None}
    known = {**BASE_URLS.get(upstream.kind, {}), **usual}
    named = upstream.addresses.items()
    return [url for name, url in named if name in usual or (url != known.get(name) and not settings.sandboxed)]


def _key(settings: Settings, name: str) -> str:
    if name not in settings.active:
        return "none, not used"
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
    """The upstreams of a model's targets, with the model's name there if it differs."""
    targets = found.find(name).targets
    return _words(t.upstream.name if t.name == name else f"{t.upstream.name}/{t.name}" for t in targets)


def models(listed: Iterable[Json]) -> str:
    """The models, the facts of each with its context and options in lines of their own, and their aliases."""
    listed = list(listed)
    known = {model["id"] for model in listed}
    aliases = [(model["id"], model["alias_of"]) for model in listed if model["alias_of"] in known]
    rows = [
        (
            model["id"],
            _words(model["endpoints"]),
            _words(model["inputs"]),
            str(model["dimensions"] or ""),
            _words(model["upstreams"]),
            model["alias_of"] or "",
        )
        for model in listed
        if model["alias_of"] not in known
    ]
    more = [_options(model) for model in listed if model["alias_of"] not in known]
    head = ("MODEL", "ENDPOINTS", "INPUTS", "DIMENSIONS", "UPSTREAMS", "ALIAS OF")
    tables = [table(head, rows, below=more)]
    return "\n\n".join(tables + ([table(("ALIAS", "OF"), aliases)] if aliases else []))


def _options(model: Json) -> str:
    """The context and the options of a model, indented; empty if neither is known."""
    context = [f"{model['context_length']:,} tokens"] if model["context_length"] else []
    facts = [*context, *(_option(name, schema) for name, schema in model["parameters"].items())]
    return fill("; ".join(facts), WIDTH, initial_indent=INDENT, subsequent_indent=INDENT, break_on_hyphens=False)


def _option(name: str, schema: Json) -> str:
    """An option with its values, of ``dimensions`` those the model was trained for; a boolean by its name alone."""
    if "enum" in schema:
        return f"{name} {_words(str(value) for value in schema['enum'])}"
    if "maximum" not in schema:
        return name
    if "trained_from" in schema:
        return f"{name} {schema['trained_from']}-{schema['default']}"
    return f"{name} {schema['minimum']}-{schema['maximum']}"


def keys(states: Iterable[Json]) -> str:
    """The state of each key of a running gateway, with the used part of its limits."""
    head = ("UPSTREAM", "KEY", "STATE", "IN FLIGHT", "CALLS", "FAILED")
    rows, more = [], []
    for state in states:
        minute = [f"{_share(spent['used'], spent['limit'])} {name}" for name, spent in state["minute"].items()]
        rows.append(
            (
                state["upstream"] + (" (keeps failing, tried last)" if state["broken"] else ""),
                " ".join(part for part in (state["key"], state["tail"] and f"...{state['tail']}") if part),
                _state(state),
                _share(state["at_work"], state["concurrency"]),
                str(state["calls"]),
                str(state["failures"]),
            )
        )
        more.append(indented(f"this minute {_words(minute)}") if minute else "")
    return table(head, rows, below=more)


def _state(key: Json) -> str:
    if key["state"] == "resting":
        return f"{key['cause']}, in cooldown until {key['until'].replace('T', ' ')}"
    return f"{key['cause']}, tried by the next call" if key["state"] == "trial" else key["state"]


def _share(used: int, limit: int | None) -> str:
    return f"{used:,}" if limit is None else f"{used:,} of {limit:,}"


def _words(words: Iterable[str]) -> str:
    return ", ".join(words)


def unknown_models(settings: Settings) -> str:
    upstream = settings.unknown_upstream
    return f"Unknown models go to {upstream}." if upstream else "Unknown models get a 404."


def origin(config: Path | None) -> str:
    """The sources of the settings: the file, and the names of the variables that are set."""
    named = config or os.environ.get(CONFIG_VARIABLE) or (DEFAULT_FILE if DEFAULT_FILE.exists() else None)
    variables = _words(sorted(name for name in os.environ if _is_setting(name)))
    return f"Configuration: {named or 'no file'}; environment: {variables or 'nothing'}"


def notes(settings: Settings) -> list[str]:
    """Notes on parts of the machine that the settings leave unused, though they may have been meant."""
    places = {place(url) for upstream in settings.upstreams.values() if not upstream.proxy_url for url in upstream.urls}
    used = settings.proxy_from_environment
    names = {name for there in places if not loopback(there[0]) and (name := variable(there, os.environ))}
    if used or not names:
        return []
    verb = "is" if len(names) == 1 else "are"
    return [f"{_words(sorted(names))} {verb} set but not used; set proxy_from_environment: true to use a proxy."]


def _is_setting(variable: str) -> bool:
    section = variable.removeprefix(PREFIX).partition("__")[0].lower()
    named = variable.startswith(PREFIX) and section in Settings.model_fields
    return bool(os.environ[variable]) and (named or variable.removesuffix("_FILE") in CREDENTIALS)


# ---------------------------------------------------------------- the ledger


def usage(groups: Sequence[Json], total: Json, by: Sequence[str]) -> str:
    """The totals of each group of calls, and of all calls; empty if there are no calls."""
    if not groups:
        return ""
    names = ("calls", "failed", "cached", "prompt_tokens", "completion_tokens", "total_tokens", "cost", "seconds")
    heads = ("CALLS", "FAILED", "CACHED", "PROMPT", "OUTPUT", "TOKENS", "COST $", "SECONDS")
    sums = [*groups, total]
    keys = [[escape(str(row[name] or "-")) for name in by] for row in groups]
    keys.append(["all", *[""] * (len(by) - 1)])
    amounts = [[_amount(row, name) for name in names] for row in sums]
    rows = [(*key, *line) for key, line in zip(keys, amounts, strict=True)]
    text = table((*(name.upper() for name in by), *heads), rows, right=heads)
    if max(map(len, text.splitlines())) > WIDTH:  # long names beside large numbers: the names go below
        text = table(heads, amounts, right=heads, below=[indented("  ".join(filter(None, key))) for key in keys])
    return "\n\n".join([text, *_estimated(total)])


def calls(listed: Iterable[Json]) -> str:
    """Two lines for each call: the second has the caller, the request id and the error. Empty if there are no calls."""
    heads = ("STATUS", "TOKENS", "SECONDS")
    rows, more = [], []
    for call in listed:
        tokens = ("~" if call["estimated"] else "") + f"{call['total_tokens']:,}"
        key = call["key"] if call["key"].startswith(call["upstream"]) else f"{call['upstream']} {call['key']}"
        names = [call["time"].replace("T", " ")[:19], call["model"], key]
        rows.append([*map(escape, names), str(call["status"]), tokens, f"{call['seconds']:.3f}"])
        about = (call["caller"], call["request_id"], call["error"])
        more.append(indented("  ".join(escape(text) for text in about if text)))
    if not rows:
        return ""
    return table(("TIME (UTC)", "MODEL", "KEY", *heads), rows, right=heads, below=more)


def no_calls(first: str | None) -> str:
    """The message for an empty period. ``first``: the time of the first call in the ledger; None if there is none."""
    return (
        f"No calls in this period; the first in the ledger is from {first}." if first else "No calls in the ledger yet."
    )


def _amount(row: Json, name: str) -> str:
    if name == "seconds":
        return f"{row[name]:.2f}"
    if name == "cost":
        return "" if row[name] == "0" else row[name]
    if name == "cached" and not row[name]:
        return ""
    return ("~" if row["estimated_calls"] and "tokens" in name else "") + f"{row[name]:,}"


def _estimated(total: Json) -> Iterable[str]:
    if total["estimated_calls"]:
        share = 100 * total["estimated_tokens"] / max(total["total_tokens"], 1)
        yield f"~ includes estimates: {total['estimated_calls']:,} of the calls, {share:.1f} % of the tokens."
