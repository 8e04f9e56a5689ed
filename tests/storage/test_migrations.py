"""Migration of older ledger files: nothing is lost, one process of several migrates, a failure changes nothing."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from app.storage import migrations, new_file, schema
from app.storage.errors import StoreError
from app.storage.ledger_file import CooldownRow, LedgerFile
from app.storage.migrations.__main__ import FOLDER, migrate
from app.storage.new_file import VERSION
from app.storage.queries import Span, sums_of
from app.storage.retention import keep_up
from app.storage.rows import INSERT_CALL
from app.storage.verify import verify

from ..cli.test_cli import SECONDS, environment, serving, torii
from ..conftest import JINA_KEY, until
from ..ledger import call, read

ROOT = Path(__file__).parents[2]
RELEASED = {path.stem: path for path in sorted((Path(__file__).parent / "released").glob("*.sql"))}
START_MS = 1_790_000_000_000
VERSIONS = {"ee8a298": 1, "08cbd93": 2, "a8b3aae": 2, "2f3fb8a": 3, "c38aba8": 4}
COLUMNS = "time, caller, endpoint, model, upstream, upstream_model, key, status, error, prompt_tokens, "
COLUMNS += "completion_tokens, total_tokens, estimated, seconds, first_event_seconds, attempts, request_id"
CALLS, RESTS = f"SELECT id, {COLUMNS} FROM calls ORDER BY id", "SELECT * FROM key_rests ORDER BY upstream"
ADDED = "SELECT requests, kind, stream, cached_tokens, key_id, team, cost, model_id FROM calls ORDER BY id"
each_release = pytest.mark.parametrize("release", RELEASED)


def released(path: Path, release: str = "a8b3aae", calls: int = 0) -> Path:
    """A ledger file as the commit ``release`` wrote it, with ``calls`` more calls."""
    with closing(sqlite3.connect(path)) as file:
        file.executescript(RELEASED[release].read_text(encoding="utf-8"))
        file.execute(
            f"WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {calls}) "
            f"INSERT INTO calls ({COLUMNS}) SELECT {COLUMNS} FROM calls, n WHERE id = 1 AND {calls} > 0"
        )
        file.commit()
    return path


def version(path: Path) -> int:
    ((found,),) = read(path, "PRAGMA user_version")
    return int(found)


@contextmanager
def ledger(path: Path) -> Iterator[LedgerFile]:
    with closing(LedgerFile(path, busy_seconds=0.05, flush_seconds=0.01)) as file:
        yield file


def test_every_release_has_its_file() -> None:
    assert dict.fromkeys(VERSIONS) == dict.fromkeys(RELEASED) or sorted(VERSIONS) == sorted(RELEASED)


@each_release
def test_an_older_file_becomes_this_versions_without_loss(release: str, tmp_path: Path) -> None:
    path = released(tmp_path / "torii.db", release)
    assert version(path) == VERSIONS[release] < VERSION  # the older Torii refuses a newer version
    calls = read(path, CALLS)
    rests = read(path, RESTS) if VERSIONS[release] > 1 else []
    with ledger(path) as file:
        assert file.migrated == f"migrated from version {VERSIONS[release]} to {VERSION}"
        assert file.health is None
        assert file.cooldowns() == rests
        file.record_call(call(request_id="new"))
        file.remember_cooldown(CooldownRow("jina", "a" * 64, "a", "refused", 1.5))
    assert len(calls) == 4
    assert read(path, CALLS)[:-1] == calls
    assert read(path, "SELECT request_id FROM calls")[-1] == ("new",)
    assert sorted([*rests, ("jina", "a" * 64, "a", "refused", 1.5)]) == sorted(read(path, RESTS))
    assert (version(path), read(path, "SELECT * FROM alembic_version")) == (VERSION, [(f"{VERSION:04}",)])
    with ledger(path) as file:
        assert file.migrated == ""


@each_release
def test_each_call_of_an_older_file_counts_once(release: str, tmp_path: Path) -> None:
    """The third call has two rows, of which the last counts."""
    path = released(tmp_path / "torii.db", release)
    new(path)
    unknown = ("call", 0, 0, None, None, None, None)
    assert read(path, ADDED) == [(1, *unknown), (1, *unknown), (0, *unknown), (1, *unknown)]


def test_verify_says_that_a_file_is_too_old(tmp_path: Path) -> None:
    path = released(tmp_path / "torii.db", "2f3fb8a")
    with pytest.raises(StoreError, match="an older Torii wrote it"):
        verify(path)
    new(path)
    assert verify(path) == []


# ---------------------------------------------------------------- one schema


def shape(path: Path) -> dict[str, Any]:
    """The tables with their columns and indexes. NOT NULL of primary keys is ignored, as it makes no difference."""
    tables = read(path, "SELECT name, wr FROM pragma_table_list WHERE schema = 'main' AND name NOT LIKE 'sqlite_%'")
    found: dict[str, Any] = {}
    for table, without_rowid in tables:
        named = 'cid, name, type, "notnull" AND NOT pk, dflt_value, pk'
        columns = read(path, f"SELECT {named} FROM pragma_table_xinfo('{table}')")
        indexes = read(path, f"SELECT name, \"unique\", origin FROM pragma_index_list('{table}') ORDER BY name")
        parts = [(index, read(path, f"SELECT * FROM pragma_index_xinfo('{index[0]}')")) for index in indexes]
        found[table] = (without_rowid, columns, parts)
    return found


def new(path: Path) -> None:
    LedgerFile(path).close()


def from_nothing(path: Path, head: str = "head") -> None:
    """Creates a ledger file by running all migrations, up to ``head``."""
    with closing(sqlite3.connect(path)) as file:
        file.executescript(
            "PRAGMA journal_mode = WAL;"
            "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL, "
            "CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num));"
            f"PRAGMA application_id = {new_file.APPLICATION}; PRAGMA user_version = 3;"
        )
    migrate(path, 1.0, head=head)


@pytest.mark.parametrize("release", [*RELEASED, "from nothing"])
def test_a_new_file_and_a_migrated_one_have_the_same_tables(release: str, tmp_path: Path) -> None:
    new(tmp_path / "new.db")
    if release == "from nothing":
        from_nothing(tmp_path / "old.db")
    else:
        migrate(released(tmp_path / "old.db", release), 1.0)
    assert shape(tmp_path / "old.db") == shape(tmp_path / "new.db")
    assert set(shape(tmp_path / "new.db")) == {*schema.metadata.tables, "alembic_version"}


def test_a_file_of_version_4_gets_the_sums_of_long_periods(tmp_path: Path) -> None:
    """No release wrote version 4, but commits did."""
    rows = [call(time=START_MS + number * 40_000_000, key_id=f"k{number % 3}", user="u") for number in range(90)]
    new(right := tmp_path / "right.db")
    with closing(sqlite3.connect(right, isolation_level=None)) as file:
        file.executemany(INSERT_CALL, rows)
    keep_up(right, now=START_MS / 1000 + 1e8)
    from_nothing(path := tmp_path / "torii.db", "0004")
    assert version(path) == 4
    with closing(sqlite3.connect(path)) as file:
        file.execute("ATTACH ? AS other", (str(right),))
        for table in ("calls", "rollups", "rolled_days", "rolled_users", "state"):
            file.execute(f"INSERT INTO {table} SELECT * FROM other.{table}")
        file.commit()
    before = sums_of(path, Span(), ["day", "key_id"])  # of the old version
    new(path)
    assert shape(path) == shape(right)
    assert sums_of(path, Span(), ["day", "key_id"]) == before
    keep_up(path, now=START_MS / 1000 + 1e8)
    assert verify(path) == []
    for table in ("calls", "running_keys", "running_models", "running_users", "rolled_blocks", "stale"):
        assert read(path, f"SELECT * FROM {table}") == read(right, f"SELECT * FROM {table}")
    assert sums_of(path, Span(), ["day", "key_id"]) == before == sums_of(right, Span(), ["day", "key_id"])


def test_the_statements_of_a_new_file_are_those_of_the_schema() -> None:
    statements = schema.statements()
    assert list(new_file.STATEMENTS[: len(statements)]) == statements


def test_alembic_sees_no_difference_between_a_file_and_the_schema(tmp_path: Path) -> None:
    new(path := tmp_path / "torii.db")
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []
    engine.dispose()


def test_the_version_is_the_last_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    script = ScriptDirectory.from_config(config)
    assert script.get_heads() == [f"{VERSION:04}"]
    assert [revision.revision for revision in script.walk_revisions()] == [
        f"{number:04}" for number in range(VERSION, 0, -1)
    ]


def test_postgresql_has_the_types_of_the_schema() -> None:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    made = {name: str(CreateTable(table).compile(dialect=dialect)) for name, table in schema.metadata.tables.items()}
    assert "time BIGINT NOT NULL" in made["calls"]
    assert "seconds DOUBLE PRECISION NOT NULL" in made["calls"]
    assert "id BIGSERIAL NOT NULL" in made["calls"]
    assert "WITHOUT ROWID" not in made["key_rests"]


# ---------------------------------------------------------------- several at once


def test_one_old_file_is_migrated_once_by_many_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    together = Barrier(8)

    def use(path: Path) -> None:
        together.wait()
        with closing(LedgerFile(path)) as file:
            file.record_call(call())

    with ThreadPoolExecutor(8) as users:
        for number in range(3):
            path = released(tmp_path / f"{number}.db")
            list(users.map(use, [path] * 8))
            assert (version(path), len(read(path, CALLS))) == (VERSION, 4 + 8)
    assert [message for message in caplog.messages if "migrated" not in message] == []


USER = """
import sys
from pathlib import Path
from app.storage.ledger_file import LedgerFile
from tests.ledger import call

