"""Classifiers: whose each is, the one account that has it, and the requests about it that no model answers.

locate    a call that names a classifier -> the same call with the classifier's model and its only route
begin     before a classifier is trained: a row, so that none is lost; its end or failure changes the row
listed    the caller's own, of all accounts that have some
delete    at the account that has it
unowned   for the operator: what the accounts have and nobody here owns

Whoever is not the owner learns nothing: an id of others is as unknown as one that does not exist.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from ..callers.keys import Caller
from ..core.classifiers import (
    ABOUT_CLASSIFIERS,
    CLASSIFIER,
    CLASSIFIERS,
    ClassifierAccountMissing,
    ClassifyCall,
    TrainCall,
    no_such_classifier,
)
from ..core.errors import InvalidRequest, StorageUnavailable, ToriiError, UpstreamError, UpstreamMisplaced
from ..core.types import Call, Json, Key, Model, Reply, Request, Route, Target
from ..routing.key_state import fingerprint
from ..routing.limits import Cost
from ..routing.pool import Pool
from ..routing.table import Account, RouteTable
from ..storage.classifiers import ClassifierBook, ClassifierRow
from ..storage.errors import StoreError
from ..upstreams import Jina
from ..upstreams import classifier as wire
from ..upstreams.client.client import Client
from ..upstreams.errors import failure
from ..usage.record import CallRecord, Use

logger = logging.getLogger("torii.classifiers")

OPEN = "open"  # the owner of what was made while the gateway was open
FREE = {"total_tokens": 0}  # the usage of a request about classifiers
NO_MODEL = Model(id=CLASSIFIER, endpoints=("classify",))


class HeldAt(NamedTuple):
    """An account of the provider: an upstream and one of its keys."""

    account: Account
    jina: Jina
    key: Key

    @property
    def upstream(self) -> str:
        return self.jina.name

    @property
    def target(self) -> Target:
        """The target of a request that no model answers."""
        return Target(self.jina, NO_MODEL, CLASSIFIER, self.key, pinned=True)


class Update:
    """The labels of a classifier that is trained further: added to its row, as it is then, when the call has ended."""

    def __init__(self, book: ClassifierBook, classifier: str, labels: list[str]) -> None:
        self._book, self._classifier, self._labels = book, classifier, labels

    async def end(self, answer: Json) -> None:
        """The provider has answered. The owner may be another by now, or the classifier may be deleted."""
        with suppress(StoreError):
            if (row := await self._book.find(self._classifier)) is not None:
                labels = dict.fromkeys([*msgspec.json.decode(row.labels), *self._labels])
                await self._book.put(row._replace(labels=_json(list(labels))))

    def __enter__(self) -> Update:
        return self

    def __exit__(self, *_: object) -> None: ...


class Training:
    """The row of a new classifier while its call is under way; a context that says how the call ended."""

    def __init__(self, book: ClassifierBook, row: ClassifierRow, use: Use) -> None:
        self._book, self._row, self._use = book, row, use
        self._made: ClassifierRow | None = None
        self._ended = False

    async def end(self, answer: Json) -> None:
        """The provider has answered."""
        self._made = self._row._replace(classifier_id=answer["classifier_id"], state="ready")
        try:
            await self._book.put(self._made)
        except StoreError:
            self._book.put_later(self._made, self._row)
        self._ended = True

    def __enter__(self) -> Training:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or self._ended:
            return
        if self._made is not None:  # answered, and the caller left while that was written
            self._book.put_later(self._made, self._row)
        elif self._nothing_was_made(error):
            self._book.forget(self._row.request_id)
        else:
            self._book.put_later(self._row._replace(state="unknown"), self._row)

    def _nothing_was_made(self, error: BaseException) -> bool:
        return not self._use.reached or (isinstance(error, UpstreamError) and not error.accepted)


@dataclass(slots=True)
class Classifiers:
    """The classifiers of one configuration. ``foreign``: callers may use classifiers that nobody here owns."""

    book: ClassifierBook
    routes: RouteTable
    pools: Mapping[str, Pool]
    http: Client
    foreign: bool = False

    # ---------------------------------------------------------------- calls

    async def locate(self, call: Call, caller: Caller) -> Call:
        """The call, with its model and its route if it names a classifier.

        Raises ClassifierNotFound, StorageUnavailable, InvalidRequest for another model than the classifier's, and
        ClassifierAccountMissing.
        """
        assert isinstance(call, ClassifyCall | TrainCall)  # the endpoints whose calls may be owned
        if not call.classifier:
            return call
        row = await self._found(call.classifier)
        if row is None and self.foreign and isinstance(call, ClassifyCall):
            return replace(call, model=call.model or CLASSIFIER, route=self._anywhere())
        if row is None or not owns(caller, row):
            raise no_such_classifier()
        target = self._target(row)
        if call.model and self.routes.find(call.model).model.id != target.model.id:
            raise InvalidRequest(
                f"the classifier was trained for {target.model.id}, which cannot be changed: leave model out",
                param="model",
            )
        return replace(call, model=row.model, route=Route(target.model, (target,)))

    async def begin(self, part: Call, target: Target, record: CallRecord, use: Use) -> Training | Update:
        """Writes down who trains what, before it is sent. Raises StorageUnavailable: then nothing is sent."""
        assert isinstance(part, TrainCall)
        if part.classifier:
            return Update(self.book, part.classifier, part.labels)
        fresh = ClassifierRow(
            record.request_id,
            None,
            record.payer.key_id or OPEN,
            record.payer.team,
            target.upstream.name,
            target.key.alias,
            fingerprint(target.upstream.name, target.key),
            target.model.id,
            _json(part.labels),
            time.time_ns() // 1_000_000,
            "training",
        )
        try:
            await self.book.put(fresh)
        except StoreError:
            self.book.forget(fresh.request_id)  # it may have been written after all
            raise _unwritten() from None
        return Training(self.book, fresh, use)

    # ---------------------------------------------------------------- requests about classifiers

    async def listed(self, caller: Caller, record: CallRecord) -> list[Json]:
        """The caller's own, as the provider describes them, without the ids of the provider's users. ``record`` is that
        of the call, as in ``delete``. Raises UpstreamError, StorageUnavailable."""
        own = {row.classifier_id: row for row in await self.rows() if row.state == "ready" and owns(caller, row)}
        places = {}
        for row in own.values():
            if (held := self._held(row)) is not None:
                places[held.key.alias] = held
        found: dict[str, Json] = {}
        for held in places.values():
            for entry in await self._ask_list(held, record):
                mine = own.get(entry["classifier_id"])
                if mine is not None and mine.upstream == held.upstream:
                    found.setdefault(entry["classifier_id"], _shown(entry))
        return list(found.values())

    async def delete(self, classifier: str, caller: Caller, record: CallRecord) -> None:
        """Deletes a classifier of the caller. Raises ClassifierNotFound, and as ``listed``."""
        row = await self._found(classifier)
        if row is None or not owns(caller, row):
            raise no_such_classifier()
        held = self._held(row)
        if held is None:
            raise _no_account(row)
        request = wire.delete_request(held.jina.base_url, classifier, held.key, record.request_id)
        try:
            wire.check_deleted(await self._send(held, request, record), held.upstream)
        except UpstreamError as error:
            if error.status == 404:  # it was deleted elsewhere
                self.book.put_later(row._replace(state="deleted"), row)
                raise no_such_classifier() from None
            raise
        try:
            await self.book.put(row._replace(state="deleted"))
        except StoreError:
            self.book.put_later(row._replace(state="deleted"), row)

    # ---------------------------------------------------------------- the operator

    async def rows(self) -> list[ClassifierRow]:
        """Raises StorageUnavailable."""
        try:
            return await self.book.rows()
        except StoreError as error:
            raise StorageUnavailable(f"the ledger's file: {error}") from None

    async def unowned(self, request_id: str) -> tuple[list[tuple[HeldAt, Json]], list[str]]:
        """The classifiers that the accounts have and nobody here owns, each once; and the aliases of the keys whose
        accounts could not be asked. Raises StorageUnavailable."""
        known = {row.classifier_id for row in await self.rows() if row.state != "deleted"}
        found: dict[str, tuple[HeldAt, Json]] = {}
        failed = []
        asking = CallRecord(request_id, "operator", ABOUT_CLASSIFIERS)  # which nobody records
        for held in self._places():
            try:
                for entry in await self._ask_list(held, asking):
                    if entry["classifier_id"] not in known:
                        found.setdefault(entry["classifier_id"], (held, _shown(entry)))
            except ToriiError as error:
                logger.warning("%s: the classifiers of key %s are unknown: %s", held.upstream, held.key.alias, error)
                failed.append(held.key.alias)
        return list(found.values()), failed

    async def adopt(self, row: ClassifierRow, line: tuple[int, str, str | None, Json]) -> None:
        """Writes a row with its new owner, and a line of the audit: time, actor, address and changes. If nobody here
        knew the classifier, the row of a call of unknown outcome that may have made it is deleted. Raises
        StorageUnavailable."""
        at, actor, address, changes = line
        before = await self.rows()
        try:
            await self.book.put(row)
        except StoreError as error:
            raise StorageUnavailable(f"the ledger's file: {error}") from None
        self.book.audit((at, actor, address, "classifier.adopt", str(row.classifier_id), _json(changes)))
        if any(other.request_id == row.request_id for other in before):
            return
        for other in before:
            if other.state == "unknown" and other[4:9] == row[4:9]:
                self.book.forget(other.request_id)
                break

    # ---------------------------------------------------------------- accounts

    async def _found(self, classifier: str) -> ClassifierRow | None:
        """The row of a classifier that was not deleted. Raises StorageUnavailable."""
        try:
            row = await self.book.find(classifier)
        except StoreError as error:
            raise StorageUnavailable(f"the ledger's file: {error}") from None
        return row if row is not None and row.state == "ready" else None

    def _target(self, row: ClassifierRow) -> Target:
        """The only target for a classifier. Raises ClassifierAccountMissing, and ModelNotFound for a disabled model."""
        held = self._held(row)
        if held is None:
            raise _no_account(row)
        route = self.routes.find(row.model)
        names = [target.name for target in route.targets if target.upstream.name == row.upstream]
        name = names[0] if names else held.account.asked(row.model)
        return Target(held.jina, route.model, name, held.key, listed=True, pinned=True)

    def _held(self, row: ClassifierRow) -> HeldAt | None:
        """The account that has a classifier: the one of the same key, else of a key of the same name, which may have
        replaced it; None if neither is configured."""
        of_upstream = [held for held in self._places() if held.upstream == row.upstream]
        same = (held for held in of_upstream if fingerprint(held.upstream, held.key) == row.fingerprint)
        named = (held for held in of_upstream if held.key.alias == row.account)
        return next(same, None) or next(named, None)

    def _places(self) -> Iterable[HeldAt]:
        for name, account in self.routes.accounts.items():
            if isinstance(account.upstream, Jina):
                for state in self.pools[name].states:
                    yield HeldAt(account, account.upstream, state.key)

    def _anywhere(self) -> Route:
        """The route of a classifier that nobody here owns. Raises ClassifierNotFound without an upstream for it."""
        targets = {held.upstream: held.account.target(NO_MODEL, listed=False) for held in self._places()}
        if not targets:
            raise no_such_classifier()
        return Route(NO_MODEL, tuple(targets.values()))

    async def _ask_list(self, held: HeldAt, record: CallRecord) -> list[Json]:
        request = wire.list_request(held.jina.base_url, held.key, record.request_id)
        try:
            return wire.listed(await self._send(held, request, record), held.upstream)
        except UpstreamError as error:
            if error.status == 404:
                raise UpstreamMisplaced(
                    f"{held.upstream} has no list of classifiers; upstreams.{held.upstream}.base_url in the gateway's "
                    "configuration may be wrong, for example without /v1"
                ) from None
            raise

    async def _send(self, held: HeldAt, request: Request, record: CallRecord) -> Reply:
        """The answer with a status of success. Raises UpstreamError."""
        pool = self.pools[held.upstream]
        others = {state.key.alias for state in pool.states} - {held.key.alias}
        lease = await pool.lease(Cost(api=CLASSIFIERS.api), others)
        with lease:
            use = record.ask(held.target)

            def before_send() -> None:
                lease.check()
                use.send(record.call)

            try:
                reply = await self.http.send(request, record.started, before_send)
                if reply.status >= 300:
                    raise wire.refused(reply, held.upstream, of_one=True) or failure(reply, upstream=held.upstream)
            except UpstreamError as error:
                error.upstream = held.upstream
                use.fail(record.call, error)
                raise
            use.end(record.call, FREE)
        return reply


def owns(caller: Caller, row: ClassifierRow) -> bool:
    """True if the classifier belongs to the caller's team, or without a team to the caller."""
    return row.team == caller.team if row.team is not None else row.key_id == (caller.id or OPEN)


def _no_account(row: ClassifierRow) -> ClassifierAccountMissing:
    return ClassifierAccountMissing(
        f"the account that has this classifier, {row.account}, is not in the gateway's configuration any more"
    )


def _unwritten() -> StorageUnavailable:
    return StorageUnavailable("the owner of a new classifier cannot be written down now, so it was not trained")


def _json(value: list[str] | Json) -> str:
    return msgspec.json.encode(value).decode()


def _shown(entry: Json) -> Json:
    return {name: value for name, value in entry.items() if name != "user_id"}
