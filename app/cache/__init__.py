"""Answers that were paid for: embeddings by their inputs, rankings as a whole.

lookup          a call's way: the entries at hand, one request for the rest, the entries kept of its answer
digests         keys: what a call asks a target for, as digests
merge           a call at one target: entries at hand, inputs that are missing, and one answer out of both
entries         the answer under a key; as bytes for a tier behind the memory
singleflight    calls under way, which identical ones share
memory          the entries of this process; the least recently used goes first
sqlite_tier, redis    the tier behind it, if configured
"""

from __future__ import annotations

from .lookup import Cache, Lookup, Store, Tiers
from .merge import MergedReply, Partition, Stale
from .singleflight import Flight, SingleFlight

__all__ = ["Cache", "Flight", "Lookup", "MergedReply", "Partition", "SingleFlight", "Stale", "Store", "Tiers"]
