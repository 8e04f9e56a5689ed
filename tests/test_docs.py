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
from app.cli.main import main

from .test_architecture import ROWS

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


def test_the_tests_that_the_pages_name_are_there() -> None:
    for page in PAGES:
        for path, test in re.findall(r"\b(tests/[\w/]+\.py)(?:::(\w+))?", page.read_text(encoding="utf-8")):
            assert f"def {test}" in (ROOT / path).read_text(encoding="utf-8"), f"{named(page)}: {path}::{test}"


def test_the_commands_that_the_pages_name_are_there() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES if page.name != "CHANGELOG.md")
    verbs = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= set(verbs)
    listed = re.findall(r"^\| \d \| `cli` \| `torii (.+)` \|$", text, re.M)
    assert [sorted(row.split("`, `")) for row in listed] == [sorted(main.commands)]


def test_the_picture_of_the_architecture_has_the_packages_in_their_rows() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    picture = next(block["code"] for block in _FENCED.finditer(text) if "row 0" in block["code"])
    drawn = [set(re.findall(r"\w+", line)) for line in re.findall(r"^row \d+(.*)$", picture, re.M)]
    assert drawn == [{package for package in row if package} for row in ROWS]


def test_the_page_of_contributing_has_each_package_in_its_row() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    listed = [(int(row), package) for row, package in re.findall(r"^\| (\d+) \| `(\w+)` \|", text, re.M)]
    assert sorted(listed) == sorted((number, package) for number, row in enumerate(ROWS) for package in row if package)


def test_the_modules_that_the_architecture_names_are_there() -> None:
    rooms = "|".join(package for row in ROWS for package in row if package)
    path = re.compile(rf"`(?:app/)?((?:{rooms})/[\w/]*(?:\.py)?)`")
    pages = [ROOT / "docs/architecture.md", ROOT / "CONTRIBUTING.md"]
    found = {name for page in pages for name in path.findall(page.read_text(encoding="utf-8"))}
    assert {name for name in found if not (ROOT / "app" / name).exists()} == set()
    assert len(found) > 10


def test_the_index_has_every_page() -> None:
    index = ROOT / "docs/README.md"
    linked = {(index.parent / link).resolve() for link in _LINK.findall(index.read_text(encoding="utf-8"))}
    assert {page for page in PAGES if page.parent == index.parent} - {index} - linked == set()


def test_the_glossary_has_each_term_once_and_in_order() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Glossary")[2].partition("\n## ")[0]
    terms = re.findall(r"^\| ([a-z][\w -]*) \|", text, re.M)[1:]
    assert terms == sorted(set(terms))
    assert len(terms) >= 17
