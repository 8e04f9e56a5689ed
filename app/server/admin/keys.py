"""/admin/v1/keys: the callers' virtual keys, of the ledger's file and of the configuration."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, BeforeValidator, Field

from ...callers.virtual_key import PREFIX
from ...config.accounts import BudgetSettings, KeyChanges, KeyFields, LimitsSettings
from ...config.fields import number
from ...core.errors import ChangeRefused, NotFound, PermissionDenied
from ...core.names import shown
from ...core.types import Json, OnDisconnect
from ...storage.key_records import KeyRecord, SecretRecord
from ..forms import Form, ListOf, Moment, Pages, moment, moment_or_none
from ..openapi import refusals
from ..operators import Operator
from ..routes import Asked, TeamRoute
from .store import Accounts, IdempotencyKey, read_only

DAY_SECONDS = 86_400
GRACE_DAYS = 90

Status = Literal["active", "disabled", "expired", "revoked"]


class OldSecret(BaseModel):
    """A secret from before a rotation, which works on until the grace ends."""

    redacted_value: str
    valid_until: Moment


class KeyBase(BaseModel):
    object: Literal["key"] = "key"
    id: str = Field(description="Names the key in logs, limits, metrics, the ledger and this API.")
    name: str
    team: str | None = Field(description="The team's id.")
    owner: str | None
    metadata: dict[str, str]
    status: Status
    disabled: bool
    created_at: Moment | None = Field(description="Null for a key of the configuration.")
    expires_at: Moment | None
    last_used_at: Moment | None = Field(description="To the minute.")
    revoked_at: Moment | None
    allowed_models: list[str] | None
    allowed_endpoints: list[str] | None
    allowed_ips: list[str] | None
    limits: LimitsSettings
    budgets: list[BudgetSettings]
    on_disconnect: OnDisconnect | None
    cache: Literal["shared", "private"]
    declared: bool = Field(description="True for a key of the configuration, which only a reload changes.")
    old_secrets: list[OldSecret]


class KeyEntry(KeyBase):
    """A virtual key. Of the three lists, null allows any and an empty one none."""

    redacted_value: str | None = Field(
        description="The secret's beginning and end. Null for a key of the configuration."
    )


class CreatedKey(KeyBase):
    """A virtual key with its secret."""

    secret: str = Field(description="The whole key, which is never shown again.")


class KeyList(ListOf[KeyEntry]):
    """A page of keys."""


class DeletedKey(BaseModel):
    object: Literal["key.deleted"] = "key.deleted"
    id: str
    deleted: Literal[True] = True


class Rotation(Form):
    """``grace_seconds``: how long the secret before works on, 24 hours by default."""

    grace_seconds: Annotated[int, BeforeValidator(number), Field(ge=0, le=GRACE_DAYS * DAY_SECONDS)] = DAY_SECONDS


KeyId = Annotated[str, Path(alias="id", max_length=100, description="The key's public id.")]

router = APIRouter(route_class=TeamRoute, prefix="/keys", tags=["keys"])


@router.get("", operation_id="list_keys", summary="The keys", response_description="A page of the keys.")
async def list_keys(
    asked: Asked,
    accounts: Accounts,
    pages: Pages,
    team: Annotated[str | None, Query(max_length=64, description="Only the keys of the team with this id.")] = None,
    status: Annotated[Status | None, Query(description="Only the keys in this state.")] = None,
) -> KeyList:
    """Keys of the configuration first, then the others in the order in which they were created. Revoked keys stay in
    the list."""
    now = accounts.now_ms()
    chosen = [
        key
        for key in (await accounts.snapshot()).keys.values()
        if asked.sees(key.team) and team in (None, key.team) and status in (None, _status(key, now))
    ]
    return KeyList.model_validate(pages.page(chosen, lambda key: key.id, lambda key: written(key, now)))


@router.post(
    "",
    operation_id="create_key",
    status_code=201,
    summary="Create a key",
    response_description="The key with its secret, which is never shown again.",
    openapi_extra=refusals(409),
)
async def create_key(
    body: KeyFields, asked: Asked, accounts: Accounts, idempotency: IdempotencyKey = None
) -> CreatedKey | KeyEntry:
    """If the request is repeated with the same Idempotency-Key, within a day, the answer is the key of then without
    its secret."""
    fields = body.stored()
    if asked.team is not None:
        fields["team"] = _own(asked, fields.get("team", asked.team))
    key, secret = await accounts.change(lambda file: file.create_key(fields, asked.actor, asked.address, idempotency))
    if not asked.sees(key.team):  # made by an earlier request, and moved since
        raise ChangeRefused("the key that this Idempotency-Key made belongs to another team now")
    return _answered(key, secret, accounts.now_ms())


@router.get(
    "/{id}",
    operation_id="get_key",
    summary="One key",
    response_description="The key.",
)
async def get_key(key_id: KeyId, asked: Asked, accounts: Accounts) -> KeyEntry:
    """A key by its public id; never its secret."""
    return KeyEntry.model_validate(written(await found(accounts, asked, key_id), accounts.now_ms()))


@router.patch(
    "/{id}",
    operation_id="edit_key",
    summary="Change a key",
    response_description="The key after the change.",
    openapi_extra=refusals(409),
)
async def edit_key(key_id: KeyId, body: KeyChanges, asked: Asked, accounts: Accounts) -> KeyEntry:
    """A field that is absent stays as it is, and null clears it; so it is with each of the `limits`. Lists and
    `metadata` are replaced. The change holds for calls from now on, in all processes."""
    read_only(await found(accounts, asked, key_id), "key")
    changes = body.stored()
    if "team" in changes:
        _own(asked, changes["team"])
    key = await accounts.change(lambda file: file.edit_key(key_id, changes, asked.actor, asked.address))
    return KeyEntry.model_validate(written(key, accounts.now_ms()))


@router.delete(
    "/{id}",
    operation_id="revoke_key",
    summary="Revoke a key",
    response_description="The key was revoked.",
    openapi_extra=refusals(409),
)
async def revoke_key(key_id: KeyId, asked: Asked, accounts: Accounts) -> DeletedKey:
    """Ends all its secrets for good. Calls under way finish; the key stays in the list, and its rows in the ledger."""
    read_only(await found(accounts, asked, key_id), "key")
    await accounts.change(lambda file: file.revoke_key(key_id, asked.actor, asked.address))
    return DeletedKey(id=key_id)


@router.post(
    "/{id}/rotate",
    operation_id="rotate_key",
    summary="Give a key a new secret",
    response_description="The key with its new secret, which is never shown again.",
    openapi_extra=refusals(409),
)
async def rotate_key(key_id: KeyId, asked: Asked, accounts: Accounts, body: Rotation | None = None) -> CreatedKey:
    """The secret before works on for `grace_seconds`; 0 ends it at once."""
    read_only(await found(accounts, asked, key_id), "key")
    grace = (body or Rotation()).grace_seconds
    key, secret = await accounts.change(lambda file: file.rotate_key(key_id, grace, asked.actor, asked.address))
    return CreatedKey.model_validate({**written(key, accounts.now_ms()), "secret": secret})


async def found(accounts: Accounts, asked: Operator, key_id: str) -> KeyRecord:
    """Raises NotFound, also for a key of a team that the asker does not see."""
    key = (await accounts.snapshot()).keys.get(key_id)
    if key is None or not asked.sees(key.team):
        raise NotFound(f"there is no key with the id '{shown(key_id)}'; GET /admin/v1/keys lists the ids", param="id")
    return key


def _own(asked: Operator, team: str | None) -> str | None:
    if asked.team is not None and team != asked.team:
        raise PermissionDenied(f"this management key is for keys of the team {asked.team} only", param="team")
    return team


def _answered(key: KeyRecord, secret: str | None, now: int) -> CreatedKey | KeyEntry:
    form = written(key, now)
    return KeyEntry.model_validate(form) if secret is None else CreatedKey.model_validate({**form, "secret": secret})


def written(key: KeyRecord, now: int) -> Json:
    """A key in the API's form, without its secret. ``now`` is in Unix milliseconds."""
    present, *old = key.secrets or (None,)
    fields = key.fields
    return {
        "id": key.id,
        "name": key.name,
        "team": key.team,
        "owner": fields.get("owner"),
        "metadata": fields.get("metadata", {}),
        "status": _status(key, now),
        "disabled": key.disabled,
        "created_at": moment_or_none(key.created_at),
        "expires_at": moment_or_none(key.expires_at),
        "last_used_at": moment_or_none(key.last_used_at),
        "revoked_at": moment_or_none(key.revoked_at),
        **{name: fields.get(name) for name in ("allowed_models", "allowed_endpoints", "allowed_ips", "on_disconnect")},
        "limits": fields.get("limits", {}),
        "budgets": fields.get("budgets", []),
        "cache": fields.get("cache", "shared"),
        "declared": key.declared,
        "redacted_value": _redacted(key.id, present),
        "old_secrets": [
            {"redacted_value": _redacted(key.id, secret), "valid_until": moment(secret.valid_until)}
            for secret in old
            if secret and secret.valid_until is not None and secret.valid_until > now
        ],
    }


def _status(key: KeyRecord, now: int) -> Status:
    if key.revoked_at is not None:
        return "revoked"
    if key.expires_at is not None and key.expires_at <= now:
        return "expired"
    return "disabled" if key.disabled else "active"


def _redacted(key_id: str, secret: SecretRecord | None) -> str | None:
    return f"{PREFIX}{key_id}-...{secret.tail}" if secret and secret.tail else None
