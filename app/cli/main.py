"""The command ``torii``: each subcommand is a thin layer over the modules that the gateway uses.

Exit codes: 0 success; 1 an upstream or a gateway failed or did not answer; 2 the command line or the configuration is
wrong. Mistakes are reported as messages, never as tracebacks.

Each subcommand imports its modules itself, to start fast: ``torii healthcheck`` runs every few seconds.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .. import __version__
from ..config.sources import STARTED_BY_VARIABLE
from ..storage.location import Location, Postgres
from .books import audit, calls, ledger
from .classifiers import classifiers
from .database import db
from .keys import keys
from .operate import healthcheck, reload, upstreams, usage
from .options import Commands, Wrong, config_option, host_option, load, port_option, reason
from .prices import prices
from .teams import management_keys, teams

if TYPE_CHECKING:
    from socket import socket

    from ..config.settings import Settings
    from ..routing.table import RouteTable
    from ..storage.ledger_file import LedgerFile


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "-V", "--version", prog_name="torii", message="%(prog)s %(version)s")
def main() -> None:
    """A local, OpenAI-compatible gateway for Jina AI and AIHubMix: embeddings, rerank and DeepSearch.

    \b
    Try it, without a key and without a network:
      torii serve --sandbox
    Run it:
      JINA_API_KEY=... torii serve
    Then point any OpenAI SDK at http://localhost:8000/v1.
    """


for command in (
    usage,
    calls,
    keys,
    teams,
    management_keys,
    prices,
    classifiers,
    audit,
    ledger,
    db,
    upstreams,
    reload,
    healthcheck,
):
    main.add_command(command)


@main.command()
@config_option
@host_option
@port_option
@click.option("--workers", type=int, metavar="NUMBER", help="Number of processes that share the port.  [default: 1]")
@click.option("--sandbox", is_flag=True, help="Answer from built-in stand-ins of both providers: no keys, no network.")
def serve(config: Path | None, host: str | None, port: int | None, workers: int | None, sandbox: bool) -> None:
    """Run the gateway until Ctrl+C or SIGTERM.

    On Ctrl+C or SIGTERM, open calls may finish within drain_seconds. Port 0 picks any free port.
    SIGHUP reloads the configuration, as torii reload does.

    \b
    Examples:
      torii serve --sandbox
      JINA_API_KEY=... torii serve --port 9000
      torii serve --config config.yaml --workers 4
    """
    given: dict[str, Any] = {"host": host, "port": port, "workers": workers, "sandbox": "on" if sandbox else None}
    from ..config.loader import found

    config = found(config)  # fixed here: a reload must not miss the file silently if it is gone by then
    settings = load(config, **given)
    code = 0
    with suppress(KeyboardInterrupt), _end_on_sigterm():
        code = _serve(settings, config, given)
    sys.exit(code)


def _serve(settings: Settings, config: Path | None, given: dict[str, Any]) -> int:
    """Serve until a signal; returns the exit code."""
    from ..gateway.build import with_caller_key
    from ..server import workers, writer
    from ..server.reload import ConfigurationSource
    from ..server.runfile import opened
    from ..server.server import listen
    from . import tables

    # tiktoken would copy its vocabulary into the temporary folder, and fail if that is not writable.
    if "TIKTOKEN_CACHE_DIR" not in os.environ:
        os.environ.setdefault("DATA_GYM_CACHE_DIR", "")
    writer.redirect()
    settings, key = with_caller_key(settings)
    try:
        sockets = listen(settings.host, settings.port)
    except OSError as error:
        raise Wrong(_cannot_listen(settings.host, settings.port, error)) from None
    with ExitStack() as closing:
        for sock in sockets:
            closing.enter_context(sock)
        sockets += (operators := _operators_sockets(settings))
        for sock in operators:
            closing.enter_context(sock)
        books = closing.enter_context(_sandbox_ledger(settings))
        source = ConfigurationSource(config, given, settings, closing.enter_context(_sandbox(settings)), key, books)
        resolved = source.resolve(settings)
        database, ledger = _ledger(resolved, closing, config)
        ledger += " (temporary, removed at the end)" if books else ""
        _try_counters(resolved)
        port = sockets[0].getsockname()[1]
        runfile = closing.enter_context(opened(port))
        began = tables.started(resolved, port, key, ledger) + "\n"
        return workers.serve(source, sockets, runfile, database, lambda: print(began, file=sys.stderr))


def _operators_sockets(settings: Settings) -> list[socket]:
    """The listening sockets of the operator's own port; none without one."""
    from ..server.server import listen

    if settings.operator_port is None:
        return []
    try:
        return listen(settings.host, settings.operator_port)
    except OSError as error:
        place = f"{settings.host} port {settings.operator_port}"
        raise Wrong(f"operator_port: cannot listen on {place}: {reason(error)}.") from None


