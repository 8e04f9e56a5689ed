"""Settings: every one of them, its unit, its default, and what of them does not go together.

``load`` reads them, ``Settings(...)`` alone reads nothing. docs/configuration.md says the same for people.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    InstanceOf,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from .checks import ALWAYS, AT_START, KEYED, Checks, contradictions
from .fields import (
    AUTO,
    Authority,
    CallerKey,
    Count,
    HostNames,
    Port,
    Seconds,
    Switch,
    Text,
    UpstreamName,
    authority,
    holds_keys,
    listener,
    lower,
    none,
    number,
    spoken,
)
from .file import read_file
from .sections import (
    CacheSettings,
    CallerSettings,
    CorsSettings,
    DeepSearchSettings,
    DisconnectSettings,
    LedgerSettings,
    ModelSettings,
    TimeoutSettings,
    UpstreamSettings,
)
from .sources import (
    CONFIG_VARIABLE,
    PREFIX,
    ConfigError,
    Keys,
    Mistake,
    Source,
    Values,
    blame,
    credentials,
    dotted,
    environment,
    explain,
    meant,
    unknown_key,
)

__all__ = ["ConfigError", "Settings", "load", "validate_start"]

DEFAULT_FILE = Path("config.yaml")

DEFAULT_UPSTREAMS = {"jina": {"kind": "jina"}, "aihubmix": {"kind": "aihubmix"}}
# The kinds that the sandbox stands in for, and those that sell more models than a catalogue could hold.
SANDBOXED = ("jina", "aihubmix")
SELLERS = ("aihubmix", "openai")


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    host: Annotated[str, AfterValidator(listener)] = "127.0.0.1"
    port: Port = 8000
    workers: Count = 1
    callers: list[CallerSettings] = []
    caller_key: CallerKey = None
    generate_caller_key: bool = False
    operator_key: CallerKey = None
    allowed_hosts: HostNames = []
    cors: CorsSettings = CorsSettings()
    sandbox: Switch = "off"
    sandbox_pace: Annotated[float, BeforeValidator(number), Field(ge=0, allow_inf_nan=False)] = 1.0
    upstreams: Annotated[dict[UpstreamName, UpstreamSettings], Field(validate_default=True)] = {}
    models: dict[Text, ModelSettings | None] = {}
    unknown_models_upstream: Annotated[str | None, BeforeValidator(none)] = AUTO
    deepsearch: DeepSearchSettings = DeepSearchSettings()
    token_encoding: Literal["cl100k_base"] = "cl100k_base"  # noqa: S105 - no password
    timeouts: TimeoutSettings = TimeoutSettings()
    disconnect: DisconnectSettings = DisconnectSettings()
    ping_seconds: Seconds = 15
    cache: CacheSettings = CacheSettings()
    max_body_megabytes: Count = 32
    max_reply_megabytes: Count = 64
    max_event_megabytes: Count = 8
    http_client: Annotated[Literal["httptools", "httpx"], BeforeValidator(lower)] = "httptools"
    ca_file: Annotated[InstanceOf[Authority] | None, BeforeValidator(authority)] = None
    proxy_from_environment: bool = False
    max_connections: Count = 2000
    max_calls: Count = 1000
    max_caller_connections: Count = 4000
    max_attempts: Count = 3
    pace_seconds: Seconds = 4
    drain_seconds: Annotated[float, BeforeValidator(number), Field(ge=0, allow_inf_nan=False)] = 30
    ledger: LedgerSettings = LedgerSettings()
    drain_delay_seconds: Annotated[float, BeforeValidator(number), Field(ge=0, allow_inf_nan=False)] = 0
    docs: Switch = "auto"
    log_level: Annotated[Literal["critical", "error", "warning", "info", "debug"], BeforeValidator(lower)] = "info"

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """``load`` reads the other sources itself, so that it can say where a mistake was made."""
        return (init_settings,)

    @model_validator(mode="before")
    @classmethod
    def _spoken(cls, given: Any) -> Any:
        return spoken(given, cls.model_fields)

    @field_validator("upstreams", mode="before")
    @classmethod
    def _over_the_defaults(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        merged = {
            name: {**DEFAULT_UPSTREAMS.get(name, {}), **(values or {})} if isinstance(values, dict | None) else values
            for name, values in given.items()
        }
        return merged | {name: values for name, values in DEFAULT_UPSTREAMS.items() if name not in given}

    @property
    def keyed(self) -> tuple[str, ...]:
        """The upstreams that have a key, in order."""
        return tuple(name for name, upstream in self.upstreams.items() if upstream.keys)

    @property
    def sandboxed(self) -> bool:
        return self.sandbox == "on" or (self.sandbox == AUTO and not self.keyed)

    @property
    def active(self) -> tuple[str, ...]:
        """The upstreams that are used, in order: those with a key, or those that the sandbox stands in for."""
        if not self.sandboxed:
            return self.keyed
        return tuple(name for name, upstream in self.upstreams.items() if upstream.kind in SANDBOXED)

    @property
    def unknown_upstream(self) -> str | None:
        """The upstream that is asked for models that nobody knows; None where they are a 404."""
        if self.unknown_models_upstream != AUTO:
            return self.unknown_models_upstream if self.unknown_models_upstream in self.active else None
        return next((name for name in self.active if self.upstreams[name].kind in SELLERS), None)

    @property
    def seller(self) -> str | None:
        """The same, also where it has no key and therefore is not asked."""
        if self.unknown_models_upstream != AUTO:
            return self.unknown_models_upstream
        sellers = (name for name, given in self.upstreams.items() if given.kind in SELLERS)
        return self.unknown_upstream or next(sellers, None)

    @property
    def open(self) -> bool:
        """True if anyone who reaches the gateway may use it."""
        return not self.callers and self.caller_key is None

    @property
    def loopback(self) -> bool:
        """True if only this machine reaches the gateway."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"

    @property
    def docs_open(self) -> bool:
        return self.docs == "on" or (self.docs == AUTO and self.loopback)


