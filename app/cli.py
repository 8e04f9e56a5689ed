"""The command ``torii``: each command a few lines over the same modules that the gateway uses.

Exit codes: 0 all is well; 1 an upstream or a gateway did not answer as it should; 2 the command
or the configuration is wrong. Mistakes are told in words, never with a traceback.

What a command needs is imported in it: ``torii healthcheck`` runs every few seconds beside the gateway.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from . import __version__

if TYPE_CHECKING:
    from datetime import datetime

    from .routing import RouteTable
    from .settings import Settings
    from .store import Database

HEALTH_SECONDS = 3
NO_OPERATOR = (
    "this needs the operator's key, and none is set. Set TORII_OPERATOR_KEY (16 characters or more; "
    "`openssl rand -hex 24` makes a good one) for the gateway and for this command, and start the gateway anew."
)
OTHER_OPERATOR = {
    401: "it has another operator_key than this command. Give both the same.",
    404: "it runs without an operator_key. Start it anew with the one that this command has.",
}

config_option = click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="The configuration file.  [default: $TORII_CONFIG, else ./config.yaml if there is one]",
)
host_option = click.option("--host", metavar="ADDRESS", help="Address to listen on.  [default: 127.0.0.1]")
port_option = click.option("--port", type=int, metavar="NUMBER", help="Port to listen on.  [default: 8000]")


class Wrong(click.ClickException):
    """What a person has to put right, in words."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"torii: {self.message}", err=True)


class NotAlive(Wrong):
    exit_code = 1


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
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


@main.command()
@config_option
@host_option
@port_option
@click.option("--workers", type=int, metavar="NUMBER", help="Processes that share the port.  [default: 1]")
@click.option("--sandbox", is_flag=True, help="Answer from built-in stand-ins of both providers: no keys, no network.")
def serve(config: Path | None, host: str | None, port: int | None, workers: int | None, sandbox: bool) -> None:
    """Run the gateway, until Ctrl+C or SIGTERM.

    Calls that are then open are finished, as far as the time to drain allows. Port 0 takes any free port.
    SIGHUP makes it read its configuration again, as torii reload does.

    \b
    Examples:
      torii serve --sandbox
      JINA_API_KEY=... torii serve --port 9000
      torii serve --config config.yaml --workers 4
    """
    given: dict[str, Any] = {"host": host, "port": port, "workers": workers, "sandbox": "on" if sandbox else None}
    from .settings import found

    config = found(config)  # which may not simply be gone when it is read again
    settings = _load(config, **given)
    code = 0
    with suppress(KeyboardInterrupt), _end_on_sigterm():
        code = _serve(settings, config, given)
    sys.exit(code)


def _serve(settings: Settings, config: Path | None, given: dict[str, Any]) -> int:
    """The exit code, once it has ended."""
    from . import report, workers
    from .assembly import with_caller_key
    from .reload import Origin
    from .runfile import opened
    from .server import listen

    # tiktoken would copy its vocabulary into the folder for temporary files, and fail where none can be written.
    if "TIKTOKEN_CACHE_DIR" not in os.environ:
        os.environ.setdefault("DATA_GYM_CACHE_DIR", "")
    settings, key = with_caller_key(settings)
    try:
        sockets = listen(settings.host, settings.port)
    except OSError as error:
        raise Wrong(_cannot_listen(settings.host, settings.port, error)) from None
    with ExitStack() as closing:
        for sock in sockets:
            closing.enter_context(sock)
        origin = Origin(config, given, settings, closing.enter_context(_sandbox(settings)), key)
        resolved = origin.resolve(settings)
        database, ledger = _ledger(resolved, closing)
        port = sockets[0].getsockname()[1]
        runfile = closing.enter_context(opened(port))
        began = report.started(resolved, port, key, ledger) + "\n"
        return workers.serve(origin, sockets, runfile, database, lambda: click.echo(began, err=True))


def _ledger(settings: Settings, closing: ExitStack) -> tuple[Database | None, str]:
    """The ledger's database, closed with the rest, and where it is."""
    from .assembly import ledger_file, open_ledger
    from .store import StoreError

    try:
        database, where = open_ledger(settings)
    except StoreError as error:
        raise Wrong(_refused(ledger_file(settings), error)) from None
    if database:
        closing.callback(database.close)
    return database, where


def _refused(path: Path | None, error: Exception) -> str:
    return (
        f"ledger.path: {path}: {error}. Nothing was changed there. "
        "Set ledger.path (TORII_LEDGER__PATH) to a file that can be written, or to off; or move this file away."
    )


def _cannot_listen(host: str, port: int, error: OSError) -> str:
    import errno
    import socket

    place = f"cannot listen on {host} port {port}"
    if isinstance(error, socket.gaierror):
        return f"{place}: {host} is no known address or host name. --host 127.0.0.1 is this machine alone."
    if error.errno == errno.EADDRINUSE:
        other = port + 1 if port < 65535 else port - 1
        return f"{place}: another program uses it. End that one, or take another port: torii serve --port {other}"
    if error.errno == errno.EACCES:
        return f"{place}: that is not allowed here. Ports from 1024 on mostly are: torii serve --port 8000"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{place}: this machine has no such address. --host 127.0.0.1 is this machine alone, 0.0.0.0 all it has."
    return f"{place}: {_reason(error)}."


