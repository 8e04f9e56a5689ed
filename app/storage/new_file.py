"""A new ledger file of this version, without SQLAlchemy and without a child process.

The statements are those of schema.py; tests/storage compare them with schema.py and with the migrations' result.
"""

from __future__ import annotations

APPLICATION = 0x546F7269  # "Tori", which marks the file as ours in SQLite's header
VERSION = 3  # the last in migrations/versions; an older Torii sees it in SQLite's header and refuses the file

STATEMENTS = (
    """CREATE TABLE calls (
    id INTEGER NOT NULL,
    time INTEGER NOT NULL,
    caller TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    model TEXT NOT NULL,
    upstream TEXT NOT NULL,
    upstream_model TEXT NOT NULL,
    "key" TEXT NOT NULL,
    status INTEGER NOT NULL,
    error TEXT,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    total_tokens INTEGER NOT NULL,
    estimated INTEGER NOT NULL,
    seconds REAL NOT NULL,
    first_event_seconds REAL,
    attempts INTEGER NOT NULL,
    request_id TEXT NOT NULL,
    PRIMARY KEY (id)
)""",
    "CREATE INDEX calls_by_time ON calls (time)",
    """CREATE TABLE key_rests (
    upstream TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    alias TEXT NOT NULL,
    cause TEXT NOT NULL,
    until REAL NOT NULL,
    PRIMARY KEY (upstream, fingerprint)
)
 WITHOUT ROWID""",
    """CREATE TABLE alembic_version (
    version_num VARCHAR(32) NOT NULL,
    CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
)""",
    f"INSERT INTO alembic_version (version_num) VALUES ('{VERSION:04}')",  # noqa: S608 - our own number
    f"PRAGMA application_id = {APPLICATION}",
    f"PRAGMA user_version = {VERSION}",
)