file = LedgerFile(Path(sys.argv[1]))
file.record_call(call())
assert file.health is None
file.close()
"""


def test_several_processes_migrate_one_file(tmp_path: Path) -> None:
    path = released(tmp_path / "torii.db", calls=10_000)
    users = [
        subprocess.Popen([sys.executable, "-c", USER, str(path)], cwd=ROOT, stderr=subprocess.PIPE) for _ in range(3)
    ]
    for user in users:
        assert user.communicate(timeout=SECONDS)[1] == b""
    assert (version(path), len(read(path, CALLS))) == (VERSION, 10_004 + 3)


# ---------------------------------------------------------------- trouble


async def test_a_locked_file_is_migrated_once_it_can_be(tmp_path: Path) -> None:
    path = released(tmp_path / "torii.db")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with ledger(path) as file:
            file.record_call(call(request_id="waited"))
            trouble = file.health
            assert trouble is not None
            assert (trouble.what, version(path)) == ("another program has locked it", 2)
            other.execute("ROLLBACK")
            await until(lambda: file.health is None, SECONDS)
            assert version(path) == VERSION
            assert read(path, "SELECT request_id FROM calls")[-1] == ("waited",)


FULL = """
import resource, sys
from pathlib import Path
from app.storage.ledger_file import LedgerFile
from tests.ledger import call

