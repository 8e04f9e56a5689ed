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

ONLY_SERVE = (
    "a development server: only torii serve times out slow and idle connections, limits connections and descriptors, "
    "drains calls on shutdown, reloads the configuration, writes the ledger, runs the sandbox and logs without "
    "blocking"
)


def create_app() -> FastAPI:
    """The application of the configuration that ``torii serve`` would take. Raises ConfigError."""
    settings = load(found(None))
    if settings.sandboxed:
        needs = "is available with torii serve only; set an upstream key, such as JINA_API_KEY"
        raise ConfigError([Mistake("", "sandbox", needs)])
    logger.warning(ONLY_SERVE)
    return server.create_app(settings)


def __getattr__(name: str) -> Any:
    if name == "app":
        globals()[name] = create_app()
        return globals()[name]
    raise AttributeError(name)
