"""/admin/v1/teams: teams, of the ledger's file and of the configuration."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from ...config.accounts import BudgetSettings, LimitsSettings, TeamChanges, TeamFields
from ...core.errors import NotFound
from ...core.names import shown
from ...core.types import Json
from ...storage.key_records import TeamRecord
from ..forms import ListOf, Moment, Pages, moment_or_none
from ..openapi import refusals
from ..operators import Operator
from ..routes import Asked, OperatorRoute, TeamRoute
from .store import Accounts, IdempotencyKey, read_only


class TeamEntry(BaseModel):
    """A team. Its limits and budgets hold for all its keys together."""

    object: Literal["team"] = "team"
    id: str
    name: str
    disabled: bool = Field(description="True if no call of its keys is taken.")
    created_at: Moment | None = Field(description="Null for a team of the configuration.")
    limits: LimitsSettings
    budgets: list[BudgetSettings]
    metadata: dict[str, str]
    declared: bool = Field(description="True for a team of the configuration, which only a reload changes.")


class TeamList(ListOf[TeamEntry]):
    """A page of teams."""


class DeletedTeam(BaseModel):
    object: Literal["team.deleted"] = "team.deleted"
    id: str
    deleted: Literal[True] = True


TeamId = Annotated[str, Path(alias="id", max_length=100, description="The team's id.")]

# A team's own management key sees the team; only an admin changes what it may spend.
seen = APIRouter(route_class=TeamRoute, prefix="/teams", tags=["teams"])
changed = APIRouter(route_class=OperatorRoute, prefix="/teams", tags=["teams"])


@seen.get("", operation_id="list_teams", summary="The teams", response_description="A page of the teams.")
async def list_teams(asked: Asked, accounts: Accounts, pages: Pages) -> TeamList:
    """Teams of the configuration first, then the others in the order in which they were created."""
    chosen = [team for team in (await accounts.snapshot()).teams.values() if asked.sees(team.id)]
    return TeamList.model_validate(pages.page(chosen, lambda team: team.id, written))


@changed.post(
    "",
    operation_id="create_team",
    status_code=201,
    summary="Create a team",
    response_description="The team.",
    openapi_extra=refusals(409),
)
async def create_team(
    body: TeamFields, asked: Asked, accounts: Accounts, idempotency: IdempotencyKey = None
) -> TeamEntry:
    """If the request is repeated with the same Idempotency-Key, within a day, the answer is the team of then."""
    fields = body.stored()
    team = await accounts.change(lambda file: file.create_team(fields, asked.actor, asked.address, idempotency))
    return TeamEntry.model_validate(written(team))


@seen.get("/{id}", operation_id="get_team", summary="One team", response_description="The team.")
async def get_team(team_id: TeamId, asked: Asked, accounts: Accounts) -> TeamEntry:
    """A team by its id."""
    return TeamEntry.model_validate(written(await found(accounts, asked, team_id)))


@changed.patch(
    "/{id}",
    operation_id="edit_team",
    summary="Change a team",
    response_description="The team after the change.",
    openapi_extra=refusals(409),
)
async def edit_team(team_id: TeamId, body: TeamChanges, asked: Asked, accounts: Accounts) -> TeamEntry:
    """A field that is absent stays as it is, and null clears it; so it is with each of the `limits`. `budgets` and
    `metadata` are replaced. The change holds for calls from now on, in all processes."""
    read_only(await found(accounts, asked, team_id), "team")
    changes = body.stored()
    team = await accounts.change(lambda file: file.edit_team(team_id, changes, asked.actor, asked.address))
    return TeamEntry.model_validate(written(team))


@changed.delete(
    "/{id}",
    operation_id="delete_team",
    summary="Delete a team",
    response_description="The team was deleted.",
    openapi_extra=refusals(409),
)
async def delete_team(team_id: TeamId, asked: Asked, accounts: Accounts) -> DeletedTeam:
    """A team that has keys cannot be deleted: move or revoke them first. Its rows stay in the ledger."""
    read_only(await found(accounts, asked, team_id), "team")
    await accounts.change(lambda file: file.delete_team(team_id, asked.actor, asked.address))
    return DeletedTeam(id=team_id)


async def found(accounts: Accounts, asked: Operator, team_id: str) -> TeamRecord:
    """Raises NotFound, also for a team that the asker does not see."""
    team = (await accounts.snapshot()).teams.get(team_id)
    if team is None or not asked.sees(team.id):
        raise NotFound(
            f"there is no team with the id '{shown(team_id)}'; GET /admin/v1/teams lists the ids", param="id"
        )
    return team


def written(team: TeamRecord) -> Json:
    """A team in the API's form."""
    fields = team.fields
    return {
        "id": team.id,
        "name": team.name,
        "disabled": team.disabled,
        "created_at": moment_or_none(team.created_at),
        "limits": fields.get("limits", {}),
        "budgets": fields.get("budgets", []),
        "metadata": fields.get("metadata", {}),
        "declared": team.declared,
    }
