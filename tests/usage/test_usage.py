"""`torii usage`, and the ledger of the program itself: its path, refused starts, the loss at a kill."""

from __future__ import annotations

import asyncio
import resource
import signal
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from textwrap import dedent
from typing import Any

import httpx
import msgspec
import pytest

from app.core.usage import answered, size
from app.storage.ledger_file import CallRow, LedgerFile
from app.storage.new_file import VERSION
from app.usage.reports import Period, totals, when

from ..cli.test_cli import SECONDS, serving, torii
from ..conftest import JINA_KEY, ScriptedUpstream, replies, until
from ..ledger import call, read

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
EMBED = {"model": "jina-embeddings-v3", "input": ["hi"]}
VECTORS = replies({"data": [{"index": 0, "embedding": [0.5]}], "usage": {"total_tokens": 3}})


def kept(path: Path, *rows: CallRow) -> Path:
    with closing(LedgerFile(path)) as ledger:
        for row in rows:
            ledger.record_call(row)
    return path


@pytest.fixture
def ledger(tmp_path: Path) -> dict[str, Any]:
    """A ledger of four calls on two days, as arguments for ``torii``."""
    day = int(timedelta(days=1).total_seconds() * 1000)
    chat = {"endpoint": "chat", "model": "jina-deepsearch-v1", "completion_tokens": 500, "total_tokens": 1500}
    path = kept(
        tmp_path / "torii.db",
        call(time=int(NOW.timestamp() * 1000) - day),
        call(total_tokens=0, prompt_tokens=0, status=502, error="upstream_error", seconds=1.5),
        call(**chat, caller="bob", seconds=60.25, estimated=1, status=499),
        call(upstream="aihubmix", key="aihubmix-2", model="evil\x1b[31m"),
    )
    return {"cwd": tmp_path, "TORII_LEDGER__PATH": str(path)}


def test_it_prints_a_table_with_totals_and_marks_estimates(ledger: dict[str, Any]) -> None:
    done = torii("usage", **ledger)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == dedent(
        """\
        MODEL               CALLS  FAILED  PROMPT  OUTPUT  TOKENS  SECONDS
        jina-deepsearch-v1      1       1  ~1,000    ~500  ~1,500    60.25
        jina-embeddings-v3      2       1   1,000       0   1,000     1.00
        evil\\u001b[31m          1       0   1,000       0   1,000     0.50
        all                     4       2  ~3,000    ~500  ~3,500    15.69

        ~ includes estimates: 1 of the calls, 42.9 % of the tokens.
        """
    )


def test_it_groups_by_several_words(ledger: dict[str, Any]) -> None:
    done = torii("usage", "--by", "day,upstream", "--by", "key", **ledger)
    assert [line.split()[:4] for line in done.stdout.splitlines()[:5]] == [
        ["DAY", "UPSTREAM", "KEY", "CALLS"],
        ["2026-11-20", "jina", "jina", "1"],
        ["2026-11-21", "aihubmix", "aihubmix-2", "1"],
        ["2026-11-21", "jina", "jina", "2"],
        ["all", "4", "2", "~3,000"],
    ]


def test_it_counts_callers_calls_and_what_each_upstream_was_asked(tmp_path: Path) -> None:
    """A call that went to two upstreams is one call, and an answer from the cache is none of an upstream."""
    path = kept(
        tmp_path / "torii.db",
        call(request_id="a", status=502, requests=0, total_tokens=0, prompt_tokens=0, team="t", cost=0),
        call(request_id="a", upstream="aihubmix", key="aihubmix", team="t", cost=12_345_000),
        call(request_id="b", kind="cached", total_tokens=0, prompt_tokens=0, cached_tokens=900, seconds=0.0),
    )
    place: dict[str, Any] = {"cwd": tmp_path, "TORII_LEDGER__PATH": str(path)}
    assert torii("usage", "--by", "team", **place).stdout == dedent(
        """\
        TEAM  CALLS  FAILED  CACHED  PROMPT  OUTPUT  TOKENS    COST $  SECONDS
        t         1       0           1,000       0   1,000  0.012345     0.50
        -         1       0       1       0       0       0               0.00
        all       2       0       1   1,000       0   1,000  0.012345     0.50
        """
    )
    asked = {row["upstream"]: row for row in totals(path, Period(), ["upstream"])}
    assert [(asked["jina"][name], asked["aihubmix"][name]) for name in ("calls", "failed", "cached")] == [
        (1, 1),
        (1, 0),
        (1, 0),
    ]


