"""PostgreSQL and Redis as real processes, started by the tests from Python packages, and what stands before them."""

from __future__ import annotations

from .bouncer import Bouncer
from .cut import Cut
from .postgres import PostgresServer, postgres_binaries
from .redis import RedisServer, redis_binaries

__all__ = ["Bouncer", "Cut", "PostgresServer", "RedisServer", "postgres_binaries", "redis_binaries"]
