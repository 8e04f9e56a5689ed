"""The callers of one configuration: its callers, its declared keys and teams, and the created ones."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from ipaddress import ip_network
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from ..config.accounts import TeamSettings, VirtualKeySettings
from ..core.errors import StorageUnavailable, ToriiError
from ..core.money import DOLLAR
from ..storage.key_records import Fields, KeyRecord, KeySnapshot, SecretRecord, TeamRecord
from ..storage.keys import OF_KEYS, OF_TEAMS, DeclaredNames, KeyFile
from .keys import Caller, Callers, KnownKey, Refusal
from .limits import Budget, Limits, Scope
from .permissions import Permissions, Proxies
from .registry import Registry
from .virtual_key import ID, SECRET, Mistyped, base62, new, parse

logger = logging.getLogger("torii.keys")

ORGANIZATION = "organization"

Made = tuple[KeyRecord, TeamRecord | None, tuple[KnownKey, ...]]


class ConfiguredCaller(NamedTuple):
    """A caller of the configuration; ``fields`` may have limits and budgets."""

    name: str
    digest: bytes
    fields: Fields


class Configured(NamedTuple):
    """A configuration's part on callers. ``reachable``: other machines reach the gateway, so it is never open."""

    callers: tuple[ConfiguredCaller, ...] = ()
    keys: tuple[KeyRecord, ...] = ()
    teams: tuple[TeamRecord, ...] = ()
    organization: Fields = MappingProxyType({})
    proxies: tuple[str, ...] = ()
    reachable: bool = False


class Accounts(Callers):
    """The callers of a configuration and of the registry. ``keys`` and ``teams`` are all of them by id, the declared
    ones included; a declared one takes precedence over a created one with the same id."""

    def __init__(self, configured: Configured, registry: Registry) -> None:
        super().__init__(closed=True, proxies=Proxies(configured.proxies))
        self.registry = registry
        self.keys: Mapping[str, KeyRecord] = {}
        self.teams: Mapping[str, TeamRecord] = {}
        self._configured = configured
        self._organization = scope_of(ORGANIZATION, "the organization", configured.organization)
        self.anyone = Caller("open", scopes=self._organization)
        self._made: dict[str, Made] = {}
        registry.watch(self)

    @property
    def store(self) -> KeyFile | None:
        """The verbs that change keys and teams; None without a ledger. After a verb, call ``registry.changed``."""
        if self.registry.path is None:
            return None
        names = frozenset([key.name for key in self._configured.keys] + [name for name, *_ in self._configured.callers])
        return key_file(
            self.registry.path, DeclaredNames(names, {team.id: team.name for team in self._configured.teams})
        )

    def adopt(self, found: KeySnapshot) -> None:
        """Admit by these keys from now on. May run in any thread: what calls read is replaced at once."""
        given = self._configured
        teams = {**found.teams, **{team.id: team for team in given.teams}}
        keys = {**found.keys, **{key.id: key for key in given.keys}}
        shared = {team.id: self._shared(team) for team in teams.values()}
        self._made = {
            key.id: self._known(key, teams.get(key.team or ""), shared.get(key.team or "", self._organization))
            for key in keys.values()
        }
        known = {secret.digest: secret for *_, secrets in self._made.values() for secret in secrets}
        known |= {caller.digest: self._caller(caller) for caller in given.callers}
        self.keys, self.teams, self.known = keys, teams, known
        self.open = not (given.callers or given.keys or given.reachable or self.registry.created)

    async def look(self) -> None:
        await self.registry.look()

    def nobody(self) -> ToriiError:
        return super().nobody() if self.registry.loaded else _away()

    def unknown(self, key: bytes) -> ToriiError:
        """Of a virtual key nobody can tell whether it is right if the file could never be read."""
        with suppress(Mistyped):
            if not self.registry.loaded and parse(key.decode("latin-1")):
                return _away()
        return super().unknown(key)

    def _shared(self, team: TeamRecord) -> tuple[Scope, ...] | None:
        """The scopes that all keys of a team have; None if this Torii does not understand the team's limits."""
        try:
            return (*scope_of(f"team:{team.id}", team.name, team.fields), *self._organization)
        except (ValueError, TypeError, KeyError):
            return None

    def _known(self, key: KeyRecord, team: TeamRecord | None, shared: tuple[Scope, ...] | None) -> Made:
        """The secrets of a key; those made before if neither the key nor its team has changed."""
        made = self._made.get(key.id)
        if made is not None and made[:2] == (key, team):
            return made
        with suppress(ValueError, TypeError, KeyError):
            if shared is not None:
                return key, team, tuple(known_keys(key, team, shared))
        logger.error("the key %s or its team has fields that this Torii does not know; it is not admitted", key.id)
        return key, team, ()

    def _caller(self, caller: ConfiguredCaller) -> KnownKey:
        scopes = (*scope_of(f"key:{caller.name}", caller.name, caller.fields), *self._organization)
        return KnownKey(caller.digest, Caller(caller.name, caller.name, scopes=scopes))


