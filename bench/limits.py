"""What limits, budgets and their ledger cost: CPU time per call of a caller who has them, to one who has none.

    python -m bench.limits [--rounds 9] [--seconds 2] [--cache-off] [--redis]

Both callers ask the same gateway in turn, so that a busy machine slows both; the figure is the median of the rounds'
ratios. The ledger is on for both, and what was queued for it is written before a round ends.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from . import upstream as upstreams
from .gateways import Torii, http
from .processes import Cores, Running
from .rounds import load
from .scenarios import MAIN, Scenario
from .statistic import ratio, spread

PLAIN, LIMITED = "a-caller-without-limits", "a-caller-with-limits"  # their keys
MOST = 10**12
SCENARIO = next(scenario for scenario in MAIN if scenario.name == "embeddings")
WRITTEN_SECONDS = 0.6  # after which the ledger has all rows
TARGET = 1.2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each caller's turn in a round")
    parser.add_argument("--cache-off", action="store_true", help="without the cache of answers")
    parser.add_argument("--redis", action="store_true", help="limits by minute and at once in a Redis of its own")
    arguments = parser.parse_args()
    more: dict[str, Any] = {"cache": {"store": "off"}} if arguments.cache_off else {}
    with (
        redis() if arguments.redis else nullcontext() as url,
        tempfile.TemporaryDirectory(prefix="torii-limits-") as name,
    ):
        if url is not None:
            more["counters"] = {"url": url}
        folder, cores = Path(name), Cores.of_this_machine()
        upstream, stub = upstreams.started(folder, cores)
        try:
            torii = Torii(settings={**settings(SCENARIO.ask.place), **more})
            gateway, port = torii.start([SCENARIO.ask], stub, folder, cores.gateway)
            try:
                plain, limited, calls = measured(SCENARIO, gateway, port, cores, arguments.rounds, arguments.seconds)
                if url is not None:
                    print(trips(url, calls))
            finally:
                gateway.stop()
        finally:
            upstream.stop()
    found = ratio(limited, plain)
    assert found is not None
    print(f"without limits  {spread(plain).median:6.1f} us of CPU a call")
    print(f"with limits     {spread(limited).median:6.1f} us")
    print(f"ratio           {found.median:6.2f} ({found.least:.2f} to {found.most:.2f}), target {TARGET:.2f}")
    return 0


@contextmanager
def redis() -> Iterator[str]:
    """A redis-server without persistence; yields its URL."""
    with tempfile.TemporaryDirectory(prefix="torii-redis-") as folder:
        socket = f"{folder}/redis.sock"
        command = ["redis-server", "--port", "0", "--unixsocket", socket, "--save", "", "--dir", folder]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            while not Path(socket).exists():
                time.sleep(0.01)  # noqa: TID251 - there is no event loop here
            yield f"unix://{socket}"
        finally:
            process.kill()
            process.wait()


def trips(url: str, calls: int) -> str:
    """What Redis says of the script, for so many calls."""
    from redis import Redis

    stats: Any = Redis.from_url(url).info("commandstats")
    found = stats["cmdstat_evalsha"]
    each = calls / found["calls"]
    return f"Redis           {each:.1f} calls for each EVALSHA, {found['usec_per_call'] / each:.0f} us in Redis a call"


def settings(place: str) -> dict[str, Any]:
    """Two callers: one without limits; one with three limits and two budgets that are never reached."""
    limits = {"requests_per_minute": MOST, "tokens_per_minute": MOST, "concurrent_calls": 1000}
    budgets = [
        {"unit": "tokens", "amount": MOST, "window": "month"},
        {"unit": "usd", "amount": 1_000_000, "window": "day"},
    ]
    callers = [
        {"name": "plain", "key": PLAIN},
        {"name": "limited", "key": LIMITED, "limits": limits, "budgets": budgets},
    ]
    return {"callers": callers, "prices": {place: {SCENARIO.ask.model: {"input": "0.02"}}}}


def measured(
    scenario: Scenario, gateway: Running, port: int, cores: Cores, rounds: int, seconds: float
) -> tuple[list[float], list[float], int]:
    """Microseconds a call in each round, without and with limits, and the number of all calls with limits. The first
    round is for warming up."""
    found: dict[str, list[float]] = {PLAIN: [], LIMITED: []}
    calls = 0
    for number in range(rounds + 1):
        for key in (PLAIN, LIMITED) if number % 2 else (LIMITED, PLAIN):
            ask = scenario.ask
            request = http(
                f"/v1/{ask.endpoint}",
                {"model": f"{ask.place}/{ask.model}", **ask.body},
                {"authorization": f"Bearer {key}"},
            )
            before = gateway.cpu()
            outcome = load(scenario.plan(port, request, seconds if number else 1.0, ""), cores)
            time.sleep(WRITTEN_SECONDS)  # noqa: TID251 - there is no event loop here
            if outcome.failed or not outcome.done:
                sys.exit(f"{outcome.failed} calls failed: {outcome.first_failure}")
            calls += outcome.done if key == LIMITED else 0
            if number:
                found[key].append((gateway.cpu() - before) / outcome.done * 1e6)
    return found[PLAIN], found[LIMITED], calls


if __name__ == "__main__":
    sys.exit(main())
