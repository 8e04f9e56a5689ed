"""/admin/v1/management_keys: keys for this API, each with a scope."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from fastapi import APIRouter, Path
from pydantic import AfterValidator, BaseModel, Field

from ...callers.virtual_key import MANAGEMENT
from ...config.accounts import Name
from ...core.types import Json
from ...storage.key_records import ManagementRecord
from ..forms import Form, ListOf, Moment, Pages, moment
from ..openapi import refusals
from ..operators import COMMAND_LINE, OPERATOR
from ..routes import Asked, OperatorRoute
from .store import Accounts, IdempotencyKey

_SCOPE = re.compile(r"admin|read_only|team:.{1,64}")


def scope(text: str) -> str:
    if not _SCOPE.fullmatch(text):
        raise ValueError("must be admin, read_only, or team:ID with a team's id")
    return text


def own(name: str) -> str:
    if name.lower() in (OPERATOR, COMMAND_LINE):
        raise ValueError(f"must not be {name}, which the audit calls others")
    return name


class ManagementFields(Form):
    """A key for this API. ``admin`` may do everything, ``read_only`` only GET; ``team:ID`` sees and changes the keys of
    one team, and sees its usage, calls and limits."""

    name: Annotated[Name, AfterValidator(own)]
    scope: Annotated[str, AfterValidator(scope)]


class ManagementBase(BaseModel):
    object: Literal["management_key"] = "management_key"
    id: str
    name: str = Field(description="Names the key in the audit.")
    scope: str
    created_at: Moment


class ManagementEntry(ManagementBase):
    """A key for this API."""

    redacted_value: str


class CreatedManagementKey(ManagementBase):
    """A new key for this API."""

    secret: str = Field(description="The whole key, which is never shown again.")


class ManagementList(ListOf[ManagementEntry]):
    """A page of keys for this API."""


class DeletedManagementKey(BaseModel):
    object: Literal["management_key.deleted"] = "management_key.deleted"
    id: str
    deleted: Literal[True] = True


router = APIRouter(route_class=OperatorRoute, prefix="/management_keys", tags=["management keys"])


@router.get(
    "",
    operation_id="list_management_keys",
    summary="The keys for this API",
    response_description="A page of the keys.",
)
async def list_management_keys(accounts: Accounts, pages: Pages) -> ManagementList:
    """In the order in which they were created. The operator's key of the configuration is not among them."""
    keys = list((await accounts.snapshot()).management.values())
    return ManagementList.model_validate(pages.page(keys, lambda key: key.id, written))


@router.post(
    "",
    operation_id="create_management_key",
    status_code=201,
    summary="Create a key for this API",
    response_description="The key with its secret, which is never shown again.",
    openapi_extra=refusals(409),
)
async def create_management_key(
    body: ManagementFields, asked: Asked, accounts: Accounts, idempotency: IdempotencyKey = None
) -> CreatedManagementKey | ManagementEntry:
    """If the request is repeated with the same Idempotency-Key, within a day, the answer is the key of then without
    its secret."""
    fields = body.model_dump()
    key, secret = await accounts.change(
        lambda file: file.create_management_key(fields, asked.actor, asked.address, idempotency)
    )
    if secret is None:
        return ManagementEntry.model_validate(written(key))
    return CreatedManagementKey.model_validate({**written(key), "secret": secret})


@router.delete(
    "/{id}",
    operation_id="delete_management_key",
    summary="Delete a key for this API",
    response_description="The key was deleted.",
)
async def delete_management_key(
    key_id: Annotated[str, Path(alias="id", max_length=100, description="The key's id.")],
    asked: Asked,
    accounts: Accounts,
) -> DeletedManagementKey:
    """Ends the key at once."""
    await accounts.change(lambda file: file.delete_management_key(key_id, asked.actor, asked.address))
    return DeletedManagementKey(id=key_id)


def written(key: ManagementRecord) -> Json:
    """A management key in the API's form, without its secret."""
    return {
        "id": key.id,
        "name": key.name,
        "scope": key.scope,
        "created_at": moment(key.created_at),
        "redacted_value": f"{MANAGEMENT}{key.id}-...{key.tail}",
    }
