"""The ledger's tables in SQLAlchemy Core, in types that PostgreSQL has too. docs/ledger.md describes the columns.

migrations/ and new_file.py make the same tables; tests/storage compare all three.
"""

from __future__ import annotations

from sqlalchemy import REAL, BigInteger, Column, Double, Index, Integer, MetaData, Table, Text
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateIndex, CreateTable, ExecutableDDLElement
from sqlalchemy.types import TypeEngine

# 64 bits in both databases: SQLite's id has to be an INTEGER, and PostgreSQL's REAL has 32.
BIG: TypeEngine[int] = BigInteger().with_variant(Integer, "sqlite")
FLOAT: TypeEngine[float] = Double().with_variant(REAL, "sqlite")

metadata = MetaData()

calls = Table(
    "calls",
    metadata,
    Column("id", BIG, primary_key=True),
    Column("time", BIG, nullable=False),  # Unix time in milliseconds
    Column("caller", Text, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("upstream", Text, nullable=False),
    Column("upstream_model", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("status", Integer, nullable=False),
    Column("error", Text),
    Column("prompt_tokens", BIG, nullable=False),
    Column("completion_tokens", BIG, nullable=False),
    Column("total_tokens", BIG, nullable=False),
    Column("estimated", Integer, nullable=False),  # 0 or 1
    Column("seconds", FLOAT, nullable=False),
    Column("first_event_seconds", FLOAT),
    Column("attempts", Integer, nullable=False),
    Column("request_id", Text, nullable=False),
    Index("calls_by_time", "time"),
)

key_rests = Table(
    "key_rests",
    metadata,
    Column("upstream", Text, primary_key=True),
    Column("fingerprint", Text, primary_key=True),
    Column("alias", Text, nullable=False),
    Column("cause", Text, nullable=False),
    Column("until", FLOAT, nullable=False),  # Unix time in seconds
    sqlite_with_rowid=False,
)


def statements() -> list[str]:
    """SQLite's statements for all tables and indexes, as in new_file.py."""
    made: list[ExecutableDDLElement] = []
    for table in metadata.sorted_tables:
        made += [CreateTable(table), *map(CreateIndex, sorted(table.indexes, key=lambda index: str(index.name)))]
    return [_plain(str(each.compile(dialect=sqlite.dialect()))) for each in made]


def _plain(text: str) -> str:
    return "\n".join(line.replace("\t", "    ").rstrip() for line in text.strip().splitlines())
