"""Rules for the structure of the gateway that a machine can check. Imports point one way: up the table of rows."""

from __future__ import annotations

import ast
import re
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

APP = Path(__file__).parents[1] / "app"

# A package imports only from rows above its own; modules of one package may import each other. A new module goes into
# one of these rooms.
ROWS: tuple[tuple[str, ...], ...] = (
    ("", "core", "sandbox"),
    ("endpoints", "storage", "upstreams"),
    ("config", "usage"),
    ("cache", "callers", "routing"),
    ("gateway",),
    ("server",),
    ("main",),
    ("cli",),
)
# Pure translation: these rooms, except modules that wait for the network, a clock or a caller, or ask for the machine's
# name.
PURE_ROOMS = ("core", "endpoints", "upstreams")
IMPURE = (
    "core.deadlines",
    "core.disconnects",
    "core.origins",
    "core.transport",
    "endpoints.incoming",
    "upstreams.client",
)

SETTINGS_READERS = {"cli", "config", "gateway.build", "main", "server"}
PURE_PACKAGES = {"jsonschema_rs", "msgspec", "tiktoken"}
FILES_AND_SOCKETS = {"http", "io", "logging", "os", "pathlib", "select", "selectors", "shutil", "socket", "ssl", "sys"}
CLOCKS_AND_CHANCE = {"asyncio", "contextvars", "random", "secrets", "signal", "subprocess", "threading", "time", "uuid"}
IMPURE_CALLS = {"open", "print", "input", "now", "today", "utcnow", "urlopen"}


@dataclass(frozen=True)
class Module:
    name: str
    path: Path

    @cached_property
    def source(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)

    @property
    def top(self) -> str:
        return self.name.partition(".")[0]

    @property
    def row(self) -> int:
        return next((number for number, row in enumerate(ROWS) if self.top in row), len(ROWS))

    @cached_property
    def ours(self) -> set[str]:
        """All modules of ours that it imports, at its top, in functions, and for types."""
        return {name for node in ast.walk(self.tree) if isinstance(node, ast.ImportFrom) for name in self._named(node)}

    @cached_property
    def foreign(self) -> set[str]:
        """The packages of others that it imports."""
        plain = {alias.name for node in ast.walk(self.tree) if isinstance(node, ast.Import) for alias in node.names}
        froms = {node.module for node in ast.walk(self.tree) if isinstance(node, ast.ImportFrom) and not node.level}
        return {str(name) for name in plain | froms}

    def _named(self, node: ast.ImportFrom) -> Iterator[str]:
        if not node.level:
            return
        package = self.name.split(".") if self.path.name == "__init__.py" else self.name.split(".")[:-1]
        above = [part for part in package[: len(package) - node.level + 1] if part]
        if node.module:
            yield ".".join([*above, node.module])
            return
        for alias in node.names:
            name = ".".join([*above, alias.name])
            yield name if name in modules() else ".".join(above)


@cache
def modules() -> dict[str, Module]:
    names = {path: ".".join(path.relative_to(APP).with_suffix("").parts) for path in sorted(APP.rglob("*.py"))}
    clean = {path: re.sub(r"\.?__init__$", "", name) for path, name in names.items()}
    return {name: Module(name, path) for path, name in clean.items()}


every_module = pytest.mark.parametrize("module", modules().values(), ids=lambda module: module.name or "__init__")
pure_module = pytest.mark.parametrize(
    "module",
    [module for module in modules().values() if module.top in PURE_ROOMS and not module.name.startswith(IMPURE)],
    ids=lambda module: module.name or "__init__",
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions() -> Iterator[tuple[Module, Function]]:
    for module in modules().values():
        for node in ast.walk(module.tree):
            if isinstance(node, Function):
                yield module, node


def test_every_module_has_one_place_in_the_table() -> None:
    placed = [name for row in ROWS for name in row]
    assert sorted(placed) == sorted({module.top for module in modules().values()} - {"__main__"})


@every_module
def test_imports_point_up_the_table(module: Module) -> None:
    wrong = {
        name
        for name in module.ours
        if not (modules()[name].row < module.row or (modules()[name].top == module.top != ""))
    }
    assert wrong == set()


@every_module
def test_imports_of_our_own_are_relative(module: Module) -> None:
    """The folder is `app`, the installed package `torii_gateway`."""
    assert {name for name in module.foreign if re.match(r"(app|torii_gateway)\b", name)} == set()


def test_the_top_has_thirteen_rooms_and_a_door() -> None:
    assert len({module.top for module in modules().values()} - {"", "__main__", "main"}) == 13


def test_packages_have_no_circles() -> None:
    graph = {module.name: module.ours for module in modules().values()}
    assert len(list(TopologicalSorter(graph).static_order())) == len(modules())


@pytest.mark.parametrize(("one", "other"), [("endpoints", "upstreams"), ("upstreams", "endpoints")])
def test_endpoints_and_upstreams_meet_only_in_types(one: str, other: str) -> None:
    known = {(module.name, name) for module in modules().values() if module.top == one for name in module.ours}
    assert {(module, name) for module, name in known if modules()[name].top == other} == set()


@pure_module
def test_translation_has_no_outside(module: Module) -> None:
    """No I/O, no clock, no randomness: such a module is tested by its inputs and outputs alone."""
    tops = {name.partition(".")[0] for name in module.foreign}
    allowed = set(sys.stdlib_module_names) | (PURE_PACKAGES)
    assert tops - allowed == set()
    assert tops & (FILES_AND_SOCKETS | CLOCKS_AND_CHANCE) == set()
    called = {
        node.func.id if isinstance(node.func, ast.Name) else node.func.attr
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute)
    }
    assert called & IMPURE_CALLS == set()
    assert not any(isinstance(node, ast.AsyncFunctionDef | ast.Await) for node in ast.walk(module.tree)) or (
        module.name == "core.stream"
    )


