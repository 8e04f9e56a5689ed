"""`torii prices`: the table of prices, what has none, and a file of prices as a section of the configuration."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .accounts import shown
from .keys import json_option
from .options import Commands, Wrong, config_option, load

if TYPE_CHECKING:
    from ..config.settings import Settings
    from ..usage.price_files import Table
    from ..usage.prices import Prices

FIELDS = ("input", "output", "per_call", "source", "date")


@click.group(cls=Commands, invoke_without_command=True)
@config_option
@json_option
@click.pass_context
def prices(context: click.Context, config: Path | None, as_json: bool) -> None:
    """Print prices, and the models that have none.

    Prices stand in the configuration, in dollars for a million tokens or for a call. Torii has none of its own.

    \b
    Examples:
      torii prices
      torii prices import prices.csv
    """
    if context.invoked_subcommand is not None:
        return
    from . import account_tables as tables

    settings = load(config, serving=False, keyless=True)
    rows = [
        {"upstream": upstream, "model": model, **price.model_dump(mode="json")}
        for upstream, listed in settings.prices.items()
        for model, price in listed.items()
    ]
    without = list(_unpriced(settings))
    answer = {"object": "list", "data": rows, "unpriced": [{"upstream": name, "model": each} for name, each in without]}
    shown(answer, tables.prices(rows, without), as_json)


@prices.command("import")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@click.option("--upstream", metavar="NAME", help="LiteLLM's file: for this upstream  [default: jina for jina_ai, ...]")
@click.option("--provider", metavar="NAME", help="LiteLLM's file: only this provider's prices, for --upstream.")
@config_option
def import_prices(file: Path, upstream: str | None, provider: str | None, config: Path | None) -> None:
    """Print a file's prices as the section `prices` of the configuration.

    FILE is a CSV file whose first line names columns, of upstream, model, input, output, per_call, source and date; or
    LiteLLM's model_prices_and_context_window.json. Nothing is changed: put the output into the configuration file, and
    `torii reload` puts it in force.

    \b
    Examples:
      torii prices import prices.csv > prices.yaml
      torii prices import model_prices_and_context_window.json --provider jina_ai --upstream jina
    """
    from datetime import UTC, datetime

    from ..storage.files import read
    from ..usage import price_files

    if (upstream is None) != (provider is None):
        raise Wrong("--upstream and --provider belong together: the prices of which provider are for which upstream.")
    known = load(config, serving=False, keyless=True).upstreams
    if upstream is not None and upstream not in known:
        raise Wrong(f"--upstream must be one of {', '.join(known)}; not {upstream!r}.")
    try:
        text = read(file).decode()
        chosen = {provider: upstream} if provider and upstream else None
        found = price_files.read(text, file.name, datetime.now(UTC).date(), chosen)
    except OSError as error:
        raise Wrong(f"{file} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise Wrong(f"{file} is not text in UTF-8.") from None
    except ValueError as error:
        raise Wrong(f"{file}: {error}.") from None
    if strange := [name for name in found.table if name not in known]:
        click.echo(f"torii: no upstream is named {', '.join(strange)} here; change the name, or leave it out", err=True)
    if not found.table:
        raise Wrong(f"{file} has no price for an upstream here; {found.skipped:,} entries were passed over.")
    click.echo(_yaml(found.table))
    count = sum(map(len, found.table.values()))
    click.echo(f"torii: {count:,} prices; {found.skipped:,} entries were passed over", err=True)


def _yaml(table: Table) -> str:
    """The section ``prices``, one line for each model. Texts are in quotes, as JSON writes them, which YAML reads."""
    import msgspec

    def word(text: Any) -> str:
        return msgspec.json.encode(text).decode()

    lines = ["prices:"]
    for upstream, listed in table.items():
        lines.append(f"  {word(upstream)}:")
        for model, row in listed.items():
            values = ", ".join(f"{name}: {word(row[name])}" for name in FIELDS if name in row)
            lines.append(f"    {word(model)}: {{{values}}}")
    return "\n".join(lines)


def _unpriced(settings: Settings) -> Iterator[tuple[str, str]]:
    """Upstream and model of each target without a price, in the order of the models."""
    from ..gateway.build import as_if_keyed, build_routes

    routes = build_routes(settings if settings.keyed else as_if_keyed(settings))
    prices = _prices(settings)
    listed = set()
    for model in routes.models():
        for target in routes.find(model["id"]).targets:
            names = (target.upstream.name, target.name)
            if names not in listed and prices.of(names[0], target.name, target.model.id) is None:
                listed.add(names)
                yield names


def _prices(settings: Settings) -> Prices:
    from ..usage.prices import Prices, price_of

    return Prices(
        {
            upstream: {model: price_of(**dict(price)) for model, price in listed.items()}
            for upstream, listed in settings.prices.items()
        }
    )
