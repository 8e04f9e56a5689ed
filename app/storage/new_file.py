"""A new ledger file of this version, without SQLAlchemy and without a child process.

The statements are those of schema.py; tests/storage compare them with schema.py and with the migrations' result.
"""

from __future__ import annotations

APPLICATION = 0x546F7269  # "Tori", which marks the file as ours in SQLite's header
VERSION = 6  # the last in migrations/versions; an older Torii sees it in SQLite's header and refuses the file

STATEMENTS = (
    """CREATE TABLE alerts (
    scope TEXT NOT NULL,
    unit TEXT NOT NULL,
    filter TEXT NOT NULL,
    since INTEGER NOT NULL,
    amount INTEGER NOT NULL,
    percent INTEGER NOT NULL,
    time INTEGER NOT NULL,
    PRIMARY KEY (scope, unit, filter, since, amount, percent)
)
 WITHOUT ROWID""",
    """CREATE TABLE audit (
    id INTEGER NOT NULL,
    time INTEGER NOT NULL,
    actor TEXT NOT NULL,
    address TEXT,
    action TEXT NOT NULL,
    object_id TEXT NOT NULL,
    changes TEXT NOT NULL,
    PRIMARY KEY (id)
)""",
    "CREATE INDEX audit_by_time ON audit (time)",
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
    kind TEXT DEFAULT 'call' NOT NULL,
    requests INTEGER DEFAULT '1' NOT NULL,
    key_id TEXT,
    team TEXT,
    model_id TEXT,
    stream INTEGER DEFAULT '0' NOT NULL,
    cached_tokens INTEGER DEFAULT '0' NOT NULL,
    cost INTEGER,
    price_date TEXT,
    user TEXT,
    tag TEXT,
    run_id TEXT,
    PRIMARY KEY (id)
)""",
    "CREATE INDEX calls_by_key ON calls (key_id, time) WHERE key_id IS NOT NULL",
    "CREATE INDEX calls_by_model ON calls (model_id, time) WHERE model_id IS NOT NULL",
    "CREATE INDEX calls_by_name ON calls (model, time) WHERE model_id IS NULL",
    "CREATE INDEX calls_by_request ON calls (request_id)",
    "CREATE INDEX calls_by_team ON calls (team, time) WHERE team IS NOT NULL",
    "CREATE INDEX calls_by_time ON calls (time)",
    "CREATE INDEX calls_cached ON calls (time) WHERE kind = 'cached'",
    "CREATE INDEX calls_failed ON calls (status, time) WHERE status != 200",
    """CREATE TABLE classifiers (
    request_id TEXT NOT NULL,
    classifier_id TEXT,
    key_id TEXT NOT NULL,
    team TEXT,
    upstream TEXT NOT NULL,
    account TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    model TEXT NOT NULL,
    labels TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    state TEXT NOT NULL,
    PRIMARY KEY (request_id)
)
 WITHOUT ROWID""",
    "CREATE INDEX classifiers_by_id ON classifiers (classifier_id)",
    """CREATE TABLE counters (
    scope TEXT NOT NULL,
    unit TEXT NOT NULL,
    filter TEXT NOT NULL,
    since INTEGER NOT NULL,
    until INTEGER NOT NULL,
    spent INTEGER NOT NULL,
    held INTEGER NOT NULL,
    PRIMARY KEY (scope, unit, filter, since, until)
)
 WITHOUT ROWID""",
    """CREATE TABLE holds (
    request_id TEXT NOT NULL,
    process TEXT NOT NULL,
    lost INTEGER,
    body TEXT NOT NULL,
    PRIMARY KEY (request_id)
)
 WITHOUT ROWID""",
    """CREATE TABLE idempotency (
    "key" TEXT NOT NULL,
    request TEXT NOT NULL,
    object_id TEXT NOT NULL,
    time INTEGER NOT NULL,
    PRIMARY KEY ("key")
)
 WITHOUT ROWID""",
    """CREATE TABLE key_rests (
    upstream TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    alias TEXT NOT NULL,
    cause TEXT NOT NULL,
    until REAL NOT NULL,
    PRIMARY KEY (upstream, fingerprint)
)
 WITHOUT ROWID""",
    """CREATE TABLE keys (
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    team TEXT,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    last_used_at INTEGER,
    revoked_at INTEGER,
    disabled INTEGER NOT NULL,
    fields TEXT NOT NULL,
    PRIMARY KEY (id),
    UNIQUE (name)
)
 WITHOUT ROWID""",
    """CREATE TABLE management_keys (
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    scope TEXT NOT NULL,
    hash TEXT NOT NULL,
    tail TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (id),
    UNIQUE (name),
    UNIQUE (hash)
)
 WITHOUT ROWID""",
    """CREATE TABLE processes (
    id TEXT NOT NULL,
    until INTEGER NOT NULL,
    PRIMARY KEY (id)
)
 WITHOUT ROWID""",
    """CREATE TABLE refusals (
    minute INTEGER NOT NULL,
    key_id TEXT NOT NULL,
    team TEXT NOT NULL,
    reason TEXT NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (minute, key_id, team, reason)
)
 WITHOUT ROWID""",
    """CREATE TABLE rolled_blocks (
    block INTEGER NOT NULL,
    key_id TEXT NOT NULL,
    team TEXT NOT NULL,
    model TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    upstream TEXT NOT NULL,
    caller TEXT NOT NULL,
    "key" TEXT NOT NULL,
    requests INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    total_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    asked INTEGER NOT NULL,
    cached INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    failed_asked INTEGER NOT NULL,
    estimated INTEGER NOT NULL,
    estimated_tokens INTEGER NOT NULL,
    microseconds INTEGER NOT NULL,
    PRIMARY KEY (block, key_id, team, model, endpoint, upstream, caller, "key")
)
 WITHOUT ROWID""",
    """CREATE TABLE rolled_days (
    day INTEGER NOT NULL,
    key_id TEXT NOT NULL,
    team TEXT NOT NULL,
    model TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    upstream TEXT NOT NULL,
    caller TEXT NOT NULL,
    "key" TEXT NOT NULL,
    requests INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    total_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    asked INTEGER NOT NULL,
    cached INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    failed_asked INTEGER NOT NULL,
    estimated INTEGER NOT NULL,
    estimated_tokens INTEGER NOT NULL,
    microseconds INTEGER NOT NULL,
    PRIMARY KEY (day, key_id, team, model, endpoint, upstream, caller, "key")
)
 WITHOUT ROWID""",
    """CREATE TABLE rolled_users (
    day INTEGER NOT NULL,
    user TEXT NOT NULL,
    requests INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    total_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    asked INTEGER NOT NULL,
    PRIMARY KEY (day, user)
)
 WITHOUT ROWID""",
    """CREATE TABLE rollups (
    quarter INTEGER NOT NULL,
    key_id TEXT NOT NULL,
    team TEXT NOT NULL,
    model TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    upstream TEXT NOT NULL,
    caller TEXT NOT NULL,
    "key" TEXT NOT NULL,
    requests INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    total_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    asked INTEGER NOT NULL,
    cached INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    failed_asked INTEGER NOT NULL,
    estimated INTEGER NOT NULL,
    estimated_tokens INTEGER NOT NULL,
    microseconds INTEGER NOT NULL,
    PRIMARY KEY (quarter, key_id, team, model, endpoint, upstream, caller, "key")
)
 WITHOUT ROWID""",
    """CREATE TABLE running_keys (
    slot INTEGER NOT NULL,
    day INTEGER NOT NULL,
    key_id TEXT NOT NULL,
    team TEXT NOT NULL,
    caller TEXT NOT NULL,
    requests INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    total_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    asked INTEGER NOT NULL,
    cached INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    failed_asked INTEGER NOT NULL,
    estimated INTEGER NOT NULL,
    estimated_tokens INTEGER NOT NULL,
    microseconds INTEGER NOT NULL,
    PRIMARY KEY (slot, day, key_id, team, caller)
)
 WITHOUT ROWID""",
    """CREATE TABLE running_models (
    slot INTEGER NOT NULL,
    day INTEGER NOT NULL,
    team TEXT NOT NULL,
    model TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    upstream TEXT NOT NULL,
    "key" TEXT NOT NULL,
    requests INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    total_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    asked INTEGER NOT NULL,
    cached INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    failed_asked INTEGER NOT NULL,
    estimated INTEGER NOT NULL,
    estimated_tokens INTEGER NOT NULL,
    microseconds INTEGER NOT NULL,
    PRIMARY KEY (slot, day, team, model, endpoint, upstream, "key")
)
 WITHOUT ROWID""",
    """CREATE TABLE running_users (
    slot INTEGER NOT NULL,
    day INTEGER NOT NULL,
    user TEXT NOT NULL,
    requests INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    total_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    asked INTEGER NOT NULL,
    PRIMARY KEY (slot, day, user)
)
 WITHOUT ROWID""",
    """CREATE TABLE seconds (
    scope TEXT NOT NULL,
    unit TEXT NOT NULL,
    second INTEGER NOT NULL,
    amount INTEGER NOT NULL,
    PRIMARY KEY (scope, unit, second)
)
 WITHOUT ROWID""",
    """CREATE TABLE secrets (
    hash TEXT NOT NULL,
    key_id TEXT NOT NULL,
    tail TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    valid_until INTEGER,
    PRIMARY KEY (hash)
)
 WITHOUT ROWID""",
    """CREATE TABLE stale (
    name TEXT NOT NULL,
    day INTEGER NOT NULL,
    PRIMARY KEY (name, day)
)
 WITHOUT ROWID""",
    """CREATE TABLE state (
    name TEXT NOT NULL,
    value INTEGER NOT NULL,
    PRIMARY KEY (name)
)
 WITHOUT ROWID""",
    """CREATE TABLE teams (
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    disabled INTEGER NOT NULL,
    fields TEXT NOT NULL,
    PRIMARY KEY (id),
    UNIQUE (name)
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
