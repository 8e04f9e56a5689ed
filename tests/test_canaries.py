"""Keys must never leak: they are sent through every path, with the most verbose logging, then searched for in all
outputs."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from .conftest import PATIENCE, Script, ScriptedUpstream, raw, replies, streams, until
from .ledger import read

ROOT = Path(__file__).parents[1]
JINA = "jina_" + "canaryofjina" * 5
SECOND = "jina_" + "canarysecond" * 5
AIHUBMIX = "sk-canary-of-aihubmix-0123456789"
CALLER = "canary-of-the-caller-0123456789"
STRANGER = "canary-of-a-stranger-0123456789"
CANARIES = (JINA, SECOND, AIHUBMIX, CALLER, STRANGER)

CONFIG = f"""
log_level: debug
queue_timeout_seconds: 0.1
cache: {{store: off}}
svip: true
caller_key: {CALLER}
ledger: {{path: torii.db}}
upstreams:
  jina:
    base_url: URL/v1
    deepsearch_base_url: URL/deepsearch/v1
    reader_base_url: URL/reader
    search_base_url: URL/search
    svip_base_url: URL/svip
    api_keys: [{{key: {JINA}, name: one}}, {{key: {SECOND}, name: two}}]
  aihubmix: {{base_url: URL/v1, api_key: {AIHUBMIX}}}