_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), hard))
file = LedgerFile(Path(sys.argv[1]), flush_seconds=0.01)
file.record_call(call(request_id="waited"))
print(file.health.what, file.health.lost, flush=True)
sys.stdin.readline()
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
file.close()
"""


def test_a_disk_that_is_full_in_the_midst_leaves_the_old_file_and_rows_wait(tmp_path: Path) -> None:
    path = released(tmp_path / "torii.db")
    with closing(sqlite3.connect(path, isolation_level=None)) as keeper:
        for _ in range(12):  # until the log has the size to which files are limited; the other files are smaller
            keeper.execute("UPDATE calls SET attempts = attempts + 1")
        room = (tmp_path / "torii.db-wal").stat().st_size
        assert room > 32_768
        process = subprocess.Popen(
            [sys.executable, "-c", FULL, str(path), str(room)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() in ("the disk cannot be written 0\n", "the disk is full 0\n")
        assert (version(path), len(read(path, CALLS))) == (2, 4)
        _, said = process.communicate("\n", timeout=SECONDS)
    assert "Traceback" not in said
    assert (version(path), len(read(path, CALLS))) == (VERSION, 5)


SLOW = f"""
import threading
from pathlib import Path
from alembic import op
import sqlalchemy as sa

revision = "{VERSION + 1:04}"
down_revision = "{VERSION:04}"