def test_it_prints_numbers_for_programs(ledger: dict[str, Any]) -> None:
    done = torii("usage", "--by", "caller", "--since", "2026-11-21", "--until", "2026-11-21", "--json", **ledger)
    printed = msgspec.json.decode(done.stdout)
    bob, alice = printed["groups"]
    assert bob == {
        "caller": "bob",
        "calls": 1,
        "failed": 1,
        "cached": 0,
        "prompt_tokens": 1000,
        "completion_tokens": 500,
        "total_tokens": 1500,
        "cached_tokens": 0,
        "cost": "0",
        "estimated_calls": 1,
        "estimated_tokens": 1500,
        "seconds": 60.25,
    }
    assert (alice["caller"], alice["calls"]) == ("alice", 2)
    assert (printed["total"]["calls"], printed["total"]["total_tokens"]) == (3, 2500)


def test_it_prints_the_last_calls_one_by_one(ledger: dict[str, Any]) -> None:
    lines = torii("usage", "--calls", "2", **ledger).stdout.splitlines()
    assert [line.split()[2:] for line in lines[1::2]] == [
        ["jina-deepsearch-v1", "jina", "499", "~1,500", "60.250"],
        ["evil\\u001b[31m", "aihubmix-2", "200", "1,000", "0.500"],
    ]
    assert lines[1].startswith("2026-11-21 12:00:00  jina-deepsearch-v1")
    assert [line.split()[0] for line in lines[2::2]] == ["bob", "alice"]
    assert all(len(line.split()) == 2 for line in lines[2::2])
    listed = msgspec.json.decode(torii("usage", "--calls", "9", "--json", **ledger).stdout)["calls"]
    assert [call["time"] for call in listed] == ["2026-11-20T12:00:00.000Z", *["2026-11-21T12:00:00.000Z"] * 3]
    assert listed[2]["estimated"] is True


def test_it_says_where_there_is_nothing(ledger: dict[str, Any], tmp_path: Path) -> None:
    said = torii("usage", "--since", "2027-01-01", **ledger).stdout
    assert said == "No calls in this period; the first in the ledger is from 2026-11-20T12:00:00.000Z.\n"
    kept(tmp_path / "empty.db")
    for words in (["usage"], ["usage", "--calls", "3"]):
        assert torii(*words, cwd=tmp_path, TORII_LEDGER__PATH="empty.db").stdout == "No calls in the ledger yet.\n"


@pytest.mark.parametrize(
    ("words", "variables", "said"),
    [
        ([], {"TORII_LEDGER__PATH": "none.db"}, "no ledger at none.db: there is no such file. The first "),
        (
            [],
            {"TORII_LEDGER__PATH": "bad.db"},
            "the ledger bad.db cannot be read: it is damaged, or is not a database.",
        ),
        ([], {"TORII_LEDGER__PATH": "."}, "the ledger . cannot be read: it is not a regular file."),
        ([], {"TORII_LEDGER__PATH": "n" * 300}, f"the ledger {'n' * 300} cannot be read: File name too long."),
        ([], {"TORII_LEDGER__PATH": "off"}, "there is no ledger: ledger.path is off, or "),
        ([], {}, "there is no ledger: ledger.path is off, or "),
        (["--since", "soon"], {"HOME": "."}, "--since is not a time: use 7d, 24h or 30m before now, or 2026-11-01 or "),
        (["--until", "999999999d"], {"HOME": "."}, "--until is not a time: "),
        (
            ["--by", "week"],
            {"HOME": "."},
            "--by must be one of caller, model, upstream, key, endpoint, day, team, key_id; not 'week'.",
        ),
    ],
)
def test_it_says_what_is_wrong(words: list[str], variables: dict[str, str], said: str, tmp_path: Path) -> None:
    (tmp_path / "bad.db").write_bytes(b"no database" * 1000)
    done = torii("usage", *words, cwd=tmp_path, **variables)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"torii: {said}")
    assert [file.name for file in tmp_path.iterdir()] == ["bad.db"]