def importers(target: str) -> set[str]:
    return {module.name for module in modules().values() if any(is_in(name, target) for name in module.ours)}


def is_in(name: str, room: str) -> bool:
    return name == room or name.startswith(f"{room}.")


def test_only_the_edges_read_settings() -> None:
    readers = importers("config.settings") | importers("config.loader")
    assert {name for name in readers if not any(is_in(name, reader) for reader in SETTINGS_READERS)} == set()


def test_the_sandbox_is_apart() -> None:
    """The sandbox plays foreign servers: code shared with the gateway would prove nothing about it."""
    sandbox = [module for module in modules().values() if module.top == "sandbox"]
    assert {name for module in sandbox for name in module.ours if modules()[name].top != "sandbox"} == set()
    assert {name for name in importers("sandbox") if not is_in(name, "sandbox")} <= {"cli.main"}


def test_one_module_knows_the_http_library() -> None:
    assert {module.name for module in modules().values() if "httpx" in module.foreign} == {"upstreams.client.httpx"}


def test_few_modules_know_sqlalchemy_and_alembic() -> None:
    """Importing them costs 37 MB and 0.3 s, so a serving process imports them when the first report is asked for."""
    found = {name for name, module in modules().items() if {"alembic", "sqlalchemy"} & _tops(module.foreign)}
    migrations = {name for name in modules() if name.startswith("storage.migrations.")}
    commands = {"storage.postgres.tables", "storage.postgres.copying"}
    assert found <= {"storage.queries", "storage.grouped", "storage.listed", "storage.schema", *migrations, *commands}
    assert importers("storage.queries") == {"storage.listed", "usage.pages", "usage.reports"}
    assert importers("storage.grouped") == {"storage.queries"}
    assert importers("storage.listed") == {"usage.pages"}
    assert importers("storage.schema") == {"storage.listed", "storage.queries", "storage.grouped", *commands}
    assert importers("usage.reports") == {"cli.operate", "usage.pages"}
    assert importers("usage.pages") == {"server.admin.calls", "server.admin.usage", "server.own_usage"}
    for name in importers("usage.pages"):
        top = [node for node in modules()[name].tree.body if isinstance(node, ast.ImportFrom)]
        assert not any(node.module == "usage.pages" for node in top)


def _tops(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def test_the_gateway_is_one_screen_that_knows_no_upstream() -> None:
    gateway = modules()["gateway.gateway"]
    assert len(gateway.source.splitlines()) < 200
    assert len(gateway.ours) <= 12
    assert re.findall(r"jina|aihubmix|SELECT|INSERT", gateway.source) == []
    sums = [node.lineno for node in ast.walk(gateway.tree) if isinstance(node, ast.BinOp) and _calculates(node.op)]
    assert sums == []


def test_the_record_of_a_call_is_the_gateways() -> None:
    """The cache and single-flight return values: only the gateway, the server and ``usage`` know a call's record."""
    writers = {name.partition(".")[0] for name in importers("usage.record")}
    assert writers <= {"gateway", "server", "usage"}


def test_nothing_calls_back_into_the_gateway() -> None:
    """The gateway passes none of its functions on: it has no lambda or partial, and names no method without a call."""
    gateway = modules()["gateway.gateway"]
    called = {id(node.func) for node in ast.walk(gateway.tree) if isinstance(node, ast.Call)}
    own = {node.name for node in ast.walk(gateway.tree) if isinstance(node, Function)}
    named = [node.attr for node in ast.walk(gateway.tree) if isinstance(node, ast.Attribute) and id(node) not in called]
    assert own & set(named) == set()
    assert gateway.foreign & {"functools"} == set()
    assert [node.lineno for node in ast.walk(gateway.tree) if isinstance(node, ast.Lambda)] == []


def _calculates(operator: ast.operator) -> bool:
    return isinstance(operator, ast.Sub | ast.Mult | ast.Div | ast.FloorDiv | ast.Mod | ast.Pow)


@every_module
def test_files_are_short(module: Module) -> None:
    assert len(module.source.splitlines()) <= 400


def test_functions_fit_a_glance() -> None:
    lengths = sorted((node.end_lineno or 0) - node.lineno + 1 for _, node in functions())
    assert statistics.median(lengths) <= 9
    assert statistics.quantiles(lengths, n=20)[-1] <= 50


def test_functions_take_at_most_five_things() -> None:
    """Neither `self` nor a constructor's keyword-only options count."""
    crowded = []
    for module, node in functions():
        names = [argument.arg for argument in [*node.args.posonlyargs, *node.args.args]]
        named = [] if node.name == "__init__" else node.args.kwonlyargs
        if len(names) - (names[:1] in (["self"], ["cls"])) + len(named) > 5:
            crowded.append(f"{module.name}.{node.name}")
    assert crowded == []


def test_no_class_has_the_name_of_another() -> None:
    """The sandbox is excluded: it imitates providers, and uses their words."""
    names = [
        node.name
        for module in modules().values()
        if module.top != "sandbox"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef)
    ]
    assert {name for name in names if names.count(name) > 1} == set()
