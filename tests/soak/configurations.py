"""Configurations for the soak to change between, with other keys, limits, models and policies each time. Some are
broken."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

# In seconds. Every wait of a caller is a sum of these.
TIMEOUTS = {
    "connect_seconds": 10.0,
    "headers_seconds": 2.0,
    "reply_seconds": 1.0,
    "idle_seconds": 1.0,
    "event_seconds": 3.0,
    "total_seconds": 7.0,
    "request_head_seconds": 1.5,
    "request_body_seconds": 1.5,
    "write_seconds": 2.0,
}
PACE, DRAIN, ATTEMPTS = 1.0, 8.0, 3
CALLERS = {"team": "soak-key-of-the-team-0123456789", "notebook": "soak-key-of-the-notebook-0123456"}
# The caller of repeated calls. Some of these calls are batched or share an upstream call.
AGAIN = "again"
EVERYONE = {**CALLERS, AGAIN: "soak-key-of-those-who-ask-again-01"}
OPERATOR = "soak-key-of-the-operator-0123456"
JINA_KEYS = [f"jina_soak{number}0123456789abcdef0123456789" for number in range(4)]
AIHUBMIX_KEYS = [f"sk-soak{number}0123456789abcdef" for number in range(3)]
BROKEN = ("prot: 8000\n", "upstreams: {jina: {kind: jinn}}\n", "timeouts: [1, 2\n", "max_concurrent_calls: -1\n", "")


@dataclass(frozen=True, slots=True)
class Places:
    """The addresses of the upstreams, and the ledger, whose folder also has the cache."""

    jina: str
    aihubmix: str
    ledger: Path | None = None

    def configuration(self, number: int, chance: Random, *, clients: int) -> dict[str, Any]:
        """The configuration with this number. The model ``soak-<number>`` shows that this configuration is in force."""
        policies: tuple[str | None, ...] = ("cancel", "drain", "detach", None)
        said = {name: chance.choice(policies) for name in EVERYONE}
        path = chance.choice(("", "", "", "/moved"))  # another address, so the state of its keys is not carried over
        jina = f"{self.jina}{path}"
        return {
            "callers": [
                {"name": name, "key": key, **({"on_disconnect": said[name]} if said[name] else {})}
                for name, key in EVERYONE.items()
            ],
            "upstreams": {
                "jina": {
                    "base_url": f"{jina}/v1",
                    "deepsearch_base_url": f"{jina}/deepsearch/v1",
                    "api_keys": _keys(JINA_KEYS, chance),
                },
                "aihubmix": {"base_url": f"{self.aihubmix}/v1", "api_keys": _keys(AIHUBMIX_KEYS, chance)},
            },
            "models": {
                f"soak-{number}": "jina-embeddings-v3",
                "in-parts": {
                    "targets": ["jina/jina-embeddings-v3", "aihubmix/jina-embeddings-v3"],
                    "max_inputs": chance.choice((1, 2, 3)),
                },
                "jina-deepsearch-v1": {"on_disconnect": chance.choice(policies[:3])},
            },
            "disconnect": {
                "policy": chance.choice(policies[:3]),
                "seconds": 2,
                "calls": chance.choice((1, 5, clients)),
            },
            "timeouts": TIMEOUTS,
            "ping_seconds": 0.3,
            "max_reply_megabytes": 2,
            "max_event_megabytes": 1,
            "max_concurrent_calls": chance.choice((1000, 1000, 1000, 1000, 1000, max(2, clients * 3 // 4))),
            "operator_key": OPERATOR,
            "max_attempts": ATTEMPTS,
            "http_client": chance.choice(("httptools", "httptools", "httptools", "httpx")),
            "queue_timeout_seconds": PACE,
            "drain_seconds": DRAIN,
            "cache": self._cache(chance),
            "ledger": {"path": str(self.ledger) if self.ledger else "off"},
            "log_level": "warning",
        }

    def _cache(self, chance: Random) -> dict[str, Any]:
        """A small cache, so that it fills up soon. No two calls with a number are identical, so each of them reaches
        an upstream."""
        stores = ("off", "memory", "sqlite") if self.ledger else ("off", "memory")
        files = {"path": str(self.ledger.with_name("cache.db")), "megabytes": 4} if self.ledger else {}
        return {"store": chance.choice(stores), "memory_megabytes": 1, **files}


def _keys(secrets: list[str], chance: Random) -> list[dict[str, Any]]:
    """Some of the keys, in any order, each with limits of its own."""
    return [
        {
            "key": secret,
            "name": f"k{secrets.index(secret)}",
            "weight": chance.choice((0.5, 1, 3)),
            "limits": _limits(chance),
        }
        for secret in chance.sample(secrets, chance.randint(1, len(secrets)))
    ]


def _limits(chance: Random) -> dict[str, int]:
    limits = {
        "concurrency": chance.choice((None, None, 4, 20)),
        "requests_per_minute": chance.choice((None, None, 2000, 600)),
        "deepsearch_per_minute": chance.choice((None, None, 300)),
    }
    return {name: limit for name, limit in limits.items() if limit is not None}
