"""Small embeddings calls are batched if a rate limit binds, and only then."""

from __future__ import annotations

import asyncio
import base64
import gc
import sqlite3
import struct
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.config.settings import Settings
from app.core.disconnects import ClientConnection
from app.core.types import EmbeddingsCall, Key, Target
from app.gateway.batching import BatchingClient, BatchWaiter, mark_batch_sent, weights
from app.gateway.build import build_client
from app.gateway.classifiers import Classifiers
from app.gateway.shares import billed
from app.routing.failover import Retries
from app.routing.limits import MINUTE, ON_THE_WAY, Cost, RateLimits, SlidingWindow
from app.routing.pool import Pool
from app.routing.table import RouteTable
from app.storage.classifiers import ClassifierBook
from app.storage.ledger_file import LedgerFile
from app.upstreams import KINDS
from app.upstreams.catalogue import unlisted
from app.usage.record import CallRecord

from ..conftest import PATIENCE, RunningGateway, ScriptedUpstream, replies, running_gateway, settings_for, until

MODEL = "jina-embeddings-v3"
KEYS = {name: f"a-key-of-{name}-0123456789" for name in ("ann", "bob")}
CALLERS = [{"name": name, "key": key} for name, key in KEYS.items()]
BAD = "bad"


def capped(upstream: ScriptedUpstream, limits: dict[str, Any] | None, **values: Any) -> Settings:
    settings = settings_for(None, **{"queue_timeout_seconds": 10, "callers": CALLERS, **values})
    jina: dict[str, Any] = {"base_url": f"{upstream.url}/v1", "api_key": "jina_0123456789", "limits": limits or {}}
    return Settings(**{**settings.model_dump(exclude_unset=True), "upstreams": {"jina": jina}})


def vector(text: str) -> list[float]:
    """A vector that identifies its input; its numbers are exact in 32 bits."""
    return [float(ord(character)) for character in text.ljust(8)[:8]]


async def embeds(request: Any, writer: asyncio.StreamWriter) -> None:
    """Bills three tokens per input and one per call. Refuses a bad input, and names it."""
    inputs = request.body["input"]
    if BAD in inputs:
        detail = f"Validation error: input[{inputs.index(BAD)}] of {inputs} is bad"
        await replies({"detail": detail}, 422)(request, writer)
        return
    data = [{"object": "embedding", "index": n, "embedding": vector(text)} for n, text in enumerate(inputs)]
    usage = {"total_tokens": 3 * len(inputs) + 1, "prompt_tokens": 3 * len(inputs) + 1}
    await replies({"model": MODEL, "object": "list", "usage": usage, "data": data})(request, writer)


class Gate:
    """Holds the answer to the first request until ``open`` is set, so that a concurrency limit binds until then."""

    def __init__(self, upstream: ScriptedUpstream, play: Any = embeds) -> None:
        self.open = asyncio.Event()
        upstream.plays(self._first, play)

    async def _first(self, request: Any, writer: asyncio.StreamWriter) -> None:
        await self.open.wait()
        await embeds(request, writer)


async def ask(gateway: RunningGateway, inputs: list[str], caller: str = "ann", **more: Any) -> httpx.Response:
    body = {"model": MODEL, "input": inputs, **more}
    return await gateway.post("/v1/embeddings", body, authorization=f"Bearer {KEYS[caller]}")


def estimated(record: CallRecord) -> bool:
    return any(use.spent.estimated for use in record.uses.values())


def pool_of(gateway: RunningGateway) -> Pool:
    return gateway.generations.now.pools["jina"]


async def together(
    gateway: RunningGateway, upstream: ScriptedUpstream, gate: Gate, calls: Sequence[Callable[[], Any]]
) -> list[httpx.Response]:
    """The answers to calls that all wait while a first call holds the only key."""
    first = asyncio.create_task(ask(gateway, ["first"]))
    await until(lambda: len(upstream.seen) == 1)
    tasks = []
    for number, call in enumerate(calls, 1):
        tasks.append(asyncio.create_task(call()))
        await until(lambda number=number: pool_of(gateway).waiting == number)  # type: ignore[misc]
    gate.open.set()
    assert (await first).status_code == 200
    return list(await asyncio.gather(*tasks))