def upgrade():
    op.add_column("calls", sa.Column("slow", sa.BigInteger))
    op.execute("UPDATE calls SET slow = total_tokens")
    op.drop_table("key_rests")
    (Path(__file__).parent / "reached").touch()
    threading.Event().wait()
"""
MIGRATES = "import sys; from pathlib import Path; from app.storage.migrations.__main__ import migrate; "
MIGRATES += "migrate(Path(sys.argv[1]), 1.0, Path(sys.argv[2]))"


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_a_migration_that_is_ended_in_the_midst_leaves_the_old_file(end: signal.Signals, tmp_path: Path) -> None:
    """The migration has rewritten every row and dropped a table. Until it ends, the file can be read."""
    path = released(tmp_path / "torii.db", calls=20_000)
    folder = tmp_path / "migrations"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "versions" / "slow.py").write_text(SLOW)
    calls, before = read(path, CALLS), shape(path)
    command = [sys.executable, "-c", MIGRATES, str(path), str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        await until((folder / "versions" / "reached").exists, SECONDS)
        assert read(path, CALLS) == calls
        assert torii("usage", cwd=tmp_path, TORII_LEDGER__PATH="torii.db").returncode == 0
    finally:
        process.send_signal(end)
        process.wait(SECONDS)
    assert (read(path, CALLS), shape(path), version(path)) == (calls, before, 2)
    with ledger(path) as file:
        assert (file.health, version(path)) == (None, VERSION)
    assert read(path, CALLS) == calls


def test_a_migration_that_fails_is_told_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For example, a migration without the packages that it needs."""
    path = released(tmp_path / "torii.db")
    (tmp_path / "alembic").mkdir()
    (tmp_path / "alembic" / "__init__.py").write_text("raise ImportError('a path and a row')")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = path.read_bytes()
    with pytest.raises(StoreError) as error:
        LedgerFile(path)
    assert str(error.value) == "its migration failed (ImportError)"
    assert path.read_bytes() == before