@contextmanager
def _end_on_sigterm() -> Iterator[None]:
    """SIGTERM interrupts the start as Ctrl+C does; as the first process of a container it would not be heard."""
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
    """Show what the configuration comes to.

    Prints where the settings come from, the upstreams and the route table; or every mistake with its
    file and key (exit code 2). With --live a key that fails makes the exit code 1. No secret is shown.

    \b
    Examples:
      torii check
      torii check --config config.yaml --live
    """
    from . import report
    from .assembly import build_routes

    settings = _load(config)
    with _stand_ins(settings) as resolved:
        routes = build_routes(resolved)
        parts = [
            report.origin(config),
            report.upstreams(resolved),
            report.routes(routes),
            f"{report.unknown_models(resolved)}\nCallers: {report.callers(resolved)}.",
        ]
        click.echo("\n\n".join(parts))
        if live and not _all_answer(resolved, routes):
            sys.exit(1)


def _all_answer(settings: Settings, routes: RouteTable) -> bool:
    """Prints what one call with each key came to."""
    import asyncio

    from . import live, report

    outcomes = asyncio.run(live.run(settings, routes))
    rows = [(outcome.upstream, outcome.key, outcome.words) for outcome in outcomes]
    click.echo("\n" + report.table(("UPSTREAM", "KEY", "LIVE CALL"), rows))
    return all(outcome.ok for outcome in outcomes)


@main.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print them as GET /v1/models answers.")
def models(config: Path | None, as_json: bool) -> None:
    """List the models that can be had, and what they can do.

    \b
    Examples:
      torii models
      torii models --json | jq -r '.data[].id'
    """
    import msgspec

    from . import report
    from .assembly import build_routes

    with _stand_ins(_load(config)) as resolved:
        listed = build_routes(resolved).models()
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode({"object": "list", "data": listed}), indent=2))
    else:
        click.echo(report.models(listed))
        click.echo(f"\n{report.unknown_models(resolved)}")


@main.command()
@config_option
@click.option("--since", metavar="TIME", help="From then on: 7d, 24h, 30m, 2026-11-01 or 2026-11-01T12:30 (UTC).")
@click.option("--until", metavar="TIME", help="Up to then, in the same forms; a date is to its end.")
@click.option("--by", multiple=True, metavar="WORD", help="caller, model, upstream, key, endpoint or day; several too.")
@click.option("--calls", type=click.IntRange(1), metavar="NUMBER", help="Print the last calls one by one instead.")
@click.option("--json", "as_json", is_flag=True, help="Print numbers for programs.")
def usage(config: Path | None, calls: int | None, as_json: bool, **asked: Any) -> None:
    """Print calls and tokens, as the ledger has them.

    Works while the gateway runs. Times are UTC. Sums with estimates in them are marked with ~.

    \b
    Examples:
      torii usage
      torii usage --since 7d --by day,upstream
      torii usage --calls 20
      torii usage --by caller --json | jq '.groups[]'
    """
    from .assembly import ledger_file
    from .store import NoFile, StoreError

    path = ledger_file(_load(config, serving=False))
    if path is None:
        raise Wrong(
            "there is no ledger: ledger.path is off, or it is auto, and neither XDG_STATE_HOME nor HOME is set."
        )
    try:
        click.echo(_usage(path, calls, as_json, **asked))
    except NoFile as error:
        raise Wrong(f"no ledger at {path}: {error}. The first `torii serve` with a provider's key makes one.") from None
    except StoreError as error:
        raise Wrong(f"the ledger {path} cannot be read: {error}.") from None


def _usage(path: Path, most: int | None, as_json: bool, **asked: Any) -> str:
    """The last calls, or what the calls come to; for people or programs. Raises StoreError."""
    from functools import partial

    import msgspec

    from . import ledger, report, store

    read, period = partial(store.read, path), ledger.Period(_time("since", asked), _time("until", asked))
    by = _groups(asked["by"])
    if most:
        calls = ledger.calls(read, period, most)
        answer: Any = {"calls": calls}
        text = report.calls(calls)
    else:
        groups, (total,) = ledger.totals(read, period, by), ledger.totals(read, period)
        answer = {"groups": groups, "total": total}
        text = report.usage(groups, total, by)
    if as_json:
        return msgspec.json.format(msgspec.json.encode(answer), indent=2).decode()
    return text or report.no_calls(ledger.first(read))


def _time(option: str, asked: dict[str, Any]) -> datetime | None:
    from datetime import UTC, datetime

    from .ledger import when

    try:
        return when(asked[option], datetime.now(UTC), end=option == "until") if asked[option] else None
    except ValueError as error:
        raise Wrong(f"--{option} {error}.") from None


