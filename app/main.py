"""The gateway for other ASGI servers: ``app.main:create_app``, a factory, or ``app.main:app``, made when asked for.

A development server: what only ``torii serve`` does is in the log.
"""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI

from .config.loader import found, load
from .config.sources import ConfigError, Mistake
from .server import app as server

logger = logging.getLogger("torii")

# What is missing under another server: it is done by torii serve, its protocol and its processes.
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
    """The application of the configuration that ``torii serve`` would take. Raises ConfigError."""
    settings = load(found(None))
    if settings.sandboxed:
        needs = "is available with torii serve only; set an upstream key, such as JINA_API_KEY"
        raise ConfigError([Mistake("", "sandbox", needs)])
    logger.warning("a development server: only torii serve %s", ", ".join(ONLY_SERVE))
    return server.create_app(settings)


def __getattr__(name: str) -> Any:
    if name == "app":
        globals()[name] = create_app()
        return globals()[name]
    raise AttributeError(name)
