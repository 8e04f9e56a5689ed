"""The cache's tiers: memory, a file, Redis. Their contents, lifetimes, and behaviour in failures."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from app.cache import Cache, Tiers
from app.cache.entries import CacheEntry
from app.cache.memory import OVERHEAD, Memory
from app.cache.redis import Redis
from app.cache.sqlite_tier import Disk
from app.config.settings import Settings
from app.core.types import EmbeddingsCall, Key, Target
from app.gateway.build import SharedTiers, secrets
from app.storage.cache_file import POLICY, SCHEMA, CacheFile
from app.storage.redis.connection import RedisAddress
from app.upstreams import Jina
from app.upstreams.catalogue import unlisted

from ..conftest import JINA_KEY, PATIENCE, ScriptedUpstream, running_gateway, settings_for, until
from ..ledger import make_at_once
from .test_lookup import EMBED, RERANK, ask, embeds, ranks, told

ROOT = Path(__file__).parents[2]
CALL = EmbeddingsCall(model="m", body={"input": ["a"]})
BOTH = EmbeddingsCall(model="m", body={"input": ["a", "b"]})
TARGET = Target(Jina(), unlisted("m"), "m", Key("k"))
DAY = 86_400.0


def key(number: int) -> bytes:
    return number.to_bytes(20, "big")


# In memory.


def entry(value: bytes) -> CacheEntry:
    """An entry of new objects, as for a new answer."""
    head = {"object": b'"%b"' % b"list", "data": b"", "model": b'"%b"' % (b"m" * 20), "usage": b""}
    return CacheEntry(head, [{"object": b'"%b"' % b"embedding", "index": b"%d" % 100, "embedding": value}], 0)


COST = entry(b"").size + OVERHEAD


def test_memory_has_a_bound_and_the_least_recently_used_goes() -> None:
    memory = Memory(3 * (100 + COST))
    for number in range(3):
        memory.put(key(number), entry(b"x" * 100), 10)
    assert memory.get(key(0), 0) == entry(b"x" * 100)
    memory.put(key(3), entry(b"y" * 100), 10)
    assert [memory.get(key(number), 0) is not None for number in range(4)] == [True, False, True, True]
    memory.put(key(4), entry(b"z" * 500), 10)
    assert (memory.size, len(memory)) == (600 + 2 * COST, 2)
    memory.put(key(5), entry(b"z" * 5000), 10)
    assert memory.get(key(5), 0) is None
    assert memory.get(key(4), 0) == entry(b"z" * 500)


@pytest.mark.parametrize("form", [0, 0.6])
@pytest.mark.parametrize("size", [1, 100, 1000, 10_000])
def test_the_bound_is_of_what_entries_cost_in_the_process(size: int, form: float) -> None:
    """Including Python's overhead, also after many insertions and evictions; and at least half of the limit is used."""
    limit = 1_000_000
    least = most = limit * 0.9
    tracemalloc.start()
    try:
        memory = Memory(limit)
        for number in range(4 * limit // (size + COST)):
            memory.put(key(number), entry(os.urandom(size)), number)
            memory.add_form(key(number), os.urandom(int(size * form)))
            if len(memory) <= number:  # it is full
                cost = tracemalloc.get_traced_memory()[0]
                least, most = min(least, cost), max(most, cost)
    finally:
        tracemalloc.stop()
    assert limit / 2 < least <= most < limit


def test_what_was_made_of_a_value_goes_with_it() -> None:
    memory = Memory(1000 + 2 * COST)
    for number in range(2):
        memory.put(key(number), entry(b"x" * 400), 10)
    memory.add_form(key(1), b"f" * 200)
    memory.add_form(key(1), b"g" * 200)
    assert (memory.form(key(0)), memory.form(key(1)), memory.size) == (b"", b"f" * 200, 1000 + 2 * COST)
    memory.put(key(1), entry(b"y" * 400), 10)
    assert (memory.form(key(1)), memory.size) == (b"", 800 + 2 * COST)
    memory.add_form(key(1), b"f" * 201)
    assert (len(memory), memory.form(key(1)), memory.size) == (1, b"f" * 201, 601 + COST)
    memory.add_form(key(2), b"f")
    assert memory.form(key(2)) == b""


def test_memory_forgets_in_time() -> None:
    memory = Memory(10_000)
    memory.put(key(1), entry(b"x"), 10.0)
    memory.put(key(1), entry(b"y"), 20.0)
    assert memory.get(key(1), 19.9) == entry(b"y")
    assert memory.get(key(1), 20.0) is None
    assert (memory.size, len(memory)) == (0, 0)


# In a file.


@contextmanager
def disk(path: Path, limit: int = 10**9) -> Iterator[Disk]:
    file = CacheFile(path)
    try:
        yield Disk(file, limit)
    finally:
        file.close()


def count(path: Path) -> int:
    with sqlite3.connect(path) as database:
        return int(database.execute("SELECT count(*) FROM entries").fetchone()[0])


async def at_hand(store: Disk, *numbers: int, now: float = 0) -> set[int]:
    found = await store.read([key(number) for number in numbers], now)
    return {int.from_bytes(name, "big") for name in found}


async def test_a_file_outlives_its_process(tmp_path: Path) -> None:
    with disk(tmp_path / "cache.db") as store:
        store.write({key(1): b"one", key(2): b"two"}, 0.0, 10.0)
    with disk(tmp_path / "cache.db") as store:
        assert await store.read([key(1), key(2), key(3)], 5.0) == {key(1): (b"one", 10.0), key(2): (b"two", 10.0)}
        assert await store.read([key(1)], 10.0) == {}
        store.write({key(1): b"uno"}, 6.0, 20.0)
        await _until_read(store, key(1), b"uno")
    assert count(tmp_path / "cache.db") == 2
    assert (tmp_path / "cache.db").stat().st_mode & 0o777 == 0o600


async def _until_read(store: Disk, name: bytes, value: bytes) -> None:
    async with asyncio.timeout(PATIENCE):
        while (await store.read([name], 0.0)).get(name, (b"", 0))[0] != value:  # noqa: ASYNC110 - as in `until`
            await asyncio.sleep(0.002)


async def test_more_keys_than_one_statement_takes(tmp_path: Path) -> None:
    with disk(tmp_path / "cache.db") as store:
        store.write({key(number): b"x" for number in range(1200)}, 0.0, 10.0)
    with disk(tmp_path / "cache.db") as store:
        assert await at_hand(store, *range(1300)) == set(range(1200))


async def test_a_file_has_a_bound_and_the_least_recently_used_goes(tmp_path: Path) -> None:
    path, limit = tmp_path / "cache.db", 2_000_000
    with disk(path, limit) as store:
        for number in range(100):
            store.write({key(number): os.urandom(12_000)}, float(number), 10 * DAY)
    with disk(path, limit) as store:  # 100 entries of 12 kB are 1.3 MB
        assert await at_hand(store, *range(100), now=1.0) == set(range(100))
        await at_hand(store, 7, now=2 * DAY)
        for number in range(100, 300):
            store.write({key(number): os.urandom(12_000)}, DAY + number, 10 * DAY)
    with disk(path, limit) as store:
        kept = await at_hand(store, *range(300), now=2.0)
    assert 7 in kept
    assert kept - {7} == set(range(300 - len(kept) + 1, 300))
    assert 140 < len(kept) < 160
    assert path.stat().st_size <= 1.1 * limit


async def test_what_has_ended_makes_room_first(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    with disk(path) as store:
        store.write({key(1): b"x"}, 0.0, 10.0)
        store.write({key(2): b"x"}, 5.0, 30.0)
    with disk(path) as store:
        store.write({key(3): b"x"}, 20.0, 30.0)
    assert count(path) == 2


@pytest.mark.parametrize("damage", [b"this is no database" * 1000, None])
async def test_a_damaged_file_is_set_aside(
    damage: bytes | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "cache.db"
    with disk(path) as store:
        store.write({key(number): os.urandom(5000) for number in range(50)}, 0.0, 10.0)
    content = path.read_bytes()
    # The file is garbage, from its second page on or completely.
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096) if damage is None else damage)
    with disk(path) as store:
        assert await at_hand(store, *range(50)) == set()
        await until(lambda: "was damaged" in caplog.text)
        store.write({key(1): b"new"}, 0.0, 10.0)
        await _until_read(store, key(1), b"new")
    assert path.with_name("cache.db.damaged").exists()
    assert count(path) == 1


async def test_a_file_that_cannot_be_opened_costs_no_call(
    upstream: ScriptedUpstream, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    upstream.plays(embeds)
    cache = {"store": "sqlite", "path": tmp_path / "no-such-folder" / "cache.db"}
    async with running_gateway(settings_for(upstream.url, cache=cache)) as gateway:
        assert [told(await ask(gateway))[0] for _ in range(2)] == ["miss", "hit"]
        file = tmp_path / "no-such-folder" / "cache.db"
        told_why = f"the cache file {file} cannot be opened: No such file or directory; calls bypass the file"
        assert told_why in caplog.messages
        # The file is used as soon as it can be opened.
        (tmp_path / "no-such-folder").mkdir()
        await ask(gateway, {**EMBED, "input": "new"})
        await until(lambda: (tmp_path / "no-such-folder" / "cache.db").exists())


async def test_a_locked_file_costs_no_call(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.plays(embeds)
    path = tmp_path / "cache.db"
    async with running_gateway(settings_for(upstream.url, cache={"store": "sqlite", "path": path})) as gateway:
        other = sqlite3.connect(path, isolation_level=None)
        try:
            other.execute("BEGIN EXCLUSIVE")
            assert [told(await ask(gateway))[0] for _ in range(2)] == ["miss", "hit"]
        finally:
            other.close()
        await until(lambda: count(path) == 3)  # the queued entry was written


async def test_a_file_that_is_locked_at_the_start_is_opened_later(
    upstream: ScriptedUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.storage.cache_file.WRITE_BUSY_SECONDS", 0.05)
    upstream.plays(embeds)
    path = tmp_path / "cache.db"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("CREATE TABLE of_another_program (x)")
    other.execute("BEGIN EXCLUSIVE")
    settings = settings_for(upstream.url, cache={"store": "sqlite", "path": path})
    async with running_gateway(settings) as gateway:
        assert [told(await ask(gateway))[0] for _ in range(2)] == ["miss", "hit"]
        other.execute("COMMIT")
        assert told(await ask(gateway, {**EMBED, "input": "new"}))[0] == "miss"
    other.close()
    async with running_gateway(settings) as gateway:
        assert told(await ask(gateway, {**EMBED, "input": "new"}))[0] == "hit"


async def test_trouble_is_told_once_and_costs_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "cache.db"
    with disk(path) as store:
        with sqlite3.connect(path) as other:
            other.execute("DROP TABLE entries")
        store.write({key(1): b"x"}, 0.0, 10.0)
        why = f"the cache file {path} cannot be written: it cannot be used (SQLITE_ERROR); calls bypass the file"
        await until(lambda: why in caplog.messages)
        store.write({key(2): b"x"}, 0.0, 10.0)
        assert await at_hand(store, 1, 2) == set()
        with sqlite3.connect(path) as other:
            other.executescript(SCHEMA)
        store.write({key(3): b"x"}, 0.0, 10.0)
        await _until_read(store, key(3), b"x")
    assert len(caplog.records) == 1


async def test_no_more_waits_to_be_written_than_the_bound(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    with disk(path) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        store.write({key(number): b"x" for number in range(10_000)}, 0.0, 10.0)
        other.close()
    assert count(path) == POLICY.room


async def test_a_gateway_that_starts_again_has_what_was_paid_for(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.plays(embeds)
    settings = settings_for(upstream.url, cache={"store": "sqlite", "path": tmp_path / "cache.db"})
    async with running_gateway(settings) as gateway:
        first = await ask(gateway)
    async with running_gateway(settings) as gateway:
        second, third = await ask(gateway), await ask(gateway)
    assert [told(answer) for answer in (first, second, third)] == [("miss", 15, None), ("hit", 0, 15), ("hit", 0, 15)]
    assert first.json()["data"] == second.json()["data"] == third.json()["data"]
    assert len(upstream.seen) == 1
    assert "torii-cache" not in [thread.name for thread in threading.enumerate()]


def test_one_file_is_made_by_many_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_at_once(lambda path: CacheFile(path).close(), tmp_path)
    assert caplog.messages == []


async def test_two_processes_share_a_file(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """Another process writes while this one has the file open, and each can read the other's entries."""
    path = tmp_path / "cache.db"
    script = """
import asyncio, sys
from pathlib import Path
from app.cache.sqlite_tier import Disk
from app.storage.cache_file import CacheFile
file = CacheFile(Path(sys.argv[1]))
found = asyncio.run(Disk(file, 10**9).read([bytes(19) + b"\\1"], 0.0))
Disk(file, 10**9).write({bytes(17) + n.to_bytes(3, "big"): b"theirs" for n in range(100, 400)}, 0.0, 10.0)
file.close()
print(len(found))
"""
    with disk(path) as store:
        store.write({key(1): b"ours"}, 0.0, 10.0)
        await _until_read(store, key(1), b"ours")
        others = [
            await asyncio.create_subprocess_exec(
                sys.executable, "-c", script, str(path), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            for _ in range(2)
        ]
        store.write({key(number): b"ours" for number in range(2, 100)}, 0.0, 10.0)
        assert [await other.communicate() for other in others] == [(b"1\n", b"")] * 2
        await _until_read(store, key(399), b"theirs")
        assert await at_hand(store, *range(401)) == set(range(1, 400))


async def test_nothing_of_a_call_is_in_the_file(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    settings = settings_for(
        upstream.url, cache={"store": "sqlite", "path": path}, caller_key="canary-caller-0123456789"
    )
    async with running_gateway(settings) as gateway:
        bearer = {"authorization": "Bearer canary-caller-0123456789"}
        upstream.plays(embeds)
        await ask(gateway, {**EMBED, "input": ["canary text of the caller"], "user": "canary"}, **bearer)
        await ask(gateway, {**EMBED, "input": ["canary text"], "late_chunking": True}, **bearer)
        upstream.plays(ranks)
        await ask(
            gateway, {**RERANK, "query": "canary", "documents": ["canary", {"text": "canary"}]}, "/v1/rerank", **bearer
        )
    files = list(tmp_path.iterdir())
    content = b"".join(file.read_bytes() for file in files)
    assert count(path) == 3
    assert b"relevance_score" in content
    for secret in (b"canary", JINA_KEY.encode(), upstream.url.removeprefix("http://").encode()):
        assert secret not in content


# All tiers together.


def entries(cache: Cache) -> Any:
    return cache._memory


async def found_in(cache: Cache, keys: list[bytes], call: Any = CALL) -> dict[bytes, CacheEntry]:
    """The entries of the keys, read from memory first and then from the store, as by a lookup."""
    found = cache.in_memory(keys)
    return found | await cache.in_store(keys, set(keys) - found.keys(), call, TARGET)


async def test_time_and_memory_over_a_file(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    now = 1000.0
    file = CacheFile(tmp_path / "cache.db")

    def fresh() -> Cache:
        return Cache(Tiers(Memory(10**6), Disk(file, 10**9)), seconds=60, clock=lambda: now)

    head = {"object": b'"list"', "data": b"", "model": b'"m"', "usage": b""}
    entry = CacheEntry(head, [{"object": b'"embedding"', "index": b"0", "embedding": b"[1]"}], 5, 1)
    fresh().write({key(1): entry})
    async with asyncio.timeout(PATIENCE):
        while not (await found_in(fresh(), [key(1)])):  # noqa: ASYNC110 - as in `until`
            await asyncio.sleep(0.002)
    now = 1030.0
    later = fresh()
    assert await found_in(later, [key(1), key(2)], BOTH) == {key(1): entry}
    assert len(entries(later)) == 1
    now = 1059.9
    assert await found_in(later, [key(1)]) == {key(1): entry}
    now = 1060.0  # reading an entry from the file does not extend its life
    assert await found_in(later, [key(1)]) == {}
    assert await found_in(fresh(), [key(1)]) == {}
    await later.aclose()


async def test_a_value_that_is_no_entry_is_a_miss(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.plays(embeds)
    path = tmp_path / "cache.db"
    settings = settings_for(upstream.url, cache={"store": "sqlite", "path": path})
    async with running_gateway(settings) as gateway:
        await ask(gateway)
    with sqlite3.connect(path) as database:
        database.execute("UPDATE entries SET value = x'00ff'")
    async with running_gateway(settings) as gateway:
        assert [told(await ask(gateway)) for _ in range(2)] == [("miss", 15, None), ("hit", 0, 15)]


# In Redis.

WITH_REDIS = pytest.mark.skipif(
    shutil.which("redis-server") is None, reason="redis-server is not on this machine: the cache in Redis was not tried"
)


@asynccontextmanager
async def redis_server(folder: Path, *options: str) -> AsyncIterator[str]:
    """On a socket in a folder, so that it needs no port; yields its URL."""
    socket = folder / "redis.sock"
    command = ["redis-server", "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(folder), *options]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL)
    try:
        await until(socket.exists)
        yield f"unix://{socket}"
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@WITH_REDIS
async def test_redis_keeps_it_for_every_gateway(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.plays(embeds)
    async with redis_server(tmp_path) as url:
        settings = settings_for(upstream.url, cache={"store": "redis", "redis_url": url})
        async with running_gateway(settings) as one, running_gateway(settings) as two:
            first = await ask(one)
            async with asyncio.timeout(PATIENCE):
                while told(second := await ask(two, cache_control="max-age=1"))[0] != "hit":
                    pass
        store = Redis(RedisAddress(url))
        store.write({key(1): b"a", key(2): b"b"}, 0.0, 60.0)
        store.write({key(3): b"c"}, 0.0, 60.0)
        await until(lambda: store._writing is not None and store._writing.done())
        assert await store.read([key(1), key(3), key(4)], 1.0) == {key(1): (b"a", 60.0), key(3): (b"c", 60.0)}
        assert await store.read([key(1)], 60.0) == {}
        lives = await store._connection.pttl(b"torii:cache:" + key(1))  # type: ignore[union-attr]
        assert 0 < lives <= 60_000
        await store.aclose()
    assert first.json()["data"] == second.json()["data"]


@WITH_REDIS
async def test_without_redis_calls_go_on(
    upstream: ScriptedUpstream, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    upstream.plays(embeds)
    async with redis_server(tmp_path) as url:
        settings = settings_for(upstream.url, cache={"store": "redis", "redis_url": url})
        async with running_gateway(settings) as gateway:
            await ask(gateway)
            process = await asyncio.create_subprocess_exec(
                "redis-cli", "-s", url.removeprefix("unix://"), "shutdown", "nosave", stdout=subprocess.DEVNULL
            )
            await process.wait()
            # The memory tier has it; other inputs are requested.
            assert told(await ask(gateway)) == ("hit", 0, 15)
            assert [told(await ask(gateway, {**EMBED, "input": "new"}))[0] for _ in range(2)] == ["miss", "hit"]
    assert "Redis did not answer" in caplog.text


async def test_a_redis_that_says_nothing_is_left_alone(
    upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    upstream.plays(embeds)

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(hold, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    url = f"redis://:canary-password@127.0.0.1:{port}/0"
    settings = settings_for(upstream.url, cache={"store": "redis", "redis_url": url})
    try:
        async with running_gateway(settings) as gateway:
            inputs = ["a", "b", "a"]
            assert [told(await ask(gateway, {**EMBED, "input": i}))[0] for i in inputs] == ["miss", "miss", "hit"]
    finally:
        silent.close()
    assert caplog.text.count("Redis did not answer") == 1
    assert "canary" not in caplog.text
    assert "canary-password" not in repr(settings)
    assert {url, "canary-password"} <= set(secrets(settings))


# From the settings.


def test_the_tiers_are_those_of_the_settings(tmp_path: Path) -> None:
    def tiers(**cache: Any) -> tuple[bool, str]:
        built: Mapping[str, Any] = vars(SharedTiers().cache(Settings.model_validate({"cache": cache})))
        store = built["_store"]
        if isinstance(store, Disk):
            store._file.close()
        return built["_memory"] is not None, type(store).__name__

    assert tiers() == (True, "NoneType")
    assert tiers(store=False) == (False, "NoneType")
    assert tiers(store="sqlite", path=tmp_path / "c.db") == (True, "Disk")
    assert tiers(store="redis", redis_url="redis://127.0.0.1:9/0") == (True, "Redis")
    assert [path.name for path in tmp_path.iterdir()] == ["c.db"]


# Across a change of configuration.


async def test_what_was_paid_for_outlives_a_reload(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    """In memory too, as long as the store's path and size are unchanged."""
    upstream.plays(embeds)
    cache: dict[str, Any] = {"store": "memory"}
    async with running_gateway(settings_for(upstream.url, cache=cache)) as gateway:
        states = [told(await ask(gateway))[0]]
        for changed in (
            {"ttl_days": 1},
            {"memory_megabytes": 2},
            {"store": "sqlite", "path": tmp_path / "c.db"},
            {"per_caller": False},
            {"store": "off"},
        ):
            cache |= changed
            gateway.generations.renew(settings_for(upstream.url, cache=cache))
            states.append(told(await ask(gateway))[0])
        assert states == ["miss", "hit", "miss", "miss", "hit", "off"]
        # The file is no longer in use.
        await until(lambda: "torii-cache" not in [thread.name for thread in threading.enumerate()])
        cache["store"] = "sqlite"
        gateway.generations.renew(settings_for(upstream.url, cache=cache))
        assert told(await ask(gateway))[0] == "hit"
    assert "torii-cache" not in [thread.name for thread in threading.enumerate()]
