"""The sections of the settings, with the unit and the default of each key."""

from __future__ import annotations

import hashlib
import os
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from ..core.types import OnDisconnect, OnMismatch, ReasoningMode, SystemMessages
from ..upstreams import KINDS
from .accounts import BudgetSettings, LimitsSettings
from .fields import (
    AUTO,
    KNOWN,
    OFF,
    PLACEHOLDER,
    SHA256,
    CallerKey,
    Count,
    EndpointName,
    KeyPrefix,
    LedgerPath,
    PageOrigins,
    PostgresUrl,
    ProxyUrl,
    RedisUrl,
    Seconds,
    SecretOptions,
    Section,
    Text,
    UpstreamKey,
    Url,
    lower,
    number,
    switch,
)
from .sources import Values

if TYPE_CHECKING:
    Kind = str
else:  # the names in the registry
    Kind = Literal[tuple(KINDS)]

# The default addresses of the kinds that have any.
BASE_URLS = {
    kind: {
        field.name: field.default
        for field in fields(upstream)
        if field.name.endswith("base_url") and field.default is not MISSING
    }
    for kind, upstream in KINDS.items()
}


class CallerSettings(Section):
    """A caller: a name, and a key or the key's SHA-256 in hexadecimal, so that the file holds no secret."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    key: CallerKey = None
    sha256: Annotated[str | None, BeforeValidator(lower), Field(repr=False)] = None
    on_disconnect: OnDisconnect | None = None
    limits: LimitsSettings = LimitsSettings()
    budgets: list[BudgetSettings] = Field(default_factory=list)

    @model_validator(mode="after")
    def _one_key(self) -> CallerSettings:
        if (self.key is None) == (self.sha256 is None):
            raise ValueError("must have either a key or a sha256")
        if self.sha256 is not None and not SHA256.fullmatch(self.sha256):
            raise ValueError("sha256 must be 64 hexadecimal digits, as `printf %s KEY | sha256sum` prints them")
        if self.sha256 == hashlib.sha256(PLACEHOLDER.encode()).hexdigest():
            raise ValueError(f"sha256 {KNOWN}")
        return self


class KeyLimits(Section):
    """Limits of a key at its provider; calls wait instead of causing a 429. None means no limit."""

    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    deepsearch_per_minute: Count | None = None
    reader_per_minute: Count | None = None
    search_per_minute: Count | None = None
    svip_per_minute: Count | None = None  # no tier has one: nobody has published it
    concurrency: Count | None = None
    classify_per_minute: Count | None = None  # with labels in the request
    classify_tokens_per_minute: Count | None = None
    train_per_minute: Count | None = None  # training, and calls to classifiers
    train_tokens_per_minute: Count | None = None
    segment_per_minute: Count | None = None

    @property
    def apis(self) -> dict[str, int]:
        """The limits of APIs that have their own: requests under the API's name, tokens under ``NAME_tokens``."""
        found = {
            "reader": self.reader_per_minute,
            "search": self.search_per_minute,
            "svip": self.svip_per_minute,
            "classify": self.classify_per_minute,
            "classify_tokens": self.classify_tokens_per_minute,
            "train": self.train_per_minute,
            "train_tokens": self.train_tokens_per_minute,
            "segment": self.segment_per_minute,
        }
        return {name: limit for name, limit in found.items() if limit is not None}


Tier = Literal["free", "paid", "premium"]

