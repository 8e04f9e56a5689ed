"""The sandbox as a server: its start, its stop, released resources, and no side effects on the process."""

from __future__ import annotations

import ast
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from app.sandbox import Sandbox

QUESTION = {"messages": [{"role": "user", "content": "What are tides?"}], "stream": True}
HANGING = {"messages": [{"role": "user", "content": "sandbox:hang"}], "stream": True}
# In seconds; far less than the open answers would take.
AT_ONCE = 5.0
KEY = {"authorization": "Bearer sandbox-key"}


def test_its_urls_answer_as_soon_as_it_has_started() -> None:
    sandbox = Sandbox(pace=0).start()
    try:
        assert list(sandbox.urls) == ["jina", "deepsearch", "aihubmix", "reader", "search", "svip"]
        for name, url in sandbox.urls.items():
            versioned = name in ("jina", "deepsearch", "aihubmix")
            assert url.startswith("http://127.0.0.1:")
            assert url.endswith(f"/{name}/v1" if versioned else f"/{name}")
            answer = httpx.get(f"{url}/models" if versioned else f"{url}/?q=tides", headers=KEY)
            assert (answer.status_code, answer.headers["x-sandbox"]) == (200, "torii")
    finally:
        sandbox.stop()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{sandbox.urls['jina']}/models")


def test_it_stops_at_once_while_streams_are_open() -> None:
    before = set(threading.enumerate())
    sandbox = Sandbox(pace=100).start()
    url = f"{sandbox.urls['deepsearch']}/chat/completions"
    with httpx.Client(headers=KEY, timeout=60) as http, http.stream("POST", url, json=QUESTION) as answer:
        parts = answer.iter_raw()
        next(parts)
        begun = time.monotonic()
        sandbox.stop()
        assert time.monotonic() - begun < AT_ONCE
        with pytest.raises(httpx.RemoteProtocolError):
            list(parts)
    assert set(threading.enumerate()) == before


def test_it_stops_at_once_while_a_call_hangs() -> None:
    sandbox = Sandbox(pace=0).start()
    with httpx.Client(headers=KEY, timeout=60) as http:
        with pytest.raises(httpx.ReadTimeout):
            http.post(
                f"{sandbox.urls['deepsearch']}/chat/completions", json=HANGING, timeout=httpx.Timeout(10, read=0.3)
            )
        begun = time.monotonic()
        sandbox.stop()
        assert time.monotonic() - begun < AT_ONCE


def test_it_can_be_stopped_twice_and_started_again() -> None:
    sandbox = Sandbox(pace=0)
    sandbox.stop()
    with sandbox:
        with pytest.raises(RuntimeError, match="runs already"):
            sandbox.start()
        assert httpx.get(f"{sandbox.urls['jina']}/models").status_code == 200
    sandbox.stop()
    with sandbox:
        assert httpx.get(f"{sandbox.urls['jina']}/models").status_code == 200


def test_two_of_them_live_side_by_side() -> None:
    with Sandbox(pace=0) as one, Sandbox(pace=0) as other:
        assert one.urls != other.urls
        assert {httpx.get(f"{sandbox.urls['aihubmix']}/models").status_code for sandbox in (one, other)} == {200}


def test_connections_are_kept_alive() -> None:
    with Sandbox(pace=0) as sandbox, httpx.Client(headers=KEY, timeout=60) as http:
        body = {"model": "jina-embeddings-v3", "input": ["a"]}
        for _ in range(3):
            answer = http.post(f"{sandbox.urls['jina']}/embeddings", json=body)
            assert (answer.status_code, answer.headers.get("connection")) == (200, None)


def test_it_imports_nothing_of_the_gateway() -> None:
    for file in (Path(__file__).parents[2] / "app" / "sandbox").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            assert not (isinstance(node, ast.ImportFrom) and node.level > 1), file
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not any(name.partition(".")[0] in ("app", "torii_gateway") for name in names), file


def test_it_changes_no_log_and_no_signal_of_the_process() -> None:
    program = (
        "import logging, signal\n"
        "from app.sandbox import Sandbox\n"
        "def state():\n"
        "    loggers = [logging.getLogger(name) for name in ('', 'uvicorn', 'uvicorn.error', 'uvicorn.access')]\n"
        "    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]\n"
        "    return [(one.level, one.handlers, one.propagate) for one in loggers], handlers\n"
        "before = state()\n"
        "with Sandbox(pace=0):\n"
        "    assert state() == before\n"
        "assert state() == before\n"
    )
    ran = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=120)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
