"""The tables in a PostgreSQL database: made and brought to this version, by command.

Every database begins with all tables of the version that made it, so that only later versions are migrations there.
"""

from __future__ import annotations

from contextlib import closing

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import StaticPool

from ..connection import StoreConnection
from ..errors import StoreError
from ..location import Postgres
from ..migrations.__main__ import FOLDER
from ..new_file import VERSION
from ..schema import metadata
from .connection import COMMENT, PostgresConnection
from .failures import failure

SECONDS = 3600.0  # for one statement


def upgrade(location: Postgres) -> int:
    """Brings the database to this version, in one transaction; returns the version before, 0 for an empty one.

    Raises PostgresError, and StoreError for another program's database or a newer one.
    """
    with closing(PostgresConnection(location, seconds=SECONDS)) as connection:
        before = connection.version()
        if before == VERSION:
            return before
        connection.driver.kept = True
        engine = create_engine(connection.dialect, creator=lambda: connection.driver, poolclass=StaticPool)
        try:
            with engine.connect() as upgrading:
                connection.lock()
                before = connection.version()
                _upgrade(upgrading, before)
                connection.commit()
        except DBAPIError as error:
            connection.rollback()
            raise failure(error.orig) from None  # type: ignore[arg-type]  # the driver's
        return before


def _upgrade(connection: Connection, before: int) -> None:
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    if before == 0:
        metadata.create_all(connection, checkfirst=False)
        command.stamp(config, f"{VERSION:04}")
    elif before < VERSION:
        command.upgrade(config, f"{VERSION:04}")
    connection.execute(text(f"COMMENT ON TABLE calls IS '{COMMENT.replace(chr(39), chr(39) * 2)}{VERSION}'"))


def differences(connection: StoreConnection) -> list[str]:
    """The tables and columns that the database lacks, in words."""
    query = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = current_schema()"
    found = {tuple(row) for row in connection.execute(query)}
    wanted = [(table.name, column.name) for table in metadata.sorted_tables for column in table.columns]
    missing = [f"the table {table} has no column {column}" for table, column in wanted if (table, column) not in found]
    if missing and not found:
        raise StoreError("it has no tables")
    return missing
