"""What the gateway promises to a team, shown over HTTP: nothing is overspent or leaks, and a revoked key is refused.

Each show starts from a new gateway and a new ledger, and gives the lines of the table.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import httpx

from ..conftest import until
from .gateway import (
    CHAT,
    EMBED,
    Finding,
    TeamGateway,
    VirtualKey,
    at_once,
    chat,
    crowd,
    embed,
    team_gateway,
)
from .provider import Provider, provider

LEASE_SECONDS = 45.0  # after which the holds of a dead process are booked: its lease, a sweep, and some patience


@dataclass(frozen=True, slots=True)
class Stage:
    folder: Path
    workers: int
    jina: Provider
    aihubmix: Provider

    @property
    def met(self) -> int:
        """The requests that reached a provider."""
        return self.jina.met + self.aihubmix.met

    @property
    def providers(self) -> Sequence[Provider]:
        return self.jina, self.aihubmix


@asynccontextmanager
async def stage(folder: Path, workers: int) -> AsyncIterator[Stage]:
    folder.mkdir(exist_ok=True)
    async with provider() as jina, provider() as aihubmix:
        yield Stage(folder, workers, jina, aihubmix)


class Lines(list[Finding]):
    """The findings of one show."""

    def __init__(self, show: str) -> None:
        super().__init__()
        self._show = show

    def same(self, what: str, found: Any, right: Any) -> None:
        held = found == right
        self.append(Finding(self._show, what, str(found) if held else f"{found}, not {right}", held))

    def true(self, what: str, held: bool, found: Any = "") -> None:
        self.append(Finding(self._show, what, str(found), held))


async def answers(
    client: httpx.AsyncClient, key: VirtualKey, path: str, bodies: Sequence[Any]
) -> list[httpx.Response | None]:
    """The answers to all bodies, which are sent at once; None for a connection that was lost."""

    async def one(body: Any) -> httpx.Response | None:
        try:
            return await client.post(path, json=body, headers=key.headers)
        except httpx.TransportError:
            return None

    return list(await asyncio.gather(*map(one, bodies)))


def statuses(found: Sequence[httpx.Response | None]) -> dict[str, int]:
    return dict(sorted(Counter(str(each.status_code) if each else "lost" for each in found).items()))


# ---------------------------------------------------------------- 1: no overshoot


async def burst(folder: Path, workers: int, calls: int = 500, amount: int = 100) -> Lines:
    """``calls`` at once for the last ``amount`` of a budget of requests."""
    lines = Lines(f"1 burst, {workers} workers")
    async with stage(folder, workers) as there, team_gateway(folder, there.providers, workers) as gateway:
        key = await gateway.key("burst", budgets=[{"unit": "requests", "amount": amount, "window": "total"}])
        async with crowd(gateway, calls) as client:
            found = await answers(client, key, EMBED, [embed(f"call {number}") for number in range(calls)])
        lines.same("answers", statuses(found), {"200": amount, "429": calls - amount})
        lines.same("requests that reached the provider", there.met, amount)
        refused = [each for each in found if each and each.status_code == 429]
        codes = {(each.json()["error"]["code"], each.headers.get("x-should-retry")) for each in refused}
        lines.same("code and x-should-retry of the refusals", codes, {("insufficient_quota", "false")})
        (budget,) = await gateway.rests(key)
        counted = (int(budget["spent"]), int(budget["held"]), int(budget["remaining"]))
        lines.same("spent, held, remaining", counted, (amount, 0, 0))
        lines.same("rows of the ledger", len(await gateway.rows(key=key.id, kind="call")), amount)
        lines.same("torii ledger verify", await gateway.verified(), [])
    return lines


async def tokens(folder: Path, workers: int, calls: int = 300, amount: int = 5_000) -> Lines:
    """Calls whose bound is several times what is billed, until a budget of tokens is spent; watched meanwhile."""
    lines = Lines(f"1 tokens, {workers} workers")
    async with stage(folder, workers) as there, team_gateway(folder, there.providers, workers) as gateway:
        key = await gateway.key("tokens", budgets=[{"unit": "tokens", "amount": amount, "window": "day"}])
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                (budget,) = await gateway.budgets(key)
                most = max(most, int(budget["spent"]) + int(budget["held"]))

        watching = asyncio.create_task(watch())
        passed = 0
        async with crowd(gateway, 100) as client:
            for turn in range(20):
                bodies = [embed(f"{turn} {number} " + "x" * 60) for number in range(calls // 3)]
                found = await answers(client, key, EMBED, bodies)
                passed += statuses(found).get("200", 0)
                if passed and not statuses(found).get("200"):
                    break
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        (budget,) = await gateway.rests(key)
        spent, held = int(budget["spent"]), int(budget["held"])
        lines.true("the most that was spent and held at any time", 0 < most <= amount, f"{most:,} of {amount:,}")
        lines.same("tokens spent, as the provider billed", spent, there.jina.billed)
        lines.true("nothing more fits, nothing is held", amount - spent < 100 and held == 0, f"{amount - spent} left")
        lines.same("calls that passed, as the provider saw", passed, there.met)
        lines.same("torii ledger verify", await gateway.verified(), [])
    return lines


async def killed(folder: Path, workers: int, calls: int = 300, amount: int = 100) -> Lines:
    """`kill -9` of a worker, or of the only process, with streams open and calls on their way."""
    lines = Lines(f"1 kill -9, {workers} workers")
    budgets = [{"unit": "requests", "amount": amount, "window": "total"}]
    async with stage(folder, workers) as there:
        async with team_gateway(folder, there.providers, workers) as gateway:
            key = await gateway.key("killed", budgets=budgets)
            async with crowd(gateway, calls + amount) as client:
                streams = [
                    asyncio.create_task(
                        client.post(CHAT, json=chat(f"{number} play:held", stream=True), headers=key.headers)
                    )
                    for number in range(amount // 3)
                ]
                await until(lambda: there.aihubmix.held >= amount // 3)
                rest = asyncio.create_task(answers(client, key, EMBED, [embed(f"a{n}") for n in range(calls)]))
                await until(lambda: there.jina.met >= amount // 4)
                victim = gateway.workers()[0] if workers > 1 else gateway.process.pid
                os.kill(victim, signal.SIGKILL)
                await rest
                there.aihubmix.gate.set()
                await asyncio.gather(*streams, return_exceptions=True)
            if workers > 1:
                await _after_a_kill(gateway, key, there, lines, amount)
        if workers == 1:
            async with team_gateway(folder, there.providers, workers) as gateway:
                await _after_a_kill(gateway, key, there, lines, amount)
    return lines


async def _after_a_kill(gateway: TeamGateway, key: VirtualKey, there: Stage, lines: Lines, amount: int) -> None:
    async with crowd(gateway, 50) as client:
        found = await answers(client, key, EMBED, [embed(f"b{number}") for number in range(2 * amount)])
    lines.true("after the kill, the others are refused", "429" in statuses(found), statuses(found))
    budget = (await gateway.rests(key, LEASE_SECONDS))[0]
    lines.true("requests that reached a provider", there.met <= amount, f"{there.met} of {amount}")
    lines.same("spent and held at rest", (int(budget["spent"]), int(budget["held"])), (amount, 0))
    lost = [row for row in await gateway.rows(key=key.id) if row["error"] == "process_lost"]
    lines.true("rows of calls that the process lost", len(lost) > 0, len(lost))
    lines.same("torii ledger verify", await gateway.verified(), [])


# ---------------------------------------------------------------- 2: nothing leaks

PLAYS = (
    "right",
    "right",
    "500",
    "429",
    "cut",
    "leaves",
    "parts",
    "shared",
    "stream",
    "cut stream",
    "left stream",
    "hit",
)


async def faults(folder: Path, workers: int, seconds: float = 30.0, seed: int = 1) -> Lines:
    """Random faults and departures; then the rest of a budget is spent to the last unit."""
    lines = Lines(f"2 faults, {workers} workers")
    amount = 100_000
    async with stage(folder, workers) as there:
        models = {"jina-embeddings-v3": {"max_inputs": 2}}
        values: dict[str, Any] = {"models": models, "cache": {"store": "memory"}, "max_attempts": 2}
        async with team_gateway(folder, there.providers, workers, **values) as gateway:
            limits = {"concurrent_calls": 200, "tokens_per_minute": 50_000_000}
            key = await gateway.key(
                "faults",
                limits=limits,
                budgets=[
                    {"unit": "requests", "amount": amount, "window": "total"},
                    {"unit": "tokens", "amount": 10**9, "window": "month"},
                ],
            )
            counted = await _soak(gateway, key, seconds, Random(seed))
            requests, spent = await gateway.rests(key)
            lines.true("calls", counted.total() > 0, ", ".join(f"{name} {n}" for name, n in sorted(counted.items())))
            lines.same("requests and tokens held at rest", (requests["held"], spent["held"]), _zero(requests, spent))
            rows = await gateway.rows(key=key.id)
            ids = {row["request_id"] for row in rows if row["kind"] != "refusal"}
            lines.same("calls with a row, as the budget counts", len(ids), int(requests["spent"]))
            lines.same("tokens of the rows, as the budget counts", _tokens(rows), int(spent["spent"]))
            await _to_the_last(gateway, key, lines)
            lines.same("torii ledger verify", await gateway.verified(), [])
    return lines


def _zero(*budgets: Any) -> tuple[Any, ...]:
    """Nothing, in the form of the unit."""
    return tuple(type(budget["held"])(0) for budget in budgets)


def _tokens(rows: Sequence[Any]) -> int:
    return sum(int(row["total_tokens"]) for row in rows if row["kind"] == "call")


async def _soak(gateway: TeamGateway, key: VirtualKey, seconds: float, chance: Random) -> Counter[str]:
    """Forty callers who do something at random until the time is over; what they did."""
    counted: Counter[str] = Counter()
    end = time.monotonic() + seconds
    number = 0

    async def caller(client: httpx.AsyncClient) -> None:
        nonlocal number
        while time.monotonic() < end:
            play = chance.choice(PLAYS)
            number += 1
            counted[play] += 1
            with suppress(httpx.TransportError, TimeoutError):
                await act(client, key, play, number)

    async with crowd(gateway, 60) as client:
        await asyncio.gather(*(caller(client) for _ in range(40)))
    return counted


async def act(client: httpx.AsyncClient, key: VirtualKey, play: str, number: int) -> None:
    text = f"{number} " + (f"play:{play}" if play in ("500", "429", "cut") else "")
    if play == "parts":
        body = embed(text) | {"input": [f"{text} {part}" for part in range(7)]}
        await client.post(EMBED, json=body, headers=key.headers)
    elif play in ("shared", "hit"):
        text = f"shared {number // 20}" if play == "shared" else "the same again and again"
        await client.post(EMBED, json=embed(text), headers=key.headers)
    elif play == "leaves":
        async with asyncio.timeout(0.004):
            await client.post(EMBED, json=embed(text), headers=key.headers)
    elif "stream" in play:
        body = chat(text + ("play:cut" if play == "cut stream" else ""), stream=True)
        async with client.stream("POST", CHAT, json=body, headers=key.headers) as answer:
            async for _ in answer.aiter_bytes():
                if play == "left stream":
                    return
    else:
        body = embed(text) if number % 2 else {**embed(text), "model": "jina-embeddings-v3"}
        await client.post(EMBED, json=body, headers=key.headers)


async def _to_the_last(gateway: TeamGateway, key: VirtualKey, lines: Lines, rest: int = 25) -> None:
    """Lower the budget of requests until ``rest`` are left, and spend them."""
    requests, _ = await gateway.budgets(key)
    await gateway.amount(key, int(requests["spent"]) + rest)
    async with crowd(gateway, 50) as client:
        found = await answers(client, key, EMBED, [embed(f"last {number}") for number in range(2 * rest)])
    lines.same(f"the last {rest} of the budget, for {2 * rest} calls", statuses(found), {"200": rest, "429": rest})


# ---------------------------------------------------------------- 4: revocation, rotation, zones


async def revoked(folder: Path, workers: int, seconds: float = 5.0, grace: int = 2) -> Lines:
    """A revoked key, a rotated one, and the ends of windows in two zones."""
    lines = Lines(f"4 revoke, {workers} workers")
    async with stage(folder, workers) as there, team_gateway(folder, there.providers, workers) as gateway:
        key = await gateway.key("revoked")
        await gateway.admin("DELETE", f"keys/{key.id}")
        last = await _last_success(gateway, key, seconds + 2)
        lines.true("seconds until every worker refused a revoked key", last < seconds, f"{last:.2f}")
        refused = await gateway.fresh("/v1/models", key)
        said = (refused.status_code, refused.json()["error"]["code"])
        lines.same("its status and code", said, (401, "key_revoked"))

        kept, new = await _rotated(gateway, await gateway.key("rotated with a long grace"), 3600)
        both = {(await gateway.fresh("/v1/models", each)).status_code for each in (kept, new)}
        lines.same("both secrets within the grace", both, {200})

        old, new = await _rotated(gateway, await gateway.key("rotated"), grace)
        last = await _last_success(gateway, old, grace + seconds)
        lines.true("seconds until the old secret was refused", last < grace + seconds, f"{last:.2f}")
        lines.same("the new secret after it", (await gateway.fresh("/v1/models", new)).status_code, 200)
    return lines


async def _rotated(gateway: TeamGateway, old: VirtualKey, grace: int) -> tuple[VirtualKey, VirtualKey]:
    """The key with its old secret and with its new one, which every worker knows."""
    made = await gateway.admin("POST", f"keys/{old.id}/rotate", {"grace_seconds": grace})
    new = VirtualKey(old.id, made["secret"])
    await gateway.known(new)
    return old, new


async def _last_success(gateway: TeamGateway, key: VirtualKey, seconds: float) -> float:
    """When the key was last taken by any worker, in seconds from now; tried for ``seconds``, at least until it was
    refused by all, several times in a row."""
    began = time.monotonic()
    last = 0.0
    refused = 0

    async def taken() -> bool:
        return (await gateway.fresh("/v1/models", key)).status_code == 200

    while time.monotonic() < began + seconds and refused < 5:
        found = any(await at_once(taken))
        refused = 0 if found else refused + 1
        last = time.monotonic() - began if found else last
    return last


async def zones(folder: Path, zone: str) -> Lines:
    """The ends of calendar windows, against the system's own table of zones."""
    lines = Lines(f"4 {zone}")
    async with stage(folder, 1) as there, team_gateway(folder, there.providers, time_zone=zone) as gateway:
        windows = ("day", "week", "month", "total")
        key = await gateway.key("zones", budgets=[{"unit": "tokens", "amount": 9, "window": each} for each in windows])
        before = datetime.now(ZoneInfo(zone))
        found = {budget["window"]: budget["resets_at"] for budget in await gateway.budgets(key)}
        after = datetime.now(ZoneInfo(zone))
        lines.true("resets_at", found in (_ends(before), _ends(after)), found["week"])
    return lines


def _ends(now: datetime) -> dict[str, str | None]:
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    ends = {
        "day": midnight + timedelta(days=1),
        "week": midnight + timedelta(days=7 - now.weekday()),
        "month": (midnight.replace(day=1) + timedelta(days=32)).replace(day=1),
    }
    told = {window: end.astimezone(UTC).isoformat().replace("+00:00", "Z") for window, end in ends.items()}
    return {**told, "total": None}