def load(path: Path | None = None, *, serving: bool = True, keyless: bool = False, **overrides: Any) -> Settings:
    """The settings of ``path``, else of TORII_CONFIG, else of ./config.yaml if it exists, under all other sources.

    ``overrides`` come from the command line; those that are None say nothing. Raises ConfigError
    with every mistake there is; with ``serving`` also with what would keep the gateway from starting, but for the
    lack of any key if it may be ``keyless``.
    """
    given = Source("command line", {name: value for name, value in overrides.items() if value is not None})
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
    """Raises ConfigError where a gateway with these settings must not or cannot serve."""
    found = contradictions(settings, set(), AT_START + KEYED)
    if mistakes := [Mistake("", dotted(keys), what, keys) for keys, what in found]:
        raise ConfigError(mistakes)


def found(path: Path | None) -> Path | None:
    """The file that is read where ``path`` is given, or none."""
    named = path or (Path(variable) if (variable := os.environ.get(CONFIG_VARIABLE)) else None)
    return named or (DEFAULT_FILE if DEFAULT_FILE.exists() else None)


def _file(path: Path | None) -> Iterator[Source]:
    if file := found(path):
        yield read_file(file)


def _order(files: list[Source]) -> Source:
    """The upstreams by name only: those of the file in its order, then the built-in ones."""
    written = [file.values.get("upstreams") for file in files]
    names = [name for upstreams in (*written, DEFAULT_UPSTREAMS) if isinstance(upstreams, dict) for name in upstreams]
    return Source("built-in values", {"upstreams": {name: {} for name in names}})


def _no_mappings(file: Source) -> Iterator[Mistake]:
    """Mistakes of sections that are no mapping: none would be missed if a stronger source says a part of it."""
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


def _validated(sources: list[Source], checks: Checks, mistakes: list[Mistake]) -> tuple[Settings, list[Mistake]]:
    """The settings and all mistakes. What is wrong is left out, so that the rest is still looked at."""
    mistakes = mistakes + [mistake for source in sources for mistake in source.mistakes]
    values, unknown = _merged(sources)
    found: list[tuple[Keys, str]] = [((name,), unknown_key(name, Settings.model_fields)) for name in unknown]
    try:
        settings = Settings(**values)
    except ValidationError as error:
        found += explain(error, Settings)
    told = {mistake.keys for mistake in mistakes}
    bad = {str(keys[0]) for keys in told | {keys for keys, _ in found} if keys}
    bad |= {near for name in unknown if (near := meant(name, Settings.model_fields))}  # what it may have said
    settings = Settings(**{name: value for name, value in values.items() if name not in bad})
    if () not in told:
        found += contradictions(settings, bad, checks)
    return settings, mistakes + [blame(sources, keys, what) for keys, what in found if keys not in told]


def _merged(sources: Iterable[Source]) -> tuple[Values, list[str]]:
    """One mapping of all sources, the first the strongest, and the names in it that are no settings."""
    merged: Values = {}
    for source in sources:
        merged = _under(merged, source.values)
    unknown = [name for name in merged if name not in Settings.model_fields]
    return {name: value for name, value in merged.items() if name not in unknown}, unknown


def _under(strong: Any, weak: Any) -> Any:
    """The weak values with the strong ones laid over them, in the order of the weak ones: that of the file."""
    if not isinstance(strong, dict) or not isinstance(weak, dict):
        return strong
    both = {name: _under(strong[name], value) if name in strong else value for name, value in weak.items()}
    return both | {name: value for name, value in strong.items() if name not in weak}