def _away() -> StorageUnavailable:
    return StorageUnavailable(
        "this gateway cannot read its keys now; its operator must look at the ledger's file", retry_after=5
    )


def key_file(path: Path, declared: DeclaredNames | None = None) -> KeyFile:
    """The verbs over the keys of the file, which mint keys of our form."""
    return KeyFile(path, new, declared or DeclaredNames())


def declared_key(key: VirtualKeySettings) -> KeyRecord:
    """A key of the configuration in the form of a created one. Without an ``id``, it is the first 12 digits of the
    SHA-256 in base62."""
    fields = key.stored()
    return KeyRecord(
        key.id or base62(int(key.sha256, 16), SECRET)[:ID],
        key.name,
        key.team,
        None,
        fields.pop("expires_at", None),
        None,
        None,
        key.disabled,
        {name: value for name, value in fields.items() if name not in OF_KEYS},
        (SecretRecord(key.sha256, "", 0),),
        declared=True,
    )


def declared_team(team: TeamSettings) -> TeamRecord:
    """A team of the configuration in the form of a created one."""
    fields = {name: value for name, value in team.stored().items() if name not in ("id", *OF_TEAMS)}
    return TeamRecord(team.id, team.name, None, team.disabled, fields, declared=True)


def known_keys(key: KeyRecord, team: TeamRecord | None, shared: tuple[Scope, ...]) -> Iterator[KnownKey]:
    """The secrets of a key with their caller; ``shared`` are the scopes beside its own. Raises ValueError, TypeError or
    KeyError for fields of another Torii."""
    fields = key.fields
    expires = None if key.expires_at is None else key.expires_at / 1000
    caller = Caller(
        key.name,
        key.id,
        key.team,
        (*scope_of(f"key:{key.id}", key.name, fields), *shared),
        expires,
        permissions_of(fields),
        fields.get("on_disconnect"),
        fields.get("cache") == "private",
    )
    refused, expired = _refused(key, team), expires and Refusal("key_expired", f"expired at {_written(expires)}")
    for secret in key.secrets:
        until, ended = expires, expired or None
        if secret.valid_until is not None and (until is None or secret.valid_until / 1000 < until):
            until = secret.valid_until / 1000
            ended = Refusal("key_revoked", f"was replaced by a rotation, and its grace ended at {_written(until)}")
        yield KnownKey(bytes.fromhex(secret.hash), caller, refused, until, ended)


def _refused(key: KeyRecord, team: TeamRecord | None) -> Refusal | None:
    if key.revoked_at is not None:
        return Refusal("key_revoked", f"was revoked at {_written(key.revoked_at / 1000)}")
    if key.disabled:
        return Refusal("key_disabled", "is disabled")
    if key.team is not None and team is None:
        return Refusal("key_disabled", f"belongs to the team {key.team}, which does not exist any more")
    if team is not None and team.disabled:
        return Refusal("key_disabled", f"belongs to the team {team.name} ({team.id}), which is disabled")
    return None


def _written(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


def scope_of(scope: str, name: str, fields: Fields) -> tuple[Scope, ...]:
    """The scope of the limits and budgets among the fields, as they are stored; none without any."""
    limits, budgets = fields.get("limits") or {}, fields.get("budgets") or ()
    if not budgets and all(limit is None for limit in limits.values()):
        return ()
    return (Scope(scope, name, Limits(**limits), tuple(map(budget_of, budgets))),)


def budget_of(fields: Fields) -> Budget:
    """A budget in its stored form, with dollars as a decimal string, as Budget."""
    amount = Decimal(str(fields["amount"])) * (DOLLAR if fields["unit"] == "usd" else 1)
    lists = {name: tuple(fields[name]) for name in ("endpoints", "models", "warn_at") if fields.get(name) is not None}
    return Budget(fields["unit"], int(amount), fields["window"], **lists)


def permissions_of(fields: Fields) -> Permissions | None:
    """The permissions in the stored fields of a key; None if everything is allowed."""
    networks = fields.get("allowed_ips")
    found = Permissions(
        _tuple(fields.get("allowed_models")),
        _tuple(fields.get("allowed_endpoints")),
        None if networks is None else tuple(map(ip_network, networks)),
    )
    return None if found == Permissions() else found


def _tuple(values: Iterable[str] | None) -> tuple[str, ...] | None:
    return None if values is None else tuple(values)
