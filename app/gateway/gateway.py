"""The whole life of a call, on one screen. It orders the steps and decides nothing itself.

parse -> find the route -> the cache's answer, that of the same call under way, or the first target that answers:
    split -> request -> [network] -> reply -> merge -> render        embeddings, rerank, chat
    request -> [network] -> decode -> fold -> write                  a stream
    request -> [network] -> decode -> fold -> collect -> render      DeepSearch for a caller who does not stream
-> settle, exactly once
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from functools import partial

from ..cache import Cache, Found, Lookup, Outcome
from ..callers.keys import Callers
from ..core.deadlines import DeadlineClock
from ..core.disconnects import CallerGone
from ..core.errors import InvalidRequest, ToriiError, Unavailable, UpstreamError, told
from ..core.types import Call, Json, Route, Target, Value
from ..endpoints import ENDPOINTS, Endpoint
from ..endpoints.incoming import RequestContext, parse
from ..routing.failover import Failover
from ..routing.lease import Lease
from ..routing.limits import Need
from ..routing.table import RouteTable
from ..upstreams.client.client import Client
from ..usage.record import Meter, Record
from .retries import Attempts
from .streaming import Relay, begin, translate


class Answer(Value, frozen=True):
    """``body`` whole, or ``events`` as server-sent bytes; one of the two."""

    headers: dict[str, str]
    body: bytes = b""
    events: Relay | None = None


class Gateway:
    """``seconds`` bounds a call in all; after ``ping_seconds`` a stream that says nothing is handed on all the same.
    ``message`` cleans what callers are told."""

    def __init__(
        self,
        *,
        callers: Callers,
        routes: RouteTable,
        client: Client,
        attempts: Attempts,
        cache: Cache,
        meter: Meter,
        seconds: float = 1800.0,
        ping_seconds: float = 15.0,
        message: Callable[[str], str] = str,
    ) -> None:
        self.callers = callers
        self.routes = routes
        self.draining = False
        self._client = client
        self._attempts = attempts
        self._cache = cache
        self._meter = meter
        self._clock = DeadlineClock()
        self._seconds = seconds
        self._ping_seconds = ping_seconds
        self._message = message

    async def handle(self, endpoint: Endpoint, incoming: RequestContext) -> Answer:
        """The answer of the first target that has one. Raises ToriiError."""
        if self.draining:
            raise Unavailable("this gateway is shutting down", retry_after=1)
        call = parse(endpoint, incoming)
        record = Record(incoming.id, incoming.caller, call, incoming.presence)
        record.presence.work = record
        try:
            route = self._route(call)
            with self._clock.within(self._seconds):
                need = Need.of(incoming.body, route)
                if call.stream:
                    attempt = partial(self._stream, endpoint, call, record)
                    way = self._attempts.way(route.targets, need)
                    return await self._attempts.first(way, attempt, record.presence)
                lookup = self._cache.lookup(record, route, incoming.cache_control)
                work = partial(self._asked, endpoint, lookup, route, need)
                outcome = await lookup.hit(partial(endpoint.render, call)) or await lookup.shared(work)
                body = outcome.body or endpoint.render(call, outcome.reply)
                self._meter.settle(record, 200)
                return Answer({**provenance(outcome.target), **outcome.headers}, body)
        except TimeoutError:
            late = record.late()
            self._meter.settle(record, late.status, late)
            raise late from None
        except asyncio.CancelledError as error:
            ended = record.presence.ended()
            self._fail(record, ended)
            raise ended from error
        except Exception as error:
            self.routes.advise(call.model, error)
            self._fail(record, error)
            raise

    def _fail(self, record: Record, error: Exception) -> None:
        """Settles a call that has no answer."""
        if isinstance(error, CallerGone):
            self._meter.settle(record, 500)
            return
        failure = told(error)
        if isinstance(failure, Unavailable) and record.paid:
            failure.should_retry = False
        self._meter.settle(record, failure.status, failure)

    def envelope(self, error: ToriiError) -> Json:
        """The error object for a caller: no key and no upstream host in any field; an answer as it is."""
        envelope = error.envelope()
        own = {k: part and self._message(part) for k, part in envelope["error"].items() if k != "upstream_text"}
        return {**envelope, "error": {**envelope["error"], **own}, "detail": own["message"]}

    def drain(self, seconds: float) -> None:
        """No new work from now on; what waits for an upstream after ``seconds`` ends with an error. Said again, the
        sooner time holds."""
        self.draining = True
        asyncio.get_running_loop().call_later(seconds, self._client.cut)

    async def aclose(self) -> None:
        await self._client.aclose()
        await self._cache.aclose()

    def _route(self, call: Call) -> Route:
        found = self.routes.find(call.model)
        route = found.to(call.endpoint.name)
        if route is None:
            right = " or ".join(f"POST {ENDPOINTS[name].paths[0]}" for name in found.endpoints)
            raise InvalidRequest(f"{found.model.id} does not serve this endpoint; use {right}", param="model")
        return route

    async def _asked(self, endpoint: Endpoint, lookup: Lookup, route: Route, need: Need, record: Record) -> Outcome:
        """The answer of the first targets that give one as a whole."""
        left: Sequence[Target] = route.targets
        while True:
            found = await lookup.at(self._attempts.best(left))
            targets = lookup.beside(found, left)
            left = () if len(targets) == len(left) else [target for target in left if target not in targets]
            try:
                way = self._attempts.way(targets, need, not left)
                way.start(found.target)
                return await self._whole(endpoint, lookup, found, way, record)
            except UpstreamError as failure:
                if not (left and failure.elsewhere) or record.presence.deserted:
                    raise

    async def _whole(self, endpoint: Endpoint, lookup: Lookup, found: Found, way: Failover, record: Record) -> Outcome:
        if found.target.upstream.streams(record.call, found.target):
            target, reply = await self._attempts.first(way, partial(self._collected, endpoint, record), record.presence)
            return Outcome(target, reply)
        parts = endpoint.split(found.rest, found.target.model.max_inputs)
        needs = way.need.parted(len(parts), *lookup.missing(), batch=found.rest.endpoint.batchable)
        asks = [partial(self._attempts.ask, *each, record) for each in zip(parts, way.parted(needs), strict=True)]
        answers = await self._attempts.parts(asks)
        outcome = found.filled(endpoint.merge(found.rest, [reply for _, reply in answers]), answers[0][0])
        lookup.keep(found, parts, answers)
        return outcome

    async def _collected(self, endpoint: Endpoint, record: Record, target: Target, lease: Lease) -> tuple[Target, Json]:
        stream, fold = await self._attempts.open(record.call, record, target, lease)
        try:
            async with aclosing(translate(stream, fold, record)) as source:
                reply = endpoint.collect(record.call, [event async for events in source for event in events])
        except BaseException as failure:
            record.streamed(fold.usage, failure if isinstance(failure, ToriiError) else None)
            raise
        else:
            record.streamed(fold.usage)
        finally:
            await stream.aclose()
        return target, reply

    async def _stream(self, endpoint: Endpoint, call: Call, record: Record, target: Target, lease: Lease) -> Answer:
        """Waits for the first event, so that an early failure has a status of its own and another target its chance.

        Not for longer than a caller may be left without a word: then their stream begins, and what fails is told in it.
        """
        stream, fold = await self._attempts.open(call, record, target, lease)
        origin = await begin(stream, fold, record, lease, self._ping_seconds)
        relay = Relay(origin, endpoint.writer(call), record, meter=self._meter, envelope=self.envelope)
        return Answer(provenance(target), events=relay)


def provenance(target: Target) -> dict[str, str]:
    """Headers that name the upstream that answered, and its model."""
    return {"x-torii-upstream": target.upstream.name, "x-torii-upstream-model": target.name}