def vectors(answer: httpx.Response) -> list[list[float]]:
    assert answer.status_code == 200, answer.text
    data = answer.json()["data"]
    assert [item["index"] for item in data] == list(range(len(data)))
    return [item["embedding"] for item in data]


@pytest.mark.parametrize("store", ["off", "memory"])
async def test_many_calls_are_few_under_a_limit_of_requests(
    upstream: ScriptedUpstream, tmp_path: Path, store: str
) -> None:
    upstream.plays(embeds)
    database = LedgerFile(tmp_path / "torii.db")
    try:
        settings = capped(upstream, {"requests_per_minute": 3}, cache={"store": store}, queue_timeout_seconds=4)
        async with running_gateway(settings, database) as gateway:
            texts = [[f"text {number}"] for number in range(40)]
            callers = ["ann", "bob"] * 20
            answers = await asyncio.gather(*map(ask, [gateway] * 40, texts, callers))
            assert [vectors(answer) for answer in answers] == [[vector(text)] for [text] in texts]
            assert len(upstream.seen) <= 3
            billed = [answer.json()["usage"]["total_tokens"] for answer in answers]
            assert sum(billed) == 3 * 40 + len(upstream.seen)
            assert sum(record.usage["total_tokens"] for record in gateway.records if record.usage) == sum(billed)
    finally:
        database.close()
    with sqlite3.connect(tmp_path / "torii.db") as books:
        rows = books.execute("SELECT caller, total_tokens, estimated, attempts, status FROM calls").fetchall()
    books.close()
    assert len(rows) == 40
    assert {caller: sum(row[0] == caller for row in rows) for caller in KEYS} == {"ann": 20, "bob": 20}
    assert sum(row[1] for row in rows) == sum(billed)
    assert 36 <= sum(row[2] for row in rows) <= 39
    assert {row[3:] for row in rows} == {(1, 200)}


async def test_what_is_at_hand_is_not_asked_for(upstream: ScriptedUpstream) -> None:
    gate = Gate(upstream)
    settings = capped(upstream, {"concurrency": 1}, cache={"store": "memory"})
    async with running_gateway(settings) as gateway:
        gate.open.set()
        await ask(gateway, ["known"])
        gate.open.clear()
        upstream.plays(gate._first, embeds)
        upstream.seen.clear()
        calls = [partial(ask, gateway, ["known", "new"]), partial(ask, gateway, ["other"], "bob")]
        one, other = await together(gateway, upstream, gate, calls)
        assert (vectors(one), vectors(other)) == ([vector("known"), vector("new")], [vector("other")])
        assert [seen.body["input"] for seen in upstream.seen] == [["first"], ["new", "other"]]
        assert (one.headers["x-torii-cache"], other.headers["x-torii-cache"]) == ("partial", "miss")
        again = await ask(gateway, ["other", "new"])
        assert (vectors(again), again.headers["x-torii-cache"]) == ([vector("other"), vector("new")], "hit")
    assert len(upstream.seen) == 2


async def test_each_has_the_encoding_and_the_share_that_is_its_own(upstream: ScriptedUpstream) -> None:
    gate = Gate(upstream)
    async with running_gateway(capped(upstream, {"concurrency": 1})) as gateway:
        calls = [
            partial(ask, gateway, ["a", "b"]),
            partial(ask, gateway, ["a" * 30], encoding_format="base64"),
            partial(ask, gateway, ["c"], "bob", encoding_format="float"),
        ]
        both, packed, plain = await together(gateway, upstream, gate, calls)
        assert len(upstream.seen) == 2
        assert (vectors(both), vectors(plain)) == ([vector("a"), vector("b")], [vector("c")])
        raw = base64.b64decode(packed.json()["data"][0]["embedding"])
        assert list(struct.unpack("<8f", raw)) == vector("a" * 8)
        shares = [answer.json()["usage"]["total_tokens"] for answer in (both, packed, plain)]
    assert sum(shares) == 3 * 4 + 1
    assert shares[1] > max(shares[0], shares[2])
    assert [estimated(record) for record in gateway.records] == [False, True, True, True]


