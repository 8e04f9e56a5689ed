"""Commands for the ledger: calls, ledger verify, audit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..storage.location import Location
from .accounts import ledger_of, opened, readable, shown, where_options
from .keys import json_option
from .options import Command, Commands, config_option, its_port_option, load

PAGE = 100  # rows read at once


@click.command(cls=Command)
@config_option
@its_port_option
@click.option("--since", metavar="TIME", help="Start: 7d, 24h or 30m ago, 2026-11-01 or 2026-11-01T12:30 (UTC).")
@click.option("--until", metavar="TIME", help="End, in the same forms; a date includes the whole day.")
@click.option("--key", metavar="KEY", help="Only calls of this key, by its id or name.")
@click.option("--team", metavar="TEAM", help="Only calls of this team, by its id or name.")
@click.option("--model", metavar="NAME", help="Only calls to this model.")
@click.option("--status", type=click.IntRange(100, 599), metavar="NUMBER", help="Only calls with this status.")
@click.option("--request-id", metavar="ID", help="Only this call: x-request-id of its answer.")
@click.option("--kind", type=click.Choice(["call", "cached", "refusal"]), metavar="WORD", help="call, cached, refusal.")
@click.option("--limit", type=click.IntRange(1), default=20, metavar="NUMBER", help="At most so many.  [default: 20]")
@json_option
def calls(config: Path | None, port: int | None, as_json: bool, **asked: Any) -> None:
    """List calls and refusals from the ledger.

    The latest first, with answers from the cache. Refusals for a limit are counted by minute. Works while the gateway
    runs.

    \b
    Examples:
      torii calls --limit 50
      torii calls --key ana --since 7d
      torii calls --kind refusal --team search
      torii calls --request-id 0f3e... --json
    """
    from ..usage import pages
    from . import account_tables as tables
    from .operate import time_of

    settings = load(config, serving=False, port=port)
    path = ledger_of(settings)
    limit = asked.pop("limit")
    times = {name: time_of(option, asked.pop(option)) for option, name in (("since", "start"), ("until", "end"))}
    bounds = {name: int(time.timestamp()) for name, time in times.items() if time}
    found: list[Any] = []
    more = True
    with readable(path):
        chosen = {**asked, **_ids(path, settings, asked), **bounds}
        while more and len(found) < limit:
            after = found[-1]["id"] if found else None
            wanted = pages.CallsAsked(**chosen, limit=min(PAGE, limit - len(found)), after=after)
            page = pages.calls_page(path, wanted)
            found += page["data"]
            more = page["has_more"]
    shown({"object": "list", "data": found}, tables.calls(found), as_json)


def _ids(path: Location, settings: Any, asked: Any) -> dict[str, str]:
    """The ids of the key and the team that the options name. One that is not known is taken as an id: its rows stay in
    the ledger."""
    from .file_accounts import FileAccounts

    accounts = FileAccounts(path, settings)
    found = {}
    for option, kind in (("key", "keys"), ("team", "teams")):
        if given := asked.get(option):
            ids = {each["name"]: each["id"] for each in accounts.entries(kind)}
            found[option] = ids.get(given, given)
    return found


@click.group(cls=Commands)
def ledger() -> None:
    """Check the ledger.

    \b
    Example:
      torii ledger verify
    """


@ledger.command("verify")
@config_option
@its_port_option
@json_option
def verify_ledger(config: Path | None, port: int | None, as_json: bool) -> None:
    """Compare what each limit and budget counts with the sum of the ledger's rows.

    Works while the gateway runs. Exit code 0: they are equal; 1: they differ.

    \b
    Example:
      torii ledger verify
    """
    from ..storage.verify import verify

    path = ledger_of(load(config, serving=False, port=port))
    with readable(path):
        differences = verify(path)
    clean = f"{path}: what is counted equals the ledger's rows"
    shown({"path": str(path), "differences": differences}, "\n".join(differences) or clean, as_json)
    if differences:
        raise SystemExit(1)


@click.command(cls=Command)
@where_options
@click.option("--limit", type=click.IntRange(1), default=20, metavar="NUMBER", help="At most so many.  [default: 20]")
@json_option
def audit(limit: int, as_json: bool, **where: Any) -> None:
    """List who changed keys and teams.

    When, from where, and the new values; the latest first.

    \b
    Examples:
      torii audit
      torii audit --limit 100 --json
    """
    from . import account_tables as tables

    found = opened(where).entries("audit", limit)
    shown({"object": "list", "data": found}, tables.audit(found), as_json)
