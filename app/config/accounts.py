"""The sections of those who call and what they may spend: limits, budgets, keys, teams, prices, alerts.

The operator's API takes its bodies in the same forms, so nothing here knows the settings. ``stored`` is the form in
which storage/keys.py keeps them: JSON with dollars as decimal strings, times as Unix milliseconds.
"""

from __future__ import annotations

import re
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from ..core.money import DOLLAR, dollars, nanodollars
from ..core.money import MOST as MOST_DOLLARS
from ..core.types import OnDisconnect
from .fields import SHA256, CallerKey, EndpointName, Network, PermittedName, Section, Text, WebhookUrl, lower, number
from .sources import Values

DOLLAR_DECIMALS = 9
MOST = MOST_DOLLARS * DOLLAR
FIRST_YEAR, LAST_YEAR = 1970, 9998
MOST_LISTED, MOST_BUDGETS, MOST_WARNINGS = 500, 50, 16  # each budget costs every call some work
METADATA = 16  # entries, of names up to 64 and texts up to 512 characters

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_DECIMAL = re.compile(r"[+-]?\d{1,20}(\.\d{1,20})?", re.ASCII)


def decimal(value: Any) -> Any:
    """A number or a decimal string; a float is taken as it is written."""
    written = repr(number(value)) if isinstance(value, float) else str(value)
    if isinstance(number(value), Decimal):
        return value
    if not isinstance(value, int | float | str) or not _DECIMAL.fullmatch(written := _plain(written)):
        raise ValueError('must be a number, such as 100 or "12.50"')
    amount = Decimal(written)
    return amount if amount else abs(amount)  # no -0


def _plain(written: str) -> str:
    """Without an exponent, as Python writes 1e-05."""
    return f"{Decimal(written):f}" if re.fullmatch(r"\d+(\.\d+)?e[+-]\d{1,2}", written) else written


def fine(amount: Decimal) -> Decimal:
    """An amount in dollars. Raises ValueError."""
    if amount > MOST_DOLLARS:
        raise ValueError(f"must be at most {MOST_DOLLARS} dollars")
    if amount != amount.quantize(Decimal(1).scaleb(-DOLLAR_DECIMALS)):
        raise ValueError(f"must have at most {DOLLAR_DECIMALS} decimals")
    return amount


def moment(value: Any) -> Any:
    """A time with its zone."""
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        found = None
    if not isinstance(found, datetime) or found.tzinfo is None:
        raise ValueError("must be a time with its zone, such as 2027-01-31T12:00:00Z")
    if not FIRST_YEAR <= found.year <= LAST_YEAR:  # at the ends of the calendar not every time has one in UTC
        raise ValueError(f"must be in the years {FIRST_YEAR} to {LAST_YEAR}")
    return found


def day(value: Any) -> Any:
    try:
        found = date.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        found = None
    if not isinstance(found, date) or isinstance(found, datetime):
        raise ValueError("must be a date such as 2026-11-30")
    return found


def identifier(text: str) -> str:
    if not _ID.fullmatch(text):
        raise ValueError("must have 1 to 64 characters of A-Z, a-z, 0-9, -, _ and ., and begin with a letter or digit")
    return text


def readable(name: str) -> str:
    """Names stand in tables, log lines and messages."""
    if not name.strip() or _CONTROL.search(name):
        raise ValueError("must have letters or digits, and no control characters")
    return name


def few(metadata: dict[str, str]) -> dict[str, str]:
    if len(metadata) > METADATA:
        raise ValueError(f"must have at most {METADATA} entries")
    if any(len(name) > 64 or len(text) > 512 for name, text in metadata.items()):
        raise ValueError("has names of at most 64 and texts of at most 512 characters")
    return metadata


def kept(name: Any) -> Any:
    if name is None:
        raise ValueError("cannot be cleared")
    return name


