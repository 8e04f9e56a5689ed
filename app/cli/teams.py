"""`torii teams` and `torii management-keys`."""

from __future__ import annotations

from typing import Any

import click

from .accounts import ended, named, opened, shown, shown_once, shown_with_left, where_options
from .bodies import body, checked, limit_options
from .keys import json_option, quiet_option
from .options import Commands

team_argument = click.argument("team", metavar="TEAM")


@click.group(cls=Commands)
def teams() -> None:
    """Create, list, change and delete teams.

    All keys of a team share its limits. TEAM is a team's id or its name. The commands find the gateway or its file
    as `torii keys` does.

    \b
    Examples:
      torii teams create search --budget usd/month=200 --limit concurrent_calls=50
      torii teams show search
    """


@teams.command("list")
@where_options
@json_option
def list_teams(as_json: bool, **where: Any) -> None:
    """List the teams.

    \b
    Example:
      torii teams list
    """
    from . import account_tables as tables

    found = opened(where).entries("teams")
    shown({"object": "list", "data": found}, tables.teams(found), as_json)


@teams.command("create")
@click.argument("name", metavar="NAME")
@click.option("--id", "team_id", metavar="ID", help="Its id.  [default: a random one]")
@limit_options
@where_options
@json_option
def create_team(name: str, team_id: str | None, as_json: bool, **asked: Any) -> None:
    """Create a team.

    \b
    Example:
      torii teams create search --budget tokens/month=50000000
    """
    from ..config.accounts import TeamFields
    from . import account_tables as tables

    given = body({**asked, "name": name}) | ({} if team_id is None else {"id": team_id})
    made = opened(asked).create("teams", checked(TeamFields, given))
    shown(made, tables.facts(made), as_json)


@teams.command("show")
@team_argument
@where_options
@json_option
def show_team(team: str, as_json: bool, **where: Any) -> None:
    """Show a team, and what is left of its limits and budgets.

    \b
    Example:
      torii teams show search
    """
    shown_with_left(where, "teams", team, as_json)


@teams.command("edit")
@team_argument
@click.option("--name", metavar="NAME", help="A new name.")
@click.option("--disable/--enable", "disabled", default=None, help="Refuse, or take again, calls of all its keys.")
@limit_options
@where_options
@json_option
def edit_team(team: str, disabled: bool | None, as_json: bool, **asked: Any) -> None:
    """Change a team. What is not named stays as it is.

    \b
    Examples:
      torii teams edit search --budget usd/month=300
      torii teams edit search --disable
    """
    from ..config.accounts import TeamChanges
    from . import account_tables as tables

    accounts = opened(asked)
    found = named(accounts, "teams", team)
    state = {} if disabled is None else {"disabled": disabled}
    others = any(asked.get(name) for name in ("name", "limit", "budget", "metadata"))
    changes = {**state, **(body(asked, found) if others or not state else {})}
    changed = accounts.edit("teams", found["id"], checked(TeamChanges, changes))
    shown(changed, tables.facts(changed), as_json)


@teams.command("delete")
@team_argument
@where_options
@json_option
def delete_team(team: str, as_json: bool, **where: Any) -> None:
    """Delete a team that has no keys.

    \b
    Example:
      torii teams delete search
    """
    ended(where, "teams", team, "deleted", as_json)


# ---------------------------------------------------------------- management keys


@click.group("management-keys", cls=Commands)
def management_keys() -> None:
    """Create, list and delete keys for the operator's API.

    They are for programs and colleagues who do not get the operator's key.

    \b
    Example:
      torii management-keys create dashboard --scope read_only
    """


@management_keys.command("list")
@where_options
@json_option
def list_management_keys(as_json: bool, **where: Any) -> None:
    """List the management keys.

    \b
    Example:
      torii management-keys list
    """
    from . import account_tables as tables

    found = opened(where).entries("management_keys")
    shown({"object": "list", "data": found}, tables.management_keys(found), as_json)


@management_keys.command("create")
@click.argument("name", metavar="NAME")
@click.option("--scope", metavar="SCOPE", required=True, help="admin, read_only, or team:ID for one team's keys.")
@where_options
@quiet_option
@json_option
def create_management_key(name: str, scope: str, quiet: bool, as_json: bool, **where: Any) -> None:
    """Create a management key and print its secret, which is never shown again.

    \b
    Example:
      torii management-keys create dashboard --scope read_only
    """
    made = opened(where).create("management_keys", {"name": name, "scope": scope})
    shown_once(made, f"{made['name']} ({made['id']}), {made['scope']}", quiet, as_json)


@management_keys.command("delete")
@click.argument("key", metavar="KEY")
@where_options
@json_option
def delete_management_key(key: str, as_json: bool, **where: Any) -> None:
    """End a management key, for good.

    \b
    Example:
      torii management-keys delete dashboard
    """
    ended(where, "management_keys", key, "deleted", as_json)
