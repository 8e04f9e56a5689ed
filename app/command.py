"""What the commands have in common: options, mistakes that are told in words, the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from .settings import Settings

config_option = click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="The configuration file.  [default: $TORII_CONFIG, else ./config.yaml if there is one]",
)
host_option = click.option("--host", metavar="ADDRESS", help="Address to listen on.  [default: 127.0.0.1]")
port_option = click.option("--port", type=int, metavar="NUMBER", help="Port to listen on.  [default: 8000]")
its_host_option = click.option("--host", metavar="ADDRESS", help="Address at which it listens.  [default: 127.0.0.1]")
its_port_option = click.option("--port", type=int, metavar="NUMBER", help="Port at which it listens.  [default: 8000]")


class Wrong(click.ClickException):
    """What a person has to put right, in words."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"torii: {self.message}", err=True)


class NotAlive(Wrong):
    exit_code = 1


def reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def load(config: Path | None, *, serving: bool = True, **overrides: Any) -> Settings:
    from . import settings

    try:
        return settings.load(config, serving=serving, **overrides)
    except settings.ConfigError as error:
        count = len(error.mistakes)
        head = "the configuration has a mistake" if count == 1 else f"the configuration has {count} mistakes"
        raise Wrong(f"{head}:\n" + "\n".join(f"  {mistake}" for mistake in error.mistakes)) from None