# Jina's limits by tier. Embeddings and rerank: Jina's OpenAPI description of July 2026, which calls paid tier 1 and
# premium tier 2. DeepSearch: its own page. The others: Jina's table of rate limits, with a key and premium.
_APIS = {
    "reader_per_minute": 500,
    "search_per_minute": 100,
    "classify_per_minute": 200,
    "classify_tokens_per_minute": 500_000,
    "train_per_minute": 20,
    "train_tokens_per_minute": 200_000,
    "segment_per_minute": 200,
}
_PREMIUM_APIS = {
    "reader_per_minute": 5000,
    "search_per_minute": 1000,
    "classify_per_minute": 1000,
    "classify_tokens_per_minute": 3_000_000,
    "train_per_minute": 60,
    "train_tokens_per_minute": 1_000_000,
    "segment_per_minute": 1000,
}
TIERS: dict[Tier, KeyLimits] = {
    "free": KeyLimits(
        requests_per_minute=500, tokens_per_minute=1_000_000, deepsearch_per_minute=50, concurrency=5, **_APIS
    ),
    "paid": KeyLimits(
        requests_per_minute=500, tokens_per_minute=10_000_000, deepsearch_per_minute=50, concurrency=50, **_APIS
    ),
    "premium": KeyLimits(
        requests_per_minute=5000,
        tokens_per_minute=100_000_000,
        deepsearch_per_minute=500,
        concurrency=500,
        **_PREMIUM_APIS,
    ),
}


class KeySettings(Section):
    """One of several keys of an upstream. ``weight``: its share of the load. Missing limits are the upstream's."""

    key: UpstreamKey
    tier: Tier | None = None
    limits: KeyLimits = KeyLimits()
    name: Annotated[str | None, Field(min_length=1, max_length=64)] = None
    weight: Annotated[float, BeforeValidator(number), Field(gt=0, allow_inf_nan=False)] = 1.0


class UpstreamSettings(Section):
    """An upstream. Without a key it is not used. ``api_key`` and the keys of ``api_keys`` are used together."""

    kind: Kind
    base_url: Url
    deepsearch_base_url: Url | None = None
    reader_base_url: Url | None = None
    search_base_url: Url | None = None
    svip_base_url: Url | None = None
    api_key: UpstreamKey = None
    api_keys: list[KeySettings] = Field(default_factory=list)
    tier: Tier | None = None
    limits: KeyLimits = KeyLimits()
    proxy_url: ProxyUrl = None

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, given: Any) -> Any:
        return {**BASE_URLS.get(str(given.get("kind")), {}), **given} if isinstance(given, dict) else given

    @property
    def urls(self) -> list[str]:
        return list(self.addresses.values())

    @property
    def addresses(self) -> dict[str, str]:
        """The URLs by the names of their settings."""
        names = [name for name in type(self).model_fields if name.endswith("base_url")]
        return {name: url for name in names if (url := getattr(self, name))}

    @property
    def keys(self) -> list[KeySettings]:
        """All keys that have a secret; ``api_key`` is the first."""
        single = [KeySettings(key=self.api_key)] if self.api_key else []
        return [*single, *(key for key in self.api_keys if key.key)]

    def limits_of(self, key: KeySettings) -> KeyLimits:
        """Each limit is the first that is set in: the key's limits, its tier, the upstream's limits, its tier."""
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
        further = next((name for name in self.addresses if name != "base_url"), None)
        if further and self.kind != "jina":
            raise ValueError(f"{further} is for an upstream of kind jina only")
        if self.kind != "jina" and (self.tier or any(key.tier for key in self.api_keys)):
            raise ValueError("tier is for an upstream of kind jina only; set limits instead")
        return self