def _ledger(settings: Settings, closing: ExitStack, config: Path | None) -> tuple[LedgerFile | None, str]:
    """The ledger's database, which ``closing`` closes, and a description of its place for the banner."""
    from ..gateway.build import open_ledger
    from ..storage.errors import StoreError

    try:
        database, where = open_ledger(settings)
    except StoreError as error:
        raise Wrong(_refused(settings.ledger_location, error, config)) from None
    if database:
        closing.callback(database.close)
        if isinstance(database.location, Postgres) and database.health:
            click.echo(
                f"storage.url: {database.location} is away: {database.health.what}. Until it answers, rows wait, and"
                " keys and budgets are not known.",
                err=True,
            )
    return database, where


def _try_counters(settings: Settings) -> None:
    """Tries the Redis of ``counters.url``. Raises Wrong if it cannot serve; one that is only away is a warning."""
    import asyncio

    from ..gateway.build import redis_address
    from ..storage.redis.connection import Unsuitable
    from ..storage.redis.trial import tried

    address = redis_address(settings, settings.counters.url)
    if address is None:
        return
    try:
        trouble = asyncio.run(tried(address, settings.counters.prefix))
    except Unsuitable as error:
        raise Wrong(f"counters.url: Redis: {error}. Set counters.url (TORII_COUNTERS__URL) to another.") from None
    if trouble:
        click.echo(
            f"counters.url: Redis is away: {trouble}. Until it answers, each process keeps to its share of limits.",
            err=True,
        )


def _refused(location: Location | None, error: Exception, config: Path | None) -> str:
    if isinstance(location, Postgres):
        from ..config.loader import named

        return f"{named(config, ('storage', 'url'))}: {location}: {error}. The database was not changed."
    return (
        f"ledger.path: {location}: {error}. The file was not changed. "
        "Set ledger.path (TORII_LEDGER__PATH) to a writable file or to off, or move this file away."
    )


def _cannot_listen(host: str, port: int, error: OSError) -> str:
    import errno
    import socket

    place = f"cannot listen on {host} port {port}"
    if isinstance(error, socket.gaierror):
        return f"{place}: {host} is not a known address or host name. Use --host 127.0.0.1 for this machine only."
    if error.errno == errno.EADDRINUSE:
        other = port + 1 if port < 65535 else port - 1
        return f"{place}: another program uses it. Stop that program, or use another port: {_again(f'--port {other}')}"
    if error.errno == errno.EACCES:
        return f"{place}: permission denied. Ports from 1024 up are usually allowed: {_again('--port 8000')}"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{place}: this machine has no such address. --host 127.0.0.1 is this machine, 0.0.0.0 all addresses."
    return f"{place}: {reason(error)}."


def _again(options: str) -> str:
    """The command that starts the gateway with ``options``: `make run` if the gateway was started by make."""
    by_make = os.environ.get(STARTED_BY_VARIABLE) == "make"
    return f'make run ARGS="{options}"' if by_make else f"torii serve {options}"


