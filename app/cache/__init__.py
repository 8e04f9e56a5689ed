"""The cache of answers that were paid for: embeddings by their inputs, rankings as a whole.

lookup          one call: its cached entries, and the entries to store of its answer
digests         cache keys: digests of what a call asks a target for
merge           a call at one target: cached entries, missing inputs, and one answer made of both
entries         the answer under a key; as bytes for the tier behind the memory
singleflight    calls under way, shared by identical calls
memory          the entries of this process; the least recently used is evicted first
sqlite_tier, redis    the tier behind the memory, if configured
"""

from __future__ import annotations

from .lookup import Cache, Lookup, Store, Tiers
from .merge import MergedReply, Partition, Stale
from .singleflight import Flight, NotShared, SingleFlight

__all__ = [
    "Cache",
    "Flight",
    "Lookup",
    "MergedReply",
    "NotShared",
    "Partition",
    "SingleFlight",
    "Stale",
    "Store",
    "Tiers",
]
