"""The documentation agrees with the code: its links work, its Python compiles, its version is current."""

from __future__ import annotations

import ast
import re
import textwrap
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

from app import __version__

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])

_FENCED = re.compile(r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^(?P=indent)```$", re.M | re.S)
_LINK = re.compile(r"!?\[[^\]]*\]\(<?([^)>\s]+)>?[^)]*\)")
_HEADING = re.compile(r"^#+ +(.+?) *#*$", re.M)
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:")


@cache
def prose(page: Path) -> str:
    """The page without its code."""
    return re.sub(r"`[^`\n]+`", "", _FENCED.sub("", page.read_text(encoding="utf-8")))


@cache
def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = _FENCED.sub("", page.read_text(encoding="utf-8"))
    plain = [re.sub(r"[^\w\- ]", "", _LINK.sub("", title).lower()).strip() for title in _HEADING.findall(text)]
    return {title.replace(" ", "-") for title in plain}


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_leads_to_a_file_and_a_heading_that_exist(page: Path) -> None:
    broken = []
    for link in _LINK.findall(prose(page)):
        if _ELSEWHERE.match(link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_piece_of_python_compiles(page: Path) -> None:
    for block in _FENCED.finditer(page.read_text(encoding="utf-8")):
        if block["language"] in ("python", "py"):
            compile(textwrap.dedent(block["code"]), named(page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_piece_of_yaml_is_yaml(page: Path) -> None:
    for block in _FENCED.finditer(page.read_text(encoding="utf-8")):
        if block["language"] in ("yaml", "yml"):
            assert isinstance(yaml.safe_load(textwrap.dedent(block["code"])), dict | list)


def test_the_changelog_speaks_of_this_version() -> None:
    titles = re.findall(r"^## \[?([^\]\s]+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    versions = [title for title in titles if title.lower() != "unreleased"]
    assert versions[0] == __version__
    assert "unreleased" not in [title.lower() for title in titles[1:]]


def test_what_the_page_of_security_refers_to_is_there() -> None:
    for path in set(re.findall(r"`(tests/\w+\.py|Dockerfile|compose\.yaml)`", (ROOT / "SECURITY.md").read_text())):
        assert (ROOT / path).exists(), path
