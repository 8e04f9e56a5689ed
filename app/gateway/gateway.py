"""The whole life of a call, on one screen. The gateway orders the steps and decides nothing itself.

parse -> route -> the cached answer, the answer of an identical call under way, or that of the first target to answer:
    split -> request -> [network] -> reply -> merge -> render        embeddings, rerank, chat
    request -> [network] -> decode -> fold -> write                  a stream
    request -> [network] -> decode -> fold -> collect -> render      DeepSearch for a caller that does not stream

The code reads downwards: nothing that is called here calls back. A call is admitted before ``handle``; the end of its
record settles it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from ..cache import Cache, Lookup, MergedReply, NotShared, SingleFlight, Stale
from ..core.errors import Unavailable, UpstreamError, UpstreamFailed
from ..core.types import Call, Json, Route, Target, Value
from ..endpoints import Endpoint
from ..endpoints.incoming import RequestContext, parse
from ..routing.failover import Failover, Retries
from ..routing.table import RouteTable
from ..usage.record import CallRecord
from .admission import Reservation
from .batching import BatchingClient
from .parts import Parts
from .streaming import CallerStream, Streams


class CallResult(Value, frozen=True):
    """The answer for a caller: a whole ``body``, or ``events`` as the bytes of a server-sent event stream."""

    headers: dict[str, str]
    body: bytes = b""
    events: CallerStream | None = None
    status: int = 200
    media: str = "application/json"


class Gateway:
    def __init__(
        self,
        *,
        routes: RouteTable,
        cache: Cache,
        retries: Retries,
        client: BatchingClient,
        parts: Parts,
        streams: Streams,
    ) -> None:
        self.routes = routes
        self.draining = False
        self.singleflight: SingleFlight[MergedReply, CallRecord] = SingleFlight()
        self._cache = cache
        self._retries = retries
        self.client = client
        self._parts = parts
        self._streams = streams

    async def handle(self, endpoint: Endpoint, incoming: RequestContext, admitted: Reservation) -> CallResult:
        """The answer of the first target that has one. Raises ToriiError."""
        if self.draining:
            raise Unavailable("this gateway is shutting down", retry_after=1)
        call = parse(endpoint, incoming)
        call = await self.client.classifiers.locate(call, admitted.caller) if call.endpoint.owned else call
        record = admitted.begin(call, incoming.tag)
        try:
            route = admitted.permit(self.routes.of(call))
            with admitted.time():
                if call.stream:
                    admitted.reserve(incoming.body, route)
                    return await self._stream(endpoint, route, admitted, record)
                while True:
                    lookup = self._cache.lookup(call, route, admitted.owner, incoming.cache_control)
                    if lookup.reads and (answer := await self._hit(endpoint, lookup, admitted, record)) is not None:
                        return answer
                    if (key := lookup.key) is None:  # the call shares nothing
                        admitted.reserve(incoming.body, route)
                        asked = self._asked(endpoint, lookup, route, admitted, record)
                        return _answer(endpoint, record, await asked, paid=True)
                    if admitted.uncounted and self.singleflight.under_way(key):
                        await admitted.count()
                        continue  # the answer may be in the cache by now
                    flight = self.singleflight.join(key, record.connection, record)
                    with suppress(NotShared):
                        async with flight:
                            if flight.leads:
                                admitted.reserve(incoming.body, route)
                                flight.result = await self._asked(endpoint, lookup, route, admitted, record)
                        record.hit = None if flight.leads else flight.first.target
                        outcome = flight.result if flight.leads else flight.result.free()
                        return _answer(endpoint, record, outcome, paid=flight.leads)
        except TimeoutError:
            raise record.timed_out() from None
        except Exception as error:
            self.routes.advise(call.model, error)
            raise

    def drain(self, seconds: float) -> None:
        """Refuses new calls. After ``seconds``, those that wait for an upstream fail; the soonest drain counts."""
        self.draining = True
        asyncio.get_running_loop().call_later(seconds, self.client.http.cut)

    async def aclose(self) -> None:
        await self.client.http.aclose()
        await self._cache.aclose()

    async def _hit(
        self, endpoint: Endpoint, lookup: Lookup, admitted: Reservation, record: CallRecord
    ) -> CallResult | None:
        """The cached answer, if there is one that can be rendered for this caller."""
        while (outcome := await lookup.hit()) is not None:
            if admitted.uncounted:
                await admitted.count()
            record.hit = outcome.target
            try:
                return _answer(endpoint, record, outcome, paid=False)
            except UpstreamFailed:
                lookup.forget(outcome)
                record.hit = record.cache = record.free = None
        return None

    async def _asked(
        self, endpoint: Endpoint, lookup: Lookup, route: Route, admitted: Reservation, record: CallRecord
    ) -> MergedReply:
        """The whole answer of the first target that gives one; of several, if parts of the call fail over."""
        left: Sequence[Target] = route.targets
        found = await lookup.at(self._retries.best(left))
        if admitted.limited:
            await admitted.hold(found.rest, found.target)
        while True:
            targets = lookup.compatible(found, left)
            left = () if len(targets) == len(left) else [target for target in left if target not in targets]
            failover = self._retries.begin(targets, admitted.cost, record.connection, repeats=not left)
            failover.start(found.target)
            try:
                if found.target.upstream.streams(record.call, found.target):
                    return await self._collected(endpoint, failover, record)
                parts = endpoint.split(rest := found.rest, found.target.model.max_inputs)
                costs = admitted.cost.parted(len(parts), *found.counts, batch=rest.endpoint.batchable)
                failovers = zip(parts, failover.parted(costs), strict=True)
                if len(parts) == 1:
                    answers = [await self._part(*next(failovers), record)]
                else:
                    answers = await self._parts.gather([self._part(part, own, record) for part, own in failovers])
                outcome = found.filled(endpoint.merge(rest, [reply for _, reply in answers]), answers[0][0])
                lookup.keep(found, parts, answers)
                return outcome
            except UpstreamError as failure:
                stale = isinstance(failure, Stale)
                left = route.targets if stale else left
                if not (left and failure.elsewhere) or (record.connection.deserted and not stale):
                    raise
                found = await lookup.at(self._retries.best(left))
                failure.own = not await admitted.extend(found.rest, found.target)
                if failure.own:
                    raise

    async def _part(self, part: Call, failover: Failover, record: CallRecord) -> tuple[Target, Json]:
        for attempt in failover:
            with attempt:
                if attempt.further:
                    await self.client.cover(part, attempt, record)
                answered = await self.client.send(part, attempt, record)
        return answered

    async def _collected(self, endpoint: Endpoint, failover: Failover, record: CallRecord) -> MergedReply:
        for attempt in failover:
            with attempt:
                stream = await self.client.open(attempt, record)
                outcome = MergedReply(stream.target, await stream.collected(endpoint, record))
        return outcome

    async def _stream(self, endpoint: Endpoint, route: Route, admitted: Reservation, record: CallRecord) -> CallResult:
        """Waits for the first event, so that an early failure has its own status and another target can be asked; not
        for long: after that the caller's stream begins, and a failure is an error event in it."""
        first = self._retries.best(route.targets)
        if admitted.limited:
            await admitted.hold(record.call, first)
        for attempt in self._retries.begin(route.targets, admitted.cost, record.connection).start(first):
            with attempt:
                stream = await self.client.open(attempt, record)
                await self._streams.begin(stream, record)
        return CallResult(provenance(stream.target), events=self._streams.events(stream, endpoint, record))


def _answer(endpoint: Endpoint, record: CallRecord, outcome: MergedReply, *, paid: bool) -> CallResult:
    record.cache, record.cached_tokens = outcome.state, outcome.cached_tokens
    record.free = None if paid else outcome.reply["usage"]
    body, status, media, own = endpoint.answer(record.call, outcome.reply)
    record.end(status)
    return CallResult({**provenance(outcome.target), **outcome.headers, **own}, body, None, status, media)


def provenance(target: Target) -> dict[str, str]:
    """Headers that name the upstream that answered and the upstream's name of the model."""
    return {"x-torii-upstream": target.upstream.name, "x-torii-upstream-model": target.name}
