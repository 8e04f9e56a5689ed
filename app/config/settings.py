"""All settings, with units and defaults. ``loader.load`` reads the sources; ``Settings(...)`` does not."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    InstanceOf,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from .accounts import AlertSettings, OrganizationSettings, PriceSettings, TeamSettings, VirtualKeySettings
from .fields import (
    AUTO,
    Authority,
    CallerKey,
    Count,
    DeepSearchBudget,
    HostNames,
    Networks,
    Port,
    Seconds,
    Switch,
    Text,
    UpstreamName,
    Zone,
    authority,
    listener,
    lower,
    none,
    number,
    spoken,
)
from .sections import (
    CacheSettings,
    CallerSettings,
    ClassifierSettings,
    CorsSettings,
    CounterSettings,
    DeepSearchSettings,
    DisconnectSettings,
    LedgerSettings,
    ModelSettings,
    ReaderSettings,
    SearchSettings,
    TimeoutSettings,
    UpstreamSettings,
)
from .sources import PREFIX

DEFAULT_FILE = Path("config.yaml")

DEFAULT_UPSTREAMS = {"jina": {"kind": "jina"}, "aihubmix": {"kind": "aihubmix"}}
# Kinds that the sandbox stands in for, and kinds that serve more models than a catalogue could hold.
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
    operator_port: Annotated[int, BeforeValidator(number), Field(ge=1, le=65535)] | None = None
    keys: list[VirtualKeySettings] = []
    teams: list[TeamSettings] = []
    organization: OrganizationSettings = OrganizationSettings()
    trusted_proxies: Networks = []
    allowed_hosts: HostNames = []
    cors: CorsSettings = CorsSettings()
    sandbox: Switch = "off"
    sandbox_time_scale: Annotated[float, BeforeValidator(number), Field(ge=0, allow_inf_nan=False)] = 1.0
    upstreams: Annotated[dict[UpstreamName, UpstreamSettings], Field(validate_default=True)] = {}
    models: dict[Text, ModelSettings | None] = {}
    unknown_models_upstream: Annotated[str | None, BeforeValidator(none)] = AUTO
    deepsearch: DeepSearchSettings = DeepSearchSettings()
    reader: ReaderSettings = ReaderSettings()
    search: SearchSettings = SearchSettings()
    hosts: bool = False
    svip: bool = False
    deepsearch_max_budget: DeepSearchBudget | None = None
    deepsearch_hold_factor: Annotated[float, BeforeValidator(number), Field(ge=1, le=100)] = 2
    prices: dict[Text, dict[Text, PriceSettings]] = {}
    unpriced: Annotated[Literal["refuse", "allow"], BeforeValidator(lower)] = "refuse"
    budgets_without_store: Annotated[Literal["closed", "open"], BeforeValidator(lower)] = "closed"
    time_zone: Zone = "UTC"
    week_begins: Annotated[Literal["monday", "sunday"], BeforeValidator(lower)] = "monday"
    alerts: AlertSettings = AlertSettings()
    token_encoding: Literal["cl100k_base"] = "cl100k_base"  # noqa: S105 - no password
    timeouts: TimeoutSettings = TimeoutSettings()
    disconnect: DisconnectSettings = DisconnectSettings()
    ping_seconds: Seconds = 15
    cache: CacheSettings = CacheSettings()
    classifiers: ClassifierSettings = ClassifierSettings()
    max_body_megabytes: Count = 32
    max_reply_megabytes: Count = 64
    max_event_megabytes: Count = 8
    http_client: Annotated[Literal["httptools", "httpx"], BeforeValidator(lower)] = "httptools"
    ca_file: Annotated[InstanceOf[Authority] | None, BeforeValidator(authority)] = None
    proxy_from_environment: bool = False
    max_connections: Count = 2000
    max_concurrent_calls: Count = 1000
    max_caller_connections: Count = 4000
    max_attempts: Count = 3
    queue_timeout_seconds: Seconds = 4
    drain_seconds: Annotated[float, BeforeValidator(number), Field(ge=0, allow_inf_nan=False)] = 30
    ledger: LedgerSettings = LedgerSettings()
    counters: CounterSettings = CounterSettings()
    drain_delay_seconds: Annotated[float, BeforeValidator(number), Field(ge=0, allow_inf_nan=False)] = 0
    docs: Switch = "auto"
    log_level: Annotated[Literal["critical", "error", "warning", "info", "debug"], BeforeValidator(lower)] = "info"

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only the arguments: ``load`` reads the other sources itself, to report the place of a mistake."""
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
        """The upstreams that have a key, in order of preference."""
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
        """The upstream to which calls to unknown models go; None if unknown models are a 404."""
        if self.unknown_models_upstream != AUTO:
            return self.unknown_models_upstream if self.unknown_models_upstream in self.active else None
        return next((name for name in self.active if self.upstreams[name].kind in SELLERS), None)

    @property
    def seller(self) -> str | None:
        """As ``unknown_upstream``, even if the upstream has no key and is not used."""
        if self.unknown_models_upstream != AUTO:
            return self.unknown_models_upstream
        sellers = (name for name, given in self.upstreams.items() if given.kind in SELLERS)
        return self.unknown_upstream or next(sellers, None)

    @property
    def redis_of_cache(self) -> SecretStr | None:
        """The address of the cache's own Redis, else of that of the counters."""
        return self.cache.redis_url or self.counters.url

    @property
    def open(self) -> bool:
        """True if no caller and no key is configured: anyone who reaches the gateway may use it, until a key is
        created."""
        return not self.callers and self.caller_key is None and not self.keys

    @property
    def waiting(self) -> bool:
        """True if other machines reach the gateway and nobody may use it until a key is created."""
        return self.open and not self.loopback and not self.generate_caller_key

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