class TargetSettings(Section):
    """A target of a model. ``model``: the model's name at the upstream, if it differs."""

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
    """A custom model, or changes to a known one. A plain string means ``alias_of``."""

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
    cached: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _written_as_text(cls, given: Any) -> Any:
        return {"alias_of": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _alias_has_nothing_else(self) -> ModelSettings:
        if self.alias_of and len(self.model_fields_set) > 1:
            raise ValueError("an alias takes no other keys than alias_of")
        return self

    def facts(self) -> Values:
        """The facts that are set for the model, by the names of ``types.Model``."""
        said = {name: getattr(self, name) for name in self.model_fields_set - {"alias_of", "targets", "on_disconnect"}}
        return {name: tuple(v) if isinstance(v, list) else v for name, v in said.items() if v is not None}


class DeepSearchSettings(Section):
    reasoning: ReasoningMode = "reasoning_content"
    answer_chunk_characters: Annotated[int, BeforeValidator(number), Field(ge=0)] = 200
    system_messages: SystemMessages = "fold"
    schema_mismatch: OnMismatch = "error"


class ReaderSettings(Section):
    """``allow``: the secret options that callers may send. ``cache_seconds``: how long pages are cached; 0: not."""

    allow: SecretOptions = Field(default_factory=list)
    cache_seconds: Annotated[float, BeforeValidator(number), Field(ge=0, allow_inf_nan=False)] = 0


class SearchSettings(Section):
    """``cache_seconds``: how long the results of a search are cached, at most an hour; 0: they are not."""

    cache_seconds: Annotated[float, BeforeValidator(number), Field(ge=0, le=3600, allow_inf_nan=False)] = 0


class TimeoutSettings(Section):
    """The last three time callers, ``total_seconds`` a whole call, and all others upstreams. ``reader_seconds`` and
    ``search_seconds`` replace the deadlines of head, reply and event for pages and searches."""

    connect_seconds: Seconds = 5
    headers_seconds: Seconds = 120
    reply_seconds: Seconds = 120
    idle_seconds: Seconds = 300
    event_seconds: Seconds = 600
    reader_seconds: Seconds = 90
    search_seconds: Seconds = 60
    total_seconds: Seconds = 1800
    request_head_seconds: Seconds = 10
    request_body_seconds: Seconds = 60
    write_seconds: Seconds = 60


class DisconnectSettings(Section):
    """The policy if a caller disconnects. ``seconds``: time to drain a call; ``calls``: the most that may go on."""

    policy: OnDisconnect = "cancel"
    seconds: Seconds = 30
    calls: Count = 20


class LedgerSettings(Section):
    """``path``: a file, ``off``, or ``auto``: a file in the user's state folder, or no ledger in the sandbox.
    ``keep_days``: how long rows are kept; sums stay. ``hash_users``: of users and tags, only hashes."""

    path: LedgerPath = AUTO
    keep_days: Count = 90
    hash_users: bool = False

    @property
    def file(self) -> Path | None:
        """The ledger's file, even if there is none yet; None if the ledger is off or no folder is known."""
        return self.file_of(self.path)

    @staticmethod
    def file_of(path: str) -> Path | None:
        if path != AUTO:
            return None if path == OFF else Path(path).expanduser()
        state, home = os.environ.get("XDG_STATE_HOME"), os.environ.get("HOME")
        folder = Path(state) if state else Path(home, ".local", "state") if home else None
        return folder / "torii" / "torii.db" if folder else None


class StorageSettings(Section):
    """``url``: a PostgreSQL database that holds the ledger for several hosts, in place of the file; it may hold a
    password. ``pgbouncer``: PgBouncer is in between, in its transaction mode."""

    url: PostgresUrl = None
    pgbouncer: bool = False


class CounterSettings(Section):
    """The counters that replicas share. ``url``: Redis, None for one replica. ``prefix``: of all its keys."""

    url: RedisUrl = None
    prefix: KeyPrefix = "torii"


class ClassifierSettings(Section):
    """``public``: callers may make classifiers that anyone can use who knows the id. ``foreign``: callers may use
    classifiers that nobody here owns, such as public ones of others."""

    public: bool = False
    foreign: bool = False


class CorsSettings(Section):
    """Web pages that may read responses. ``*`` and ``null`` mean any page, which an open gateway never allows."""

    allowed_origins: PageOrigins = Field(default_factory=list)


class CacheSettings(Section):
    """The cache of responses. ``memory_megabytes``: the memory tier, which SQLite and Redis have in front too.
    ``megabytes``: SQLite's file. ``per_caller``: callers do not share entries."""

    store: Annotated[Literal["off", "memory", "sqlite", "redis"], BeforeValidator(switch)] = "memory"
    memory_megabytes: Count = 64
    path: Path = Path("torii-cache.db")
    megabytes: Count = 1024
    redis_url: RedisUrl = None
    ttl_days: Annotated[float, BeforeValidator(number), Field(gt=0, allow_inf_nan=False)] = 30
    per_caller: bool = False