def _groups(given: tuple[str, ...]) -> list[str]:
    """``model`` where nothing is asked for."""
    from .ledger import GROUPS

    names = list(dict.fromkeys(name.strip() for text in given for name in text.split(",")))
    if wrong := [name for name in names if name not in GROUPS]:
        raise Wrong(f"--by takes {', '.join(GROUPS)}; not {wrong[0]!r}.")
    return names or ["model"]


@main.command()
@config_option
@port_option
def reload(config: Path | None, port: int | None) -> None:
    """Have the gateway read its configuration again.

    Reads the configuration itself first; then the gateway reads what it was started with. Where anything is wrong
    with it, the gateway goes on with the one that it has. Open calls end with the one that they began with.
    Exit code 0: it is in force; 1: the gateway kept the old one, or there is none; 2: there are mistakes, and
    the gateway was not asked.

    \b
    Examples:
      torii reload
      torii reload --config config.yaml
    """
    from . import runfile

    settings = _load(config, serving=False, port=port)
    try:
        outcome = runfile.reloaded(settings.port)
    except runfile.NotReloaded as error:
        raise NotAlive(str(error)) from None
    if outcome.mistakes:
        raise NotAlive("the gateway kept its configuration:\n" + "\n".join(f"  {line}" for line in outcome.mistakes))
    click.echo(f"in force; changed: {', '.join(outcome.changed)}" if outcome.changed else "nothing changed")
    if outcome.restart:
        click.echo(f"only after a restart: {', '.join(outcome.restart)}")


@main.command()
@config_option
@host_option
@port_option
def healthcheck(config: Path | None, host: str | None, port: int | None) -> None:
    """Ask the gateway on this machine whether it is alive.

    Reads host and port as serve does. Exit code 0: GET /healthz answered 200; 1: anything else.

    \b
    Example, in a Dockerfile:
      HEALTHCHECK CMD ["torii", "healthcheck"]
    """
    from .report import address

    settings = _load(config, serving=False, host=host, port=port)
    url = address(settings.host, settings.port)
    status, _ = _asked(url, "/healthz")
    if status != 200:
        raise NotAlive(f"{url}/healthz answered {status}, not 200")
    click.echo(f"{url} is alive")


@main.command()
@config_option
@host_option
@port_option
@click.option("--json", "as_json", is_flag=True, help="Print it as GET /admin/upstreams answers.")
def upstreams(config: Path | None, host: str | None, port: int | None, as_json: bool) -> None:
    """Ask the running gateway how each key of each upstream is.

    Reads host, port and operator_key as serve does: the gateway has to run with the same operator_key.

    \b
    Examples:
      torii upstreams
      torii upstreams --json | jq '.data[] | select(.state != "healthy")'
    """
    import msgspec

    from . import report

    settings = _load(config, serving=False, host=host, port=port)
    if settings.operator_key is None:
        raise Wrong(NO_OPERATOR)
    url = report.address(settings.host, settings.port)
    status, body = _asked(url, "/admin/upstreams", settings.operator_key.get_secret_value())
    if status != 200:
        reason = OTHER_OPERATOR.get(status, "is that a gateway?")
        raise NotAlive(f"{url}/admin/upstreams answered {status}: {reason}")
    try:
        keys = msgspec.json.decode(body)["data"]
        text = msgspec.json.format(body, indent=2).decode() if as_json else report.keys(keys)
    except (msgspec.DecodeError, KeyError, TypeError):
        raise NotAlive(f"{url}/admin/upstreams answered with something else: is that a gateway?") from None
    click.echo(text)


def _asked(url: str, path: str, key: str | None = None) -> tuple[int, bytes]:
    """Status and body of an answer of the gateway on this machine. Raises NotAlive."""
    import http.client

    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=HEALTH_SECONDS)
    try:
        connection.request("GET", path, headers={"authorization": f"Bearer {key}"} if key else {})
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException) as error:
        raise NotAlive(f"no answer at {url}{path}: {_reason(error)}") from None
    finally:
        connection.close()


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _load(config: Path | None, *, serving: bool = True, **overrides: Any) -> Settings:
    from .settings import ConfigError, load

    try:
        return load(config, serving=serving, **overrides)
    except ConfigError as error:
        count = len(error.mistakes)
        head = "the configuration has a mistake" if count == 1 else f"the configuration has {count} mistakes"
        raise Wrong(f"{head}:\n" + "\n".join(f"  {mistake}" for mistake in error.mistakes)) from None


@contextmanager
def _stand_ins(settings: Settings) -> Iterator[Settings]:
    """The settings with the sandbox's addresses in them while it runs, if it is to run."""
    from .assembly import in_sandbox

    with _sandbox(settings) as urls:
        yield in_sandbox(settings, urls) if urls else settings


@contextmanager
def _sandbox(settings: Settings) -> Iterator[dict[str, str]]:
    """The addresses of the sandbox while it runs; none where it is not to run."""
    if not settings.sandboxed:
        yield {}
        return
    from .sandbox import Sandbox

    with Sandbox(settings.sandbox_pace) as sandbox:
        yield sandbox.urls
