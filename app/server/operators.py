"""The holders of the operator's API: the operator's key, and management keys, each with a scope."""

from __future__ import annotations

from dataclasses import dataclass

from ..callers.accounts import Accounts
from ..callers.keys import Callers, UnknownKey, digest, presented
from ..core.errors import PermissionDenied
from .http import HTTPExchange

ADMIN = "admin"
READ_ONLY = "read_only"
TEAM = "team:"


@dataclass(frozen=True, slots=True)
class Operator:
    """``actor``, the operator or a management key's name, and ``address`` are for the audit. ``scope`` is admin,
    read_only or team:ID."""

    actor: str
    scope: str
    address: str | None

    @property
    def team(self) -> str | None:
        """The id of the only team that it sees and changes; None for all."""
        return self.scope.removeprefix(TEAM) if self.scope.startswith(TEAM) else None

    def sees(self, team: str | None) -> bool:
        """True for its team and for the keys of it; ``team`` is None for what belongs to no team."""
        return self.team is None or self.team == team

    def only(self, team: str | None) -> str | None:
        """The team to report on, if ``team`` is asked for. Raises PermissionDenied if it is not its team."""
        if self.team is not None and team not in (None, self.team):
            raise PermissionDenied(f"this management key is for the team {self.team} only", param="team")
        return self.team or team

    def check(self, method: str, *, teams: bool) -> None:
        """Raises PermissionDenied if a route is not for this scope. ``teams``: the route is for the keys of teams."""
        if self.team is not None and not teams:
            raise PermissionDenied(
                f"this management key is for the team {self.team} only, which this path is not about"
            )
        if self.scope == READ_ONLY and method not in ("GET", "HEAD"):
            raise PermissionDenied("this management key is read_only: it may not change anything")


OPERATOR = "operator"
COMMAND_LINE = "command line"


async def operator_of(exchange: HTTPExchange, operator: Callers | None, accounts: Accounts) -> Operator | None:
    """Whom the request's key belongs to; None if there is neither an operator's key nor a management key, so that
    nobody can be. Raises Unauthorized."""
    registry = accounts.registry
    if operator is None and not registry.now.management:
        return None
    client = exchange.scope.get("client")
    found = accounts.proxies.address(exchange.headers, client[0] if client else None)
    address = None if found is None else str(found)
    hashed = digest(presented(exchange.headers))
    known = registry.management(hashed)
    if known is None:
        try:
            (operator or Callers(closed=True)).check(exchange.headers)
            return Operator(OPERATOR, ADMIN, address)
        except UnknownKey:
            await registry.look()
            known = registry.management(hashed)
            if known is None:
                raise
    return Operator(known.name, known.scope, address)
