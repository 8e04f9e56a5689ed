"""Common parts of the commands: options, error messages, and loading of the configuration."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..config.settings import Settings

config_option = click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="The configuration file.  [default: $TORII_CONFIG, else ./config.yaml if it exists]",
)
host_option = click.option("--host", metavar="ADDRESS", help="Address to listen on.  [default: 127.0.0.1]")
port_option = click.option("--port", type=int, metavar="NUMBER", help="Port to listen on.  [default: 8000]")
its_host_option = click.option("--host", metavar="ADDRESS", help="Address of the gateway.  [default: 127.0.0.1]")
its_port_option = click.option("--port", type=int, metavar="NUMBER", help="Port of the gateway.  [default: 8000]")


class Wrong(click.ClickException):
    """A mistake that a person has to correct; printed as one message, exit code 2."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"torii: {self.message}", err=True)


class NotAlive(Wrong):
    exit_code = 1


def reason(error: Exception) -> str:
    """The reason of a failed connection: the system's text or ours, because a library's changes with its version."""
    if said := getattr(error, "strerror", None):
        return str(said)
    if isinstance(error, TimeoutError):
        return "the response timed out"
    return "the connection was closed early" if isinstance(error, ConnectionError) else "the response is not HTTP"


class Command(click.Command):
    """Reports mistakes of the command line in our own words, because click's change with its version."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
                raise
            path = f"{parent.command_path} {info_name}" if parent else str(info_name)
            raise Wrong(f"{_misuse(error, self)} `{path} --help` shows the usage.") from None


class Commands(Command, click.Group):
    command_class = Command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args[0] not in self.commands:
            there = f"`{ctx.command_path} --help` lists the commands."
            raise Wrong(f"unknown command {args[0]}{meant(args[0], self.commands)} {there}")
        return super().resolve_command(ctx, args)


def _misuse(error: click.UsageError, command: click.Command) -> str:
    options = {name: option for option in command.params for name in option.opts if isinstance(option, click.Option)}
    arguments = [_name(argument) for argument in command.params if isinstance(argument, click.Argument)]
    if isinstance(error, click.MissingParameter) and error.param is not None:
        return f"{_name(error.param)} is missing."
    if isinstance(error, click.NoSuchOption):
        return f"unknown option {error.option_name}{meant(error.option_name, options)}"
    if isinstance(error, click.BadOptionUsage):
        flag = getattr(options.get(error.option_name), "is_flag", True)  # click adds --help only when it is used
        return f"{error.option_name} {'takes no value' if flag else 'needs a value'}."
    if isinstance(error, click.BadParameter) and error.param is not None:
        if choices := getattr(error.param.type, "choices", None):
            return f"{_name(error.param)} must be one of {', '.join(choices)}."
        least = getattr(error.param.type, "min", None)
        return f"{_name(error.param)} must be a whole number{'' if least is None else f' of at least {least}'}."
    if arguments:
        return f"too many arguments: beside options, the command takes {', '.join(arguments)} only."
    return "the command takes options only, no arguments."


def _name(param: click.Parameter) -> str:
    return param.opts[-1] if isinstance(param, click.Option) else (param.metavar or str(param.name).upper())


def meant(given: str, allowed: Iterable[str]) -> str:
    """The end of a message about ``given``: the name that was probably meant, or a full stop."""
    near = difflib.get_close_matches(given, list(allowed), n=1)
    return f"; did you mean {near[0]}?" if near else "."


def load(config: Path | None, *, serving: bool = True, keyless: bool = False, **overrides: Any) -> Settings:
    from ..config import loader

    try:
        return loader.load(config, serving=serving, keyless=keyless, **overrides)
    except loader.ConfigError as error:
        count = len(error.mistakes)
        head = "the configuration has a mistake" if count == 1 else f"the configuration has {count} mistakes"
        raise Wrong(f"{head}:\n" + "\n".join(f"  {mistake}" for mistake in error.mistakes)) from None