async def test_what_differs_in_anything_is_not_joined(upstream: ScriptedUpstream) -> None:
    gate = Gate(upstream)
    async with running_gateway(capped(upstream, {"concurrency": 1})) as gateway:
        options: list[dict[str, Any]] = [
            {},
            {"task": "text-matching"},
            {"dimensions": 8},
            {"late_chunking": True},
            {"late_chunking": True},
            {"a_new_option": 1},
            {"a_new_option": 1},
        ]
        calls = [partial(ask, gateway, [f"{n}"], **more) for n, more in enumerate(options)]
        answers = await together(gateway, upstream, gate, calls)
        assert [vectors(answer) for answer in answers] == [[vector(f"{number}")] for number in range(7)]
    assert [len(seen.body["input"]) for seen in upstream.seen] == [1] * 8


async def test_a_bad_input_fails_alone(upstream: ScriptedUpstream) -> None:
    gate = Gate(upstream)
    async with running_gateway(capped(upstream, {"concurrency": 1})) as gateway:
        texts = [f"text {number}" for number in range(8)]
        texts[5] = BAD
        calls = [partial(ask, gateway, [text]) for text in texts]
        answers = await together(gateway, upstream, gate, calls)
        assert [answer.status_code for answer in answers] == [200] * 5 + [400] + [200] * 2
        assert [vectors(answers[n]) for n in (0, 4, 6, 7)] == [[vector(texts[n])] for n in (0, 4, 6, 7)]
        assert answers[5].json()["error"]["code"] == "upstream_rejected"
        assert "text" not in answers[5].json()["error"]["message"]
    assert len(upstream.seen) == 1 + 1 + 2 + 2 + 2
    used = sum(record.usage["total_tokens"] for record in gateway.records if record.usage)
    assert used == 3 * 8 + 1 + 3


async def test_another_failure_is_everybodys_and_quotes_nobody(upstream: ScriptedUpstream) -> None:
    gate = Gate(upstream, replies({"detail": "could not embed: secret of ann"}, 500))
    async with running_gateway(capped(upstream, {"concurrency": 1}, max_attempts=1)) as gateway:
        calls = [partial(ask, gateway, ["secret of ann"]), partial(ask, gateway, ["b"], "bob")]
        answers = await together(gateway, upstream, gate, calls)
    assert [answer.status_code for answer in answers] == [502, 502]
    assert all("secret" not in answer.text for answer in answers)
    assert len(upstream.seen) == 2


async def test_after_a_failure_they_go_together_again(upstream: ScriptedUpstream) -> None:
    gate = Gate(upstream)
    upstream.plays(gate._first, replies({"detail": "slow"}, 429, retry_after="0.1"), embeds)
    async with running_gateway(capped(upstream, {"concurrency": 1})) as gateway:
        calls = [partial(ask, gateway, ["a"]), partial(ask, gateway, ["b"], "bob")]
        answers = await together(gateway, upstream, gate, calls)
        assert [vectors(answer) for answer in answers] == [[vector("a")], [vector("b")]]
    assert [seen.body["input"] for seen in upstream.seen] == [["first"], ["a", "b"], ["a", "b"]]
    assert [record.attempts for record in gateway.records] == [1, 2, 2]


async def test_who_leaves_before_is_not_asked_for(upstream: ScriptedUpstream) -> None:
    gate = Gate(upstream)
    async with running_gateway(capped(upstream, {"concurrency": 1})) as gateway:
        first = asyncio.create_task(ask(gateway, ["first"]))
        await until(lambda: len(upstream.seen) == 1)
        tasks = [asyncio.create_task(ask(gateway, [text])) for text in ("stays", "goes")]
        await until(lambda: pool_of(gateway).waiting == 2)
        tasks[1].cancel()
        await until(lambda: pool_of(gateway).waiting == 1)
        gate.open.set()
        assert vectors(await tasks[0]) == [vector("stays")]
        assert (await first).status_code == 200
        await gateway.ended(3)
    assert [seen.body["input"] for seen in upstream.seen] == [["first"], ["stays"]]


