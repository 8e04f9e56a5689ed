"""GET /admin/v1/audit: who changed what, when and from where."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from ...core.types import Json
from ...storage.key_records import AuditEntry
from ..forms import ListOf, Moment, Pages, listed, moment, unknown_after
from ..routes import OperatorRoute
from .store import Accounts


class AuditLine(BaseModel):
    """A change of a key, a team or a management key."""

    object: Literal["audit"] = "audit"
    id: str
    time: Moment
    actor: str = Field(description="`operator`, a management key's name, or `command line`.")
    address: str | None = Field(description="From where the change came; null for the command line.")
    action: str = Field(examples=["key.create", "key.rotate", "team.edit"])
    object_id: str
    changes: dict[str, Any] = Field(description="The new values; never a secret.")


class AuditList(ListOf[AuditLine]):
    """A page of changes, the latest first."""


router = APIRouter(route_class=OperatorRoute, tags=["audit"])


@router.get("/audit", operation_id="audit", summary="Who changed what", response_description="A page of changes.")
async def audit(accounts: Accounts, pages: Pages) -> AuditList:
    """The latest first."""
    if pages.after is not None and not (pages.after.isascii() and pages.after.isdecimal() and len(pages.after) < 19):
        raise unknown_after(pages.after)
    after = None if pages.after is None else int(pages.after)
    entries = await accounts.read(lambda file: file.audit(after, pages.limit + 1))
    data = [_written(entry) for entry in entries[: pages.limit]]
    return AuditList.model_validate(listed(data, [each["id"] for each in data], len(entries) > pages.limit))


def _written(entry: AuditEntry) -> Json:
    changes = dict(entry.changes)
    if isinstance(changes.get("expires_at"), int):
        changes["expires_at"] = moment(changes["expires_at"])
    return {**entry._asdict(), "id": str(entry.id), "time": moment(entry.time), "changes": changes}
