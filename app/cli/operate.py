"""Commands for a running gateway and its ledger: usage, reload, healthcheck, upstreams."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..storage.location import Location
from .options import Command, NotAlive, Wrong, config_option, its_host_option, its_port_option, load

if TYPE_CHECKING:
    from datetime import datetime

HEALTH_SECONDS = 3
_BY = "caller, model, upstream, key, endpoint, day, team or key_id"


@click.command(cls=Command)
@config_option
@its_port_option
@click.option("--since", metavar="TIME", help="Start: 7d, 24h or 30m ago, 2026-11-01 or 2026-11-01T12:30 (UTC).")
@click.option("--until", metavar="TIME", help="End, in the same forms; a date includes the whole day.")
@click.option("--by", multiple=True, metavar="WORD", help=f"Group by {_BY}.")
@click.option("--calls", type=click.IntRange(1), metavar="NUMBER", help="Print the last calls instead of sums.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def usage(config: Path | None, port: int | None, calls: int | None, as_json: bool, **asked: Any) -> None:
    """Print calls, tokens and dollars from the ledger.

    Works while the gateway runs. Times are UTC. Sums that include estimates are marked with ~. Dollars need prices:
    `torii prices`.

    \b
    Examples:
      torii usage
      torii usage --since 30d --by team,caller
      torii usage --since 7d --by day,upstream
      torii usage --calls 20
      torii usage --by caller --json | jq '.groups[]'
    """
    from .accounts import ledger_of, readable

    path = ledger_of(load(config, serving=False, port=port))
    with readable(path):
        click.echo(_usage(path, calls, as_json, **asked))


def _usage(path: Location, most: int | None, as_json: bool, **asked: Any) -> str:
    """The last ``most`` calls, or totals by group; as a table or JSON. Raises StoreError."""
    import msgspec

    from ..usage import reports
    from . import tables

    period = reports.Period(time_of("since", asked["since"]), time_of("until", asked["until"]))
    by = _groups(asked["by"])
    if most:
        calls = reports.calls(path, period, most)
        answer: Any = {"calls": calls}
        text = tables.calls(calls)
    else:
        groups, (total,) = reports.totals(path, period, by), reports.totals(path, period)
        answer = {"groups": groups, "total": total}
        text = tables.usage(groups, total, by)
    if as_json:
        return msgspec.json.format(msgspec.json.encode(answer), indent=2).decode()
    return text or tables.no_calls(reports.first(path))


def time_of(option: str, text: str | None) -> datetime | None:
    """The time that ``--since`` or ``--until`` gives. Raises Wrong."""
    from datetime import UTC, datetime

    from ..usage.reports import when

    try:
        return when(text, datetime.now(UTC), end=option == "until") if text else None
    except ValueError as error:
        raise Wrong(f"--{option} {error}.") from None


def _groups(given: tuple[str, ...]) -> list[str]:
    """The groups of ``--by``, without duplicates; ``model`` if there are none. Raises Wrong."""
    from ..usage.reports import GROUPS

    names = list(dict.fromkeys(name.strip() for text in given for name in text.split(",")))
    if wrong := [name for name in names if name not in GROUPS]:
        raise Wrong(f"--by must be one of {', '.join(GROUPS)}; not {wrong[0]!r}.")
    return names or ["model"]


@click.command(cls=Command)
@config_option
@its_port_option
def reload(config: Path | None, port: int | None) -> None:
    """Make the running gateway reload its configuration.

    Checks the configuration first; then the gateway reloads the configuration it was started with. If the new
    configuration has a mistake, the gateway keeps the present one. Open calls finish with the configuration
    they began with. Exit code 0: the new configuration is in force; 1: the gateway kept the present one, or no
    gateway runs; 2: the configuration has mistakes, and the gateway was not asked.

    \b
    Examples:
      torii reload
      torii reload --config config.yaml
    """
    from ..server import runfile

    settings = load(config, serving=False, port=port)
    try:
        result = runfile.reloaded(settings.port)
    except runfile.NotReloaded as error:
        raise NotAlive(str(error)) from None
    if result.mistakes:
        raise NotAlive("the gateway kept its configuration:\n" + "\n".join(f"  {line}" for line in result.mistakes))
    click.echo(f"reloaded; changed: {', '.join(result.changed)}" if result.changed else "nothing changed")
    for note in result.notes:
        click.echo(note)
    if result.restart:
        click.echo(f"needs a restart: {', '.join(result.restart)}")


@click.command(cls=Command)
@config_option
@its_host_option
@its_port_option
def healthcheck(config: Path | None, host: str | None, port: int | None) -> None:
    """Check that the gateway on this machine is alive.

    Uses the same host and port settings as serve. Exit code 0: GET /healthz answered 200; 1: anything else.

    \b
    Example, in a Dockerfile:
      HEALTHCHECK CMD ["torii", "healthcheck"]
    """
    from .api import Api
    from .columns import address

    settings = load(config, serving=False, host=host, port=port)
    url = address(settings.host, settings.port)
    status, _ = Api(url, seconds=HEALTH_SECONDS).exchange("GET", "/healthz")
    if status != 200:
        raise NotAlive(f"{url}/healthz answered {status}, not 200")
    click.echo(f"{url} is alive")


@click.command(cls=Command)
@config_option
@its_host_option
@its_port_option
@click.option("--json", "as_json", is_flag=True, help="Print the response of GET /admin/upstreams.")
def upstreams(config: Path | None, host: str | None, port: int | None, as_json: bool) -> None:
    """Print the state of each upstream key.

    Asks the running gateway. Uses the same host, port and operator_key settings as serve; the gateway must run with
    the same operator_key.

    \b
    Examples:
      torii upstreams
      torii upstreams --json | jq '.data[] | select(.state != "healthy")'
    """
    import msgspec

    from . import tables
    from .api import NO_OPERATOR, OTHER_OPERATOR, UNEXPECTED, Api
    from .columns import address

    settings = load(config, serving=False, host=host, port=port)
    if settings.operator_key is None:
        raise Wrong(NO_OPERATOR)
    url = address(settings.host, settings.port if port else settings.operator_port or settings.port)
    status, body = Api(url, settings.operator_key.get_secret_value()).exchange("GET", "/admin/upstreams")
    if status != 200:
        raise NotAlive(f"{url}/admin/upstreams answered {status}: {OTHER_OPERATOR.get(status, UNEXPECTED)}")
    try:
        keys = msgspec.json.decode(body)["data"]
        text = msgspec.json.format(body, indent=2).decode() if as_json else tables.keys(keys)
    except (msgspec.DecodeError, KeyError, TypeError):
        raise NotAlive(f"{url}/admin/upstreams sent an unexpected response: {UNEXPECTED}") from None
    click.echo(text)
