"""The place of keys and teams: behind the running gateway's API, or in the ledger's file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

from ..storage.location import Location
from .options import Wrong, config_option, its_host_option, its_port_option, load

if TYPE_CHECKING:
    from ..config.settings import Settings
    from ..core.types import Json

F = TypeVar("F", bound=Callable[..., Any])

WHERE = ("config", "host", "port")
KINDS = {"keys": "key", "teams": "team", "management_keys": "management key"}
NO_LEDGER = "there is no ledger: ledger.path is off, or is auto while neither XDG_STATE_HOME nor HOME is set."


class AccountVerbs(Protocol):
    """Keys, teams, management keys and the audit, in the forms of the operator's API. All functions raise Wrong for
    what cannot be done as asked, with nothing changed."""

    def entries(self, kind: str, most: int = sys.maxsize) -> list[Json]: ...

    def create(self, kind: str, body: Json) -> Json: ...

    def edit(self, kind: str, entry: str, changes: Json) -> Json: ...

    def delete(self, kind: str, entry: str) -> Json: ...

    def rotate(self, entry: str, grace_seconds: int) -> Json: ...

    def left(self, kind: str, entry: str) -> list[Json]: ...


def where_options(command: F) -> F:
    return config_option(its_host_option(its_port_option(command)))


def opened(asked: Mapping[str, Any]) -> AccountVerbs:
    """The API of the gateway that ``--host`` and ``--port`` name, or that runs on the configured port and whose
    operator key is set; else the ledger's file."""
    from ..server.runfile import runs

    config, host, port = (asked[name] for name in WHERE)
    settings = load(config, serving=False, host=host, port=port)
    named = host is not None or port is not None
    if named or (settings.operator_key is not None and runs(settings.port)):
        from .api import NO_OPERATOR, Api
        from .columns import address

        if settings.operator_key is None:
            raise Wrong(NO_OPERATOR)
        its_port = settings.port if port else settings.operator_port or settings.port
        return Api(address(settings.host, its_port), settings.operator_key.get_secret_value())
    from .file_accounts import FileAccounts

    return FileAccounts(ledger_of(settings), settings)


def ledger_of(settings: Settings) -> Location:
    """The ledger: the temporary one of a sandbox that runs on the port, unless the settings name one. Raises
    Wrong."""
    from ..config.fields import AUTO
    from ..server.runfile import sandbox_ledger

    own = settings.ledger.path == AUTO and settings.storage.url is None
    path = (sandbox_ledger(settings.port) if own else None) or settings.ledger_location
    if path is None:
        raise Wrong(NO_LEDGER)
    return path


def named(accounts: AccountVerbs, kind: str, given: str) -> Json:
    """The entry with this id or this name. Raises Wrong, which names the nearest."""
    from ..core.names import nearest

    found = accounts.entries(kind)
    for field in ("id", "name"):
        if chosen := [each for each in found if each[field] == given]:
            return chosen[0]
    near = nearest(given, [each["name"] for each in found])
    hint = f"nearest: {', '.join(near)}" if near else f"there are no {KINDS[kind]}s yet"
    raise Wrong(f"there is no {KINDS[kind]} with the id or name {given!r}; {hint}.")


def shown(answer: Json, text: str, as_json: bool) -> None:
    """Print the answer as JSON, or the text."""
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(answer), indent=2).decode() if as_json else text)


def shown_with_left(where: Mapping[str, Any], kind: str, given: str, as_json: bool) -> None:
    """Print an entry of ``keys`` or ``teams``, and what is left of its limits and budgets. Raises Wrong."""
    from . import account_tables as tables

    accounts = opened(where)
    found = named(accounts, kind, given)
    left = accounts.left(KINDS[kind], found["id"])
    shown({**found, "left": left}, "\n\n".join(filter(None, [tables.facts(found), tables.left(left)])), as_json)


def ended(where: Mapping[str, Any], kind: str, given: str, verb: str, as_json: bool) -> None:
    """End an entry for good, and print that it was. ``verb`` says how: revoked, deleted. Raises Wrong."""
    accounts = opened(where)
    found = named(accounts, kind, given)
    accounts.delete(kind, found["id"])
    said = {"object": KINDS[kind].replace(" ", "_"), "id": found["id"], "deleted": True}
    shown(said, f"{verb} {found['name']} ({found['id']})", as_json)


def shown_once(made: Json, text: str, quiet: bool, as_json: bool) -> None:
    """Print something new with its secret, which follows the text; ``quiet`` prints the secret alone."""
    if quiet:
        click.echo(made["secret"])
    else:
        shown(made, f"{text}\n\nThe secret, which is never shown again:\n\n  {made['secret']}", as_json)


@contextmanager
def readable(path: Location) -> Iterator[None]:
    """Raises Wrong if the ledger cannot be read."""
    from ..storage.errors import NoFile, StoreError

    try:
        yield
    except NoFile as error:
        raise Wrong(f"no ledger at {path}: {error}. The first `torii serve` with an upstream key creates it.") from None
    except StoreError as error:
        raise Wrong(f"the ledger {path} cannot be read: {error}.") from None
