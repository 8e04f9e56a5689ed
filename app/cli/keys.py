"""`torii keys`: virtual keys."""

from __future__ import annotations

from typing import Any

import click

from .accounts import ended, named, opened, shown, shown_once, shown_with_left, where_options
from .bodies import body, checked, key_options, limit_options, seconds
from .options import Commands

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, in the form of the operator's API.")
quiet_option = click.option("--quiet", is_flag=True, help="Print the secret only, for scripts.")
key_argument = click.argument("key", metavar="KEY")


@click.group(cls=Commands)
def keys() -> None:
    """Create, list, change and revoke callers' keys.

    KEY is a key's id or its name. The commands ask the running gateway if operator_key is set (TORII_OPERATOR_KEY),
    else they change the ledger's file; a running gateway sees that within a second.

    \b
    Examples:
      torii keys create ana --team search --limit tokens_per_day=100000
      torii keys create indexer --endpoints embeddings --budget usd/month=25
      torii keys rotate ana --grace 1h
    """


@keys.command("list")
@where_options
@click.option("--team", metavar="TEAM", help="Only the keys of this team, by its id or name.")
@click.option("--all", "revoked", is_flag=True, help="Also those that were revoked.")
@json_option
def list_keys(team: str | None, revoked: bool, as_json: bool, **where: Any) -> None:
    """List the keys.

    \b
    Examples:
      torii keys list
      torii keys list --team search --json | jq -r '.data[].id'
    """
    from . import account_tables as tables

    accounts = opened(where)
    found = accounts.entries("keys")
    teams = {each["id"]: each["name"] for each in accounts.entries("teams")}
    if team is not None:
        wanted = named(accounts, "teams", team)["id"]
        found = [key for key in found if key["team"] == wanted]
    if not revoked:
        found = [key for key in found if not key.get("revoked_at")]
    shown({"object": "list", "data": found}, tables.keys(found, teams), as_json)


@keys.command("create")
@click.argument("name", metavar="NAME")
@limit_options
@key_options
@where_options
@quiet_option
@json_option
def create_key(name: str, quiet: bool, as_json: bool, **asked: Any) -> None:
    """Create a key and print its secret, which is never shown again.

    \b
    Examples:
      torii keys create ana
      torii keys create bo --team search --expires 30d --limit requests_per_minute=60
      torii keys create indexer --models 'jina-embeddings-*' --budget tokens/day=100000,endpoint=embeddings
      KEY=$(torii keys create ci --quiet)
    """
    from ..config.accounts import KeyFields

    made = opened(asked).create("keys", checked(KeyFields, body({**asked, "name": name})))
    _with_secret(made, quiet, as_json)


@keys.command("show")
@key_argument
@where_options
@json_option
def show_key(key: str, as_json: bool, **where: Any) -> None:
    """Show a key, and what is left of its limits and budgets.

    \b
    Example:
      torii keys show ana
    """
    shown_with_left(where, "keys", key, as_json)


@keys.command("edit")
@key_argument
@click.option("--name", metavar="NAME", help="A new name.")
@limit_options
@key_options
@where_options
@json_option
def edit_key(key: str, as_json: bool, **asked: Any) -> None:
    """Change a key. What is not named stays as it is.

    \b
    Examples:
      torii keys edit ana --limit tokens_per_day=200000
      torii keys edit ana --limit requests_per_minute=none --budget none
      torii keys edit ana --models any --expires never --team none
    """
    from ..config.accounts import KeyChanges
    from . import account_tables as tables

    accounts = opened(asked)
    found = named(accounts, "keys", key)
    changed = accounts.edit("keys", found["id"], checked(KeyChanges, body(asked, found)))
    shown(changed, tables.facts(changed), as_json)


@keys.command("rotate")
@key_argument
@click.option("--grace", metavar="TIME", default="24h", help="How long the old secret works on: 24h, 30m, 0.  [24h]")
@where_options
@quiet_option
@json_option
def rotate_key(key: str, grace: str, quiet: bool, as_json: bool, **where: Any) -> None:
    """Give a key a new secret and print it.

    The old one works on until the grace ends.

    \b
    Examples:
      torii keys rotate ana
      torii keys rotate ana --grace 0 --quiet
    """
    lasting = seconds("--grace", grace)
    accounts = opened(where)
    _with_secret(accounts.rotate(named(accounts, "keys", key)["id"], lasting), quiet, as_json)


@keys.command("disable")
@key_argument
@where_options
@json_option
def disable_key(key: str, as_json: bool, **where: Any) -> None:
    """Refuse new calls of a key, until it is enabled again. Calls under way end as usual.

    \b
    Example:
      torii keys disable ana
    """
    _disabled(key, True, as_json, where)


@keys.command("enable")
@key_argument
@where_options
@json_option
def enable_key(key: str, as_json: bool, **where: Any) -> None:
    """Take calls of a disabled key again.

    \b
    Example:
      torii keys enable ana
    """
    _disabled(key, False, as_json, where)


@keys.command("revoke")
@key_argument
@where_options
@json_option
def revoke_key(key: str, as_json: bool, **where: Any) -> None:
    """End a key and all its secrets, for good. Calls under way end as usual; its rows stay in the ledger.

    \b
    Example:
      torii keys revoke ana
    """
    ended(where, "keys", key, "revoked", as_json)


def _disabled(key: str, disabled: bool, as_json: bool, where: Any) -> None:
    accounts = opened(where)
    found = named(accounts, "keys", key)
    changed = accounts.edit("keys", found["id"], {"disabled": disabled})
    said = f"{'disabled' if disabled else 'enabled'} {changed['name']} ({changed['id']})"
    shown(changed, said, as_json)


def _with_secret(key: Any, quiet: bool, as_json: bool) -> None:
    from . import account_tables as tables

    shown_once(key, tables.facts(key), quiet, as_json)
