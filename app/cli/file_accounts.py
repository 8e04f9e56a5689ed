"""Keys and teams in the ledger's file, for the commands while no gateway is asked: the same forms as its API's."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from pydantic import BaseModel

from ..callers.accounts import ORGANIZATION, Accounts
from ..callers.calendar import Calendar
from ..callers.registry import Registry
from ..config.accounts import KeyChanges, KeyFields, TeamChanges, TeamFields
from ..config.settings import Settings
from ..core.types import Json
from ..gateway.build import build_callers
from ..server.admin import keys, limits, management_keys, teams
from ..server.forms import moment
from ..server.standings import left
from ..storage.errors import NoFile, StoreError
from ..storage.key_records import AuditEntry, KeyRecord, KeySnapshot, TeamRecord
from ..storage.keys import KeyFile, NotChanged
from ..storage.ledger_file import LedgerFile
from ..storage.location import Location
from .bodies import checked, option
from .options import Wrong

ACTOR = "command line"
Form = TypeVar("Form", bound=BaseModel)
SINGULAR = {"keys": "key", "teams": "team"}


class FileAccounts:
    """``path`` is the ledger's file, which is created or migrated before the first change. What the configuration
    declares is listed too, and cannot be changed."""

    def __init__(self, path: Location, settings: Settings) -> None:
        self._path = path
        self._settings = settings

    def entries(self, kind: str, most: int = sys.maxsize) -> list[Json]:
        if kind == "audit":
            with self._store_errors():
                return [_entry(line) for line in self._store().audit(None, most)]
        now, known = _now_ms(), self._known()
        if kind == "keys":
            found = [keys.written(key, now) for key in known.keys.values()]
            found.sort(key=_created)
        elif kind == "teams":
            found = [teams.written(team) for team in known.teams.values()]
            found.sort(key=_created)
        else:
            found = [management_keys.written(key) for key in known.registry.now.management.values()]
        return found[:most]

    def create(self, kind: str, body: Json) -> Json:
        if kind == "keys":
            with self._store_errors(writing=True):
                key, secret = self._store().create_key(KeyFields.model_validate(body).stored(), ACTOR, None)
            return {**keys.written(key, _now_ms()), "secret": secret}
        if kind == "teams":
            with self._store_errors(writing=True):
                return teams.written(self._store().create_team(TeamFields.model_validate(body).stored(), ACTOR, None))
        given = checked(management_keys.ManagementFields, body)
        with self._store_errors(writing=True):
            made, secret = self._store().create_management_key(given, ACTOR, None)
        return {**management_keys.written(made), "secret": secret}

    def edit(self, kind: str, entry: str, changes: Json) -> Json:
        self._changeable(kind, entry)
        with self._store_errors(writing=True):
            if kind == "keys":
                key = self._store().edit_key(entry, KeyChanges.model_validate(changes).stored(), ACTOR, None)
                return keys.written(key, _now_ms())
            given = TeamChanges.model_validate(changes).stored()
            return teams.written(self._store().edit_team(entry, given, ACTOR, None))

    def delete(self, kind: str, entry: str) -> Json:
        self._changeable(kind, entry)
        store = self._store()
        verb = {"keys": store.revoke_key, "teams": store.delete_team, "management_keys": store.delete_management_key}
        with self._store_errors(writing=True):
            verb[kind](entry, ACTOR, None)
        return {"id": entry, "deleted": True}

    def rotate(self, entry: str, grace_seconds: int) -> Json:
        self._changeable("keys", entry)
        checked(keys.Rotation, {"grace_seconds": grace_seconds})
        with self._store_errors(writing=True):
            key, secret = self._store().rotate_key(entry, grace_seconds, ACTOR, None)
        return {**keys.written(key, _now_ms()), "secret": secret}

    def left(self, kind: str, entry: str) -> list[Json]:
        known = self._known()
        scopes = limits.scopes_of(KeySnapshot(keys=known.keys, teams=known.teams), self._settings)
        own = scopes.get(f"{kind}:{entry}")  # a revoked key has none
        names = [f"{kind}:{entry}"] if own else []
        names += [f"team:{own.team}", ORGANIZATION] if own and kind == "key" else []
        calendar = Calendar(self._settings.time_zone, self._settings.week_begins)
        with self._store_errors():
            try:
                return left(self._path, [scopes[name].scope for name in names if name in scopes], calendar)
            except NoFile:
                return []  # nothing was used yet

    def _known(self) -> Accounts:
        """All that is there, of the file and of the configuration. Raises Wrong if the file cannot be read."""
        registry = Registry(self._path)
        try:
            if registry.trouble:
                raise Wrong(f"the ledger {self._path} cannot be read: {registry.trouble}.")
            return build_callers(self._settings, registry)
        finally:
            registry.close()

    def _store(self) -> KeyFile:
        store = self._known().store
        assert store is not None
        return store

    def _changeable(self, kind: str, entry: str) -> None:
        """Raises Wrong for what the configuration declares."""
        known = self._known()
        tables: dict[str, Mapping[str, KeyRecord | TeamRecord]] = {"keys": known.keys, "teams": known.teams}
        found = tables.get(kind, {}).get(entry)
        if found is not None and found.declared:
            raise Wrong(f"the {SINGULAR[kind]} {found.name} is of the configuration: change it there.")

    @contextmanager
    def _store_errors(self, *, writing: bool = False) -> Iterator[None]:
        """Raises Wrong for what does not fit, and if the file cannot be used."""
        try:
            if writing:
                LedgerFile(self._path).close()
            yield
        except NotChanged as error:
            raise Wrong(f"{option(error.field)}: {error}." if error.field else f"{error}.") from None
        except NoFile as error:
            raise Wrong(f"no ledger at {self._path}: {error}.") from None
        except StoreError as error:
            raise Wrong(f"the ledger {self._path} cannot be used: {error}.") from None


def _created(entry: Json) -> bool:
    """Declarations of the configuration come first, as from the API."""
    return not entry["declared"]


def _entry(line: AuditEntry) -> Json:
    changes = dict(line.changes)
    if isinstance(changes.get("expires_at"), int):
        changes["expires_at"] = moment(changes["expires_at"])
    return {"object": "audit", **line._asdict(), "id": str(line.id), "time": moment(line.time), "changes": changes}


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
