"""The command db: the ledger's file or database as a whole."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import click

from ..storage.location import Location, Postgres
from .accounts import ledger_of, readable
from .options import Commands, NotAlive, Wrong, config_option, its_port_option, load


@click.group(cls=Commands)
def db() -> None:
    """Upgrade, check, copy, back up and restore the ledger.

    \b
    Examples:
      torii db check
      torii db upgrade
      torii db backup torii-2026-11-30.db
    """


@db.command("upgrade")
@config_option
def upgrade_db(config: Path | None) -> None:
    """Bring the ledger to the version of this Torii, without loss.

    The gateway does the same with a file when it starts, but not with a PostgreSQL database (storage.url), whose tables
    this command makes. An older Torii refuses the upgraded ledger: back it up first to be able to go back.

    \b
    Example:
      torii db upgrade
    """
    from ..storage.new_file import VERSION

    location = ledger_of(load(config, serving=False))
    done = _upgraded_file(location) if isinstance(location, Path) else _upgraded_server(location)
    click.echo(f"{location}: {done or f'is of version {VERSION}, which is the newest'}")


def _upgraded_file(path: Path) -> str:
    """The change in words; empty if there is none. Raises Wrong, NotAlive."""
    from ..storage.errors import StoreError
    from ..storage.ledger_file import LedgerFile

    try:
        file = LedgerFile(path)
    except StoreError as error:
        raise Wrong(f"{path}: {error}. The file was not changed.") from None
    file.close()
    if file.health:
        raise NotAlive(f"{path}: {file.health.what}. The file was not changed.")
    return file.migrated


def _upgraded_server(location: Postgres) -> str:
    """The same for a database."""
    from ..storage.errors import PostgresError, StoreError
    from ..storage.new_file import VERSION
    from ..storage.postgres.tables import upgrade

    try:
        before = upgrade(location)
    except (PostgresError, StoreError) as error:
        kind = NotAlive if isinstance(error, PostgresError) and error.passing else Wrong
        raise kind(f"storage.url: {location}: {error}. The database was not changed.") from None
    if before == VERSION:
        return ""
    return f"upgraded from version {before} to {VERSION}" if before else f"tables of version {VERSION} were made"


@db.command("check")
@config_option
@its_port_option
def check_db(config: Path | None, port: int | None) -> None:
    """Examine the whole ledger, and print its version.

    Works while the gateway runs. Exit code 0: it is sound; 1: it is not, or is of an older version.

    \b
    Example:
      torii db check
    """
    from ..storage.examination import examine

    path = ledger_of(load(config, serving=False, port=port))
    with readable(path):
        version, newest, mistakes = examine(path)
    for mistake in mistakes:
        click.echo(f"{path}: {mistake}")
    if mistakes:
        raise SystemExit(1)
    if version < newest:
        raise NotAlive(f"{path}: sound, of version {version}; `torii db upgrade` brings it to {newest}.")
    click.echo(f"{path}: sound, of version {version}")


@db.command("copy")
@config_option
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
def copy_db(config: Path | None, file: Path) -> None:
    """Copy a ledger's file to the PostgreSQL database of storage.url.

    All or nothing, with keys, teams, budgets and rows; what is counted is compared with the rows before and after. The
    database must be empty: `torii db upgrade` makes its tables. Stop the gateway first, so that no call is written in
    between. The file is left as it is.

    \b
    Example:
      torii db copy ~/.local/state/torii/torii.db
    """
    from ..storage.errors import PostgresError, StoreError

    location = ledger_of(load(config, serving=False))
    if isinstance(location, Path):
        raise Wrong("storage.url (TORII_STORAGE__URL) is not set; set it to the PostgreSQL database to copy to.")
    from ..storage.postgres.copying import copy

    try:
        found = copy(file, location)
    except (PostgresError, StoreError) as error:
        raise Wrong(f"{file} cannot be copied to {location}: {error}.") from None
    click.echo(f"{location}: {found.keys} keys, {found.rows} rows; what is counted equals the ledger's rows")


@db.command("backup")
@config_option
@its_port_option
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
def backup_db(config: Path | None, port: int | None, file: Path) -> None:
    """Copy the ledger with its keys and teams to a new file.

    Works while the gateway runs: the copy is whole, and of one moment. It holds no key, only the SHA-256 of each.

    \b
    Example:
      torii db backup torii-2026-11-30.db
    """
    from ..storage.backup import back_up

    path = _file_of(ledger_of(load(config, serving=False, port=port)), "pg_dump")
    try:
        with readable(path):
            found = back_up(path, file)
    except FileExistsError:
        raise Wrong(f"{file} exists; name a new file.") from None
    click.echo(f"{file}: {found.keys} keys, {found.rows} rows")


@db.command("restore")
@config_option
@its_port_option
@click.option("--replace", is_flag=True, help="Replace the keys and rows that the ledger has now.")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
def restore_db(config: Path | None, port: int | None, replace: bool, file: Path) -> None:
    """Put a backup in place of the ledger.

    All or nothing. Stop the gateway first, so that no call is written in between. What the ledger has now is lost:
    back it up before.

    \b
    Examples:
      torii db restore torii-2026-11-30.db
      torii db restore torii-2026-11-30.db --replace
    """
    from ..storage.backup import contents, restore
    from ..storage.errors import NoFile, StoreError

    path = _file_of(ledger_of(load(config, serving=False, port=port)), "pg_restore")
    with readable(path), suppress(NoFile):
        now = contents(path)
        if any(now) and not replace:
            raise Wrong(f"{path} has {now.keys} keys and {now.rows} rows; --replace replaces them by those of {file}.")
    try:
        found = restore(file, path)
    except StoreError as error:
        raise Wrong(f"{file} cannot be restored to {path}: {error}. The ledger was not changed.") from None
    click.echo(f"{path}: {found.keys} keys, {found.rows} rows")


def _file_of(location: Location, tool: str) -> Path:
    """Raises Wrong for a database."""
    if isinstance(location, Path):
        return location
    raise Wrong(f"the ledger is in PostgreSQL ({location}), whose own {tool} does this.")