def test_a_child_that_is_killed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = released(tmp_path / "torii.db")
    (tmp_path / "alembic").mkdir()
    (tmp_path / "alembic" / "__init__.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(StoreError) as error:
        migrations.run(path, 1.0, done=lambda: False)
    assert str(error.value) == "its migration failed (exit code -9)"
    assert version(path) == 2


def test_an_old_file_that_is_damaged_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = released(tmp_path / "torii.db", calls=2000)
    good = path.read_bytes()
    path.write_bytes(bad := good[: len(good) // 2] + b"\xff" * 8192 + good[len(good) // 2 + 8192 :])
    with pytest.raises(StoreError, match="it is damaged"):
        LedgerFile(path)
    assert path.read_bytes() == bad


READS_ONLY = """
import os, sys
from pathlib import Path
from app.storage.ledger_file import LedgerFile
from app.storage.errors import NoFile
if os.getuid() == 0:
    os.setuid(65534)
try:
    LedgerFile(Path(sys.argv[1]))
except NoFile as error:
    print(error)
"""


def test_a_file_that_can_only_be_read_is_left_as_it_is(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("read-only")
    path = released(folder / "torii.db")
    path.chmod(0o444)
    above = [each for each in folder.parents if each.stat().st_uid == os.getuid()]
    modes = [(each, each.stat().st_mode) for each in (folder, *above)]
    before = path.read_bytes()
    try:
        for each, mode in modes:
            each.chmod(mode | 0o005)
        done = subprocess.run(
            [sys.executable, "-c", READS_ONLY, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=SECONDS
        )
    finally:
        for each, mode in modes:
            each.chmod(mode)
    assert (done.stdout, done.stderr) == ("Permission denied\n", "")
    assert path.read_bytes() == before


# ---------------------------------------------------------------- the program


def test_the_program_says_that_it_has_migrated(tmp_path: Path) -> None:
    path = released(tmp_path / "torii.db")
    for said in (f" (migrated from version 2 to {VERSION})", ""):
        with serving(cwd=tmp_path, JINA_API_KEY=JINA_KEY, TORII_LEDGER__PATH="torii.db") as running:
            assert f"\n  Ledger    torii.db{said}\n" in running.banner
            assert running.ends_on(signal.SIGTERM) == 0
    assert version(path) == VERSION


def test_usage_reads_an_older_file_and_changes_nothing(tmp_path: Path) -> None:
    path = released(tmp_path / "torii.db", "08cbd93")
    before = path.read_bytes()
    done = torii("usage", "--by", "day", cwd=tmp_path, TORII_LEDGER__PATH="torii.db")
    assert [line.split()[:2] for line in done.stdout.splitlines()[1:4]] == [
        ["2026-11-21", "2"],
        ["2026-11-22", "1"],
        ["all", "3"],
    ]
    assert path.read_bytes() == before


async def test_ctrl_c_while_a_migration_waits_ends_the_start(tmp_path: Path) -> None:
    path = released(tmp_path / "torii.db")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        process = subprocess.Popen(
            [sys.executable, "-m", "app", "serve", "--port", "0"],
            cwd=tmp_path,
            env=environment({"JINA_API_KEY": JINA_KEY, "TORII_LEDGER__PATH": "torii.db"}),
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        await until(lambda: _child(process.pid, b"migrations"), SECONDS)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=SECONDS)
    assert (process.returncode, said) == (0, "")
    assert version(path) == 2


def _child(pid: int, word: bytes) -> bool:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return any(word in Path(f"/proc/{child}/cmdline").read_bytes() for child in children)


NOTES = """
import atexit, os, sys
from pathlib import Path
note = Path.cwd() / f"modules.{os.getpid()}"
atexit.register(lambda: note.write_text(" ".join([*sys.orig_argv, "|", *sys.modules])))
"""


@pytest.mark.parametrize("start", [new, released], ids=["up to date", "older"])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_gateway_that_serves_has_neither_sqlalchemy_nor_alembic(
    start: Callable[[Path], object], workers: int, tmp_path: Path
) -> None:
    """Every process is checked at its end, after a call was recorded. Only the migration's child has imported them."""
    start(tmp_path / "torii.db")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "sitecustomize.py").write_text(NOTES)
    variables = {"PYTHONPATH": f"{tmp_path / 'notes'}{os.pathsep}{ROOT}", "TORII_LEDGER__PATH": "torii.db"}
    with serving("--workers", str(workers), "--sandbox", cwd=tmp_path, **variables) as running:
        body = {"model": "jina-embeddings-v3", "input": "hi"}
        with running.asked("POST", "/v1/embeddings", body, **{"content-type": "application/json"}) as answer:
            assert answer.status == 200
        assert running.ends_on(signal.SIGTERM) == 0
    assert len(read(tmp_path / "torii.db", CALLS)) == (1 if start is new else 5)
    found = [path.read_text().partition(" | ") for path in tmp_path.glob("modules.*")]
    having = {command for command, _, modules in found if {"sqlalchemy", "alembic"} & set(modules.split())}
    assert len(having) == (start is released)
    assert all("migrations" in command for command in having)
    assert sum("sqlite3" in modules.split() for _, _, modules in found) >= workers
