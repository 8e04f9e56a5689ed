"""Databases that cannot be the ledger's: named in our words, never with a password; one that is only away is waited
for."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from app.storage.errors import StoreError
from app.storage.ledger_file import LedgerFile
from app.storage.location import Postgres
from app.storage.postgres.address import checked
from app.storage.postgres.connection import PostgresConnection

from ...conftest import until
from ...servers import PostgresServer
from ..charging import row

SECRET = "s%cr/t@?#&="
Made = Callable[[str, PostgresServer], str]


def run(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())


def with_password(url: str, server: PostgresServer) -> str:
    return url.replace(server.password, quote(SECRET, safe=""))


def after(statement: str) -> Made:
    def made(url: str, server: PostgresServer) -> str:
        run(url, statement)
        return url

    return made


BAD: dict[str, tuple[Made, str]] = {
    "password": (with_password, "the server refuses the user or the password"),
    "user": (lambda url, _: url.replace("://torii:", "://nobody:"), "the server refuses the user or the password"),
    "database": (lambda url, _: f"{url}x", "the server has no such user or database"),
    "host": (lambda url, _: url.replace("127.0.0.1", "nowhere.invalid"), "its host name is not known"),
    "option": (lambda url, _: f"{url}?nosuch={quote(SECRET)}", "the URL has an option"),
    "value": (lambda url, _: f"{url}?sslmode={quote(SECRET)}", "the URL has an option, or a value"),
    "tls": (lambda url, _: f"{url}?sslmode=require", "the server offers no TLS"),
    "foreign": (after("DROP TABLE calls"), "another program"),
    "older": (after("COMMENT ON TABLE calls IS 'Torii''s ledger, version 1'"), "`torii db upgrade` brings it to"),
    "newer": (after("COMMENT ON TABLE calls IS 'Torii''s ledger, version 999'"), "newer"),
    "empty": (after("DROP SCHEMA public CASCADE; CREATE SCHEMA public"), "`torii db upgrade` creates them"),
    "read-only": (lambda url, _: f"{url}?options=-cdefault_transaction_read_only%3Don", "it is read-only"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_database_that_cannot_be_ours_is_refused_in_words(
    kind: str, postgres: PostgresServer, tables_url: str, tmp_path: Path
) -> None:
    made, words = BAD[kind]
    with pytest.raises(StoreError) as caught:
        LedgerFile(Postgres(made(tables_url, postgres), tmp_path / "torii.db"))
    assert words in str(caught.value)
    shown = f"{caught.value!r} {caught.value} {caught.value.__context__!r} {caught.value.__cause__!r}"
    assert not any(secret in shown for secret in (SECRET, quote(SECRET, safe=""), postgres.password))


def test_a_user_without_rights_is_refused(postgres: PostgresServer, tables_url: str, tmp_path: Path) -> None:
    postgres.execute("REVOKE ALL ON state FROM torii", tables_url.rpartition("/")[2])
    with pytest.raises(StoreError, match="permission denied; its user must own the tables"):
        LedgerFile(Postgres(tables_url, tmp_path / "torii.db"))


async def test_a_server_that_is_away_at_the_start_gets_the_rows_later(
    new_postgres: Callable[..., PostgresServer], tmp_path: Path
) -> None:
    from app.storage.postgres.tables import upgrade

    server = new_postgres()
    location = Postgres(server.url(), tmp_path / "torii.db")
    upgrade(location)
    server.shut_down()
    with closing(LedgerFile(location, flush_seconds=0.01, sweep_seconds=0.1)) as file:
        assert file.health is not None
        assert file.away
        assert file.health.what == "the server cannot be reached: connection refused"
        file.record_call(row(total_tokens=1))
        server.start()
        await until(lambda: file.health is None and not file.waiting)
        assert not file.away


def test_the_end_does_not_wait_for_a_server_that_does_not_answer(
    new_postgres: Callable[..., PostgresServer], tmp_path: Path
) -> None:
    from app.storage.postgres.tables import upgrade

    server = new_postgres()
    location = Postgres(server.url(), tmp_path / "torii.db")
    upgrade(location)
    file = LedgerFile(location, flush_seconds=0.01)
    server.stop()
    for _ in range(5):
        file.record_call(row(total_tokens=1))
    began = time.monotonic()
    file.close()
    assert time.monotonic() - began < 6
    assert file.waiting == 0
    [spilled] = tmp_path.glob("torii.db.spill-*")
    assert len(spilled.read_bytes().splitlines()) == 5
    server.resume()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:pa/ss@h/db",
        "postgresql://u:pa#ss@h/db",
        "postgresql://u:pa?ss@h/db",
        "postgresql://u:pa@ss@h/db",
        "postgresql://u:pa[ss@h/db",
        "postgresql://u:pa%ss@h/db",
        "postgresql://u:pa\u2100ss@h/db",
        "postgresql://u:pass@h:port/db",
        "postgresql://u:pass@h/",
        "mysql://u:pass@h/db",
        "host=h dbname=db password=pass",
    ],
)
def test_a_malformed_address_is_refused_without_a_part_of_it(url: str) -> None:
    with pytest.raises(ValueError, match="percent-encoded") as caught:
        checked(url)
    assert "ss@" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert "pa" not in str(Postgres(url, Path("x"))).removeprefix("postgresql")


def test_the_servers_clock_decides(tables_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose clock is 30 s ahead of the server's."""
    real = time.time
    with closing(PostgresConnection(Postgres(tables_url, tmp_path / "torii.db"))) as connection:
        monkeypatch.setattr(time, "time", lambda: real() + 30)
        connection.begin()
        assert abs(connection.clock() - real()) < 5
        connection.rollback()
        assert abs(connection.offset + 30) < 5
        assert abs(connection.clock() - real()) < 5
