"""Commands for classifiers: list, adopt. They ask the running gateway, which alone can ask the provider's accounts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .accounts import shown, where_options
from .keys import json_option
from .options import Commands, Wrong, load

if TYPE_CHECKING:
    from .api import Api


@click.group(cls=Commands)
def classifiers() -> None:
    """Show who owns which classifier, and give one away.

    \b
    Examples:
      torii classifiers list --orphans
      torii classifiers adopt 6d1f6e3c-1d2b-4f7e-9a55-3f0c8f6f2a10 --team search
    """


@classifiers.command("list")
@where_options
@click.option("--orphans", is_flag=True, help="Only those that nobody can use; asks the provider's accounts.")
@json_option
def list_classifiers(orphans: bool, as_json: bool, **where: Any) -> None:
    """List the classifiers that were trained here, and their owners.

    With --orphans those of revoked keys, those of calls without an answer, and what the accounts have beyond.

    \b
    Examples:
      torii classifiers list
      torii classifiers list --orphans --json
    """
    from . import account_tables as tables

    found = _gateway(where).classifiers(orphans=orphans)
    shown(found, tables.classifiers(found), as_json)


@classifiers.command("adopt")
@where_options
@click.argument("classifier", metavar="ID")
@click.option("--key", metavar="KEY", help="The new owner: a key, by its id or name, or a caller's name.")
@click.option("--team", metavar="TEAM", help="The new owner: a team, by its id or name.")
@json_option
def adopt_classifier(classifier: str, key: str | None, team: str | None, as_json: bool, **where: Any) -> None:
    """Give a classifier to a key or a team. The owner before loses it.

    \b
    Example:
      torii classifiers adopt 6d1f6e3c-1d2b-4f7e-9a55-3f0c8f6f2a10 --key ana
    """
    from . import account_tables as tables

    if (key is None) == (team is None):
        raise Wrong("name the new owner by --key or by --team.")
    gateway = _gateway(where)
    kind, given = ("team", team) if team is not None else ("key", key)
    ids = {entry["name"]: entry["id"] for entry in gateway.entries(f"{kind}s")}
    found = gateway.adopt(classifier, {kind: ids.get(str(given), given)})
    shown(found, tables.classifiers({"data": [found], "unasked": []}), as_json)


def _gateway(where: dict[str, Any]) -> Api:
    """The operator's API of the running gateway. Raises Wrong without an operator's key."""
    from .api import NO_OPERATOR, Api
    from .columns import address

    port = where["port"]
    settings = load(where["config"], serving=False, host=where["host"], port=port)
    if settings.operator_key is None:
        raise Wrong(NO_OPERATOR)
    its_port = settings.port if port else settings.operator_port or settings.port
    return Api(address(settings.host, its_port), settings.operator_key.get_secret_value())
