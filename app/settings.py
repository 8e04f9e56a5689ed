"""Settings: every one of them, its unit, its default, and what of them does not go together.

``load`` reads them, ``Settings(...)`` alone reads nothing. docs/configuration.md says the same for people.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from . import config, contradictions
from .config import ConfigError, Keys, Mistake, Source, Values
from .types import EndpointName, OnDisconnect, ReasoningMode
from .values import (
    AUTO,
    SHA256,
    CallerKey,
    Count,
    LedgerPath,
    Port,
    Seconds,
    Section,
    Switch,
    Text,
    UpstreamKey,
    UpstreamName,
    Url,
    authority,
    listener,
    lower,
    none,
    number,
)

__all__ = ["ConfigError", "Settings", "load", "validate_start"]

DEFAULT_FILE = Path("config.yaml")

DEFAULT_UPSTREAMS = {"jina": {"kind": "jina"}, "aihubmix": {"kind": "aihubmix"}}
BASE_URLS = {
    "jina": {"base_url": "https://api.jina.ai/v1", "deepsearch_base_url": "https://deepsearch.jina.ai/v1"},
    "aihubmix": {"base_url": "https://aihubmix.com/v1"},
}
# The kinds that the sandbox stands in for, and those that sell more models than a catalogue could hold.
SANDBOXED = ("jina", "aihubmix")
SELLERS = ("aihubmix", "openai")


class CallerSettings(Section):
    """Somebody who may call: his key, or the SHA-256 of it in hexadecimal, so that the file holds no secret."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    key: CallerKey = None
    sha256: Annotated[str | None, BeforeValidator(lower), Field(repr=False)] = None
    on_disconnect: OnDisconnect | None = None

    @model_validator(mode="after")
    def _one_key(self) -> CallerSettings:
        if (self.key is None) == (self.sha256 is None):
            raise ValueError("must have either a key or a sha256")
        if self.sha256 is not None and not SHA256.fullmatch(self.sha256):
            raise ValueError("sha256 must be 64 hexadecimal digits; `printf %s KEY | sha256sum` makes them")
        return self


class KeyLimits(Section):
    """What a key may do at its provider; Torii waits rather than run into a 429. None is no limit."""

    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    deepsearch_per_minute: Count | None = None
    concurrency: Count | None = None


Tier = Literal["free", "paid", "premium"]

# What a key may do at Jina, by what was paid for it: embeddings and rerank by its OpenAPI description of July 2026,
# where paid is called tier 1 and premium tier 2; DeepSearch by its own page.
TIERS: dict[Tier, KeyLimits] = {
    "free": KeyLimits(requests_per_minute=500, tokens_per_minute=1_000_000, deepsearch_per_minute=50, concurrency=5),
    "paid": KeyLimits(requests_per_minute=500, tokens_per_minute=10_000_000, deepsearch_per_minute=50, concurrency=50),
    "premium": KeyLimits(
        requests_per_minute=5000, tokens_per_minute=100_000_000, deepsearch_per_minute=500, concurrency=500
    ),
}


class KeySettings(Section):
    """One of several keys of a provider. ``weight`` is its share of the load; limits not given are the upstream's."""

    key: UpstreamKey
    tier: Tier | None = None
    limits: KeyLimits = KeyLimits()
    name: Annotated[str | None, Field(min_length=1, max_length=64)] = None
    weight: Annotated[float, BeforeValidator(number), Field(gt=0, allow_inf_nan=False)] = 1.0