@pytest.mark.parametrize(
    ("text", "end", "expected"),
    [
        ("7d", False, "2026-11-14T12:00:00+00:00"),
        ("24h", True, "2026-11-20T12:00:00+00:00"),
        ("30m", False, "2026-11-21T11:30:00+00:00"),
        ("2026-11-01", False, "2026-11-01T00:00:00+00:00"),
        ("2026-11-01", True, "2026-11-02T00:00:00+00:00"),
        ("2026-11-01T12:30", True, "2026-11-01T12:30:00+00:00"),
        ("2026-11-01T12:30+02:00", False, "2026-11-01T10:30:00+00:00"),
    ],
)
def test_times_as_people_write_them(text: str, end: bool, expected: str) -> None:
    assert when(text, NOW, end=end).isoformat() == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("four", 4),
        ("鳥居", 6),
        ("https://host.example/picture.png", 0),
        ("https://host.example/ is where it is", 36),
        ("data:image/png;base64,AAAA", 0),
        ("A" * 2000, 0),
        ("word " * 400, 2000),
        ([{"text": "four", "image": "https://host.example/a.png"}, "four"], 8),
        ({"content": [{"type": "text", "text": "four"}], "n": 3, "none": None}, 8),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_estimated_is_text(value: Any, expected: int) -> None:
    assert size(value) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ({"choices": [{"message": {"role": "assistant", "content": "four", "reasoning_content": "four"}}]}, 8),
        ({"choices": [{"delta": {"tool_calls": [{"function": {"name": "f", "arguments": "four"}}]}}]}, 4),
        ({"choices": [{"message": {"content": [{"type": "text", "text": "four"}]}}, {"text": "four"}]}, 8),
        ({"choices": [{"delta": {"content": None}}, {"delta": None}, 3]}, 0),
        ({"choices": None}, 0),
        ({}, 0),
    ],
    ids=str,
)
def test_what_was_written_is_the_answer_and_the_thinking(reply: Any, expected: int) -> None:
    assert answered(reply) == expected


# ---------------------------------------------------------------- serve


def variables(upstream: ScriptedUpstream, **more: str) -> dict[str, str]:
    base = {"JINA_API_KEY": JINA_KEY, "TORII_UPSTREAMS__JINA__BASE_URL": f"{upstream.url}/v1"}
    return {**base, "TORII_CACHE__STORE": "off", **more}  # repeated identical calls must reach the upstream


def rows(path: Path) -> list[tuple[Any, ...]]:
    try:
        return read(path, "SELECT request_id, status FROM calls")
    except sqlite3.Error:
        return []


@pytest.mark.parametrize(
    ("home", "place"),
    [
        ({"HOME": "home"}, "home/.local/state/torii/torii.db"),
        ({"HOME": "home", "XDG_STATE_HOME": "state"}, "state/torii/torii.db"),
        ({"HOME": "home", "TORII_LEDGER__PATH": "own/books.db"}, "own/books.db"),
    ],
)
async def test_it_keeps_its_books_where_it_says(
    home: dict[str, str], place: str, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.plays(VECTORS)
    absolute = {name: str(tmp_path / value) for name, value in home.items()}
    with serving(cwd=tmp_path, **variables(upstream, **absolute)) as running:
        assert f"\n  Ledger    {tmp_path / place}\n" in running.banner
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{running.port}", timeout=SECONDS, trust_env=False
        ) as client:
            await client.post("/v1/embeddings", json=EMBED)
        await until(lambda: len(rows(tmp_path / place)) == 1)
        done = await asyncio.to_thread(torii, "usage", cwd=tmp_path, **absolute)
        assert done.stdout.splitlines()[1].split()[:6] == ["jina-embeddings-v3", "1", "0", "3", "0", "3"]
        assert running.ends_on(signal.SIGTERM) == 0
    assert {file.relative_to(tmp_path).parts[0] for file in tmp_path.iterdir()} == {place.split("/")[0]}


@pytest.mark.parametrize(
    ("home", "said"),
    [
        ({}, "none, calls are not recorded: neither XDG_STATE_HOME nor HOME is set; set ledger.path to a file"),
        (
            {"HOME": "/dev/null"},
            "none, calls are not recorded: /dev/null/.local/state/torii/torii.db: Not a directory; "
            "set ledger.path to another file",
        ),
    ],
)
async def test_without_a_place_for_them_it_starts_without_books(
    home: dict[str, str], said: str, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    with serving(cwd=tmp_path, **variables(upstream, **home)) as running:
        assert f"\n  Ledger    {said}\n" in running.banner
        assert running.status("/healthz") == 200


def test_the_calls_of_the_sandbox_are_booked_only_where_a_file_is_named(tmp_path: Path) -> None:
    with serving("--sandbox", cwd=tmp_path, HOME=str(tmp_path)) as running:
        assert "Ledger" not in running.banner
    assert list(tmp_path.iterdir()) == []
    with serving("--sandbox", cwd=tmp_path, TORII_LEDGER__PATH="torii.db") as running:
        assert "\n  Ledger    torii.db\n" in running.banner


def test_a_file_that_cannot_be_is_refused_where_it_was_named(tmp_path: Path) -> None:
    done = torii("serve", cwd=tmp_path, JINA_API_KEY=JINA_KEY, TORII_LEDGER__PATH="/dev/null/torii.db", TORII_PORT="0")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "torii: ledger.path: /dev/null/torii.db: its folder is not a folder. The file was not changed. Set ledger.path "
        "(TORII_LEDGER__PATH) to a writable file or to off, or move this file away.\n"
    )