@contextmanager
def _end_on_sigterm() -> Iterator[None]:
    """SIGTERM interrupts the start as Ctrl+C does; the first process of a container would otherwise ignore it."""
    import signal

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@main.command()
@config_option
@click.option("--live", is_flag=True, help="Also make one cheap call with each key.")
def check(config: Path | None, live: bool) -> None:
    """Check the configuration and print the result.

    Prints the sources of the settings, the upstreams and the route table, or every mistake with its file
    and key (exit code 2). With --live, the exit code is 1 if a key fails or no key is set. Secrets are not
    printed. If no key is set, the models that keys would give access to are printed.

    \b
    Examples:
      torii check
      torii check --config config.yaml --live
    """
    from ..gateway.build import build_routes
    from . import tables

    settings = load(config, keyless=True)
    with _stand_ins(settings) as resolved:
        shown, without = _shown(resolved)
        routes = build_routes(shown)
        parts = [
            tables.origin(config),
            tables.upstreams(resolved),
            *without,
            tables.routes(routes),
            f"{tables.unknown_models(shown)}\nCallers: {tables.callers(resolved)}.",
            *(f"Note: {note}" for note in [*_port_taken(settings), *tables.notes(resolved)]),
        ]
        click.echo("\n\n".join(parts))
        if live and not _all_answer(resolved, routes):
            sys.exit(1)


def _shown(settings: Settings) -> tuple[Settings, list[str]]:
    """The settings whose models and routes are shown; if no key is set, as if all were, and a text that says so."""
    from ..gateway.build import as_if_keyed

    if settings.active:
        return settings, []
    said = "No upstream has a key, so no model can be called. With a key for each, these models would be served:"
    return as_if_keyed(settings), [said]


def _port_taken(settings: Settings) -> Iterator[str]:
    """A note if ``torii serve`` could not listen now."""
    from ..server.runfile import runs
    from ..server.server import listen

    try:
        for sock in listen(settings.host, settings.port):
            sock.close()
    except OSError as error:
        if runs(settings.port):
            yield f"one of your gateways runs on port {settings.port}."
        else:
            yield _cannot_listen(settings.host, settings.port, error)


def _all_answer(settings: Settings, routes: RouteTable) -> bool:
    """Print the outcome of one call with each key. True if there is a key and every call succeeded."""
    import asyncio

    from .check import live_calls
    from .columns import table

    outcomes = asyncio.run(live_calls(settings, routes))
    rows = [(outcome.upstream, outcome.key, outcome.words) for outcome in outcomes]
    click.echo("\n" + table(("UPSTREAM", "KEY", "LIVE CALL"), rows))
    return bool(outcomes) and all(outcome.ok for outcome in outcomes)


@main.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print the response of GET /v1/models.")
def models(config: Path | None, as_json: bool) -> None:
    """List the models and their features.

    \b
    Examples:
      torii models
      torii models --json | jq -r '.data[].id'
    """
    import msgspec

    from ..gateway.build import build_routes
    from . import tables

    with _stand_ins(load(config, keyless=True)) as resolved:
        shown, without = _shown(resolved)
        listed = build_routes(shown).models()
    if as_json:
        click.echo("".join(without), err=True, nl=bool(without))
        click.echo(msgspec.json.format(msgspec.json.encode({"object": "list", "data": listed}), indent=2))
    else:
        click.echo("\n\n".join([*without, tables.models(listed), tables.unknown_models(shown)]))


@contextmanager
def _stand_ins(settings: Settings) -> Iterator[Settings]:
    """The settings; if the sandbox is on, it runs meanwhile and the settings have its addresses."""
    from ..gateway.build import in_sandbox

    with _sandbox(settings) as urls:
        yield in_sandbox(settings, urls) if urls else settings


@contextmanager
def _sandbox_ledger(settings: Settings) -> Iterator[Path | None]:
    """The path of a ledger in a temporary folder, removed at the end, for a sandbox with an operator key, so that keys,
    limits and reports can be tried; None for another gateway, or if ``ledger.path`` is set."""
    from ..config.fields import AUTO

    if not settings.sandboxed or settings.operator_key is None or settings.ledger.path != AUTO or settings.storage.url:
        yield None
        return
    from tempfile import TemporaryDirectory

    with TemporaryDirectory(prefix="torii-sandbox-", ignore_cleanup_errors=True) as folder:
        yield Path(folder, "torii.db")


@contextmanager
def _sandbox(settings: Settings) -> Iterator[dict[str, str]]:
    """Run the sandbox if it is on; yields the addresses by upstream, none if the sandbox is off."""
    if not settings.sandboxed:
        yield {}
        return
    from ..sandbox import Sandbox

    with Sandbox(settings.sandbox_time_scale) as sandbox:
        yield sandbox.urls