class UpstreamSettings(Section):
    """A provider. Without a key it is not used. ``api_key`` and ``api_keys`` are all its keys together."""

    kind: Literal["jina", "aihubmix", "openai"]
    base_url: Url
    deepsearch_base_url: Url | None = None
    api_key: UpstreamKey = None
    api_keys: list[KeySettings] = Field(default_factory=list)
    tier: Tier | None = None
    limits: KeyLimits = KeyLimits()

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, given: Any) -> Any:
        return {**BASE_URLS.get(str(given.get("kind")), {}), **given} if isinstance(given, dict) else given

    @property
    def keys(self) -> list[KeySettings]:
        """All that have a secret; ``api_key`` is the first."""
        single = [KeySettings(key=self.api_key)] if self.api_key else []
        return [*single, *(key for key in self.api_keys if key.key)]

    def limits_of(self, key: KeySettings) -> KeyLimits:
        """Each limit from the first that says it: the key's limits, its tier, the upstream's limits, its tier."""
        tiers = [TIERS[tier] if tier else KeyLimits() for tier in (key.tier, self.tier)]
        said = [key.limits, tiers[0], self.limits, tiers[1]]
        return KeyLimits(
            **{
                name: next((limit for limits in said if (limit := getattr(limits, name)) is not None), None)
                for name in KeyLimits.model_fields
            }
        )

    @model_validator(mode="after")
    def _only_jina_has_two(self) -> UpstreamSettings:
        if self.deepsearch_base_url and self.kind != "jina":
            raise ValueError("deepsearch_base_url is for an upstream of kind jina only")
        if self.kind != "jina" and (self.tier or any(key.tier for key in self.api_keys)):
            raise ValueError("tier is for an upstream of kind jina only; set limits instead")
        return self


class TargetSettings(Section):
    """Where a model is to be had. ``model`` is its name there, where that is another one."""

    upstream: str
    model: Text | None = None

    @model_validator(mode="before")
    @classmethod
    def _written_as_text(cls, given: Any) -> Any:
        if not isinstance(given, str):
            return given
        upstream, _, model = given.partition("/")
        return {"upstream": upstream, "model": model or None}


