"""The child process: ``python -m ...migrations FILE SECONDS``. If SQLite fails, it prints the code and exits with 1."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import StaticPool

from ..errors import code
from ..opening import connect

FOLDER = Path(__file__).parent
CACHE_KILOBYTES = 65_536  # for indexes over many rows
BY_ALEMBIC = 3  # the first version with Alembic's own table; earlier ones have user_version only


def main() -> int:
    path, busy_seconds = sys.argv[1:]
    try:
        migrate(Path(path), float(busy_seconds))
    except (DBAPIError, sqlite3.Error) as error:
        found = code(error.orig if isinstance(error, DBAPIError) else error)
        if found is None:
            raise
        sys.stdout.write(f"{found}\n")
        return 1
    return 0


def migrate(path: Path, busy_seconds: float, folder: Path = FOLDER, head: str = "head") -> None:
    """Migrates the file to the version ``head`` in ``folder``, the last by default, in one transaction. Creates no
    file."""
    with closing(connect(path, "rw", busy_seconds)) as driver:
        driver.execute(f"PRAGMA cache_size = -{CACHE_KILOBYTES}")
        engine = create_engine("sqlite://", creator=lambda: driver, poolclass=StaticPool)
        event.listen(engine, "begin", _begin)
        with engine.begin() as connection:
            _upgrade(connection, folder, head)


def _begin(connection: Connection) -> None:
    """Takes the lock at once: the driver begins no transaction for a change of schema, and two processes may be
    here."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _upgrade(connection: Connection, folder: Path, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.attributes["connection"] = connection
    version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
    if version < BY_ALEMBIC:
        command.stamp(config, f"{version:04}")
    command.upgrade(config, revision)
    script = ScriptDirectory.from_config(config).get_revision(revision)
    head = int(script.revision)
    connection.exec_driver_sql(f"PRAGMA user_version = {head}")


if __name__ == "__main__":
    sys.exit(main())