timeouts: {{idle_seconds: 0.5, reply_seconds: 0.5, reader_seconds: 0.5, search_seconds: 0.5}}
"""
EMBED = {"model": "jina-embeddings-v3", "input": ["hi"]}
RERANK = {"model": "jina-reranker-m0", "query": "q", "documents": ["a"]}
ASK = {"model": "jina-deepsearch-v1", "messages": [{"role": "user", "content": "hi"}], "stream": True}
TRAIN = {
    "model": "jina-embeddings-v3",
    "input": [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}],
}
CLASSIFIER = {
    "classify": {"model": "jina-embeddings-v3", "input": ["hi"], "labels": ["a", "b"]},
    "train": TRAIN,
    "segment": {"content": "hi"},
}
WEB = {
    "reader": {"url": "https://a.example/"},
    "search": {"q": "hi"},
    "svip": {"q": "hi"},
    "svip/extract-pdf": {"id": "1"},
}
THINK = b'data: {"choices":[{"delta":{"type":"think","content":"<think>hm"}}]}\n\n'


def echoing(write: Callable[[str], Script]) -> Script:
    """Sends the key that it received back to the caller."""

    async def play(request: Any, writer: asyncio.StreamWriter) -> Any:
        return await write(request.headers["authorization"])(request, writer)

    return play


SCRIPTS: dict[str, Script] = {
    "ok": replies({"data": [{"index": 0, "embedding": [1]}], "results": [{"index": 0, "relevance_score": 1}]}),
    **{
        f"{status} {name}": echoing(lambda key, status=status, shape=shape: replies(shape(key), status))  # type: ignore[misc]
        for status in (200, 400, 401, 402, 403, 404, 409, 422, 429, 500, 503, 524)
        for name, shape in {
            "object": lambda key: {
                "error": {"message": f"Incorrect API key provided: {key}", "code": key, "param": key}
            },
            "string": lambda key: {"error": f"Unauthorized: {key}"},
            "detail": lambda key: {"detail": [{"loc": ["body", key], "msg": key, "input": key}]},
            "nested": lambda key: {"detail": {"message": key, "code": key}},
            "html": lambda key: f"<html><title>{key}</title><p>{key}</p></html>".encode(),
            "bare": lambda key: key.removeprefix("Bearer ").encode(),
        }.items()
    },
    "stream error": echoing(lambda key: streams(THINK, f'data: {{"error":{{"message":"{key}"}}}}\n\n'.encode())),
    "stream text": echoing(
        lambda key: streams(
            THINK,
            b'data: {"choices":[{"delta":{"content":"Error: %s","type":"error"},"finish_reason":"error"}]}\n\n'
            % key.encode(),
        )
    ),
    "header": echoing(lambda key: replies({"detail": "x"}, 429, retry_after=key, x_leak=key)),
    "redirect": echoing(lambda key: replies(b"", 307, location=f"http://127.0.0.1:9/{key}")),
    "cut": raw(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"),
    "nonsense": echoing(lambda key: raw(f"{key}\r\n\r\n".encode())),
    "hang": streams(THINK, asyncio.Event()),
}


async def _asked(client: httpx.AsyncClient, upstream: ScriptedUpstream) -> str:
    told = ""
    for script in SCRIPTS.values():
        asked = {"embeddings": EMBED, "rerank": RERANK, "chat/completions": ASK, **CLASSIFIER, **WEB}
        for path, body in asked.items():
            upstream.plays(script)
            answer = await client.post(f"/v1/{path}", json=body)
            told += f"{answer.headers}\n{answer.text}\n"
        upstream.plays(replies({"classifier_id": "c1"}))
        await client.post("/v1/train", json=TRAIN)
        upstream.plays(script)
        for method, path in (("POST", "/v1/classify"), ("GET", "/v1/classifiers"), ("DELETE", "/v1/classifiers/c1")):
            body = {"classifier_id": "c1", "input": "hi"} if method == "POST" else None
            answer = await client.request(method, path, json=body)
            told += f"{answer.headers}\n{answer.text}\n"
    for headers in ({"authorization": f"Bearer {STRANGER}"}, {"authorization": STRANGER}, {"x-api-key": STRANGER}):
        answer = await client.post("/v1/embeddings", json=EMBED, headers=headers)
        told += f"{answer.headers}\n{answer.text}\n"
    for path in ("/v1/models", "/openapi.json", "/healthz", "/readyz", f"/v1/{STRANGER[:4]}"):
        told += (await client.get(path)).text
    return told


async def test_no_key_is_told_logged_or_sent_to_the_other(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG.replace("URL", upstream.url))
    log = tmp_path / "log"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    environment["XDG_RUNTIME_DIR"] = str(tmp_path)
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "app", "serve", "--port", "0"], cwd=tmp_path, env=environment, stderr=out, stdout=out
        )
        try:
            await until(lambda: b"Press Ctrl+C to stop." in log.read_bytes())
            root = log.read_text().partition("Base URL  ")[2].partition("/v1")[0]
            headers = {"authorization": f"Bearer {CALLER}"}
            async with httpx.AsyncClient(base_url=root, headers=headers, timeout=PATIENCE, trust_env=False) as client:
                told = await _asked(client, upstream)
        finally:
            process.terminate()
            process.wait(PATIENCE)
    assert process.returncode == 0
    sent = [seen.headers["authorization"] for seen in upstream.seen]
    assert set(sent) == {f"Bearer {key}" for key in (JINA, SECOND, AIHUBMIX)}
    assert not any(CALLER in f"{seen.headers}{seen.raw!r}" for seen in upstream.seen)
    assert len(log.read_text().splitlines()) > len(SCRIPTS)
    assert read(tmp_path / "torii.db", "SELECT count(*) FROM calls")[0][0] >= len(SCRIPTS)
    places = {
        "answers": told.encode(),
        **{str(path): path.read_bytes() for path in tmp_path.iterdir() if path.is_file()},
    }
    del places[str(tmp_path / "config.yaml")]
    for place, content in places.items():
        for canary in CANARIES:
            at = content.find(canary.encode())
            assert at < 0, f"{canary[:12]}... is in {place}: {content[max(0, at - 300) : at + 80]!r}"


@pytest.mark.parametrize("command", [["check"], ["models"], ["check", "--live"]])
def test_no_command_prints_a_key(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG.replace("URL", "http://127.0.0.1:9"))
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    environment["XDG_RUNTIME_DIR"] = str(tmp_path)
    ended = subprocess.run(
        [sys.executable, "-m", "app", *command],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE,
    )
    assert ended.stdout
    for canary in CANARIES:
        assert canary not in ended.stdout + ended.stderr
