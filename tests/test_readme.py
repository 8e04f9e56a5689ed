"""The examples in README.md and docs/ are run, and their lists are complete."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from app.core import classifiers, errors
from app.endpoints.chat import MODES
from app.endpoints.embeddings import ENCODINGS, SPELLINGS
from app.endpoints.rerank import DOC_LIMITS
from app.server.app import PATHS
from app.upstreams.deepsearch import IGNORED, PARAMETERS

from .clients.conftest import Beside, gateway, running, vocabulary  # noqa: F401 - fixtures
from .conftest import WITH_CURL

ROOT = Path(__file__).parents[1]


def page(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def blocks(path: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page(path), re.M | re.S)


def first_line(code: str) -> str:
    return code.splitlines()[0][:60]


def curls(path: str) -> list[str]:
    return [code for code in blocks(path, "sh") if code.startswith("curl ")]


def run(command: list[str]) -> str:
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.parametrize("code", blocks("README.md", "python"), ids=first_line)
def test_the_python_of_the_readme_runs(code: str, gateway: Beside) -> None:  # noqa: F811
    for module in re.findall(r"^(?:from|import) ([\w.]+)", code, re.M):
        pytest.importorskip(module, reason=f"{module} is in the extra `clients`: run `make clients`")
    code = code.replace("http://localhost:8000", gateway.root).replace('"any"', f'"{gateway.key}"')
    assert run([sys.executable, "-c", code]).strip()


@WITH_CURL
@pytest.mark.parametrize("code", curls("README.md") + curls("docs/deepsearch.md"), ids=first_line)
def test_the_curl_lines_run(code: str, gateway: Beside) -> None:  # noqa: F811
    assert '"object":' in run(["/bin/sh", "-c", with_key(code, gateway)])


def with_key(code: str, gateway: Beside) -> str:  # noqa: F811
    code = code.replace("http://localhost:8000", gateway.root)
    return code.replace("curl ", f"curl -sSf -H 'Authorization: Bearer {gateway.key}' ", 1)


@WITH_CURL
def test_the_stream_on_the_page_of_deepsearch_is_a_real_one(gateway: Beside) -> None:  # noqa: F811
    """Line for line, except for ids and times, the head of each chunk, and the thinking that is left out."""
    (command,) = curls("docs/deepsearch.md")
    streamed = events(run(["/bin/sh", "-c", with_key(command, gateway)]))
    shown = blocks("docs/deepsearch.md", "text")[0]
    first, middle, last = (events(part) for part in re.split(r"^\.\.\.$", shown, flags=re.M))
    assert streamed[: len(first)] == first
    assert streamed[-len(last) :] == last
    assert any(streamed[start : start + len(middle)] == middle for start in range(len(streamed)))


def events(text: str) -> list[str]:
    """The lines of a stream, with the head of each chunk replaced by a mark."""
    lines = [line for line in text.splitlines() if line.startswith("data: ")]
    return [re.sub(r'^data: \{("id":.*?|\.\.\.),"choices"', 'data: {...,"choices"', line) for line in lines]


def test_the_failure_in_a_stream_is_a_real_one(gateway: Beside) -> None:  # noqa: F811
    message = {"role": "user", "content": "Why do tides happen? sandbox:deepsearch-error"}
    body = {"model": "jina-deepsearch-v1", "stream": True, "messages": [message]}
    headers = {"authorization": f"Bearer {gateway.key}"}
    answer = httpx.post(f"{gateway.base_url}/chat/completions", json=body, headers=headers, trust_env=False)
    (failure,) = [line for line in answer.text.splitlines() if line.startswith('data: {"error"')]
    assert failure in page("docs/deepsearch.md")
    assert failure in page("docs/errors.md")


def every_error() -> list[type[errors.ToriiError]]:
    found = [kind for module in (errors, classifiers) for _, kind in inspect.getmembers(module, inspect.isclass)]
    return [kind for kind in found if issubclass(kind, errors.ToriiError)]


def test_the_page_of_errors_has_every_status_type_and_code_and_no_other() -> None:
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| `(\w+)` \|", page("docs/errors.md"), re.M)
    assert sorted(rows) == sorted({(str(kind.status), kind.type, str(kind.code)) for kind in every_error()})


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_the_page_of_errors_says_who_tries_again(kind: type[errors.ToriiError]) -> None:
    again = {False: "no", None: "its choice", True: "yes"}[kind.should_retry]
    elsewhere = "" if not issubclass(kind, errors.UpstreamError) else "yes" if kind.elsewhere else "no"
    (row,) = re.findall(rf"^\| {kind.status} \| `{kind.type}` \| `{kind.code}` \| .+$", page("docs/errors.md"), re.M)
    assert [cell.strip() for cell in row.split("|")[5:7]] == [again, elsewhere]


@pytest.mark.parametrize("name", [*PARAMETERS, *sorted(IGNORED), *MODES])
def test_the_page_of_deepsearch_has_every_parameter_and_mode(name: str) -> None:
    assert f"`{name}`" in page("docs/deepsearch.md")


@pytest.mark.parametrize("name", [*SPELLINGS, *ENCODINGS, *DOC_LIMITS])
def test_the_page_of_translation_has_every_spelling(name: str) -> None:
    assert f"`{name}`" in page("docs/translation.md")


def test_the_readme_names_every_endpoint_of_the_models() -> None:
    for path in PATHS:
        method, _, place = path.partition(" ")
        if method == "POST":
            assert place in page("README.md")
