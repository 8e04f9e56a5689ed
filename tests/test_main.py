"""The application for other ASGI servers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from app import main
from app.callers.accounts import key_file
from app.config.sources import ConfigError
from app.storage.ledger_file import LedgerFile

from .cli.test_cli import ROOT, environment
from .conftest import JINA_KEY

SERVED = re.compile(r"running on (http://127\.0\.0\.1:\d+)")


def uvicorn(folder: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "--port", "0", "--app-dir", str(ROOT), *arguments],
        cwd=folder,
        env=environment(variables),
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("address", [("app.main:app",), ("app.main:create_app", "--factory")])
def test_uvicorn_serves_it_and_the_log_says_what_is_missing(tmp_path: Path, address: tuple[str, ...]) -> None:
    with uvicorn(tmp_path, *address, JINA_API_KEY=JINA_KEY) as server:
        assert server.stderr is not None
        lines = []
        for line in server.stderr:
            lines.append(line)
            if found := SERVED.search(line):
                break
        try:
            assert httpx.get(f"{found[1]}/healthz").status_code == 200 if found else lines == []
        finally:
            server.terminate()
    said = f"a development server: only torii serve {', '.join(main.ONLY_SERVE)}\n"
    assert [line for line in lines if "development server" in line] == [said]


def test_the_documentation_names_the_same_protections() -> None:
    _, _, listed = (ROOT / "docs" / "deployment.md").read_text().partition("Only `torii serve`\n\n")
    assert re.findall(r"^- (.*)[,.]$", listed.partition("\n\n")[0], re.M) == list(main.ONLY_SERVE)


def test_importing_the_module_makes_no_application() -> None:
    """The configuration is read at the first access to ``app``."""
    code = "import sys, app.main as main; print('app' in vars(main)); main.app"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment({"TORII_PORT": "no port"}),
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.returncode) == ("False\n", 1)
    assert "ConfigError: environment: TORII_PORT: " in done.stderr


def test_without_a_key_it_says_so(tmp_path: Path) -> None:
    with uvicorn(tmp_path, "app.main:app", TORII_SANDBOX="on") as server:
        _, said = server.communicate(timeout=60)
    assert said.endswith(
        "ConfigError: sandbox: is available with torii serve only; set an upstream key, such as JINA_API_KEY\n"
    )
    assert server.returncode != 0


def test_it_is_not_open_where_keys_were_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JINA_API_KEY", JINA_KEY)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    file = tmp_path / "torii" / "torii.db"
    LedgerFile(file).close()
    assert main.create_app()
    key_file(file).create_key({"name": "a"}, "operator", None)
    with pytest.raises(ConfigError, match=r"^keys: virtual keys need the ledger, which only torii serve keeps"):
        main.create_app()