Amount = Annotated[Decimal, BeforeValidator(decimal), Field(ge=0)]
Dollars = Annotated[Amount, AfterValidator(fine)]
Moment = Annotated[datetime, BeforeValidator(moment)]
Day = Annotated[date, BeforeValidator(day)]
Name = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(readable)]
Id = Annotated[str, AfterValidator(identifier)]
Metadata = Annotated[dict[str, str], AfterValidator(few)]
LimitAmount = Annotated[int, BeforeValidator(number), Field(ge=0, le=MOST)]
Share = Annotated[float, BeforeValidator(number), Field(gt=0, le=1)]
Models = Annotated[list[Text], Field(max_length=MOST_LISTED)]
Endpoints = Annotated[list[EndpointName], Field(max_length=MOST_LISTED)]
PermittedEndpoints = Annotated[list[PermittedName], Field(max_length=MOST_LISTED)]
Addresses = Annotated[list[Network], Field(max_length=MOST_LISTED)]
CacheUse = Literal["shared", "private"]


class LimitsSettings(Section):
    """Limits of a caller, a team or the organization. None is no limit, 0 admits nothing. A minute is any 60 seconds, a
    day is a calendar day in ``time_zone``."""

    requests_per_minute: LimitAmount | None = None
    tokens_per_minute: LimitAmount | None = None
    concurrent_calls: LimitAmount | None = None
    concurrent_runs: LimitAmount | None = None
    requests_per_day: LimitAmount | None = None
    tokens_per_day: LimitAmount | None = None


class BudgetSettings(Section):
    """The most that may be spent in each calendar window. ``amount``: dollars, tokens or calls. ``endpoints`` and
    ``models``: the budget counts only such calls; a model may have ``*``. ``warn_at``: shares of the amount at which to
    alert."""

    unit: Annotated[Literal["usd", "tokens", "requests"], BeforeValidator(lower)]
    amount: Amount
    window: Annotated[Literal["day", "week", "month", "total"], BeforeValidator(lower)]
    endpoints: Endpoints | None = None
    models: Models | None = None
    warn_at: Annotated[list[Share], Field(max_length=MOST_WARNINGS)] = Field(default_factory=lambda: [0.5, 0.8])

    @field_validator("amount")
    @classmethod
    def _countable(cls, amount: Decimal, about: ValidationInfo) -> Decimal:
        unit = about.data.get("unit")
        if unit == "usd":
            return fine(amount)
        if unit is not None and (amount != amount.to_integral_value() or amount > MOST):
            raise ValueError(f"must be a whole number of {unit}, at most {MOST}")
        return amount

    @field_serializer("amount")
    def _said(self, amount: Decimal) -> str | int:
        return dollars(nanodollars(amount)) if self.unit == "usd" else int(amount)


Budgets = Annotated[list[BudgetSettings], Field(max_length=MOST_BUDGETS)]


class OrganizationSettings(Section):
    """Limits and budgets of all calls together."""

    limits: LimitsSettings = LimitsSettings()
    budgets: Budgets = Field(default_factory=list)


class TeamFields(Section):
    """A team, as the operator's API takes it. Its limits hold for all its keys together. ``id``: by default random."""

    name: Name
    id: Id | None = None
    disabled: bool = False
    limits: LimitsSettings = LimitsSettings()
    budgets: Budgets = Field(default_factory=list)
    metadata: Metadata = Field(default_factory=dict)

    def stored(self) -> Values:
        return _stored(self)