class ModelSettings(Section):
    """A model of one's own, or what is to be otherwise with a known one. A string alone is ``alias_of``."""

    alias_of: Text | None = None
    targets: list[TargetSettings] = Field(default_factory=list)
    endpoints: Annotated[list[EndpointName], Field(min_length=1)] | None = None
    inputs: list[Text] | None = None
    dimensions: Count | None = None
    dimensions_allowed: list[Count] | None = None
    context: Count | None = None
    tasks: list[Text] | None = None
    max_inputs: Count | None = None
    features: list[Text] | None = None
    deepsearch: bool | None = None
    on_disconnect: OnDisconnect | None = None

    @model_validator(mode="before")
    @classmethod
    def _written_as_text(cls, given: Any) -> Any:
        return {"alias_of": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _alias_has_nothing_else(self) -> ModelSettings:
        if self.alias_of and len(self.model_fields_set) > 1:
            raise ValueError("an alias is what it stands for; it has no other keys than alias_of")
        return self

    def facts(self) -> Values:
        """What is said here of the model, by the names of ``types.Model``."""
        said = {name: getattr(self, name) for name in self.model_fields_set - {"alias_of", "targets", "on_disconnect"}}
        return {name: tuple(v) if isinstance(v, list) else v for name, v in said.items() if v is not None}


class DeepSearchSettings(Section):
    reasoning: ReasoningMode = "reasoning_content"
    answer_chunk_characters: Annotated[int, BeforeValidator(number), Field(ge=0)] = 200


class TimeoutSettings(Section):
    """The last three are for the caller, all others for the upstream."""

    connect_seconds: Seconds = 5
    headers_seconds: Seconds = 120
    reply_seconds: Seconds = 120
    idle_seconds: Seconds = 300
    event_seconds: Seconds = 600
    total_seconds: Seconds = 1800
    head_seconds: Seconds = 10
    body_seconds: Seconds = 60
    write_seconds: Seconds = 60


class DisconnectSettings(Section):
    """What becomes of a call whose caller leaves. ``seconds`` is for a drained one, ``calls`` for all that go on."""

    policy: OnDisconnect = "cancel"
    seconds: Seconds = 30
    calls: Count = 20


class LedgerSettings(Section):
    """``path``: a file, ``off``, or ``auto``: in the user's folder for state, and none in the sandbox."""

    path: LedgerPath = AUTO


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix=config.PREFIX,
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
    sandbox: Switch = "off"
    sandbox_pace: Annotated[float, BeforeValidator(number), Field(ge=0, allow_inf_nan=False)] = 1.0
    upstreams: Annotated[dict[UpstreamName, UpstreamSettings], Field(validate_default=True)] = {}
    models: dict[Text, ModelSettings | None] = {}
    unknown_models_upstream: Annotated[str | None, BeforeValidator(none)] = AUTO
    deepsearch: DeepSearchSettings = DeepSearchSettings()
    token_encoding: Literal["cl100k_base"] = "cl100k_base"  # noqa: S105
    timeouts: TimeoutSettings = TimeoutSettings()
    disconnect: DisconnectSettings = DisconnectSettings()
    ping_seconds: Seconds = 15
    max_body_megabytes: Count = 32
    max_reply_megabytes: Count = 64
    max_event_megabytes: Count = 8
    http_client: Annotated[Literal["httptools", "httpx"], BeforeValidator(lower)] = "httptools"
    ca_file: Annotated[Path | None, AfterValidator(authority)] = None
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

    @field_validator("upstreams", mode="before")
    @classmethod
    def _over_the_defaults(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        merged = {
            name: {**DEFAULT_UPSTREAMS.get(name, {}), **values} if isinstance(values, dict) else values
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
    def open(self) -> bool:
        """Whether anyone who reaches the gateway may use it."""
        return not self.callers and self.caller_key is None

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches the gateway."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"

    @property
    def docs_open(self) -> bool:
        return self.docs == "on" or (self.docs == AUTO and self.loopback)


def load(path: Path | None = None, *, serving: bool = True, **overrides: Any) -> Settings:
    """The settings of ``path``, else of TORII_CONFIG, else of ./config.yaml if it exists, under all other sources.

    ``overrides`` come from the command line; those that are None say nothing. Raises ConfigError
    with every mistake there is; with ``serving`` also with what would keep the gateway from starting.
    """
    given = Source("command line", {name: value for name, value in overrides.items() if value is not None})
    sources = [given, config.environment(Settings), *config.credentials()]
    files = list(_file(path))
    sources += [*files, _order(files)]
    settings, mistakes = _validated(sources, serving)
    if mistakes:
        raise ConfigError(mistakes)
    return settings


def validate_start(settings: Settings) -> None:
    """Raises ConfigError where a gateway with these settings must not or cannot serve."""
    if mistakes := [Mistake("", config.dotted(keys), what, keys) for keys, what in contradictions.of_start(settings)]:
        raise ConfigError(mistakes)


def found(path: Path | None) -> Path | None:
    """The file that is read where ``path`` is given, or none."""
    named = path or (Path(variable) if (variable := os.environ.get(config.CONFIG_VARIABLE)) else None)
    return named or (DEFAULT_FILE if DEFAULT_FILE.exists() else None)


def _file(path: Path | None) -> Iterator[Source]:
    if file := found(path):
        yield config.file(file)


def _order(files: list[Source]) -> Source:
    """The upstreams by name only: those of the file in its order, then the built-in ones."""
    written = [file.values.get("upstreams") for file in files]
    names = [name for upstreams in (*written, DEFAULT_UPSTREAMS) if isinstance(upstreams, dict) for name in upstreams]
    return Source("built-in values", {"upstreams": {name: {} for name in names}})


def _validated(sources: list[Source], serving: bool) -> tuple[Settings, list[Mistake]]:
    """The settings and all mistakes. What is wrong is left out, so that the rest is still looked at."""
    mistakes = [mistake for source in sources for mistake in source.mistakes]
    values, unknown = _merged(sources)
    found: list[tuple[Keys, str]] = [((name,), config.unknown_key(name, Settings.model_fields)) for name in unknown]
    try:
        settings = Settings(**values)
    except ValidationError as error:
        found += config.explain(error, Settings)
    told = {mistake.keys for mistake in mistakes}
    bad = {str(keys[0]) for keys in told | {keys for keys, _ in found} if keys}
    settings = Settings(**{name: value for name, value in values.items() if name not in bad})
    if () not in told:
        found += contradictions.of(settings, bad, serving)
    return settings, mistakes + [config.blame(sources, keys, what) for keys, what in found if keys not in told]


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
