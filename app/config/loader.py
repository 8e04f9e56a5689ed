"""Loading of the settings from all sources; a failure reports every mistake.

load      command line, environment, secret files, configuration file -> Settings, or ConfigError
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_origin

from pydantic import ValidationError

from .checks import ALWAYS, AT_START, KEYED, Checks, violations
from .fields import holds_keys
from .file import read_file
from .settings import DEFAULT_FILE, DEFAULT_UPSTREAMS, Settings
from .sources import (
    CONFIG_VARIABLE,
    RENAMED,
    ConfigError,
    Keys,
    Mistake,
    SettingsSource,
    Values,
    blame,
    credentials,
    dotted,
    environment,
    explain,
    meant,
    unknown_key,
)

__all__ = ["ConfigError", "found", "load", "named", "validate_start"]


def load(path: Path | None = None, *, serving: bool = True, keyless: bool = False, **overrides: Any) -> Settings:
    """The settings of the file ``path``, else TORII_CONFIG, else ./config.yaml if it exists; other sources override it.

    ``overrides`` come from the command line; None is no value. If ``serving``, the checks for starting apply too;
    if ``keyless``, an upstream key is not required. Raises ConfigError with every mistake.
    """
    given = SettingsSource("command line", {name: value for name, value in overrides.items() if value is not None})
    sources = [given, environment(Settings), *credentials()]
    files = list(_file(path))
    sources += [*files, _order(files)]
    checks = ALWAYS
    if serving:
        checks += AT_START + (() if keyless else KEYED)
    settings, mistakes = _validated(sources, checks, [mistake for file in files for mistake in _no_mappings(file)])
    if mistakes:
        raise ConfigError(mistakes)
    return settings


def validate_start(settings: Settings) -> None:
    """Raises ConfigError if a gateway with these settings must not or cannot serve."""
    found = violations(settings, set(), AT_START + KEYED)
    if mistakes := [Mistake("", dotted(keys), what, keys) for keys, what in found]:
        raise ConfigError(mistakes)


def named(path: Path | None, keys: Keys) -> str:
    """A setting, with the file or variable that sets it, as a message about it begins."""
    sources = [environment(Settings), *credentials(), *_file(path)]
    return str(blame(sources, keys, ""))


def found(path: Path | None) -> Path | None:
    """The configuration file: ``path``, else TORII_CONFIG, else ./config.yaml if it exists; None without a file."""
    named = path or (Path(variable) if (variable := os.environ.get(CONFIG_VARIABLE)) else None)
    return named or (DEFAULT_FILE if DEFAULT_FILE.exists() else None)


def _file(path: Path | None) -> Iterator[SettingsSource]:
    if file := found(path):
        yield read_file(file)


def _order(files: list[SettingsSource]) -> SettingsSource:
    """The order of the upstreams, as names only: those of the file, then the built-in ones."""
    written = [file.values.get("upstreams") for file in files]
    names = [name for upstreams in (*written, DEFAULT_UPSTREAMS) if isinstance(upstreams, dict) for name in upstreams]
    return SettingsSource("built-in values", {"upstreams": {name: {} for name in names}})


def _no_mappings(file: SettingsSource) -> Iterator[Mistake]:
    """Mistakes for sections that are not mappings. Validation would miss one if a stronger source sets a part of it."""
    written: dict[Keys, tuple[Any, str]] = {
        (name,): (file.values[name], "names" if get_origin(field.annotation) is dict else "keys")
        for name, field in Settings.model_fields.items()
        if name in file.values and holds_keys(field.annotation)
    }
    if isinstance(upstreams := file.values.get("upstreams"), dict):
        written |= {("upstreams", name): (value, "keys") for name, value in upstreams.items()}
    for keys, (value, of) in written.items():
        if not isinstance(value, dict | None):
            yield file.mistake(keys, f"must be a mapping of {of}")


def _validated(
    sources: list[SettingsSource], checks: Checks, mistakes: list[Mistake]
) -> tuple[Settings, list[Mistake]]:
    """The settings and all mistakes. Wrong values are left out, so that the checks still see the rest."""
    mistakes = mistakes + [mistake for source in sources for mistake in source.mistakes]
    values, unknown = _merged(sources)
    found: list[tuple[Keys, str]] = [((name,), unknown_key(name, Settings.model_fields)) for name in unknown]
    try:
        settings = Settings(**values)
    except ValidationError as error:
        found += explain(error, Settings)
    blamed = {mistake.keys for mistake in mistakes}
    bad = {str(keys[0]) for keys in blamed | {keys for keys, _ in found} if keys}
    bad |= {near for name in unknown if (near := _intended(name))}
    settings = Settings(**{name: value for name, value in values.items() if name not in bad})
    if () not in blamed:
        found += violations(settings, bad, checks)
    return settings, mistakes + [blame(sources, keys, what) for keys, what in found if keys not in blamed]


def _merged(sources: Iterable[SettingsSource]) -> tuple[Values, list[str]]:
    """All sources in one mapping, the first source the strongest; and the names in it that are not settings."""
    merged: Values = {}
    for source in sources:
        merged = _under(merged, source.values)
    unknown = [name for name in merged if name not in Settings.model_fields]
    return {name: value for name, value in merged.items() if name not in unknown}, unknown


def _under(strong: Any, weak: Any) -> Any:
    """The weak values, overridden by the strong ones, in the order of the weak ones, which is the file's."""
    if not isinstance(strong, dict) or not isinstance(weak, dict):
        return strong
    both = {name: _under(strong[name], value) if name in strong else value for name, value in weak.items()}
    return both | {name: value for name, value in strong.items() if name not in weak}


def _intended(unknown: str) -> str | None:
    """The setting that an unknown name probably means: its new name, or the nearest name."""
    renamed = RENAMED.get((unknown,))
    return str(renamed[0]) if renamed else meant(unknown, Settings.model_fields)
