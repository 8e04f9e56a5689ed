"""The application for other ASGI servers: ``app.main:create_app``, a factory, or ``app.main:app``, made on first use.

For development only: the log lists the protections that only ``torii serve`` has.
"""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI

from .config.loader import found, load
from .config.sources import ConfigError, Mistake
from .server import app as server
from .storage.key_records import created

logger = logging.getLogger("torii")

# Protections that another server lacks: the command torii serve, its protocol and its processes provide them.
ONLY_SERVE = (
    "refuses an address that other machines can reach if there are no callers",
    "ends slow and idle connections",
    "ends calls whose caller has left",
    "bounds connections, file descriptors and the heads of requests",
    "answers malformed requests with the error envelope",
    "drains open calls at the end",
    "keeps keys out of its log, which it writes without waiting",
    "keeps the ledger, and the cooldowns of keys beyond a restart",
    "reloads the configuration",
    "shares the limits of keys among workers",
    "runs the sandbox",
)


def create_app() -> FastAPI:
    """The application, built from the configuration that ``torii serve`` would use. Raises ConfigError."""
    settings = load(found(None))
    if settings.sandboxed:
        needs = "is available with torii serve only; set an upstream key, such as JINA_API_KEY"
        raise ConfigError([Mistake("", "sandbox", needs)])
    ledger = settings.ledger_location
    if settings.keys or (ledger and created(ledger)):
        needs = (
            "virtual keys need the ledger, which only torii serve keeps; for this server, set ledger.path to another"
        )
        raise ConfigError([Mistake("", "keys", f"{needs} and callers")])
    logger.warning("a development server: only torii serve %s", ", ".join(ONLY_SERVE))
    return server.create_app(settings)


def __getattr__(name: str) -> Any:
    if name == "app":
        globals()[name] = create_app()
        return globals()[name]
    raise AttributeError(name)
