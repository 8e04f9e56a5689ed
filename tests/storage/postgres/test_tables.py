"""The tables in PostgreSQL: those of the schema, made by command, in a database that is nobody else's."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import MetaData, Table, UniqueConstraint, create_engine
from sqlalchemy.dialects import postgresql

from app.storage.errors import PostgresError, StoreError
from app.storage.ledger_file import LedgerFile
from app.storage.location import Postgres
from app.storage.new_file import VERSION
from app.storage.postgres.connection import COMMENT
from app.storage.postgres.tables import upgrade
from app.storage.schema import metadata

from ...ledger import call, read
from ...servers import PostgresServer

DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]


def shape(table: Table) -> dict[str, Any]:
    """Columns, keys and indexes; what a partial index is of is written by the server in its own way."""
    unique = {tuple(each.columns.keys()) for each in table.constraints if isinstance(each, UniqueConstraint)}
    return {
        "columns": [(each.name, each.type.compile(DIALECT), each.nullable) for each in table.columns],
        "key": table.primary_key.columns.keys(),
        "unique": unique | {(each.name,) for each in table.columns if each.unique},
        "indexes": {
            each.name: (
                each.columns.keys(),
                each.unique,
                each.dialect_options["postgresql"]["where"] is not None,
            )
            for each in table.indexes
        },
    }


def test_the_tables_are_those_of_the_schema(tables_url: str) -> None:
    """tests/storage/test_migrations.py shows the same of a file, new or migrated."""
    engine = create_engine(tables_url.replace("postgresql://", "postgresql+psycopg://"))
    found = MetaData()
    with engine.connect() as connection:
        found.reflect(connection)
        differences = compare_metadata(MigrationContext.configure(connection), metadata)
    engine.dispose()
    assert [name for name, *_ in differences] == ["remove_table_comment"]  # it has the version
    assert {*found.tables} == {*metadata.tables, "alembic_version"}
    for name, table in metadata.tables.items():
        assert shape(found.tables[name]) == shape(table), name


def of(url: str, tmp_path: Path) -> Postgres:
    return Postgres(url, tmp_path / "torii.db")


def test_tables_are_made_once_and_by_command_only(postgres_url: str, tmp_path: Path) -> None:
    location = of(postgres_url, tmp_path)
    with pytest.raises(StoreError, match="it has no tables yet; `torii db upgrade` creates them"):
        LedgerFile(location)
    assert read(location, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]
    assert [upgrade(location), upgrade(location)] == [0, VERSION]
    assert read(location, "SELECT version_num FROM alembic_version") == [(f"{VERSION:04}",)]
    with closing(LedgerFile(location)) as file:
        file.record_call(call(request_id="a"))
    assert read(location, "SELECT request_id FROM calls") == [("a",)]


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("COMMENT ON TABLE calls IS '{comment}{newer}'", "a newer Torii wrote it (version {newer}; this Torii knows"),
        ("COMMENT ON TABLE calls IS 'phone calls'", "it belongs to another program"),
        ("DROP TABLE calls", "it belongs to another program"),
    ],
)
def test_what_is_not_ours_is_refused_and_left_alone(
    statement: str, words: str, postgres: PostgresServer, tables_url: str, tmp_path: Path
) -> None:
    location = of(tables_url, tmp_path)
    names = {"comment": COMMENT.replace("'", "''"), "newer": VERSION + 1}
    postgres.execute(statement.format(**names), tables_url.rpartition("/")[2])
    for use in (upgrade, LedgerFile):
        with pytest.raises(StoreError) as caught:
            use(location)
        assert str(caught.value).startswith(words.format(**names))


def test_a_database_that_can_only_be_read_is_refused(postgres: PostgresServer, tables_url: str, tmp_path: Path) -> None:
    postgres.execute(f"ALTER DATABASE {tables_url.rpartition('/')[2]} SET default_transaction_read_only = on")
    with pytest.raises((PostgresError, StoreError), match="it is read-only"):
        LedgerFile(of(tables_url, tmp_path))
