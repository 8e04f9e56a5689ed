"""GET /admin/v1/limits: what is left of each limit and budget now, and when it frees."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from fastapi import APIRouter, Depends, Query

from ...callers.accounts import ORGANIZATION, scope_of
from ...callers.calendar import Calendar
from ...callers.limits import Scope
from ...config.settings import Settings
from ...core.errors import InvalidRequest
from ...core.names import shown
from ...gateway.shared_limits import SharedLimits
from ...storage.key_records import Fields, KeySnapshot
from ..forms import ListOf, Pages, listed
from ..operators import Operator
from ..routes import Asked, InForce, TeamRoute
from ..standings import Shared, Standing, left, scope_or_empty, shared_balances
from .store import Accounts


class StandingList(ListOf[Standing]):
    """A page of scopes."""


class Owned(NamedTuple):
    """A scope, and the id of the team that it belongs to."""

    scope: Scope
    team: str | None


class Whose:
    """Whose limits."""

    def __init__(
        self,
        key: Annotated[
            str | None, Query(max_length=100, description="Those that hold for the key with this id.")
        ] = None,
        team: Annotated[str | None, Query(max_length=100, description="Those of the team with this id.")] = None,
    ) -> None:
        if key is not None and team is not None:
            raise InvalidRequest("send key or team, not both", param="team")
        self.key, self.team = key, team


class Circumstances(NamedTuple):
    settings: Settings
    shared: SharedLimits | None


async def _known(now: InForce, shared: Shared) -> Circumstances:
    return Circumstances(now.settings, shared)


Known = Annotated[Circumstances, Depends(_known)]
router = APIRouter(route_class=TeamRoute, tags=["limits"])


@router.get(
    "/limits",
    operation_id="limits",
    summary="What is left of limits and budgets",
    response_description="A page of scopes.",
)
async def limits(
    whose: Annotated[Whose, Depends()], pages: Pages, asked: Asked, accounts: Accounts, known: Known
) -> StandingList:
    """With `key` the key, its team and the organization. With `team` the team. Without either all scopes: the
    organization, the teams, then the keys that are not revoked. A scope without limits and budgets has empty lists."""
    scopes = scopes_of(await accounts.snapshot(), known.settings)
    entries = [each.scope for each in _chosen(scopes, whose, asked)]
    page, has_more = pages.cut(entries, _id)
    calendar = Calendar(known.settings.time_zone, known.settings.week_begins)
    shared = await shared_balances(known.shared, page, calendar)
    data = await accounts.books.run(lambda path: left(path, page, calendar, shared))
    return StandingList.model_validate(listed(data, [scope.id for scope in page], has_more))


def scopes_of(found: KeySnapshot, settings: Settings) -> dict[str, Owned]:
    """All scopes by their ids: the organization, teams, callers of the configuration, keys that are not revoked."""
    organization = settings.organization.model_dump(mode="json", exclude_none=True)
    scopes = [Owned(_scope(ORGANIZATION, "the organization", organization), None)]
    scopes += [Owned(_scope(f"team:{team.id}", team.name, team.fields), team.id) for team in found.teams.values()]
    for caller in settings.callers:
        fields = caller.model_dump(mode="json", include={"limits", "budgets"}, exclude_none=True)
        scopes.append(Owned(_scope(f"key:{caller.name}", caller.name, fields), None))
    living = [key for key in found.keys.values() if key.revoked_at is None]
    scopes += [Owned(_scope(f"key:{key.id}", key.name, key.fields), key.team) for key in living]
    return {each.scope.id: each for each in scopes}


def _chosen(scopes: dict[str, Owned], whose: Whose, asked: Operator) -> list[Owned]:
    """Raises InvalidRequest for a key or team that there is not, or that the asker does not see."""
    seen = {name: each for name, each in scopes.items() if asked.sees(each.team)}
    kind, given = ("key", whose.key) if whose.key is not None else ("team", whose.team)
    if given is None:
        return list(seen.values())
    own = seen.get(f"{kind}:{given}")
    if own is None:
        living = " that is not revoked" if kind == "key" else ""
        raise InvalidRequest(f"{kind} must be the id of a {kind}{living}; it is '{shown(given)}'", param=kind)
    if kind == "team":
        return [own]
    others = [seen.get(name) for name in (f"team:{own.team}", ORGANIZATION)]
    return [own, *(each for each in others if each is not None)]


def _scope(scope: str, name: str, fields: Fields) -> Scope:
    return scope_or_empty(scope_of(scope, name, fields), scope, name)


def _id(scope: Scope) -> str:
    return scope.id