@pytest.mark.parametrize("named", [True, False], ids=["named", "auto"])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("UPDATE", "it is damaged, or is not a database"),
        (f"PRAGMA user_version = {VERSION + 1}", "a newer Torii wrote it"),
    ],
    ids=["damaged", "newer"],
)
def test_a_file_that_must_not_be_touched_is_refused(damage: str, said: str, named: bool, tmp_path: Path) -> None:
    path = kept(tmp_path / ".local/state/torii/torii.db", call())
    if damage.startswith("PRAGMA"):
        with closing(sqlite3.connect(path)) as other:
            other.execute(damage)
    else:
        path.write_bytes(b"x" * 10_000)
    before = path.read_bytes()
    place = {"TORII_LEDGER__PATH": str(path)} if named else {"HOME": str(tmp_path)}
    done = torii("serve", cwd=tmp_path, JINA_API_KEY=JINA_KEY, TORII_PORT="0", **place)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"torii: ledger.path: {path}: {said}")
    assert path.read_bytes() == before


async def test_a_kill_under_load_costs_at_most_the_last_second(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.plays(VECTORS)
    path = tmp_path / "torii.db"
    place = variables(upstream, TORII_LEDGER__PATH=str(path), TORII_LOG_LEVEL="warning")  # the log is not read
    ended: dict[str, float] = {}

    async def call_on(client: httpx.AsyncClient) -> None:
        while True:
            try:
                answer = await client.post("/v1/embeddings", json=EMBED)
            except httpx.HTTPError:
                return
            ended[answer.headers["x-request-id"]] = time.monotonic()

    with serving(cwd=tmp_path, **place) as running:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{running.port}", timeout=SECONDS, trust_env=False
        ) as client:
            callers = [asyncio.create_task(call_on(client)) for _ in range(8)]
            started = time.monotonic()
            await until(lambda: len(ended) > 200 and time.monotonic() > started + 2)
            running.process.kill()
            killed = time.monotonic()
            await asyncio.gather(*callers)
        running.process.wait(SECONDS)
    booked = {request_id for request_id, _ in rows(path)}
    assert {request_id for request_id, at in ended.items() if at < killed - 1} <= booked
    assert len(booked) == len(rows(path))
    with serving(cwd=tmp_path, **place) as running:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{running.port}", timeout=SECONDS, trust_env=False
        ) as client:
            await client.post("/v1/embeddings", json=EMBED)
        await until(lambda: len(rows(path)) == len(booked) + 1)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux can fill the disk of one process")
async def test_a_full_disk_hurts_no_call_and_is_caught_up_with(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.plays(VECTORS)
    path = tmp_path / "torii.db"
    with serving(cwd=tmp_path, **variables(upstream, TORII_LEDGER__PATH=str(path))) as running:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{running.port}", timeout=SECONDS, trust_env=False
        ) as client:
            _, hard = resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (0, hard))
            for _ in range(3):
                assert (await client.post("/v1/embeddings", json=EMBED)).status_code == 200
            health = await _health(client, "degraded")
            assert health["database"].pop("since") > 0
            assert health["database"] == {"what": "the disk cannot be written", "waiting": 3, "lost": 0}
            assert rows(path) == []
            resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
            assert await _health(client, "ok") == {"status": "ok", "version": health["version"]}
        assert len(rows(path)) == 3
        assert running.ends_on(signal.SIGTERM) == 0
    said = [line["message"] for line in running.log if line["logger"] == "torii.store"]
    assert said == [
        "the database cannot be written: the disk cannot be written; rows wait in memory",
        "the database is written again; 0 rows were lost",
    ]


async def _health(client: httpx.AsyncClient, status: str) -> dict[str, Any]:
    """The response of /healthz, once it has this status."""
    async with asyncio.timeout(SECONDS):
        while True:
            health: dict[str, Any] = (await client.get("/healthz")).json()
            if health["status"] == status:
                return health
            await asyncio.sleep(0.02)


def test_its_tables_fit_a_terminal(tmp_path: Path) -> None:
    """Whatever the names and however large the numbers."""
    model, key = "jina-reranker-v2-base-multilingual", "aihubmix-the-key-of-the-search-team"
    big = {"prompt_tokens": 123_456_789, "total_tokens": 123_456_789, "completion_tokens": 1_234_567}
    path = kept(tmp_path / "torii.db", call(model=model, upstream="aihubmix", key=key, caller="c" * 64, **big))
    for words in (["--by", "day,caller,model,key"], ["--by", "model"], ["--calls", "5"]):
        done = torii("usage", *words, cwd=tmp_path, TORII_LEDGER__PATH=str(path))
        lines = done.stdout.splitlines()
        assert done.returncode == 0
        assert max(len(line) for line in lines if "c" * 64 not in line) <= 80
        assert "123,456,789" in done.stdout