class TeamSettings(TeamFields):
    """A team of the configuration. ``name``: by default the id."""

    name: Name = ""
    id: Id

    @model_validator(mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        return {"name": given["id"], **given} if isinstance(given, dict) and "id" in given else given


class TeamChanges(Section):
    """Changes of a team: absent leaves as is, null clears."""

    name: Annotated[Name | None, BeforeValidator(kept)] = None
    disabled: bool | None = None
    limits: LimitsSettings | None = None
    budgets: Budgets | None = None
    metadata: Metadata | None = None

    def stored(self) -> Values:
        """The fields that were sent; None for null."""
        return _changed(self)


class KeyFields(Section):
    """A virtual key, as the operator's API takes it. Of the lists, null is any and an empty one is none."""

    name: Name
    team: Text | None = None
    owner: Annotated[str, Field(max_length=256)] | None = None
    metadata: Metadata = Field(default_factory=dict)
    expires_at: Moment | None = None
    disabled: bool = False
    allowed_models: Models | None = None
    allowed_endpoints: PermittedEndpoints | None = None
    allowed_ips: Addresses | None = None
    limits: LimitsSettings = LimitsSettings()
    budgets: Budgets = Field(default_factory=list)
    on_disconnect: OnDisconnect | None = None
    cache: CacheUse = "shared"

    def stored(self) -> Values:
        return _stored(self)


class VirtualKeySettings(KeyFields):
    """A virtual key of the configuration, by the SHA-256 of the whole key. ``id``: by default derived from it."""

    sha256: Annotated[str, BeforeValidator(lower), Field(repr=False)]
    id: Id | None = None

    @model_validator(mode="after")
    def _hashed(self) -> VirtualKeySettings:
        if not SHA256.fullmatch(self.sha256):
            raise ValueError("sha256 must be 64 hexadecimal digits, as `printf %s KEY | sha256sum` prints them")
        return self

    def stored(self) -> Values:
        return _stored(self, "sha256", "id")


class KeyChanges(Section):
    """Changes of a virtual key: absent leaves as is, null clears."""

    name: Annotated[Name | None, BeforeValidator(kept)] = None
    team: Text | None = None
    owner: Annotated[str, Field(max_length=256)] | None = None
    metadata: Metadata | None = None
    expires_at: Moment | None = None
    disabled: bool | None = None
    allowed_models: Models | None = None
    allowed_endpoints: PermittedEndpoints | None = None
    allowed_ips: Addresses | None = None
    limits: LimitsSettings | None = None
    budgets: Budgets | None = None
    on_disconnect: OnDisconnect | None = None
    cache: CacheUse | None = None

    def stored(self) -> Values:
        """The fields that were sent; None for null."""
        return _changed(self)


class PriceSettings(Section):
    """The price of a model at an upstream, in dollars for a million tokens in and out, and for each call. ``source``
    and ``date`` say who stated it, and when."""

    input: Dollars | None = None
    output: Dollars | None = None
    per_call: Dollars | None = None
    source: Text | None = None
    date: Day | None = None

    @model_validator(mode="after")
    def _some_price(self) -> PriceSettings:
        if self.input is None and self.output is None and self.per_call is None:
            raise ValueError("must have a price: input, output or per_call")
        return self


class WebhookSettings(Section):
    """The receiver of alerts. With a ``secret``, they are signed by HMAC-SHA256."""

    url: WebhookUrl
    secret: CallerKey = None

    @property
    def secrets(self) -> list[SecretStr]:
        return [self.url, *([self.secret] if self.secret else [])]


class AlertSettings(Section):
    """Alerts always go to the log; ``webhook`` is where they are sent besides."""

    webhook: WebhookSettings | None = None


def _stored(form: Section, *without: str) -> Values:
    """The fields that are set, as JSON values."""
    fields = form.model_dump(mode="json", exclude_none=True, exclude_defaults=True, exclude=set(without))
    return _timed(form, fields)


def _changed(form: Section) -> Values:
    fields = form.model_dump(mode="json", exclude_unset=True)
    if fields.get("budgets"):
        fields["budgets"] = form.model_dump(mode="json", include={"budgets"}, exclude_none=True)["budgets"]
    return _timed(form, fields)


def _timed(form: Section, fields: Values) -> Values:
    time = getattr(form, "expires_at", None)
    return {**fields, "expires_at": round(time.timestamp() * 1000)} if time else fields
