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

from msgspec.structs import replace

from .alarm import Clock
from .attempts import Attempts
from .cache import Cache, Lookup, Outcome
from .client import Client
from .departures import CallerGone
from .endpoints import PATHS, Endpoint
from .endpoints.chat import Chat, collect
from .errors import InvalidRequest, ToriiError, Unavailable, told
from .incoming import Incoming, parse
from .keys import Callers
from .meter import Meter, Record, reach
from .pool import Lease
from .quota import Need
from .relay import Relay, begin, translate
from .routing import RouteTable
from .types import Call, ChatCall, Fold, Json, Reply, Route, Stream, Target, Value


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
        self._clock = Clock()
        self._seconds = seconds
        self._ping_seconds = ping_seconds
        self._message = message

    async def handle(self, endpoint: Endpoint, incoming: Incoming) -> Answer:
        """The answer of the first target that has one. Raises ToriiError."""
        if self.draining:
            raise Unavailable("this gateway is shutting down", retry_after=1)
        call = parse(endpoint, incoming)
        record = Record(incoming.id, incoming.caller, call, incoming.presence)
        try:
            route = self._route(call)
            with self._clock.within(self._seconds):
                need = Need.of(incoming.body, route)
                if call.stream:
                    attempt = partial(self._stream, endpoint, call, record)
                    return await self._attempts.first(route, need, attempt, record.presence)
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
        except (asyncio.CancelledError, CallerGone):
            self._meter.settle(record, 499 if record.presence.left else 500)
            raise
        except Exception as error:
            self._meter.settle(record, told(error).status, told(error))
            raise

    def envelope(self, error: ToriiError) -> Json:
        """What a caller is told of an error: no key and no upstream host, in none of its fields."""
        envelope = error.envelope()
        parts = {name: part and self._message(part) for name, part in envelope["error"].items()}
        return {**envelope, "error": parts, "detail": parts["message"]}

    def drain(self, seconds: float) -> None:
        """No new work from now on; what is open after ``seconds`` ends with an error."""
        if not self.draining:
            self.draining = True
            ending = Unavailable("this gateway is shutting down and could not finish the call", retry_after=1)
            asyncio.get_running_loop().call_later(seconds, self._client.cut, ending)

    async def aclose(self) -> None:
        await self._client.aclose()
        await self._cache.aclose()

    def _route(self, call: Call) -> Route:
        route = self.routes.find(call.model)
        if call.endpoint not in route.model.endpoints:
            right = " or ".join(f"POST /v1/{PATHS[name]}" for name in route.model.endpoints)
            raise InvalidRequest(f"{route.model.id} is not a model for this endpoint; use {right}", param="model")
        return route

    async def _asked(self, endpoint: Endpoint, lookup: Lookup, route: Route, need: Need, record: Record) -> Outcome:
        attempt = partial(self._whole, endpoint, lookup, record)
        return await self._attempts.first(route, lookup.left(need), attempt, record.presence)

    async def _whole(self, endpoint: Endpoint, lookup: Lookup, record: Record, target: Target, lease: Lease) -> Outcome:
        record.ask(target)
        if target.upstream.streams(record.call, target):
            outcome = Outcome(target, await self._collected(record.call, record, target))
        else:
            found = await lookup.at(target)
            parts = endpoint.split(found.rest, target.model.max_inputs)
            asks = [partial(self._ask, part, record, lease) for part in parts]
            reply = endpoint.merge(found.rest, await self._attempts.parts(target, lease, asks))
            record.answer(reply)
            outcome = found.filled(reply)
        # What cannot be written is not kept, and another target is asked.
        outcome = replace(outcome, body=endpoint.render(record.call, outcome.reply))
        lookup.keep(target)
        return outcome

    async def _ask(self, part: Call, record: Record, lease: Lease, target: Target) -> Json:
        record.presence.ask()
        answer = await lease.ask(part, target, self._send, record)
        record.add(answer.get("usage"))
        return answer

    async def _send(self, part: Call, target: Target, records: Sequence[Record]) -> Json:
        reply = await self._client.send(target.upstream.request(part, target), records[0].started, reach(records))
        if reply.status >= 300:
            raise target.upstream.error(part, target, reply)
        return target.upstream.reply(part, target, reply.body)

    async def _collected(self, call: Call, record: Record, target: Target) -> Json:
        assert isinstance(call, ChatCall)
        stream, fold = await self._open(call, record, target)
        try:
            async with aclosing(translate(stream, fold, record)) as source:
                return collect(call, [event async for events in source for event in events])
        finally:
            record.usage = fold.usage
            await stream.aclose()

    async def _stream(self, endpoint: Endpoint, call: Call, record: Record, target: Target, lease: Lease) -> Answer:
        """Waits for the first event, so that an early failure has a status of its own and another target its chance.

        Not for longer than a caller may be left without a word: then his stream begins, and what fails is told in it.
        """
        assert isinstance(endpoint, Chat)
        assert isinstance(call, ChatCall)
        record.ask(target)
        stream, fold = await self._open(call, record, target)
        origin = await begin(stream, fold, record, lease, self._ping_seconds)
        relay = Relay(origin, endpoint.writer(call), record, meter=self._meter, envelope=self.envelope)
        return Answer(provenance(target), events=relay)

    async def _open(self, call: Call, record: Record, target: Target) -> tuple[Stream, Fold]:
        stream = await self._client.open(target.upstream.request(call, target), record.started, reach([record]))
        if stream.status < 300:
            return stream, target.upstream.fold(call, target)
        try:
            raise target.upstream.error(call, target, Reply(stream.status, stream.headers, await stream.read()))
        finally:
            await stream.aclose()


def provenance(target: Target) -> dict[str, str]:
    """Which upstream answered, and as what."""
    return {"x-torii-upstream": target.upstream.name, "x-torii-upstream-model": target.name}
