"""The door for other ASGI servers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

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


@pytest.mark.parametrize("door", [("app.main:app",), ("app.main:create_app", "--factory")])
def test_uvicorn_serves_it_and_the_log_says_what_is_missing(tmp_path: Path, door: tuple[str, ...]) -> None:
    with uvicorn(tmp_path, *door, JINA_API_KEY=JINA_KEY) as server:
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
    said = [line for line in lines if line.startswith("a development server: only torii serve times out slow")]
    assert len(said) == 1


def test_without_a_key_it_says_so(tmp_path: Path) -> None:
    with uvicorn(tmp_path, "app.main:app", TORII_SANDBOX="on") as server:
        _, said = server.communicate(timeout=60)
    assert said.endswith(
        "ConfigError: sandbox: is available with torii serve only; set an upstream key, such as JINA_API_KEY\n"
    )
    assert server.returncode != 0