class Batching:
    """A stand-in for the sender of batches: answers every member that has not left."""

    def __init__(self, upstream: ScriptedUpstream) -> None:
        self.pool = Pool("jina", [(Key("secret", "a"), RateLimits(concurrency=1))], queue_timeout=PATIENCE)
        self.retries = Retries({"jina": self.pool})
        http = build_client(settings_for(upstream.url))
        classifiers = Classifiers(ClassifierBook(None), RouteTable({}), self.retries.pools, http)
        self.client = BatchingClient(http, self.retries, classifiers)
        self.place = Target(KINDS["jina"]("jina", f"{upstream.url}/v1"), unlisted(MODEL), MODEL, Key("secret", "a"))

    async def send(self, text: str, presence: ClientConnection) -> Any:
        call = EmbeddingsCall(model=MODEL, body={"input": [text]})
        record = CallRecord("id", "ann", call, presence)
        for attempt in self.retries.begin([self.place], Cost(batch=True), presence):
            with attempt:
                answered = await self.client.send(call, attempt, record)
        return answered

    async def admitted(self) -> None:
        """Returns when the batch has leased the key."""
        while not self.pool.states[0].at_work:  # noqa: ASYNC110 - it is the next turn of the loop that matters
            await asyncio.sleep(0)


async def test_who_leaves_at_the_moment_of_admission_is_not_asked_for(
    upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor does it leave an exception that was never retrieved."""
    upstream.plays(embeds)
    batching, present = Batching(upstream), dict[str, ClientConnection]()
    held = await batching.pool.lease(Cost())

    async def enter(text: str) -> Any:
        present[text] = ClientConnection(task=asyncio.current_task())
        return await batching.send(text, present[text])

    stays, goes = [asyncio.create_task(enter(text)) for text in ("stays", "goes")]
    await until(lambda: batching.pool.waiting == 2)
    held.release()
    await batching.admitted()
    await asyncio.sleep(0)
    present["goes"].leave()
    assert (await stays)[0] == batching.place
    with pytest.raises(asyncio.CancelledError):
        await goes
    assert [seen.body["input"] for seen in upstream.seen] == [["stays"]]
    gc.collect()
    assert "never retrieved" not in caplog.text
    await batching.client.http.aclose()


async def test_a_batch_that_all_leave_as_it_begins_gives_its_key_back(upstream: ScriptedUpstream) -> None:
    """The batch's task has not started at that point, and never does."""
    batching = Batching(upstream)
    held = await batching.pool.lease(Cost())
    entering = asyncio.create_task(batching.send("a", ClientConnection()))
    await until(lambda: batching.pool.waiting == 1)
    held.release()
    await batching.admitted()
    entering.cancel()
    await asyncio.wait([entering])
    await asyncio.sleep(0)
    assert entering.cancelled()
    assert batching.pool.states[0].at_work == 0
    assert (await batching.pool.lease(Cost())).key.alias == "a"
    assert upstream.seen == []


async def test_a_call_that_ended_before_its_batch_went_out_costs_nothing() -> None:
    """The call is already recorded, so the others pay for its inputs; the ledger then adds up to the billed tokens."""
    pool = Pool("jina", [(Key("secret", "a"), RateLimits())], queue_timeout=PATIENCE)
    place = Target(KINDS["jina"]("jina", "http://127.0.0.1:9/v1"), unlisted(MODEL), MODEL, Key("secret", "a"))
    calls = [EmbeddingsCall(model=MODEL, body={"input": [text]}) for text in ("stays", "has gone", "stays too")]
    members = [BatchWaiter(call, CallRecord("id", "ann", call), Cost(batch=True)) for call in calls]
    begun = [(member.record.ask(place), member.part) for member in members]
    members[1].record.status = 499
    attempt = iter(Retries({"jina": pool}).begin([place], Cost(), ClientConnection()))
    mark_batch_sent(await pool.lease(Cost()), members, begun, attempt)
    assert attempt.further
    assert [use.attempts for use, _ in begun] == [1, 0, 1]
    shares = [share["total_tokens"] for share in billed({"total_tokens": 10}, weights(members, place))]
    assert (shares[1], sum(shares)) == (0, 10)


async def test_who_leaves_while_it_is_asked_takes_nothing_from_the_others(upstream: ScriptedUpstream) -> None:
    more = asyncio.Event()

    async def slow(request: Any, writer: asyncio.StreamWriter) -> None:
        await more.wait()
        await embeds(request, writer)

    gate = Gate(upstream, slow)
    async with running_gateway(capped(upstream, {"concurrency": 1})) as gateway:
        first = asyncio.create_task(ask(gateway, ["first"]))
        await until(lambda: len(upstream.seen) == 1)
        tasks = [asyncio.create_task(ask(gateway, [text])) for text in ("goes", "stays")]
        await until(lambda: pool_of(gateway).waiting == 2)
        gate.open.set()
        await until(lambda: len(upstream.seen) == 2)
        tasks[0].cancel()
        await gateway.ended(2)
        more.set()
        assert vectors(await tasks[1]) == [vector("stays")]
        assert (await first).status_code == 200
        assert pool_of(gateway).states[0].at_work == 0
    assert [len(seen.body["input"]) for seen in upstream.seen] == [1, 2]


async def test_when_all_have_left_the_upstream_call_ends(upstream: ScriptedUpstream) -> None:
    async def never(request: Any, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    gate = Gate(upstream, never)
    async with running_gateway(capped(upstream, {"concurrency": 1})) as gateway:
        first = asyncio.create_task(ask(gateway, ["first"]))
        await until(lambda: len(upstream.seen) == 1)
        tasks = [asyncio.create_task(ask(gateway, [text])) for text in ("a", "b")]
        await until(lambda: pool_of(gateway).waiting == 2)
        gate.open.set()
        await until(lambda: len(upstream.seen) == 2)
        for task in tasks:
            task.cancel()
        await upstream.gone()
        assert (await first).status_code == 200
        await until(lambda: pool_of(gateway).states[0].at_work == 0)


async def test_callers_take_turns_where_not_all_fit(upstream: ScriptedUpstream) -> None:
    gate = Gate(upstream)
    models = {MODEL: {"max_inputs": 4}}
    async with running_gateway(capped(upstream, {"concurrency": 1}, models=models)) as gateway:
        calls = [partial(ask, gateway, [f"ann {n}"]) for n in range(6)]
        calls += [partial(ask, gateway, [f"bob {n}"], "bob") for n in range(2)]
        answers = await together(gateway, upstream, gate, calls)
        assert {answer.status_code for answer in answers} == {200}
    assert [seen.body["input"] for seen in upstream.seen[1:]] == [
        ["ann 0", "bob 0", "ann 1", "bob 1"],
        ["ann 2", "ann 3", "ann 4", "ann 5"],
    ]


async def test_tokens_are_kept_to_as_well(upstream: ScriptedUpstream) -> None:
    gate = Gate(upstream)
    limits = {"concurrency": 1, "tokens_per_minute": 200}
    async with running_gateway(capped(upstream, limits)) as gateway:
        calls = [partial(ask, gateway, [f"{n}" * 200]) for n in range(4)]  # about 60 each
        answers = await together(gateway, upstream, gate, calls)
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert [len(seen.body["input"]) for seen in upstream.seen] == [1, 3]


async def test_who_cannot_go_in_time_is_refused(upstream: ScriptedUpstream) -> None:
    upstream.plays(embeds)
    async with running_gateway(capped(upstream, {"requests_per_minute": 1})) as gateway:
        assert (await ask(gateway, ["a"])).status_code == 200
        answers = await asyncio.gather(*(ask(gateway, [f"{n}"]) for n in range(5)))
        assert pool_of(gateway).waiting == 0
    assert {answer.status_code for answer in answers} == {429}
    assert {55 < int(answer.headers["retry-after"]) <= 61 for answer in answers} == {True}
    assert len(upstream.seen) == 1


@pytest.mark.parametrize("limits", [None, {"requests_per_minute": 500, "concurrency": 100}])
async def test_nothing_is_joined_while_no_limit_binds(upstream: ScriptedUpstream, limits: Any) -> None:
    upstream.plays(embeds)
    async with running_gateway(capped(upstream, limits)) as gateway:
        answers = await asyncio.gather(*(ask(gateway, [f"{n}"]) for n in range(40)))
        assert [vectors(answer) for answer in answers] == [[vector(f"{n}")] for n in range(40)]
    assert [len(seen.body["input"]) for seen in upstream.seen] == [1] * 40
    assert not any(map(estimated, gateway.records))


async def test_no_part_of_a_large_call_is_held_back_so_that_others_join_it(upstream: ScriptedUpstream) -> None:
    """Two of four requests per minute were made at once. The third would now be delayed if others could join its
    batch."""
    upstream.plays(embeds)
    models = {MODEL: {"max_inputs": 2}}
    settings = capped(upstream, {"requests_per_minute": 4}, queue_timeout_seconds=600, models=models)
    async with running_gateway(settings) as gateway:
        for text in ("one", "two"):
            vectors(await ask(gateway, [text]))
        large = asyncio.create_task(ask(gateway, ["a", "b", "c"]))
        await until(large.done)
        assert vectors(await large) == [vector(text) for text in ("a", "b", "c")]
    assert [len(seen.body["input"]) for seen in upstream.seen] in ([1, 1, 2, 1], [1, 1, 1, 2])


async def test_others_are_not_held_back_with_those_who_may_be_joined() -> None:
    keys = Pool("jina", [(Key("secret", "a"), RateLimits(requests=4))], queue_timeout=30)
    for _ in range(2):
        await keys.lease(Cost())
    held = asyncio.create_task(keys.lease(Cost(batch=True)))
    await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE):
        await keys.lease(Cost())
    assert not held.done()
    held.cancel()


@pytest.mark.parametrize("limit", [100, 500])
def test_whoever_waits_at_a_limit_does_not_wait_long(limit: int) -> None:
    """Also if the first burst is a minute old and there is room for another."""
    window, now, last = SlidingWindow(limit), 0.0, 0.0
    while now < 4 * MINUTE:
        while not window.wait(now, 1) and not window.pace(now):
            window.add(now, 1)
            assert now - last < 2 * MINUTE / (limit / 2)
            last = now
        now += 0.005


@pytest.mark.parametrize("each_minute", [51, 80, 99])
def test_a_limit_that_is_kept_by_itself_holds_nobody_back(each_minute: int) -> None:
    window = SlidingWindow(100)
    for number in range(5 * each_minute):
        now = 1000 + number * MINUTE / each_minute
        if number > 10:
            assert (window.wait(now, 1), window.pace(now)) == (0.0, 0.0)
        window.add(now, 1)


def test_what_is_left_of_a_limit_lasts_until_there_is_more_again() -> None:
    window, now = SlidingWindow(100), 0.0
    gone: list[float] = []
    while now < 3 * MINUTE:
        if not window.wait(now, 1) and not window.pace(now):
            window.add(now, 1)
            gone.append(now)
        now += 0.01
    gaps = [after - before for before, after in pairwise(gone)]
    assert max(gaps) < 2 * MINUTE / 50
    assert gone[49] < 1 < gone[51]
    for begin in gone:  # also if the first request reached the provider late and the others did not
        assert sum(begin <= time < begin + MINUTE + ON_THE_WAY for time in gone) <= 100
