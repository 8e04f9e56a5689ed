"""/admin/v1/classifiers: who owns which classifier, which have no owner, and giving one to a key or a team."""

from __future__ import annotations

import time
from typing import Annotated, Literal
from uuid import uuid4

import msgspec
from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field

from ...core.errors import InvalidRequest, NotFound
from ...core.names import shown
from ...core.types import Json
from ...gateway.classifiers import OPEN, Classifiers
from ...routing.key_state import fingerprint
from ...storage.classifiers import ClassifierRow
from ...storage.key_records import KeySnapshot
from ..forms import Form, Moment, moment_or_none
from ..http import new_id
from ..routes import Asked, InForce, OperatorRoute
from ..snapshots import Generation
from .store import Accounts, AccountStore

Orphan = Literal["unknown_outcome", "owner_gone", "unowned"]


class OwnedClassifier(BaseModel):
    """A classifier that was trained here, or that an account has."""

    object: Literal["classifier"] = "classifier"
    classifier_id: str | None = Field(description="Null if the training call had no answer.")
    key: str | None = Field(description="The public id of the key that trained it; `open` while the gateway was open.")
    team: str | None = Field(description="The owner, if it is a team.")
    upstream: str
    account: str = Field(description="The alias of the upstream's key.")
    model: str | None
    labels: list[str]
    created_at: Moment | None
    state: Literal["training", "unknown", "ready", "deleted"]
    orphan: Orphan | None = Field(description="Why nobody can use it; null if somebody can.")


class OwnedClassifiers(BaseModel):
    object: Literal["list"] = "list"
    data: list[OwnedClassifier]
    unasked: list[str] = Field(description="The aliases of the keys whose accounts could not be asked.")


class Adoption(Form):
    """The new owner: a key or a team."""

    key: str | None = None
    team: str | None = None


router = APIRouter(route_class=OperatorRoute, prefix="/classifiers", tags=["classifiers"])

ClassifierId = Annotated[str, Path(alias="id", max_length=256, description="The classifier's id.")]


@router.get(
    "",
    operation_id="list_owned_classifiers",
    summary="The classifiers and their owners",
    response_description="All of them, the oldest first.",
)
async def list_owned_classifiers(
    now: InForce,
    accounts: Accounts,
    orphans: Annotated[
        bool, Query(description="Only those that nobody here can use. The provider's accounts are asked for this.")
    ] = False,
) -> OwnedClassifiers:
    """The classifiers that were trained here and not deleted. With `orphans` also those that only the accounts know."""
    known = await accounts.snapshot()
    rows = [row for row in await now.gateway.client.classifiers.rows() if row.state != "deleted"]
    data = [_written(row, _orphan(row, known, now)) for row in rows]
    unasked: list[str] = []
    if orphans:
        found, unasked = await now.gateway.client.classifiers.unowned(new_id())
        data = [entry for entry in data if entry["orphan"]]
        data += [_unowned(held.upstream, held.key.alias, entry) for held, entry in found]
    return OwnedClassifiers.model_validate({"data": data, "unasked": unasked})


@router.post(
    "/{id}/adopt",
    operation_id="adopt_classifier",
    summary="Give a classifier to a key or a team",
    response_description="The classifier with its new owner.",
)
async def adopt_classifier(
    classifier: ClassifierId, body: Adoption, asked: Asked, accounts: Accounts, now: InForce
) -> OwnedClassifier:
    """One that was trained here, or that an account of the gateway has. The owner before loses it."""
    owner = _owner(body, await accounts.snapshot(), now)
    row = await _row(now.gateway.client.classifiers, classifier)
    row = row._replace(key_id=owner[0], team=owner[1], state="ready")
    changes = {"classifier_id": classifier, "key": body.key, "team": body.team}
    await now.gateway.client.classifiers.adopt(row, (AccountStore.now_ms(), asked.actor, asked.address, changes))
    return OwnedClassifier.model_validate(_written(row, None))


async def _row(classifiers: Classifiers, classifier: str) -> ClassifierRow:
    """The row of a classifier, a new one if an account has it and nobody owns it. Raises NotFound."""
    rows = [row for row in await classifiers.rows() if row.classifier_id == classifier and row.state != "deleted"]
    if rows:
        return rows[0]
    found, unasked = await classifiers.unowned(new_id())
    for held, entry in found:
        if entry["classifier_id"] == classifier:
            written = _unowned(held.upstream, held.key.alias, entry)
            return ClassifierRow(
                uuid4().hex,
                classifier,
                OPEN,
                None,
                held.upstream,
                held.key.alias,
                fingerprint(held.upstream, held.key),
                written["model"] or "",
                msgspec.json.encode(written["labels"]).decode(),
                time.time_ns() // 1_000_000,
                "ready",
            )
    silent = f" (no answer from {', '.join(unasked)})" if unasked else ""
    raise NotFound(
        f"no account of this gateway has the classifier '{shown(classifier)}'{silent}; "
        "GET /admin/v1/classifiers?orphans=true lists those without an owner",
        param="id",
    )


def _owner(body: Adoption, known: KeySnapshot, now: Generation) -> tuple[str, str | None]:
    """The key and the team for the row. Raises InvalidRequest."""
    if (body.key is None) == (body.team is None):
        raise InvalidRequest("send either key or team, the id of the new owner", param="key")
    if body.team is not None:
        if body.team not in known.teams:
            raise InvalidRequest(f"there is no team with the id '{shown(body.team)}'", param="team")
        return OPEN, body.team
    assert body.key is not None
    if not _is_there(body.key, known, now):
        raise InvalidRequest(f"there is no key with the id '{shown(body.key)}'", param="key")
    return body.key, None


def _is_there(key: str, known: KeySnapshot, now: Generation) -> bool:
    """True for a key that was not revoked, a caller of the configuration, or everybody while the gateway is open."""
    record = known.keys.get(key)
    if record is not None:
        return record.revoked_at is None
    callers = {caller.name for caller in now.settings.callers} | ({"default"} if now.settings.caller_key else set())
    return key in callers or (key == OPEN and now.callers.open)


def _orphan(row: ClassifierRow, known: KeySnapshot, now: Generation) -> Orphan | None:
    late = row.created_at < AccountStore.now_ms() - now.settings.timeouts.total_seconds * 1000
    if row.state == "unknown" or (row.state == "training" and late):
        return "unknown_outcome"
    there = row.team in known.teams if row.team is not None else _is_there(row.key_id, known, now)
    return None if there else "owner_gone"


def _written(row: ClassifierRow, orphan: Orphan | None) -> Json:
    """A row in the API's form."""
    return {
        "classifier_id": row.classifier_id,
        "key": row.key_id if row.team is None or row.key_id != OPEN else None,
        "team": row.team,
        "upstream": row.upstream,
        "account": row.account,
        "model": row.model or None,
        "labels": msgspec.json.decode(row.labels),
        "created_at": moment_or_none(row.created_at),
        "state": row.state,
        "orphan": orphan,
    }


def _unowned(upstream: str, account: str, entry: Json) -> Json:
    """A classifier of an account, in the API's form."""
    model = entry.get("model") or entry.get("model_name")
    labels = entry.get("labels")
    return {
        "classifier_id": entry["classifier_id"],
        "key": None,
        "team": None,
        "upstream": upstream,
        "account": account,
        "model": model if isinstance(model, str) else None,
        "labels": [str(label) for label in labels] if isinstance(labels, list) else [],
        "created_at": None,
        "state": "ready",
        "orphan": "unowned",
    }
