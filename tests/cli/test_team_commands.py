"""The commands for a team: keys, teams, prices and the ledger's file, without a gateway and beside one."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
import yaml
from click.testing import CliRunner, Result

from app.callers.limits import Limits, Unit, Window
from app.cli.bodies import LIMITS, UNITS, WINDOWS, body, seconds
from app.cli.main import main
from app.cli.options import Wrong
from app.storage.ledger_file import LedgerFile
from app.storage.location import Location, Postgres
from app.storage.new_file import VERSION
from app.storage.opening import connect

from ..conftest import WITH_CURL
from ..ledger import call
from .test_cli import ROOT, SECONDS, environment, serving, torii

OPERATOR_KEY = "torii-test-operator-key-0123456789"
TOKENS = {"unit": "tokens", "amount": 5, "window": "day"}
Run = Callable[..., Result]


@pytest.fixture
def run(path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in this process, with the ledger ``torii.db`` in a folder of its own and no gateway."""
    return runner(path, monkeypatch, TORII_LEDGER__PATH=str(path))


@pytest.fixture
def run_in_each(path: Path, location: Location, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The same, with the ledger in a file and in PostgreSQL."""
    url = {"TORII_STORAGE__URL": location.url} if isinstance(location, Postgres) else {}
    return runner(path, monkeypatch, TORII_LEDGER__PATH=str(path), **url)


def runner(path: Path, monkeypatch: pytest.MonkeyPatch, **variables: str) -> Run:
    monkeypatch.chdir(path.parent)
    for name in list(os.environ):
        if name.startswith(("TORII_", "JINA_", "AIHUBMIX_")):
            monkeypatch.delenv(name)

    def command(*words: str, **more: str) -> Result:
        return CliRunner(env={"XDG_RUNTIME_DIR": os.devnull, **variables, **more}).invoke(
            main, list(words), prog_name="torii"
        )

    return command


def done(result: Result) -> str:
    """What a command printed that succeeded."""
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return str(result.stdout)


def answer(result: Result) -> Any:
    return msgspec.json.decode(done(result))


def refused(result: Result, code: int = 2) -> str:
    """The message of a command that was refused."""
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    assert result.stderr.startswith("torii: ")
    return str(result.stderr).removeprefix("torii: ").removesuffix("\n")


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        (
            {"limit": ("requests_per_minute=60", "tokens_per_day=100_000")},
            {"limits": {"requests_per_minute": 60, "tokens_per_day": 100_000}},
        ),
        ({"budget": ("usd/month=25.50",)}, {"budgets": [{"unit": "usd", "amount": "25.50", "window": "month"}]}),
        (
            {"budget": ("tokens/day=5,model=a,model=b-*,endpoint=chat,warn_at=0.9",)},
            {"budgets": [{**TOKENS, "models": ["a", "b-*"], "endpoints": ["chat"], "warn_at": [0.9]}]},
        ),
        ({"models": ("a,b", "c")}, {"allowed_models": ["a", "b", "c"]}),
        ({"models": ("none",), "ips": ("any",)}, {"allowed_models": [], "allowed_ips": None}),
        ({"team": "none", "expires": "never"}, {"team": None, "expires_at": None}),
        ({"expires": "2027-01-31"}, {"expires_at": "2027-01-31T00:00:00Z"}),
        ({"metadata": ("a=b", "c=d=e")}, {"metadata": {"a": "b", "c": "d=e"}}),
    ],
)  # fmt: skip
def test_options_are_the_fields_of_the_api(options: dict[str, Any], fields: dict[str, Any]) -> None:
    assert body({"name": "ana", **options}) == {"name": "ana", **fields}


def test_the_options_know_every_limit() -> None:
    assert tuple(field.name for field in fields(Limits)) == LIMITS
    assert (get_args(Unit), get_args(Window)) == (UNITS, WINDOWS)


def test_limits_and_metadata_are_added_to_those_that_are_there() -> None:
    before = {"limits": {"requests_per_minute": 1, "tokens_per_day": 2}, "metadata": {"a": "b", "c": "d"}}
    asked = {"limit": ("requests_per_minute=none", "concurrent_calls=3"), "metadata": ("a=", "e=f")}
    limits = {"requests_per_minute": None, "tokens_per_day": 2, "concurrent_calls": 3}
    assert body(asked, before) == {"limits": limits, "metadata": {"c": "d", "e": "f"}}
    assert body({"budget": ("none",)}, before) == {"budgets": []}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"limit": ("requests=1",)}, "--limit must be NAME=NUMBER, with one of requests_per_minute, "),
        ({"limit": ("requests_per_minut=1",)}, "not 'requests_per_minut=1'; did you mean requests_per_minute?"),
        ({"limit": ("tokens_per_day=-1",)}, "--limit needs a whole number such as 100000, not '-1' in"),
        ({"budget": ("tokens/hour=1",)}, "--budget must be UNIT/WINDOW=AMOUNT, with usd, tokens, requests as unit"),
        ({"budget": ("tokens/day=1.5",)}, "--budget needs a whole number such as 100000, not '1.5' in"),
        ({"budget": ("usd/day=much",)}, "--budget needs an amount of dollars such as 25 or 0.50, not 'much'"),
        ({"budget": ("usd/day=1,modle=x",)}, "--budget takes model=NAME, endpoint=NAME or warn_at=SHARE"),
        ({"budget": ("usd/day=1,warn_at=x",)}, "--budget needs a share such as warn_at=0.8, not 'x'"),
        ({"expires": "soon"}, "--expires must be a time: 30d or 12h from now, "),
        ({"metadata": ("x",)}, "--metadata must be NAME=TEXT, or NAME= to remove it; not 'x'."),
    ],
)  # fmt: skip
def test_a_wrong_option_is_named_with_what_came_and_what_is_right(options: dict[str, Any], words: str) -> None:
    with pytest.raises(Wrong, match=re.escape(words)):
        body({"name": "ana", **options})


def test_a_grace_is_a_time() -> None:
    assert [seconds("--grace", text) for text in ("0", "45", "45s", "30m", "24h", "7d")] == [
        0, 45, 45, 1800, 86_400, 604_800
    ]  # fmt: skip
    with pytest.raises(Wrong, match="--grace must be a time such as 24h, 7d, 30m or 0; not '1w'"):
        seconds("--grace", "1w")


# ---------------------------------------------------------------- the ledger's file


def test_the_life_of_a_key_in_the_store(run_in_each: Run) -> None:
    run = run_in_each
    secret = done(run("keys", "create", "ana", "--limit", "tokens_per_day=100000", "--quiet")).strip()
    assert re.fullmatch(r"sk-torii-[0-9A-Za-z]{12}-[0-9A-Za-z]{49}", secret)
    (key,) = answer(run("keys", "list", "--json"))["data"]
    assert (key["name"], key["limits"]["tokens_per_day"]) == ("ana", 100_000)
    assert secret not in str(key)
    assert "tokens_per_day 100,000" in done(run("keys", "list"))
    shown = done(run("keys", "show", "ana"))
    assert re.search(r"^key ana +tokens_per_day +100,000 +0 +100,000 ", shown, re.M)
    assert answer(run("keys", "show", key["id"], "--json"))["left"][0]["limits"][0]["remaining"] == 100_000

    changed = answer(run("keys", "edit", "ana", "--limit", "requests_per_minute=5", "--name", "anna", "--json"))
    assert (changed["name"], changed["limits"]["tokens_per_day"]) == ("anna", 100_000)
    assert changed["limits"]["requests_per_minute"] == 5
    other = done(run("keys", "rotate", "anna", "--grace", "0", "--quiet")).strip()
    assert other != secret
    assert other[:22] == secret[:22]
    assert done(run("keys", "disable", "anna")) == f"disabled anna ({key['id']})\n"
    assert done(run("keys", "enable", "anna")) == f"enabled anna ({key['id']})\n"
    assert done(run("keys", "revoke", "anna")) == f"revoked anna ({key['id']})\n"
    assert done(run("keys", "list")).startswith("No keys")
    assert answer(run("keys", "list", "--all", "--json"))["data"][0]["status"] == "revoked"
    assert "was revoked" in refused(run("keys", "rotate", "anna"))

    actions = [line["action"] for line in answer(run("audit", "--json"))["data"]]
    assert actions == ["key.revoke", "key.edit", "key.edit", "key.rotate", "key.edit", "key.create"]
    assert {line["actor"] for line in answer(run("audit", "--json"))["data"]} == {"command line"}
    assert secret not in done(run("audit", "--json"))


def test_the_life_of_a_team_in_the_store(run_in_each: Run) -> None:
    run = run_in_each
    made = answer(run("teams", "create", "search", "--id", "s", "--budget", "usd/month=200", "--json"))
    assert (made["id"], made["budgets"][0]["amount"]) == ("s", "200")
    done(run("keys", "create", "ana", "--team", "search", "--quiet"))
    assert answer(run("keys", "list", "--team", "search", "--json"))["data"][0]["team"] == "s"
    assert "usd/month $200" in done(run("teams", "list"))
    assert "$200" in done(run("teams", "show", "search"))
    assert answer(run("teams", "edit", "s", "--disable", "--json"))["disabled"] is True
    assert answer(run("teams", "edit", "s", "--enable", "--limit", "concurrent_calls=2", "--json"))["disabled"] is False
    assert "has 1 key" in refused(run("teams", "delete", "search"))
    done(run("keys", "edit", "ana", "--team", "none"))
    assert done(run("teams", "delete", "search")) == "deleted search (s)\n"


def test_management_keys_in_the_store(run_in_each: Run) -> None:
    run = run_in_each
    secret = done(run("management-keys", "create", "dashboard", "--scope", "read_only", "--quiet")).strip()
    assert secret.startswith("mk-torii-")
    assert "read_only" in (listed := done(run("management-keys", "list")))
    assert secret not in listed
    assert done(run("management-keys", "delete", "dashboard")).startswith("deleted dashboard (")
    assert done(run("management-keys", "list")).startswith("No management keys")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("keys create", "NAME is missing. `torii keys create --help` shows the usage."),
        ("keys create a b", "too many arguments: beside options, the command takes NAME only."),
        ("keys creat a", "unknown command creat; did you mean create? `torii keys --help` lists the commands."),
        (
            "keys create bo --endpoints chats",
            "--endpoints must be 'embeddings', 'rerank', 'chat', 'reader', 'search', 'svip', 'classify', 'train', "
            "'segment' or 'classifiers'; not 'chats'.",
        ),
        ("keys create bo --ips 10.0.0.300", "--ips must be an address or a network, such as 192.0.2.7, "),
        ("keys create bo --cache never", "--cache must be 'shared' or 'private'; not 'never'."),
        ("keys create bo --team nobody", "--team: there is no team 'nobody'"),
        ("keys create bo --expires 2020-13-01", "--expires must be a time: 30d or 12h from now"),
        ("keys create ana", "NAME: a key with the name 'ana' exists already"),
        ("keys show bo", "there is no key with the id or name 'bo'; nearest: ana."),
        ("keys edit ana", "nothing to change: give at least one option"),
        ("keys edit ana --limit tokens_per_day=9999999999999999", "--limit needs a whole number"),
        ("keys create bo --limit tokens_per_day=99999999999999999", "--limit needs a whole number"),
        ("keys create bo --budget usd/day=-1", "--budget amount must be at least 0; not '-1'."),
        ("keys create bo --budget tokens/day=5,warn_at=2", "--budget warn_at must be at most 1; not 2.0."),
        ("keys rotate ana --grace 9999d", "--grace must be at most 7776000; not 863913600."),
        ("keys rotate ana --grace 1w", "--grace must be a time such as 24h"),
        ("teams show x", "there is no team with the id or name 'x'; there are no teams yet."),
        ("teams create t --id -", "--id must have 1 to 64 characters"),
        ("management-keys create x", "--scope is missing."),
        ("management-keys create x --scope root", "--scope must be admin, read_only, or team:ID with a team's"),
        ("calls --kind refused", "--kind must be one of call, cached, refusal."),
        ("calls --status x", "--status must be a whole number of at least 100."),
        ("calls --since never", "--since is not a time: use 7d, 24h or 30m before now"),
        ("prices import missing.csv", "missing.csv cannot be read: No such file or directory."),
        ("prices import x --upstream jina", "--upstream and --provider belong together"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_and_nothing_is_written(line: str, words: str, run: Run) -> None:
    done(run("keys", "create", "ana", "--quiet"))
    before = answer(run("keys", "list", "--all", "--json")), answer(run("teams", "list", "--json"))
    assert words in refused(run(*line.split(" ")))
    assert before == (answer(run("keys", "list", "--all", "--json")), answer(run("teams", "list", "--json")))


def test_keys_of_the_configuration_are_shown_and_left_alone(run: Run, tmp_path: Path) -> None:
    written = {
        "teams": [{"id": "search", "limits": {"concurrent_calls": 3}}],
        "keys": [{"name": "nightly", "team": "search", "sha256": "ab" * 32, "id": "nightly"}],
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(written))
    done(run("keys", "create", "ana", "--team", "search", "--quiet"))
    assert "of the configuration" in done(run("keys", "list"))
    assert [key["name"] for key in answer(run("keys", "list", "--json"))["data"]] == ["nightly", "ana"]
    for line in ("keys revoke nightly", "keys rotate nightly", "keys edit nightly --owner x", "teams delete search"):
        assert "of the configuration: change it there" in refused(run(*line.split()))


def test_without_a_ledger_the_commands_say_so(run: Run) -> None:
    assert refused(run("keys", "list", TORII_LEDGER__PATH="off")).startswith("there is no ledger: ledger.path is off")
    assert refused(run("ledger", "verify")).startswith("no ledger at ")
    assert refused(run("calls")).startswith("no ledger at ")


# ---------------------------------------------------------------- calls, db, verify


def test_calls_are_listed_and_filtered(run_in_each: Run, location: Location) -> None:
    run = run_in_each
    file = LedgerFile(location)
    file.record_call(call(request_id="one", key_id="k1", caller="ana", team="s", cost=2_500_000, model_id="m"))
    file.record_call(call(request_id="two", key_id="k2", caller="bo", kind="cached", cached_tokens=7, total_tokens=0))
    file.refuse(29_921_040, "k1", "s", "tokens/day")
    file.close()
    listed = done(run("calls"))
    assert "1 refused" in listed
    assert "$0.0025" in listed
    assert "tokens/day" in listed
    assert [row["request_id"] for row in answer(run("calls", "--kind", "call", "--json"))["data"]] == ["one"]
    assert [row["kind"] for row in answer(run("calls", "--key", "k2", "--json"))["data"]] == ["cached"]
    assert len(answer(run("calls", "--limit", "1", "--json"))["data"]) == 1
    assert done(run("calls", "--model", "none")) == "No such calls in the ledger.\n"
    assert "0.0025" in done(run("usage", "--by", "team"))


def test_verify_tells_a_counter_that_differs(run_in_each: Run, location: Location) -> None:
    run = run_in_each
    LedgerFile(location).close()
    assert done(run("ledger", "verify")) == f"{location}: what is counted equals the ledger's rows\n"
    with closing(connect(location, "rw", 5.0)) as connection:
        connection.execute("INSERT INTO counters VALUES ('key:k1', 'tokens', '', 0, ?, 7, 0)", (2**53,))
    result = run("ledger", "verify", "--json")
    assert result.exit_code == 1
    assert len(msgspec.json.decode(result.stdout)["differences"]) == 1


def test_the_file_is_checked_and_upgraded(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "torii.db"
    newest = f"{path}: is of version {VERSION}, which is the newest\n"
    assert done(run("db", "upgrade")) == newest
    assert done(run("db", "upgrade")) == newest
    assert done(run("db", "check")) == f"{path}: sound, of version {VERSION}\n"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA user_version = 3")
    assert f"`torii db upgrade` brings it to {VERSION}" in refused(run("db", "check"), 1)
    path.write_bytes(b"this is not a database, but it is long enough to be examined as one." * 20)
    assert "cannot be read" in refused(run("db", "check"))
    assert "The file was not changed" in refused(run("db", "upgrade"))


def test_the_ledger_is_backed_up_and_restored(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "torii.db"
    assert refused(run("db", "backup", "copy.db")).startswith(f"no ledger at {path}")
    made = answer(run("keys", "create", "ana", "--json"))
    gateway, file = LedgerFile(path), LedgerFile(path)  # the first keeps the rows in the write-ahead log
    file.record_call(call(request_id="one"))
    file.close()
    assert done(run("db", "backup", "copy.db")) == "copy.db: 1 keys, 1 rows\n"
    assert {each.name for each in tmp_path.iterdir()} >= {"copy.db"}
    assert not list(tmp_path.glob("copy.db-*"))
    assert (tmp_path / "copy.db").stat().st_mode & 0o777 == 0o600
    assert refused(run("db", "backup", "copy.db")) == "copy.db exists; name a new file."
    gateway.record_call(call(request_id="two"))
    gateway.close()
    done(run("keys", "revoke", made["id"]))
    wrong = f"{path} has 1 keys and 2 rows; --replace replaces them by those of copy.db."
    assert refused(run("db", "restore", "copy.db")) == wrong
    assert done(run("db", "restore", "copy.db", "--replace")) == f"{path}: 1 keys, 1 rows\n"
    assert [each["disabled"] for each in answer(run("keys", "list", "--json"))["data"]] == [False]
    assert [row["request_id"] for row in answer(run("calls", "--json"))["data"]] == ["one"]
    assert done(run("db", "check")) == f"{path}: sound, of version {VERSION}\n"
    assert done(run("ledger", "verify")) == f"{path}: what is counted equals the ledger's rows\n"
    path.unlink()
    assert done(run("db", "restore", "copy.db")) == f"{path}: 1 keys, 1 rows\n"


def test_a_file_moves_to_postgresql(run: Run, path: Path, postgres_url: str) -> None:
    done(run("keys", "create", "ana"))
    with closing(LedgerFile(path)) as file:
        file.record_call(call(request_id="one"))
    server = {"TORII_STORAGE__URL": postgres_url}
    location = Postgres(postgres_url, path)
    assert "storage.url (TORII_STORAGE__URL) is not set" in refused(run("db", "copy", "torii.db"))
    assert "it has no tables" in refused(run("db", "copy", "torii.db", **server))
    assert "it has no tables yet" in refused(run("keys", "list", **server))
    assert done(run("db", "upgrade", **server)) == f"{location}: tables of version {VERSION} were made\n"
    assert done(run("db", "upgrade", **server)) == f"{location}: is of version {VERSION}, which is the newest\n"
    copied = f"{location}: 1 keys, 1 rows; what is counted equals the ledger's rows\n"
    assert done(run("db", "copy", "torii.db", **server)) == copied
    assert done(run("db", "check", **server)) == f"{location}: sound, of version {VERSION}\n"
    assert [key["name"] for key in answer(run("keys", "list", "--json", **server))["data"]] == ["ana"]
    assert [row["request_id"] for row in answer(run("calls", "--json", **server))["data"]] == ["one"]
    assert "copy to an empty database" in refused(run("db", "copy", "torii.db", **server))
    for command, tool in (("backup", "pg_dump"), ("restore", "pg_restore")):
        said = f"the ledger is in PostgreSQL ({location}), whose own {tool} does this."
        assert refused(run("db", command, "copy.db", **server)) == said


def test_only_a_sound_ledger_of_this_version_is_restored(run: Run, tmp_path: Path) -> None:
    path, copy = tmp_path / "torii.db", tmp_path / "copy.db"
    done(run("keys", "create", "ana"))
    before = path.read_bytes()

    def why(*more: str) -> str:
        found = refused(run("db", "restore", "copy.db", "--replace", *more))
        assert path.read_bytes() == before
        start, end = f"copy.db cannot be restored to {path}: ", ". The ledger was not changed."
        assert found.startswith(start)
        return found.removeprefix(start).removesuffix(end)

    assert why() == "there is no such file"
    copy.write_bytes(b"this is not a database, but it is long enough to be examined as one." * 20)
    assert why() == "it is damaged, or is not a database"
    copy.unlink()
    with closing(sqlite3.connect(copy)) as other:
        other.execute("CREATE TABLE strangers (a)")
    assert why() == "it belongs to another program"
    copy.unlink()
    done(run("db", "backup", "copy.db"))
    with closing(sqlite3.connect(copy, isolation_level=None)) as older:
        older.execute("PRAGMA user_version = 3")
    assert why().startswith("it was written by an older Torii")


# ---------------------------------------------------------------- prices


def test_prices_are_shown_with_the_models_that_have_none(run: Run, tmp_path: Path) -> None:
    (tmp_path / "prices.csv").write_text("upstream,model,input,source\njina,jina-embeddings-v3,0.02,a contract\n")
    imported = run("prices", "import", "prices.csv")
    assert imported.exit_code == 0
    assert imported.stderr == "torii: 1 prices; 0 entries were passed over\n"
    assert yaml.safe_load(imported.stdout)["prices"]["jina"]["jina-embeddings-v3"]["input"] == "0.02"
    (tmp_path / "config.yaml").write_text(imported.stdout)
    said = answer(run("prices", "--json"))
    assert said["data"][0] | {"date": ""} == {
        "upstream": "jina", "model": "jina-embeddings-v3", "input": "0.02", "output": "0.02", "per_call": None,
        "source": "a contract", "date": "",
    }  # fmt: skip
    without = {(each["upstream"], each["model"]) for each in said["unpriced"]}
    assert ("jina", "jina-embeddings-v3") not in without
    assert {("jina", "jina-clip-v2"), ("aihubmix", "jina-embeddings-v3")} <= without
    assert "WITHOUT A PRICE AT" in done(run("prices"))


def test_litellms_prices_are_imported(run: Run, tmp_path: Path) -> None:
    entry = {"litellm_provider": "jina_ai", "input_cost_per_token": 1.8e-8, "output_cost_per_token": 1.8e-8}
    other = {"litellm_provider": "other", "input_cost_per_token": 1e-6}
    (tmp_path / "p.json").write_bytes(msgspec.json.encode({"jina-reranker-v2-base-multilingual": entry, "x": other}))
    result = run("prices", "import", "p.json")
    assert result.stderr == "torii: 1 prices; 1 entries were passed over\n"
    price = yaml.safe_load(result.stdout)["prices"]["jina"]["jina-reranker-v2-base-multilingual"]
    assert (price["input"], price["source"]) == ("0.018", "p.json")
    (tmp_path / "bad.json").write_text('{"x": 1}')
    assert refused(run("prices", "import", "bad.json")).startswith("bad.json: ")


# ---------------------------------------------------------------- beside a running gateway


@WITH_CURL
def test_every_command_on_the_page_for_teams_works_in_the_sandbox(tmp_path: Path) -> None:
    """In the order of the page, with its prices, as a person would type them."""
    page = (ROOT / "docs/team.md").read_text(encoding="utf-8")
    (tmp_path / "config.yaml").write_text(re.findall(r"^```yaml\n(prices:.*?)^```$", page, re.M | re.S)[0])
    folder = tmp_path / "bin"
    folder.mkdir()
    command = folder / "torii"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m app "$@"\n')
    command.chmod(0o700)
    variables = {"XDG_RUNTIME_DIR": str(tmp_path), "TORII_OPERATOR_KEY": OPERATOR_KEY}
    with serving("--sandbox", cwd=tmp_path, **variables) as running:
        lines = "\n".join(re.findall(r"^```sh\n(.*?)^```$", page, re.M | re.S))
        script = lines.replace("http://localhost:8000", f"http://127.0.0.1:{running.port}").replace(
            "curl -s", "curl -sSf"
        )
        given = environment({**variables, "TORII_PORT": str(running.port)})
        given["PATH"] = f"{folder}:{given['PATH']}"
        done = subprocess.run(
            ["/bin/sh", "-ec", script], cwd=tmp_path, env=given, capture_output=True, text=True, timeout=SECONDS
        )
        assert (done.returncode, done.stderr) == (0, "")
    for words in ("tokens_per_day 100,000", '"embedding"', "usd/month $200", '"page"', "key.revoke", "start_time,"):
        assert words in done.stdout
    assert len((tmp_path / "ivo.key").read_text().strip()) == 71


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_sandbox_with_an_operator_keeps_its_books_in_a_temporary_folder(workers: str, tmp_path: Path) -> None:
    variables = {"XDG_RUNTIME_DIR": str(tmp_path), "TORII_OPERATOR_KEY": OPERATOR_KEY, "XDG_STATE_HOME": str(tmp_path)}
    variables["TORII_CALLER_KEY"] = "torii-test-other-caller-0123456789"  # else a worker is open until it knows the key
    with serving("--sandbox", "--workers", workers, cwd=tmp_path, **variables) as running:
        found = re.search(r"Ledger +(\S+/torii\.db) \(temporary, removed at the end\)", running.banner)
        assert found is not None
        variables["TORII_PORT"] = str(running.port)

        def command(*words: str) -> str:
            done = torii(*words, cwd=tmp_path, **variables)
            assert (done.returncode, done.stderr) == (0, "")
            return done.stdout

        secret = command("keys", "create", "ana", "--limit", "requests_per_minute=2", "--quiet").strip()
        body = {"model": "jina-embeddings-v3", "input": ["Hello, gate"]}
        statuses: list[int] = []
        for _ in range(1000):
            with running.asked("POST", "/v1/embeddings", body, Authorization=f"Bearer {secret}") as response:
                statuses += [response.status] if response.status != 401 else []  # a worker that does not know it yet
            if len(statuses) == 3:
                break
        assert statuses == [200, 200, 429]
        assert "requests_per_minute" in command("keys", "show", "ana")
        assert msgspec.json.decode(command("audit", "--json"))["data"][0]["actor"] == "operator"
        assert "ana" in command("usage", "--by", "caller")
        assert "jina-embeddings-v3" in command("calls")
        assert "equals the ledger's rows" in command("ledger", "verify")
        assert torii("keys", "show", "bo", cwd=tmp_path, **variables).stderr.startswith("torii: there is no key with")
        assert running.ends_on(signal.SIGTERM) == 0
    assert not Path(found[1]).parent.exists()
    assert not (tmp_path / "torii" / "torii.db").exists()
